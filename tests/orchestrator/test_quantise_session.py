"""A search for an INT8 network from settings to models: once for real, otherwise results and times are scripted."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.fx import GraphModule

from compression.quantisation import torch_ao
from compression.quantisation.torch_ao import default_engine
from compression.spec import NetworkSpec, Quantisation
from configs.errors import RunError, UserError
from configs.loader import load_settings
from configs.schema import RunSettings
from orchestrator import latency
from orchestrator.quantise import driver as quantise_driver
from orchestrator.quantise import layer_times
from orchestrator.quantise.layer_times import LayerTime
from orchestrator.session import Session
from orchestrator.state import State
from tests.orchestrator.scripted import SECONDS, Listener, Outcome, ScriptedSession
from trainers.backbones import Network
from trainers.files import read_json
from trainers.package import load_package, read_description
from trainers.quantisation import write_layers
from trainers.trial import TrialResult

SCRIPT = {"r2plus1d-teacher": Outcome(0.9), "r2plus1d-ptq": Outcome(0.85), "r2plus1d-qat": Outcome(0.895)}
NOISE = {"layer1.0.conv1.0.0": 9.0, "layer1.0.conv1.0.3": 11.0, "fc": 20.0}
"""Of some layers; the rest do less harm."""
FIRST, SECOND = list(NOISE)[:2]


def quantise_settings(data: Path, runs: Path, *overrides: str) -> RunSettings:
    """Settings of a search over a small network for videos."""
    flags = {"data.source": "csv", "data.path": data, "runtime.runs": runs, "runtime.runner": "local"}
    return load_settings("embedded-r2plus1d", [*SECONDS, *overrides], flags)


class QuantisingSession(ScriptedSession):
    """A scripted run whose INT8 networks leave `layers.json` as well."""

    def trial_finished(self, result: TrialResult) -> None:
        folder = self.store.trial_folder(result.trial)
        if "teacher" not in result.name and result.status == "finished":
            rule = read_description(folder).spec.quantisation
            assert rule is not None
            layers = self.driver.layers  # type: ignore[attr-defined]
            write_layers(folder, [layer_row(layer, rule) for layer in layers])
        super().trial_finished(result)


def layer_row(layer: str, rule: Quantisation) -> dict[str, Any]:
    floating = layer in rule.float_layers
    return {
        "name": layer,
        "kind": "conv3d",
        "precision": "float" if floating else "int8",
        "fused": [],
        "reason": "kept in floating point on request" if floating else None,
        "noise_db": None if floating else NOISE.get(layer, 50.0),
    }


class Clock:
    """Times of networks and of single layers, in milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slow: dict[str, float] = {}
        """Layers that take so long in INT8, where the others take 1 ms; each takes 2 ms in floating point."""
        self.floating, self.int8, self.gain = 4.0, 1.0, 0.0
        """Of whole networks: in floating point, in INT8, and what a layer in floating point saves."""
        self.measured: list[str] = []
        monkeypatch.setattr(layer_times, "measure_layers", self.measure_layers)
        monkeypatch.setattr(latency, "measure_trial_latencies", self.measure_latencies)
        monkeypatch.setattr(layer_times, "time_mixtures", self.time_mixtures)

    def measure_layers(self, network: Network, layers: Sequence[str], engine: str) -> list[LayerTime]:
        self.measured.append("layers")
        return [LayerTime(layer, time := self.slow.get(layer, 1.0), 2.0, time / 2.0) for layer in layers]

    def time_mixtures(
        self, network: Network, layers: Sequence[str], kept: Sequence[Collection[str]], engine: str
    ) -> list[list[float]]:
        self.measured.append("mixtures")
        return [[self.floating if {*layers} <= {*some} else self.int8 - len(some) * self.gain] for some in kept]

    def measure_latencies(self, folders: Mapping[str, Path]) -> dict[str, float]:
        self.measured.append("networks")
        rules = {digest: read_description(folder).spec.quantisation for digest, folder in folders.items()}
        return {
            digest: self.floating if rule is None else self.int8 - len(rule.float_layers) * self.gain
            for digest, rule in rules.items()
        }


@pytest.fixture(scope="module", autouse=True)
def _quantised_once() -> Iterator[None]:
    """Networks of one spec have the same graph in integers; making it takes seconds each time."""
    graphs: dict[tuple[NetworkSpec, Quantisation], GraphModule] = {}

    def skeleton(network: Network, example: Tensor, rule: Quantisation) -> GraphModule:
        key = network.spec, rule
        if key not in graphs:
            graphs[key] = torch_ao.skeleton(network, example, rule)
        return copy.deepcopy(graphs[key])

    def prepare(network: Network, example: Tensor, rule: Quantisation, *, training: bool) -> None:
        skeleton(network, example, rule)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.backbones.quantised.skeleton", skeleton)
        patch.setattr(quantise_driver, "prepare", prepare)
        yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def play(settings: RunSettings, script: Mapping[str, Outcome] = {}) -> tuple[QuantisingSession, State]:
    session = QuantisingSession(settings, {**SCRIPT, **script}, algorithm="sweep-qat")
    return session, session.execute()


def models(session: Session) -> list[str]:
    return sorted(path.name for path in (session.run.path / "models").iterdir())


def numbers(session: Session, model: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(session.run.path / "models" / model / "metrics.json")
    return found


def rows(state: State) -> list[dict[str, Any]]:
    """Candidates without what differs when they are looked up."""
    return [{key: value for key, value in row.items() if key != "cached"} for row in state["candidates"]]


def lacking(accuracy: float) -> dict[str, Outcome]:
    """QAT alone, too bad as it is."""
    return {"r2plus1d-qat": Outcome(accuracy), "r2plus1d-ptq": Outcome(0.1)}


@pytest.fixture(scope="module")
def quantised(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[QuantisingSession, State]:
    """A finished search; nobody changes it."""
    with pytest.MonkeyPatch.context() as patch:
        Clock(patch)
        return play(quantise_settings(digits, tmp_path_factory.mktemp("quantised") / "runs"))


@pytest.fixture
def runs(quantised: tuple[QuantisingSession, State], tmp_path: Path) -> Path:
    """A copy of its store, to go on with."""
    shutil.copytree(quantised[0].store.root, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


# What a search says of itself


def test_the_teacher_is_trained_then_both_ways_at_once(quantised: tuple[QuantisingSession, State]) -> None:
    session, state = quantised
    assert session.runner.stages == [
        ("teacher", ["r2plus1d-teacher"]),
        ("quantise", ["r2plus1d-ptq", "r2plus1d-qat"]),
    ]
    assert (state["algorithm"], state["status"]) == ("sweep-qat", "finished")
    assert state["stop_reason"] == "QAT is 0.5 points below the original; nothing had to go back to float"
    assert session.listener.messages[-1] == f"top-1: ptq 0.850, qat 0.895. {state['stop_reason']}"
    assert state["run"].startswith("r2plus1d-sweep-qat-")


def test_candidates_in_json(quantised: tuple[QuantisingSession, State]) -> None:
    session, state = quantised
    assert json.loads((session.run.path / "state.json").read_text()) == state
    ptq, qat = state["candidates"]
    expected: dict[str, dict[str, Any]] = {
        "ptq": {"method": "ptq", "drop_points": 5.0, "accepted": False, "best": False, "train_epochs": 0},
        "qat": {"method": "qat", "drop_points": 0.5, "accepted": True, "best": True, "train_epochs": 6},
    }
    for row, method in ((ptq, "ptq"), (qat, "qat")):
        expected[method] |= {"seed": 0, "fallbacks": 0, "float_layers": [], "latency_ms": 1.0,
                             "path": f"models/{method}", "original": "../teacher", "status": "finished"}  # fmt: skip
        assert {key: row[key] for key in expected[method]} == expected[method]
        assert row["size_mb"] > 0
        assert row["gmacs"] == state["teacher"]["gmacs"]
        assert len(row["layers"]) == len(state["layer_times"])
    assert qat["rejected"] == []
    assert len(ptq["rejected"]) == 1
    assert "5.0 points" in ptq["rejected"][0]


def test_what_it_is_compared_with(quantised: tuple[QuantisingSession, State]) -> None:
    session, state = quantised
    weights = session.store.trial_folder(state["teacher"]["trial"]) / "model.safetensors"
    assert state["teacher"]["latency_ms"] == 4.0
    assert state["teacher"]["size_mb"] == weights.stat().st_size / 1e6
    assert state["latency"] == latency.conditions()
    assert (state["max_drop_points"], state["engine"]) == (1.0, default_engine())
    assert {(time["int8_ms"], time["float_ms"]) for time in state["layer_times"]} == {(1.0, 2.0)}


def test_every_network_is_quantised_from_the_original_and_taught_by_it(
    quantised: tuple[QuantisingSession, State],
) -> None:
    session, state = quantised
    ptq, qat = (
        read_json(session.store.trial_folder(row["trial"]) / "result.json")["trial"] for row in state["candidates"]
    )
    teacher = state["teacher"]["trial"]
    assert (ptq["start"], ptq["teacher"], ptq["train"]) == (teacher, None, None)
    assert (qat["start"], qat["teacher"]) == (teacher, teacher)
    assert ptq["network"]["quantisation"] == {"engine": default_engine(), "float_layers": []}


# Models


def test_the_original_and_the_best_of_each_way_are_handed_on(quantised: tuple[QuantisingSession, State]) -> None:
    session, state = quantised
    assert models(session) == ["ptq", "qat", "teacher"]
    for row in state["candidates"]:
        network, description = load_package(session.run.path / row["path"])
        assert description.spec.quantisation is not None
        assert network.spec == description.spec
    assert read_description(session.run.path / "models/teacher").spec.quantisation is None


def test_a_model_names_its_original_and_the_verdict(quantised: tuple[QuantisingSession, State]) -> None:
    session, state = quantised
    qat, ptq = numbers(session, "qat"), numbers(session, "ptq")
    assert (session.run.path / "models/qat" / qat["original"]).resolve() == session.run.path / "models/teacher"
    assert (qat["method"], qat["accepted"], qat["rejected"], qat["top1"]) == ("qat", True, [], 0.895)
    assert (ptq["method"], ptq["accepted"], ptq["rejected"]) == ("ptq", False, state["candidates"][0]["rejected"])
    assert (qat["latency_ms"], qat["drop_points"], qat["data"]) == (1.0, 0.5, state["data"])
    assert "original" not in numbers(session, "teacher")
    assert "rejected" in (session.run.path / "models/ptq/card.md").read_text()


def test_fewer_ways_take_models_back(digits: Path, runs: Path, clock: Clock) -> None:
    (run,) = runs.glob("r2plus1d-*")
    shutil.copytree(run / "models/ptq", run / "models/mine")
    session, _ = play(quantise_settings(digits, runs, "quantise.methods=[qat]"))
    assert models(session) == ["mine", "qat", "teacher"]


def test_nothing_is_handed_on_before_it_is_judged(
    digits: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "measure_trial_latencies", stop)
    session = QuantisingSession(quantise_settings(digits, tmp_path), SCRIPT, algorithm="sweep-qat")
    with pytest.raises(KeyboardInterrupt):
        session.execute()
    assert models(session) == ["teacher"]
    state = session.run.require_state()
    assert [(row["path"], row["accepted"], row["best"]) for row in state["candidates"]] == [(None, None, False)] * 2
    assert state["latency"] is None


# The gate


def test_a_slower_network_is_rejected_however_accurate(digits: Path, runs: Path, clock: Clock) -> None:
    clock.int8 = 5.0
    for memory in runs.glob("*/latency.json"):
        memory.unlink()
    session, state = play(quantise_settings(digits, runs))
    assert not any(row["accepted"] or row["best"] for row in state["candidates"])
    assert state["candidates"][1]["rejected"] == ["25 % slower than its FP32 original"]
    assert models(session) == ["ptq", "qat", "teacher"]
    assert numbers(session, "qat")["accepted"] is False


def test_each_network_is_timed_as_it_was_trained(
    digits: Path, runs: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have one architecture, but not the same zero points: the one from PTQ is slower than the original here."""
    timed: list[dict[str, Path]] = []

    def measure(folders: Mapping[str, Path]) -> dict[str, float]:
        timed.append(dict(folders))
        return dict(zip(folders, (4.0, 5.0, 1.0), strict=True))

    for memory in runs.glob("*/latency.json"):
        memory.unlink()
    monkeypatch.setattr(latency, "measure_trial_latencies", measure)
    session, state = play(quantise_settings(digits, runs, "quantise.max_drop_points=5"))
    told = [state["teacher"], *state["candidates"]]
    assert [row["latency_ms"] for row in told] == [4.0, 5.0, 1.0]
    assert [row["accepted"] for row in state["candidates"]] == [False, True]
    assert timed == [{row["trial"]: session.store.trial_folder(row["trial"]) for row in told}]


def test_of_equally_accurate_networks_the_faster_is_best(digits: Path, tmp_path: Path, clock: Clock) -> None:
    """With a third seed as good as the second; of a way's networks one is handed on."""
    equal = {"r2plus1d-ptq": Outcome(0.9), "r2plus1d-qat": Outcome(0.88), "r2plus1d-qat-seed1": Outcome(0.9)}
    _, state = play(quantise_settings(digits, tmp_path, "quantise.seeds=[0, 1]"), equal)
    assert [(row["name"], row["best"], row["path"]) for row in state["candidates"]] == [
        ("r2plus1d-ptq", True, "models/ptq"),
        ("r2plus1d-qat", False, None),
        ("r2plus1d-qat-seed1", False, "models/qat"),
    ]


# Layers in floating point


def test_excluded_and_slow_layers_stay_in_float(digits: Path, tmp_path: Path, clock: Clock) -> None:
    clock.gain = 0.125
    clock.slow = {"fc": 2.19, "stem.0": 3.1, "stem.3": 2.5}
    session, state = play(quantise_settings(digits, tmp_path, "quantise.exclude=['stem.*']"))
    qat = state["candidates"][1]
    assert qat["float_layers"] == [
        {"layer": "stem.0", "reason": "excluded by quantise.exclude"},
        {"layer": "stem.3", "reason": "excluded by quantise.exclude"},
    ]
    clock.slow = {"fc": 2.5}
    other, state = play(quantise_settings(digits, tmp_path, "runtime.name=other", "quantise.exclude=['stem.*']"))
    assert state["candidates"][0]["float_layers"][2] == {
        "layer": "fc",
        "reason": "slower in INT8: 2.5 ms against 2.0 ms",
    }
    assert other.runner.stages[0][0] == "quantise"
    spec = read_description(session.store.trial_folder(state["candidates"][0]["trial"])).spec
    assert spec.quantisation == Quantisation(engine=default_engine(), float_layers=("stem.0", "stem.3", "fc"))
    layers = {row["name"]: row["reason"] for row in state["candidates"][0]["layers"]}
    assert (layers["fc"], layers["stem.0"], layers[FIRST]) == (
        "slower in INT8: 2.5 ms against 2.0 ms",
        "excluded by quantise.exclude",
        None,
    )


def test_slow_layers_are_quantised_where_that_costs_the_network_nothing(
    digits: Path, tmp_path: Path, clock: Clock
) -> None:
    clock.slow = {"fc": 9.0}
    _, state = play(quantise_settings(digits, tmp_path))
    assert [row["float_layers"] for row in state["candidates"]] == [[], []]
    assert state["slow_layers"] == {
        "layers": ["fc"],
        "int8_ms": 1.0,
        "mixed_ms": 1.0,
        "faster": 1.0,
        "kept_in_float": False,
    }


def test_slow_layers_are_quantised_on_request(digits: Path, tmp_path: Path, clock: Clock) -> None:
    clock.slow = {"fc": 9.0}
    _, state = play(quantise_settings(digits, tmp_path, "quantise.keep_slow=true"))
    assert state["layer_times"] == []
    assert [row["float_layers"] for row in state["candidates"]] == [[], []]


def test_where_every_layer_is_slow_nothing_is_quantised(digits: Path, tmp_path: Path, clock: Clock) -> None:
    settings = quantise_settings(digits, tmp_path, "quantise.exclude=['layer*', 'stem.*']")
    clock.slow, clock.floating = {"fc": 9.0}, 0.5
    session = QuantisingSession(settings, SCRIPT, algorithm="sweep-qat")
    with pytest.raises(RunError, match=r"every layer .* slower in INT8 .* quantise\.keep_slow=true"):
        session.execute()
    state = session.run.require_state()
    assert (state["status"], state["candidates"]) == ("failed", [])


def test_layers_go_back_where_accuracy_suffers(digits: Path, runs: Path, clock: Clock) -> None:
    """The layer with the lowest signal to noise first; PTQ, which did worse, is not tried again."""
    script = {"r2plus1d-qat-float1": Outcome(0.897), "r2plus1d-qat-float2": Outcome(0.9)}
    session, state = play(quantise_settings(digits, runs, "quantise.max_drop_points=0"), script)
    assert session.runner.stages == [("float-1", ["r2plus1d-qat-float1"]), ("float-2", ["r2plus1d-qat-float2"])]
    assert state["stop_reason"] == f"QAT is equal to the original with 2 layers back in float: {FIRST}, {SECOND}"
    assert [row["fallbacks"] for row in state["candidates"]] == [0, 0, 1, 2]
    last = state["candidates"][-1]
    assert (last["best"], last["path"], last["latency_ms"]) == (True, "models/qat", 1.0)
    assert [layer["layer"] for layer in last["float_layers"]] == [FIRST, SECOND]
    assert "signal to noise 9.0 dB" in last["float_layers"][0]["reason"]
    reasons = {row["name"]: row["reason"] for row in last["layers"]}
    assert "signal to noise 9.0 dB" in reasons[FIRST]
    assert [row["layers"] for row in state["candidates"][1:3]] == [[], []]


# The same again, and more


def test_the_same_again_trains_and_measures_nothing(
    digits: Path, runs: Path, clock: Clock, quantised: tuple[QuantisingSession, State]
) -> None:
    session, state = play(quantise_settings(digits, runs))
    assert session.runner.stages == []
    assert clock.measured == []
    assert (state["stats"]["trained"], state["stats"]["cached"]) == (0, 3)
    assert rows(state) == rows(quantised[1])
    assert models(session) == models(quantised[0])


def test_layers_that_went_back_go_back_again(digits: Path, tmp_path: Path, clock: Clock) -> None:
    settings = quantise_settings(digits, tmp_path, "quantise.max_fallbacks=1")
    script = {**lacking(0.5), "r2plus1d-qat-float1": Outcome(0.6), "r2plus1d-qat-float2": Outcome(0.7)}
    _, first = play(settings, script)
    again, second = play(settings, script)
    assert again.runner.stages == []
    assert rows(second) == rows(first)
    further, third = play(quantise_settings(digits, tmp_path, "quantise.max_fallbacks=2"), script)
    assert further.runner.stages == [("float-2", ["r2plus1d-qat-float2"])]
    assert third["run"] == first["run"]
    assert str(third["stop_reason"]).startswith("gave up after 2 layers")


EXTENSIONS = {
    "quantise.seeds=[0, 1, 2]": ["r2plus1d-qat-seed1", "r2plus1d-qat-seed2"],
    "quantise.max_drop_points=2": [],
    "quantise.max_fallbacks=9": [],
}


@pytest.mark.parametrize("override", EXTENSIONS)
def test_more_of_anything_trains_only_what_is_new(
    override: str, digits: Path, runs: Path, clock: Clock, quantised: tuple[QuantisingSession, State]
) -> None:
    session, state = play(quantise_settings(digits, runs, override))
    assert [name for _, names in session.runner.stages for name in names] == EXTENSIONS[override]
    assert state["run"] == quantised[1]["run"]


def test_other_limits_judge_what_is_there(digits: Path, runs: Path, clock: Clock) -> None:
    _, state = play(quantise_settings(digits, runs, "quantise.max_drop_points=5"))
    assert [row["accepted"] for row in state["candidates"]] == [True, True]


@pytest.mark.parametrize("override", ["quantise.epochs=2", "quantise.lr_divisor=2"])
def test_what_only_training_uses_leaves_measured_ranges_alone(
    override: str, digits: Path, runs: Path, clock: Clock
) -> None:
    session, _ = play(quantise_settings(digits, runs, override))
    assert session.runner.stages == [("quantise", ["r2plus1d-qat"])]


# Failures


def test_a_training_that_diverged_is_shown_and_not_measured(digits: Path, tmp_path: Path, clock: Clock) -> None:
    diverged = {"r2plus1d-qat": Outcome(None, "diverged", reason="nan"), "r2plus1d-ptq": Outcome(0.9)}
    session, state = play(quantise_settings(digits, tmp_path), diverged)
    qat = state["candidates"][1]
    assert (qat["status"], qat["reason"], qat["drop_points"], qat["accepted"]) == ("diverged", "nan", None, None)
    assert (qat["latency_ms"], qat["size_mb"], qat["path"]) == (None, None, None)
    assert models(session) == ["ptq", "teacher"]
    assert "1 of 2 networks did not come out usable" in state["stop_reason"]
    assert "qat not usable" in session.listener.messages[-1]


def test_a_choice_waits_for_what_could_not_be_run(digits: Path, tmp_path: Path, clock: Clock) -> None:
    lost = {"r2plus1d-qat": Outcome(None, "failed", reason="node died", transient=True)}
    settings = quantise_settings(digits, tmp_path)
    session = QuantisingSession(settings, {**SCRIPT, **lost}, algorithm="sweep-qat")
    with pytest.raises(RunError, match="1 of 2 trainings could not be run"):
        session.execute()
    again, _ = play(settings)
    assert again.runner.stages == [("quantise", ["r2plus1d-qat"])]


# What is refused before anything is trained

REFUSED = {
    "distillation.features=l2": r"distillation\.features is l2",
    "quantise.exclude=['layer1.0.conv1.0.1']": r"no layer that can be quantised matches it; did you mean layer1\.0",
    "quantise.exclude=[nonsense]": r"names 'nonsense', .*layers are named like",
    "quantise.exclude=['*']": r"leaves no layer to be quantised",
}


@pytest.mark.parametrize("override", REFUSED)
def test_bad_settings_are_refused_first(override: str, digits: Path, tmp_path: Path) -> None:
    session = QuantisingSession(quantise_settings(digits, tmp_path, override), {}, algorithm="sweep-qat")
    with pytest.raises(UserError, match=REFUSED[override]):
        session.execute()
    assert session.runner.stages == []


def test_kernels_that_are_not_here_are_refused(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.backends import quantized

    monkeypatch.setattr(type(quantized), "supported_engines", property(lambda _: ["none", "onednn"]))
    settings = quantise_settings(digits, tmp_path, "quantise.engine=qnnpack")
    with pytest.raises(UserError, match=r"quantise\.engine is qnnpack: .*onednn"):
        QuantisingSession(settings, {}, algorithm="sweep-qat").execute()


def test_integers_are_not_quantised_again(digits: Path, runs: Path, clock: Clock) -> None:
    (run,) = runs.glob("r2plus1d-*")
    settings = quantise_settings(digits, runs, f"teacher.weights={run / 'models/qat'}")
    with pytest.raises(UserError, match="computes in integers already"):
        QuantisingSession(settings, {}, algorithm="sweep-qat").execute()


# For real


def test_a_network_is_trained_and_quantised(digits: Path, tmp_path: Path) -> None:
    settings = quantise_settings(digits, tmp_path, "clips.per_video=1", "clips.test=1", "quantise.max_drop_points=100")
    session = Session(settings, Quiet(), algorithm="sweep-qat")
    state = session.execute()
    assert state["status"] == "finished"
    for row in state["candidates"]:
        network, _ = load_package(session.run.path / row["path"])
        assert network.spec.quantisation is not None
        assert row["size_mb"] < state["teacher"]["size_mb"]
        assert any(layer["precision"] == "int8" for layer in row["layers"])
    again = Session(settings, Quiet(), algorithm="sweep-qat").execute()
    assert rows(again) == rows(state)
    assert again["stats"]["trained"] == 0


class Quiet(Listener):
    """A listener of real trainings."""

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        pass
