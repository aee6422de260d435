"""A chain from settings to models: once trained for real, otherwise with results from a script."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compression.cost import empty_input
from compression.pruning.groups import ChannelGroup
from compression.spec import NetworkSpec
from configs.errors import RunError, UserError
from configs.loader import load_settings
from configs.schema import RunSettings
from orchestrator import latency
from orchestrator.chain import steps as chain_steps
from orchestrator.session import Session
from orchestrator.state import State
from orchestrator.views import VIEWS
from tests.orchestrator.scripted import SECONDS, Listener, Outcome, ScriptedSession
from trainers.backbones import Network
from trainers.files import read_json
from trainers.package import load_package, read_description
from trainers.pruning import groups_of

SCRIPT = {
    "r2plus1d-teacher": Outcome(0.75, seconds=60.0),
    "r2plus1d-pas1-side": Outcome(0.7),
    "r2plus1d-pas1-channels": Outcome(None, "diverged", reason="the loss was nan in epoch 1, step 2"),
    "r2plus1d-pas2-side": Outcome(0.6),
    "r2plus1d-pas2-channels": Outcome(0.72),
    "r2plus1d-step2-agp-0.5": Outcome(0.69),
    "r2plus1d-qat": Outcome(0.685),
}
STAGES = [
    ("teacher", ["r2plus1d-teacher"]),
    ("step-1-iter-1", ["r2plus1d-pas1-side", "r2plus1d-pas1-channels"]),
    ("step-1-iter-2", ["r2plus1d-pas2-side", "r2plus1d-pas2-channels"]),
    ("step-2-AGP-0.5", ["r2plus1d-step2-agp-0.5"]),
    ("step-3-INT8-by-QAT", ["r2plus1d-qat"]),
]
PRUNE_ALONE = "chain.steps=[{step: prune, pruner: l1}]"
FLOATING = "chain.steps=[{step: pas}, {step: prune}]"
"""Without integers, whose graphs take seconds to make."""


def chain_settings(data: Path, runs: Path, *overrides: str) -> RunSettings:
    """Settings of the default chain over a small network for videos; layers are not timed one by one."""
    flags = {"data.source": "csv", "data.path": data, "runtime.runs": runs, "runtime.runner": "local"}
    quick = ["search.iterations=2", "quantise.keep_slow=true", "quantise.calibration=8"]
    return load_settings("embedded-r2plus1d", [*SECONDS, *quick, *overrides], flags)


def play(settings: RunSettings, script: Mapping[str, Outcome] = {}) -> tuple[ScriptedSession, State]:
    session = ScriptedSession(settings, {**SCRIPT, **script}, algorithm="chain")
    return session, session.execute()


def trained(session: ScriptedSession) -> list[str]:
    return [name for _, names in session.runner.stages for name in names]


def models(session: Session) -> list[str]:
    return sorted(path.name for path in (session.run.path / "models").iterdir())


def uncached(state: State) -> list[dict[str, Any]]:
    """A state's steps without what differs when they are looked up."""
    return [{key: value for key, value in step.items() if key != "cached"} for step in state["steps"]]


@pytest.fixture(scope="module", autouse=True)
def _traced_once() -> Iterator[None]:
    """Networks of one spec have the same groups; finding them takes a third of a second each time."""
    known: dict[NetworkSpec, tuple[ChannelGroup, ...]] = {}

    def groups(network: Network) -> tuple[ChannelGroup, ...]:
        if network.spec not in known:
            known[network.spec] = groups_of(network)
        return known[network.spec]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain_steps, "groups_of", groups)
        yield


@pytest.fixture(scope="module")
def chained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ScriptedSession, State]:
    """A finished chain; nobody changes it."""
    return play(chain_settings(digits, tmp_path_factory.mktemp("chained") / "runs"))


@pytest.fixture
def runs(chained: tuple[ScriptedSession, State], tmp_path: Path) -> Path:
    """A copy of its store, to go on with."""
    shutil.copytree(chained[0].store.root, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def floating(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ScriptedSession, State]:
    """A finished chain without integers; nobody changes it."""
    return play(chain_settings(digits, tmp_path_factory.mktemp("floating") / "runs", FLOATING))


@pytest.fixture
def store(floating: tuple[ScriptedSession, State], tmp_path: Path) -> Path:
    """A copy of its store."""
    shutil.copytree(floating[0].store.root, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


# What a chain says of itself


def test_steps_are_trained_one_after_the_other(chained: tuple[ScriptedSession, State]) -> None:
    session, state = chained
    assert session.runner.stages == STAGES
    assert (state["algorithm"], state["status"], state["stop_reason"]) == ("chain", "finished", "3 of 3 steps done")
    assert session.listener.messages[-3:] == [
        "AGP 0.5: top-1 0.690, 3.0 points below the step before",
        "step 3 INT8 by QAT: r2plus1d-qat",
        "INT8 by QAT: top-1 0.685, 0.5 points below the step before",
    ]


def test_steps_in_json(chained: tuple[ScriptedSession, State]) -> None:
    session, state = chained
    stored = json.loads((session.run.path / "state.json").read_text())
    assert stored == state
    steps = stored["steps"]
    assert [(s["step"], s["title"], s["trained"], s["top1"], s["drop_points"], s["path"]) for s in steps] == [
        ("pas", "PAS-2 (s, c)", 4, 0.72, 3.0, "models/1-pas"),
        ("prune", "AGP 0.5", 1, 0.69, 3.0, "models/2-prune"),
        ("quantise", "INT8 by QAT", 1, 0.685, 0.5, "models/3-int8"),
    ]
    assert [s["original"] for s in steps] == [None, None, "../2-prune"]
    assert [s["name"] for s in steps] == ["r2plus1d-pas2-channels", "r2plus1d-step2-agp-0.5", "r2plus1d-qat"]
    assert {s["status"] for s in steps} == {"finished"}
    assert all(s["latency_ms"] > 0 and s["size_mb"] > 0 for s in (stored["teacher"], *steps))
    assert len(stored["iterations"]) == 2
    assert [(m["name"], m["path"]) for m in stored["family"]] == [("PAS-1", None), ("PAS-2", "models/1-pas")]
    assert stored["latency"]["threads"] == 1
    assert stored["max_drop_points"] == 1.0


def test_costs_and_sizes_are_those_of_the_networks_that_are_left(chained: tuple[ScriptedSession, State]) -> None:
    session, state = chained
    rows = [state["teacher"], *state["steps"]]
    for cost in ("gmacs", "params"):
        teacher, shrunk, pruned, integers = (row[cost] for row in rows)
        assert teacher > shrunk > pruned == integers
    for row in rows:
        weights = session.store.trial_folder(row["trial"]) / "model.safetensors"
        assert row["size_mb"] == weights.stat().st_size / 1e6


def test_each_trial_starts_from_the_step_before(chained: tuple[ScriptedSession, State]) -> None:
    """A pruned network is taught by the chain's teacher, one in integers by the network that it was before."""
    session, state = chained
    teacher = state["teacher"]["trial"]
    shrunk, pruned, integers = (
        read_json(session.store.trial_folder(step["trial"]) / "result.json")["trial"] for step in state["steps"]
    )
    digests = [step["trial"] for step in state["steps"]]
    assert (pruned["start"], pruned["teacher"]) == (digests[0], teacher)
    assert (pruned["pruning"]["pruner"], pruned["pruning"]["sparsity"]) == ("agp", 0.5)
    assert (integers["start"], integers["teacher"]) == (digests[1], digests[1])
    assert pruned["network"]["factors"] == shrunk["network"]["factors"]
    assert integers["network"] | {"quantisation": None} == pruned["network"] | {"quantisation": None}
    assert (pruned["train"]["epochs"], integers["train"]["epochs"]) == (1, 6)


def test_the_gate_judges_the_network_in_integers_alone(chained: tuple[ScriptedSession, State]) -> None:
    *others, integers = chained[1]["steps"]
    assert [(step["accepted"], step["rejected"]) for step in others] == [(None, []), (None, [])]
    slower = integers["latency_ms"] > others[-1]["latency_ms"]
    assert integers["accepted"] is not slower
    assert len(integers["rejected"]) == slower


def test_the_networks_that_are_handed_on_are_timed(
    digits: Path, runs: Path, chained: tuple[ScriptedSession, State], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of the trials, not networks built from their specs, whose zero points would all be 0."""
    timed: list[dict[str, Path]] = []

    def measure(folders: Mapping[str, Path]) -> dict[str, float]:
        timed.append(dict(folders))
        return {digest: float(place) for place, digest in enumerate(folders, 1)}

    for memory in runs.glob("*/latency.json"):
        memory.unlink()
    monkeypatch.setattr(latency, "measure_trial_latencies", measure)
    session, state = play(chain_settings(digits, runs))
    rows = [state["teacher"], *state["steps"]]
    assert [row["latency_ms"] for row in rows] == [1.0, 2.0, 3.0, 4.0]
    assert timed == [{row["trial"]: session.store.trial_folder(row["trial"]) for row in rows}]
    for row in state["steps"]:
        handed_on = session.run.path / row["path"] / "model.safetensors"
        assert handed_on.read_bytes() == (timed[0][row["trial"]] / "model.safetensors").read_bytes()
    assert rows[-1]["rejected"] == ["33 % slower than its FP32 original"]
    assert rows[-1]["accepted"] is False


def test_a_loss_beyond_the_limit_is_rejected_but_handed_on(digits: Path, runs: Path) -> None:
    """Another limit is no other search: nothing is trained or timed again."""
    limits = ("quantise.max_fallbacks=0", "quantise.max_drop_points=0.4")
    session, state = play(chain_settings(digits, runs, *limits))
    assert session.runner.stages == []
    step = state["steps"][2]
    assert step["accepted"] is False
    assert any(reason.startswith("loses 0.5 points of accuracy, more than the 0.4") for reason in step["rejected"])
    assert step["notes"] == [
        "QAT is 0.5 points below the original, more than the 0.4 allowed; quantise.max_fallbacks is 0"
    ]
    numbers = read_json(session.run.path / "models/3-int8/metrics.json")
    assert (numbers["accepted"], numbers["rejected"]) == (False, step["rejected"])
    assert "rejected" in (session.run.path / "models/3-int8/card.md").read_text()


# Models


def test_what_each_step_left_is_handed_on(chained: tuple[ScriptedSession, State]) -> None:
    session, state = chained
    assert models(session) == ["1-pas", "2-prune", "3-int8", "teacher"]
    for step in state["steps"]:
        folder = session.run.path / step["path"]
        assert {path.name for path in folder.iterdir()} >= {
            "card.md", "metrics.json", "model.safetensors", "network.json",
        }  # fmt: skip
        numbers = read_json(folder / "metrics.json")
        same = ("name", "top1", "gmacs", "params", "trial", "step", "title", "latency_ms", "size_mb", "original")
        assert {key: numbers[key] for key in same} == {key: step[key] for key in same}
        assert numbers["data"] == state["data"]
    network, description = load_package(session.run.path / "models/3-int8")
    assert description.spec.quantisation is not None
    with torch.inference_mode():
        assert network(empty_input(description.spec)).shape == (1, 8)


def test_the_original_is_where_the_model_says(chained: tuple[ScriptedSession, State]) -> None:
    folder = chained[0].run.path / "models/3-int8"
    original = folder / read_json(folder / "metrics.json")["original"]
    assert read_description(original).spec == read_description(folder).spec.floating


def test_a_search_that_accepts_nothing_any_more_takes_its_model_back(digits: Path, store: Path) -> None:
    session, state = play(chain_settings(digits, store, FLOATING, "search.max_drop=1"))
    assert trained(session) == ["r2plus1d-step2-agp-0.5"]
    assert models(session) == ["2-prune", "teacher"]
    shrunk, pruned = state["steps"]
    assert (shrunk["title"], shrunk["path"], shrunk["drop_points"]) == ("PAS", None, 0.0)
    assert (shrunk["trial"], shrunk["top1"]) == (state["teacher"]["trial"], 0.75)
    assert shrunk["notes"][-1] == "no smaller network was accepted: the chain goes on with the teacher"
    record = read_json(session.store.trial_folder(pruned["trial"]) / "result.json")["trial"]
    assert record["start"] == state["teacher"]["trial"]


def test_what_somebody_put_beside_the_models_stays(digits: Path, store: Path) -> None:
    (run,) = store.glob("r2plus1d-*")
    shutil.copytree(run / "models/2-prune", run / "models/mine")
    session, _ = play(chain_settings(digits, store, FLOATING))
    assert models(session) == ["1-pas", "2-prune", "mine", "teacher"]


# The same again, and more


def test_the_same_again_trains_nothing_and_says_the_same(
    digits: Path, runs: Path, chained: tuple[ScriptedSession, State]
) -> None:
    session, state = play(chain_settings(digits, runs))
    assert session.runner.stages == []
    assert (state["stats"]["trained"], state["stats"]["cached"]) == (0, 7)
    assert uncached(state) == uncached(chained[1])  # latencies included
    assert models(session) == models(chained[0])


def test_more_iterations_extend_the_chain(digits: Path, store: Path, floating: tuple[ScriptedSession, State]) -> None:
    """The steps after the search start from another network, and so are other trials."""
    settings = chain_settings(digits, store, FLOATING, "search.iterations=3")
    session, state = play(settings, {"r2plus1d-pas3-side": Outcome(0.71)})
    assert session.runner.stages == [
        ("step-1-iter-3", ["r2plus1d-pas3-side", "r2plus1d-pas3-channels"]),
        STAGES[3],
    ]
    assert state["run"] == floating[1]["run"]
    assert state["steps"][0]["title"] == "PAS-3 (s, c, s)"
    assert models(session) == models(floating[0])


def test_other_steps_are_another_chain_with_the_same_trials(
    digits: Path, store: Path, floating: tuple[ScriptedSession, State]
) -> None:
    session, state = play(chain_settings(digits, store, "chain.steps=[{step: pas}]"))
    assert trained(session) == []
    assert state["run"] != floating[1]["run"]
    with pytest.raises(UserError, match=r"chain\.steps was"):
        play(chain_settings(digits, store, FLOATING, f"runtime.name={state['run']}"))


def test_a_step_that_prunes_may_have_epochs_of_its_own(digits: Path, tmp_path: Path) -> None:
    """The warm-up takes the same share of them as of `train`'s."""
    longer = "chain.steps=[{step: prune, pruner: l1, epochs: 8}]"
    settings = chain_settings(digits, tmp_path, longer, "train.epochs=2", "train.warmup_epochs=0.5")
    session, state = play(settings)
    train = read_json(session.store.trial_folder(state["steps"][0]["trial"]) / "result.json")["trial"]["train"]
    assert (train["epochs"], train["warmup_epochs"]) == (8, 2)


def test_a_chain_that_only_prunes_shares_its_trial_with_a_sweep(digits: Path, tmp_path: Path) -> None:
    _, state = play(chain_settings(digits, tmp_path, PRUNE_ALONE))
    assert state["family"] == state["iterations"] == []
    assert state["steps"][0]["path"] == "models/1-prune"
    cells = chain_settings(digits, tmp_path, "sweep.pruners=[l1]", "sweep.sparsity=[0.5]")
    sweep = ScriptedSession(cells, SCRIPT, algorithm="sweep-prune")
    assert sweep.execute()["cells"][0]["trial"] == state["steps"][0]["trial"]
    assert trained(sweep) == []


# Failures


def test_a_step_that_diverges_ends_the_chain_and_what_was_reached_stays(digits: Path, store: Path) -> None:
    steps = "chain.steps=[{step: pas}, {step: prune, pruner: l2}, {step: prune}]"
    broken = {"r2plus1d-step2-l2-0.5": Outcome(None, "diverged", reason="the loss was nan")}
    for stages in ([("step-2-L2-0.5", ["r2plus1d-step2-l2-0.5"])], []):  # diverging is a result
        session = ScriptedSession(chain_settings(digits, store, steps), {**SCRIPT, **broken}, algorithm="chain")
        with pytest.raises(RunError, match=r"step 2 of 3, L2 0\.5: r2plus1d-step2-l2-0\.5 diverged: the loss was nan"):
            session.execute()
        assert session.runner.stages == stages
        state = session.run.require_state()
        assert state["status"] == "failed"
        assert state["stop_reason"].startswith("step 2 of 3, L2 0.5")
        assert [(step["status"], step["reason"], step["path"]) for step in state["steps"]] == [
            ("finished", None, "models/1-pas"),
            ("diverged", "the loss was nan", None),
            ("pending", None, None),
        ]
        assert models(session) == ["1-pas", "teacher"]


def test_a_step_that_failed_is_tried_again(digits: Path, store: Path) -> None:
    settings = chain_settings(digits, store, FLOATING, "prune.round_to=2")
    failing = {"r2plus1d-step2-agp-0.5": Outcome(None, "failed", reason="no room")}
    with pytest.raises(RunError, match=r"step 2 of 2, AGP 0\.5: r2plus1d-step2-agp-0\.5 failed: no room"):
        play(settings, failing)
    session, state = play(settings)
    assert trained(session) == ["r2plus1d-step2-agp-0.5"]
    assert (state["status"], models(session)) == ("finished", ["1-pas", "2-prune", "teacher"])


def test_a_network_that_can_t_be_quantised_leaves_the_one_before(digits: Path, runs: Path) -> None:
    settings = chain_settings(digits, runs, "quantise.calibration=9")
    failing = {**SCRIPT, "r2plus1d-qat": Outcome(None, "failed", reason="no room")}
    session = ScriptedSession(settings, failing, algorithm="chain")
    with pytest.raises(RunError, match=r"(?s)step 3 of 3, INT8 by QAT: .* no room"):
        session.execute()
    steps = session.run.require_state()["steps"]
    assert [(step["status"], step["reason"]) for step in steps[1:]] == [("finished", None), ("failed", "no room")]
    assert models(session) == ["1-pas", "2-prune", "teacher"]


def test_the_state_follows_every_result(digits: Path, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    class Watching(ScriptedSession):
        def trial_finished(self, result: Any) -> None:
            super().trial_finished(result)
            steps = json.loads((self.run.path / "state.json").read_text())["steps"]
            seen.append([step["status"] for step in steps])

    settings = chain_settings(digits, tmp_path, FLOATING, "search.iterations=1")
    Watching(settings, SCRIPT, algorithm="chain").execute()
    assert seen == [["pending", "pending"]] * 3 + [["finished", "finished"]]


# What is refused before anything is trained


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distillation.features=l2", r"distillation\.features is l2, but chain\.steps has prune"),
        ("search.axes=[t]", r"chain\.steps has pas, but search\.axes is t, along which"),
        ("prune.exclude=['*']", r"chain\.steps, step 2 \(AGP 0\.5\) would remove no filter"),
        ("prune.exclude=[layer9.*]", r"chain\.steps, step 2 \(AGP 0\.5\): exclude names .*layer9"),
        ("prune.layers={nothing: 0.5}", r"chain\.steps, step 2 \(AGP 0\.5\): layers names .*nothing"),
        ("prune.scope=global", r"prune\.scope is global, but agp in chain\.steps cuts in steps"),
        ("quantise.exclude=[layer9.*]", r"quantise\.exclude names 'layer9\.\*'"),
        ("quantise.exclude=['*']", r"quantise\.exclude is .* leaves no layer"),
    ],
)
def test_what_can_t_be_done_is_refused(override: str, message: str, digits: Path, tmp_path: Path) -> None:
    axes = ["network.clip_frames=1"] if "axes" in override else []
    session = ScriptedSession(chain_settings(digits, tmp_path, *axes, override), SCRIPT, algorithm="chain")
    with pytest.raises(UserError, match=message):
        session.execute()
    assert session.runner.stages == []


def test_integers_are_no_beginning(digits: Path, runs: Path, chained: tuple[ScriptedSession, State]) -> None:
    model = runs / chained[1]["run"] / "models/3-int8"
    session = ScriptedSession(chain_settings(digits, runs, f"teacher.weights={model}"), SCRIPT, algorithm="chain")
    with pytest.raises(UserError, match=r"3-int8 computes in integers already"):
        session.execute()


# Trained for real


def test_a_chain_trained_for_real(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = replace(VIEWS["chain"], write_report=lambda *_: Path("report.html"))  # a second to draw
    monkeypatch.setitem(VIEWS, "chain", view)
    flags = {"data.source": "csv", "data.path": digits, "runtime.runs": tmp_path, "runtime.runner": "local"}
    quick = ["network.backbone=r2plus1d", "search.iterations=1", "search.axes=[s]", "quantise.keep_slow=true"]
    fallbacks = ["quantise.max_fallbacks=0", "quantise.calibration=8", "quantise.epochs=2", "train.epochs=2"]
    steps = "chain.steps=[{step: pas}, {step: prune}, {step: quantise}]"  # the preset's, but for epochs
    settings = load_settings("embedded-chain", [*SECONDS, *quick, *fallbacks, steps], flags)

    class Quiet(Listener):
        def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
            assert metrics["epoch"] <= 2

    session = Session(settings, Quiet(), algorithm="chain")
    state = session.execute()
    shrunk, pruned, integers = state["steps"]
    assert [step["status"] for step in state["steps"]] == ["finished"] * 3
    assert [step["epochs"] for step in state["steps"]] == [2, 2, 2]
    assert models(session) == ["1-pas", "2-prune", "3-int8", "teacher"]
    assert pruned["params"] < 0.5 * shrunk["params"]
    assert integers["size_mb"] < 0.7 * pruned["size_mb"]  # of a network this small most is not weights
    assert {row["precision"] for row in integers["layers"] if row["kind"] == "conv3d"} == {"int8"}
    again = Session(settings, Quiet(), algorithm="chain")
    repeated = again.execute()
    assert repeated["stats"]["trained"] == 0
    assert uncached(repeated) == uncached(state)
