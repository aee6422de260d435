"""A sweep from settings to models: once trained for real, otherwise with results from a script."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from compression.pruning.groups import ChannelGroup
from compression.spec import NetworkSpec
from configs.errors import RunError, UserError
from configs.loader import load_settings
from configs.schema import DataSettings, RunSettings
from orchestrator import cli, views
from orchestrator.commands import sweep as sweep_commands
from orchestrator.state import State
from orchestrator.sweep import driver as sweep_driver
from orchestrator.sweep.sensitivity_file import read_layer_sparsity
from tests.orchestrator.scripted import SECONDS, Outcome, ScriptedSession
from trainers.backbones import BACKBONES, Network
from trainers.data.people import PeopleSettings, make_synthetic_people
from trainers.package import load_package, read_description
from trainers.pruning import groups_of
from trainers.tasks import TASKS
from trainers.trial import TrialResult

Captured = pytest.CaptureFixture[str]

CELLS = [f"r2plus1d-{pruner}-{sparsity}" for pruner in ("l1", "agp") for sparsity in (0.25, 0.5)]
SCRIPT = {
    "r2plus1d-teacher": Outcome(0.75, seconds=60.0),
    "r2plus1d-l1-0.25": Outcome(0.6),
    "r2plus1d-l1-0.5": Outcome(0.5),
    "r2plus1d-agp-0.25": Outcome(0.7),
    "r2plus1d-agp-0.5": Outcome(0.65),
    "r2plus1d-l2-0.5": Outcome(0.72),
    "r2plus1d-scratch-0.5": Outcome(0.99),
}
FEW_LAYERS = "prune.exclude=['layer[2-4].*', 'layer1.1.*']"
"""Leaves these four, to be pruned one by one."""
LAYERS = ["stem.0", "layer1.0.conv1.0.0", "layer1.0.conv1.0.3", "layer1.0.conv2.0.0"]


def sweep_settings(data: Path, runs: Path, *overrides: str) -> RunSettings:
    """Settings of a sweep of four cells over a small network for videos."""
    flags = {"data.source": "csv", "data.path": data, "runtime.runs": runs, "runtime.runner": "local"}
    cells = ["sweep.pruners=[l1, agp]", "sweep.sparsity=[0.5, 0.25]"]
    return load_settings("embedded-r2plus1d", [*SECONDS, *cells, *overrides], flags)


def play(
    settings: RunSettings, script: Mapping[str, Outcome] = {}, algorithm: str = "sweep-prune"
) -> tuple[ScriptedSession, State]:
    session = ScriptedSession(settings, {**SCRIPT, **script}, algorithm=algorithm)
    return session, session.execute()


def trained(session: ScriptedSession) -> list[str]:
    return [name for _, names in session.runner.stages for name in names]


def uncached(state: State) -> list[dict[str, Any]]:
    """A state's cells without what differs when they are looked up."""
    return [{key: value for key, value in cell.items() if key != "cached"} for cell in state["cells"]]


def models(session: ScriptedSession) -> list[str]:
    return sorted(path.name for path in (session.run.path / "models").iterdir())


@pytest.fixture(scope="module", autouse=True)
def _traced_once() -> Iterator[None]:
    """Networks of one spec have the same groups; finding them takes a third of a second each time."""
    known: dict[NetworkSpec, tuple[ChannelGroup, ...]] = {}

    def groups(network: Network) -> tuple[ChannelGroup, ...]:
        if network.spec not in known:
            known[network.spec] = groups_of(network)
        return known[network.spec]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_driver, "groups_of", groups)
        yield


@pytest.fixture(scope="module")
def swept(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ScriptedSession, State]:
    """A finished sweep; nobody changes it."""
    return play(sweep_settings(digits, tmp_path_factory.mktemp("swept") / "runs"))


@pytest.fixture
def runs(swept: tuple[ScriptedSession, State], tmp_path: Path) -> Path:
    """A copy of its store, to go on with."""
    shutil.copytree(swept[0].store.root, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


# What a sweep says of itself


def test_the_teacher_is_trained_then_all_cells_at_once(swept: tuple[ScriptedSession, State]) -> None:
    session, state = swept
    assert session.runner.stages == [("teacher", ["r2plus1d-teacher"]), ("sweep", CELLS)]
    assert (state["algorithm"], state["metric"], state["status"]) == ("sweep-prune", "top1", "finished")
    assert state["stop_reason"] == "4 of 4 cells done"
    assert session.listener.messages[-1] == "4 of 4 cells done"
    assert state["run"].startswith("r2plus1d-sweep-prune-")


def test_cells_in_json(swept: tuple[ScriptedSession, State]) -> None:
    session, state = swept
    stored = json.loads((session.run.path / "state.json").read_text())
    assert stored == state
    documented = {"pruner", "sparsity", "engine", "top1", "gmacs", "params", "finetune_epochs", "control", "trial"}
    for cell in stored["cells"]:
        assert documented | {"name", "seed", "status", "latency_ms", "notes", "pareto", "path"} <= cell.keys()
        assert cell["latency_ms"] > 0
        assert cell["finetune_epochs"] == 1
        assert session.store.result(cell["trial"]) is not None
    assert [(cell["pruner"], cell["sparsity"], cell["top1"], cell["map"]) for cell in stored["cells"]] == [
        ("l1", 0.25, 0.6, None),
        ("l1", 0.5, 0.5, None),
        ("agp", 0.25, 0.7, None),
        ("agp", 0.5, 0.65, None),
    ]
    assert {(cell["engine"], cell["control"], cell["seed"]) for cell in stored["cells"]} == {("own", None, 0)}


def test_costs_are_those_of_the_networks_that_are_left(swept: tuple[ScriptedSession, State]) -> None:
    session, state = swept
    for cell in state["cells"]:
        network, _ = load_package(session.store.trial_folder(cell["trial"]))
        assert sum(parameter.numel() for parameter in network.parameters()) == cell["params"]
    light, heavy = state["cells"][:2]
    for cost in ("gmacs", "params"):
        assert state["teacher"][cost] > light[cost] > heavy[cost]


def test_a_layer_that_would_be_emptied_keeps_a_filter_and_says_so(swept: tuple[ScriptedSession, State]) -> None:
    session, state = swept
    assert state["cells"][1]["notes"] == ["stem.0 keeps 1 of 1 filters: sparsity 0.5 would have emptied it"]
    assert session.network.channels(45, "stem.0") == 1


def test_latencies_say_how_they_were_measured(swept: tuple[ScriptedSession, State]) -> None:
    _, state = swept
    assert state["latency"]["machine"]
    assert (state["latency"]["threads"], state["latency"]["batch"]) == (1, 1)
    assert state["latency"]["runs"] >= 20
    assert state["teacher"]["latency_ms"] > 0


def test_every_cell_is_learnt_from_the_unpruned_network(swept: tuple[ScriptedSession, State]) -> None:
    session, state = swept
    for cell in state["cells"]:
        record = json.loads((session.store.trial_folder(cell["trial"]) / "result.json").read_text())["trial"]
        assert record["teacher"] == record["start"] == state["teacher"]["trial"]
        assert (record["pruning"]["pruner"], record["pruning"]["sparsity"]) == (cell["pruner"], cell["sparsity"])


# Models


def test_what_is_handed_on_is_the_pareto_front(swept: tuple[ScriptedSession, State]) -> None:
    """At equal sparsity the cost is equal, so L1 is beaten twice; of AGP one is better and one is cheaper."""
    session, state = swept
    assert [cell["path"] for cell in state["cells"]] == [None, None, "models/agp-0.25", "models/agp-0.5"]
    assert [cell["pareto"] for cell in state["cells"]] == [False, False, True, True]
    assert models(session) == ["agp-0.25", "agp-0.5", "teacher"]


def test_a_model_s_folder_is_complete(swept: tuple[ScriptedSession, State]) -> None:
    session, state = swept
    folder, cell = session.run.path / "models/agp-0.5", state["cells"][3]
    assert {path.name for path in folder.iterdir()} == {
        "card.md", "metrics.json", "model.safetensors", "network.json",
    }  # fmt: skip
    numbers = json.loads((folder / "metrics.json").read_text())
    same = ("name", "top1", "gmacs", "params", "trial", "pruner", "sparsity", "engine", "seed", "latency_ms")
    assert {key: numbers[key] for key in same} == {key: cell[key] for key in same}
    assert numbers["data"] == state["data"]
    network, description = load_package(folder)
    assert description.spec.kept
    assert sum(parameter.numel() for parameter in network.parameters()) == cell["params"]


def test_a_model_s_card_tells_of_pruning(swept: tuple[ScriptedSession, State]) -> None:
    session, state = swept
    card = (session.run.path / "models/agp-0.5/card.md").read_text()
    for told in (
        "# r2plus1d-agp-0.5",
        "classifies videos",
        "Pruner agp, asked for sparsity 0.5 of each layer",
        "| top-1 | 65.0 % | 75.0 % |",
    ):
        assert told in card
    assert f"`{state['cells'][3]['trial']}`, seed 0" in card
    assert '"sparsity": 0.5' in card


def test_a_better_cell_takes_models_back(digits: Path, runs: Path) -> None:
    session, state = play(
        sweep_settings(digits, runs, "sweep.pruners=[l1, agp, l2]"), {"r2plus1d-l2-0.25": Outcome(0.1)}
    )
    assert [cell["name"] for cell in state["cells"] if cell["pareto"]] == ["r2plus1d-l2-0.5"]
    assert models(session) == ["l2-0.5", "teacher"]


def test_fewer_cells_take_models_back(digits: Path, runs: Path) -> None:
    session, _ = play(sweep_settings(digits, runs, "sweep.pruners=[l1]", "sweep.sparsity=[0.25]"))
    assert trained(session) == []
    assert models(session) == ["l1-0.25", "teacher"]


def test_what_somebody_put_beside_the_models_stays(digits: Path, runs: Path) -> None:
    (run,) = runs.glob("r2plus1d-*")
    shutil.copytree(run / "models/agp-0.5", run / "models/mine")
    session, _ = play(sweep_settings(digits, runs, "sweep.pruners=[l1]"))
    assert models(session) == ["l1-0.25", "l1-0.5", "mine", "teacher"]


# The same again, and more


def test_the_same_again_trains_nothing_and_says_the_same(
    digits: Path, runs: Path, swept: tuple[ScriptedSession, State]
) -> None:
    session, state = play(sweep_settings(digits, runs))
    assert session.runner.stages == []
    assert (state["stats"]["trained"], state["stats"]["cached"]) == (0, 5)
    assert uncached(state) == uncached(swept[1])  # latencies included
    assert models(session) == models(swept[0])


EXTENSIONS = {
    "sweep.sparsity=[0.25, 0.5, 0.75]": ["r2plus1d-l1-0.75", "r2plus1d-agp-0.75"],
    "sweep.pruners=[l1, agp, fpgm]": ["r2plus1d-fpgm-0.25", "r2plus1d-fpgm-0.5"],
    "sweep.seeds=[0, 1]": [f"{cell}-seed1" for cell in CELLS],
    "sweep.controls=[scratch, random]": [
        f"r2plus1d-{control}-{sparsity}" for control in ("scratch", "random") for sparsity in (0.25, 0.5)
    ],
}


@pytest.mark.parametrize("override", EXTENSIONS)
def test_more_of_anything_trains_only_what_is_new(
    override: str, digits: Path, runs: Path, swept: tuple[ScriptedSession, State]
) -> None:
    session, state = play(sweep_settings(digits, runs, override))
    assert session.runner.stages == [("sweep", EXTENSIONS[override])]
    assert state["run"] == swept[1]["run"]
    assert state["stats"]["trained"] == len(EXTENSIONS[override])
    before = {cell["name"]: cell["trial"] for cell in swept[1]["cells"]}
    assert before.items() <= {cell["name"]: cell["trial"] for cell in state["cells"]}.items()


def test_sweeps_of_other_names_share_cells(digits: Path, runs: Path) -> None:
    session, state = play(sweep_settings(digits, runs, "runtime.name=other", "sweep.pruners=[l1, l2]"))
    assert trained(session) == ["r2plus1d-l2-0.25", "r2plus1d-l2-0.5"]
    assert state["stats"]["cached"] == 3


@pytest.mark.parametrize("override", ["prune.ramp=1.0"])
def test_what_only_gradual_pruners_use_does_not_matter_to_others(override: str, digits: Path, runs: Path) -> None:
    session, _ = play(sweep_settings(digits, runs, override))
    assert trained(session) == ["r2plus1d-agp-0.25", "r2plus1d-agp-0.5"]


@pytest.mark.parametrize("override", ["prune.round_to=2"])
def test_what_every_cell_uses_matters_to_all(override: str, digits: Path, runs: Path) -> None:
    session, state = play(sweep_settings(digits, runs, override))
    assert trained(session) == CELLS
    assert state["teacher"]["cached"] is True


def test_a_search_s_teacher_is_a_sweep_s(digits: Path, runs: Path) -> None:
    session, _ = play(sweep_settings(digits, runs, "search.iterations=1"), algorithm="pas")
    assert [stage for stage, _ in session.runner.stages] == ["iter-1"]


def test_other_settings_under_the_same_name_are_refused(digits: Path, tmp_path: Path) -> None:
    settings = sweep_settings(digits, tmp_path, "runtime.name=mine", "sweep.pruners=[l1]", "sweep.sparsity=[0.5]")
    session, _ = play(settings)
    before = session.run.read_state()
    with pytest.raises(UserError, match=r"prune\.round_to was 1, is 4"):
        play(sweep_settings(digits, tmp_path, "runtime.name=mine", "prune.round_to=4"))
    assert session.run.read_state() == before


# Controls


def test_controls_are_compared_but_not_handed_on(digits: Path, runs: Path) -> None:
    settings = sweep_settings(digits, runs, "sweep.controls=[random, scratch]", "sweep.sparsity=[0.5]")
    session, state = play(settings)
    assert trained(session) == ["r2plus1d-random-0.5", "r2plus1d-scratch-0.5"]
    rows = {cell["pruner"]: cell for cell in state["cells"]}
    assert rows["scratch"]["top1"] == 0.99
    for control in ("random", "scratch"):
        assert (rows[control]["control"], rows[control]["pareto"], rows[control]["path"]) == (control, False, None)
        assert rows[control]["gmacs"] == rows["l1"]["gmacs"]
        assert rows[control]["params"] == rows["l1"]["params"]
    assert rows["agp"]["path"] == "models/agp-0.5"
    assert models(session) == ["agp-0.5", "teacher"]


# Failures


def test_a_cell_that_failed_is_shown_and_tried_again(digits: Path, runs: Path) -> None:
    broken = {"r2plus1d-fpgm-0.25": Outcome(None, "failed", reason="no room"),
              "r2plus1d-fpgm-0.5": Outcome(None, "diverged", reason="the loss was nan in epoch 1")}  # fmt: skip
    settings = sweep_settings(digits, runs, "sweep.pruners=[agp, fpgm]")
    session, state = play(settings, broken)
    assert (state["status"], state["stop_reason"]) == ("finished", "2 of 4 cells done")
    assert [(cell["status"], cell["reason"], cell["top1"]) for cell in state["cells"]] == [
        ("finished", None, 0.7),
        ("finished", None, 0.65),
        ("failed", "no room", None),
        ("diverged", "the loss was nan in epoch 1", None),
    ]
    assert models(session) == ["agp-0.25", "agp-0.5", "teacher"]
    again, mended = play(settings)
    assert trained(again) == ["r2plus1d-fpgm-0.25"]  # diverging is a result
    assert mended["stop_reason"] == "3 of 4 cells done"


def test_what_the_others_found_stands_when_a_cell_could_not_be_run(digits: Path, runs: Path) -> None:
    """Its node was lost: the rest is exported and shown, the run fails, and the same command tries it again."""
    lost = {"r2plus1d-l2-0.25": Outcome(None, "failed", reason="lost 4 times: node died", transient=True)}
    settings = sweep_settings(digits, runs, "sweep.pruners=[l1, l2]", "runtime.name=lossy")
    session = ScriptedSession(settings, {**SCRIPT, **lost}, algorithm="sweep-prune")
    with pytest.raises(RunError, match=r"1 of 4 trainings could not be run:\n  r2plus1d-l2-0\.25: lost 4 times"):
        session.execute()
    state = session.run.require_state()
    assert state["status"] == "failed"
    assert [cell["status"] for cell in state["cells"]] == ["finished", "finished", "failed", "finished"]
    assert models(session) == ["l2-0.5", "teacher"]
    session, state = play(settings)
    assert trained(session) == ["r2plus1d-l2-0.25"]
    assert state["status"] == "finished"


def test_models_are_named_once_they_are_there(digits: Path, runs: Path) -> None:
    """Interrupted before the sweep's end, nothing is exported yet, and the state says so."""
    session = ScriptedSession(sweep_settings(digits, runs, "sweep.seeds=[7]"), SCRIPT, algorithm="sweep-prune")

    def stop(result: TrialResult) -> None:
        if result.name.startswith("r2plus1d-agp-0.25"):
            raise KeyboardInterrupt

    session.listener.trial_finished = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        session.execute()
    state = session.run.require_state()
    assert state["status"] == "interrupted"
    assert [cell["status"] for cell in state["cells"]] == ["finished", "finished", "finished", "pending"]
    assert [cell["path"] for cell in state["cells"]] == [None] * 4


def test_a_run_that_is_stopped_while_it_measures_has_an_end(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latencies come after the last trial; the same command measures them again."""

    def stop(*_: object) -> dict[str, float]:
        raise KeyboardInterrupt

    session = ScriptedSession(sweep_settings(digits, tmp_path), SCRIPT, algorithm="sweep-prune")
    monkeypatch.setattr(sweep_driver.SweepDriver, "conclude", stop)
    with pytest.raises(KeyboardInterrupt):
        session.execute()
    assert json.loads((session.run.path / "state.json").read_text())["status"] == "interrupted"


def test_when_every_cell_failed_the_run_has(
    digits: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    failed = Outcome(None, "failed", reason="no room")

    class Failing(ScriptedSession):
        def __init__(self, settings: RunSettings, observer: object, *, algorithm: str) -> None:
            super().__init__(
                settings, {f"r2plus1d-l2-{sparsity}": failed for sparsity in (0.25, 0.5)}, algorithm=algorithm
            )

    settings = sweep_settings(digits, runs, "runtime.name=mine", "sweep.pruners=[l2]")
    monkeypatch.setattr("orchestrator.session.Session", Failing)
    monkeypatch.setattr(sweep_commands, "settings_of_model", lambda *_, **__: settings)
    assert cli.run(["sweep", "prune"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: no cell of the sweep came out usable:",
        "  r2plus1d-l2-0.25             failed    no room",
        "  r2plus1d-l2-0.5              failed    no room",
    ]
    state = json.loads((runs / "mine/state.json").read_text())
    assert state["status"] == "failed"
    assert state["stop_reason"].startswith("no cell of the sweep came out usable")
    assert [cell["reason"] for cell in state["cells"]] == ["no room", "no room"]


def test_a_teacher_that_fails_ends_the_sweep(digits: Path, tmp_path: Path) -> None:
    lost = {"r2plus1d-teacher": Outcome(None, "diverged", reason="no luck")}
    session = ScriptedSession(sweep_settings(digits, tmp_path), lost, algorithm="sweep-prune")
    with pytest.raises(RunError, match="the teacher diverged: no luck"):
        session.execute()
    state = session.run.read_state()
    assert state is not None
    assert (state["status"], state["cells"], state["latency"]) == ("failed", [], None)


def test_the_state_follows_every_result(digits: Path, runs: Path) -> None:
    seen: list[list[str]] = []

    class Watching(ScriptedSession):
        def trial_finished(self, result: Any) -> None:
            super().trial_finished(result)
            cells = json.loads((self.run.path / "state.json").read_text())["cells"]
            seen.append([cell["status"] for cell in cells])

    Watching(sweep_settings(digits, runs, "sweep.pruners=[l2]"), SCRIPT, algorithm="sweep-prune").execute()
    assert seen == [[], ["finished", "pending"], ["finished", "finished"]]


# Global scope


def test_in_global_scope_weights_decide_what_each_layer_loses(digits: Path, runs: Path) -> None:
    settings = sweep_settings(digits, runs, "prune.scope=global", "sweep.pruners=[l1]", "sweep.sparsity=[0.5]")
    session, state = play(settings)
    (cell,) = session.driver.cells  # type: ignore[attr-defined]
    groups = {group.name: group.channels for group in session.driver.groups}  # type: ignore[attr-defined]
    kept = cell.network.kept
    assert sum(kept.values()) == sum(groups.values()) - sum(groups.values()) // 2
    assert any(kept[name] != groups[name] - groups[name] // 2 for name in groups)
    card = (session.run.path / "models/l1-0.5/card.md").read_text()
    assert "asked for sparsity 0.5 of the network" in card
    assert state["cells"][0]["params"] < state["teacher"]["params"]


# Sensitivity

DROPS = {
    "r2plus1d-teacher": Outcome(0.8),
    "r2plus1d-l1-stem.0-0.25": Outcome(None, "failed", reason="no room"),
    "r2plus1d-l1-layer1.0.conv1.0.0-0.25": Outcome(0.79),
    "r2plus1d-l1-layer1.0.conv1.0.0-0.5": Outcome(0.70),
    "r2plus1d-l1-layer1.0.conv1.0.3-0.25": Outcome(0.75),
    "r2plus1d-l1-layer1.0.conv2.0.0-0.25": Outcome(0.80),
    "r2plus1d-l1-layer1.0.conv2.0.0-0.5": Outcome(0.785),
}


@pytest.fixture(scope="module")
def analysed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ScriptedSession, State]:
    """A finished sensitivity analysis of four layers; nobody changes it."""
    runs = tmp_path_factory.mktemp("analysed") / "runs"
    settings = sweep_settings(digits, runs, "sweep.pruners=[l1]", "prune.ramp=1", FEW_LAYERS)
    return play(settings, DROPS, "sweep-sensitivity")


@pytest.fixture
def sensitivity_file(analysed: tuple[ScriptedSession, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    session, state = analysed
    monkeypatch.setattr(views, "write_sweep_report", lambda _, folder, *__: folder / "report.html")
    views.VIEWS["sweep-sensitivity"].write_report(session.store, state, tmp_path)
    return tmp_path / "sensitivity.yaml"


def test_each_layer_is_pruned_alone_and_only_evaluated(analysed: tuple[ScriptedSession, State]) -> None:
    session, state = analysed
    stage, names = session.runner.stages[-1]
    assert stage == "sensitivity"
    assert names == [f"r2plus1d-l1-{layer}-{sparsity}" for layer in LAYERS for sparsity in (0.25, 0.5)]
    assert state["stop_reason"] == "7 of 8 cells done"
    assert state["stats"]["trial_epochs"] == 1  # the teacher's
    for cell in session.driver.cells:  # type: ignore[attr-defined]
        trial = session.driver.trial(cell)
        assert (trial.train, trial.teacher, trial.distillation) == (None, None, None)
        assert trial.start == session.teacher.digest


def test_a_sensitivity_analysis_in_json(analysed: tuple[ScriptedSession, State]) -> None:
    _, state = analysed
    assert [(layer["layer"], layer["channels"], layer["max_sparsity"]) for layer in state["layers"]] == [
        ("stem.0", 1, 0.0),
        ("layer1.0.conv1.0.0", 5, 0.25),
        ("layer1.0.conv1.0.3", 2, 0.0),
        ("layer1.0.conv2.0.0", 5, 0.5),
    ]
    points = state["layers"][1]["points"]
    assert [(point["sparsity"], point["top1"], point["status"]) for point in points] == [
        (0.25, 0.79, "finished"),
        (0.5, 0.7, "finished"),
    ]
    assert all({"map", "gmacs", "params", "trial"} <= point.keys() for point in points)
    assert state["max_drop"] == 2.0
    assert {cell["finetune_epochs"] for cell in state["cells"]} == {0}


def test_an_analysis_hands_on_no_pruned_network(analysed: tuple[ScriptedSession, State]) -> None:
    assert models(analysed[0]) == ["teacher"]


def test_what_a_layer_may_cost_is_judged_again_without_training(
    analysed: tuple[ScriptedSession, State], digits: Path, tmp_path: Path
) -> None:
    shutil.copytree(analysed[0].store.root, tmp_path / "runs", symlinks=True)
    overrides = ("sweep.pruners=[l1]", "sweep.max_drop=0.5", "sweep.sparsity=[0.25]", "train.epochs=3", FEW_LAYERS)
    settings = sweep_settings(digits, tmp_path / "runs", "prune.ramp=1", *overrides)
    session, state = play(settings, DROPS, "sweep-sensitivity")
    assert trained(session) == ["r2plus1d-l1-stem.0-0.25"]  # which had failed
    assert state["run"] == analysed[1]["run"]
    assert [layer["max_sparsity"] for layer in state["layers"]] == [0, 0, 0, 0.25]


def test_its_file_bounds_a_sweep_s_layers(sensitivity_file: Path, digits: Path, tmp_path: Path) -> None:
    read = read_layer_sparsity(sensitivity_file)
    assert read == dict(zip(LAYERS, [0.0, 0.25, 0.0, 0.5], strict=True))
    settings = sweep_settings(digits, tmp_path / "runs", "sweep.pruners=[l1]", f"prune.max_sparsity={json.dumps(read)}")
    session, _ = play(settings)
    light, heavy = (cell.network.kept for cell in session.driver.cells)  # type: ignore[attr-defined]
    assert [light[layer] for layer in LAYERS] == [1, 4, 2, 4]
    assert [heavy[layer] for layer in LAYERS] == [1, 4, 2, 3]
    assert heavy["layer4.1.conv2.0.0"] == 18  # of 36: no layer of the analysis


def test_its_file_says_what_it_is_for(sensitivity_file: Path) -> None:
    text = sensitivity_file.read_text()
    assert text.startswith("# Largest sparsity at which each layer alone costs at most 2 points")
    assert f"\n#   orchestrate sweep prune --model r2plus1d --layer-sparsity {sensitivity_file}\n" in text


def test_an_analysis_that_is_not_finished_writes_no_file(
    analysed: tuple[ScriptedSession, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, state = analysed
    monkeypatch.setattr(views, "write_sweep_report", lambda _, folder, *__: folder / "report.html")
    write = views.VIEWS["sweep-sensitivity"].write_report
    write(session.store, {**state, "status": "interrupted"}, tmp_path)
    assert list(tmp_path.iterdir()) == []


# Re-identification

FEW_PEOPLE = PeopleSettings(
    train_identities=4, test_identities=2, family=2, cameras=2, train_images=2, test_images=2, distractors=2, junk=0,
    height=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic_people(tmp_path_factory.mktemp("people") / "set", FEW_PEOPLE)


def reid_settings(people: Path, runs: Path, *overrides: str) -> RunSettings:
    """Settings of a sweep over a small network for images of people."""
    flags = {"data.source": "synthetic-people", "data.path": people, "runtime.runs": runs, "runtime.runner": "local"}
    small = ["network.side=16", "network.width=0.0625", "sweep.sparsity=[0.5]", "sweep.pruners=[l1, agp]"]
    recipes = [
        f"{recipe}.{setting}"
        for recipe in ("train", "teacher.train")
        for setting in ("epochs=2", "warmup_epochs=0", "batch=8")
    ]
    return load_settings("embedded-reid", [*small, *recipes, "reid.head_width=8", *overrides], flags)


def test_networks_that_re_identify_are_compared_by_map(people: Path, tmp_path: Path) -> None:
    script = {"reid-teacher": Outcome(0.9), "reid-l1-0.5": Outcome(0.7), "reid-agp-0.5": Outcome(0.8)}
    session, state = play(reid_settings(people, tmp_path), script)
    assert (state["metric"], state["backbone"]) == ("map", "reid")
    assert session.listener.messages[1:] == [
        "mAP 0.900",
        "sweep: reid-l1-0.5, reid-agp-0.5",
        "2 of 2 cells done",
    ]
    assert [(cell["name"], cell["map"], cell["path"]) for cell in state["cells"]] == [
        ("reid-l1-0.5", 0.7, None),
        ("reid-agp-0.5", 0.8, "models/agp-0.5"),
    ]
    assert (state["data"]["train_images"], state["data"]["queries"]) == (16, 4)
    numbers = json.loads((session.run.path / "models/agp-0.5/metrics.json").read_text())
    assert (numbers["map"], numbers["frames"], numbers["height"], numbers["width"]) == (0.8, None, 32, 16)
    assert "| mAP | 80.0 % | 90.0 % |" in (session.run.path / "models/agp-0.5/card.md").read_text()


def test_every_source_of_data_belongs_to_one_task() -> None:
    sources = get_args(DataSettings.model_fields["source"].annotation)
    assert sorted(source for kind in TASKS.values() for source in kind.sources) == sorted(sources)
    assert {row.task for row in BACKBONES.values()} == TASKS.keys()


# Trained for real, through the command line


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out reports, which take a second to draw."""
    for name, view in views.VIEWS.items():
        undrawn = replace(view, write_report=lambda _, __, folder: folder / "report.html")
        monkeypatch.setitem(views.VIEWS, name, undrawn)


def arguments(settings: RunSettings, *overrides: str) -> list[str]:
    """What the command line needs to know of data, place and networks of seconds."""
    seconds = [argument for override in (*SECONDS, *overrides) for argument in ("--set", override)]
    return ["--runs", str(settings.runtime.runs), "--runner", "local", *seconds]


def state_of(settings: RunSettings, name: str) -> State:
    state: State = json.loads((settings.runtime.runs / name / "state.json").read_text())
    return state


@pytest.fixture(scope="module")
def pruned(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSettings, Path]:
    """A sweep trained for real, and the folder of its models."""
    settings = sweep_settings(digits, tmp_path_factory.mktemp("pruned") / "runs")
    command = ["sweep", "prune", "--model", "r2plus1d", "--data", f"csv:{digits}", "--name", "first"]
    cells = ["--pruners", "l1,agp", "--sparsity", "0.5", "--controls", "scratch", "--finetune-epochs", "2"]
    assert cli.run([*command, *arguments(settings), *cells, "--set", "train.epochs=2"]) == 0
    return settings, settings.runtime.runs / "first/models"


def test_a_sweep_trained_for_real(pruned: tuple[RunSettings, Path]) -> None:
    settings, folder = pruned
    state = state_of(settings, "first")
    assert [(cell["pruner"], cell["control"], cell["status"], cell["epochs"]) for cell in state["cells"]] == [
        ("l1", None, "finished", 2),
        ("agp", None, "finished", 2),
        ("scratch", "scratch", "finished", 2),
    ]
    (params,) = {cell["params"] for cell in state["cells"]}
    assert params < 0.3 * state["teacher"]["params"]
    for path in ("report.html", "report.png", "config.yaml", "ledger.jsonl", "latency.json"):
        assert (folder.parent / path).is_file()
    teacher = settings.runtime.runs / "trials" / state["teacher"]["trial"]
    assert [path.name for path in teacher.glob("importance-*")] == ["importance-l1.safetensors"]


def test_evaluation_of_a_model_gives_the_accuracy_of_the_sweep(
    pruned: tuple[RunSettings, Path], capsys: Captured
) -> None:
    settings, folder = pruned
    state = state_of(settings, "first")
    handed_on = [cell for cell in state["cells"] if cell["path"]]
    assert handed_on
    for cell in handed_on:
        assert cli.run(["evaluate", str(folder.parent / cell["path"]), "--device", "cpu", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["top1"], report["top5"]) == (cell["top1"], cell["top5"])
        assert report["fingerprint"] == state["data"]["fingerprint"]


@pytest.mark.usefixtures("_undrawn")
def test_a_pruned_network_can_be_pruned_and_shrunk_again(
    pruned: tuple[RunSettings, Path], digits: Path, capsys: Captured
) -> None:
    settings, folder = pruned
    model = next(path for path in sorted(folder.iterdir()) if path.name != "teacher")
    before = read_description(model).spec
    twice = ["--pruners", "l1", "--sparsity", "0.5", "--name", "second"]
    assert cli.run(["sweep", "prune", "--model", str(model), *arguments(settings), *twice]) == 0
    state = state_of(settings, "second")
    after = read_description(folder.parents[1] / "second/models/l1-0.5").spec
    assert state["teacher"]["epochs"] == 0
    assert all(1 <= after.kept[layer] <= before.kept[layer] for layer in before.kept)
    assert after.kept["layer4.1.conv2.0.0"] == before.kept["layer4.1.conv2.0.0"] // 2 == 9
    shrink = ["pas", "--backbone", "r2plus1d", "--teacher", str(model), "--data", f"csv:{digits}", "--name", "third"]
    assert cli.run([*shrink, *arguments(settings, "search.axes=[s, c]"), "--iterations", "1"]) == 0
    third = state_of(settings, "third")
    assert third["teacher"]["trial"] == state["teacher"]["trial"]
    assert third["teacher"]["cached"] is True
    side, channels = third["iterations"][0]["hypotheses"]
    assert side["params"] == state["teacher"]["params"] > channels["params"]
    assert side["side"] < state["teacher"]["side"] == channels["side"]
    assert [row["status"] for row in (side, channels)] == ["finished", "finished"]
    capsys.readouterr()
