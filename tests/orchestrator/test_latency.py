"""Latency, with networks that take as long as they are told."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from compression.spec import NetworkSpec
from configs.schema import ClipSettings
from orchestrator import latency
from orchestrator.latency import (
    ISA_CAP,
    RUNS,
    WARM_UP,
    conditions,
    measure_latencies,
    remembered_latencies,
    remembered_trial_latencies,
)
from orchestrator.measure import turns
from trainers.backbones import build
from trainers.package import Description, save_package

FAST = NetworkSpec(backbone="r2plus1d", classes=3, clip_frames=4, side=8, blocks=(1, 1, 1, 1))
SLOW = FAST.replace(width=2.0)


class Clock:
    """Stands still but for networks at work."""

    def __init__(self) -> None:
        self.now = 100.0
        self.order: list[NetworkSpec] = []
        self.shapes: set[tuple[int, ...]] = set()
        self.threads: set[int] = set()
        self.durations: dict[NetworkSpec, Iterator[float]] = {FAST: cycle([0.001]), SLOW: cycle([0.004])}


class Timed(nn.Module):
    def __init__(self, spec: NetworkSpec, clock: Clock) -> None:
        super().__init__()
        self.spec, self.clock = spec, clock
        self.device = torch.device("cpu")

    def forward(self, clip: Tensor) -> Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.clock.order.append(self.spec)
        self.clock.shapes.add(tuple(clip.shape))
        self.clock.threads.add(torch.get_num_threads())
        self.clock.now += next(self.clock.durations[self.spec])
        return clip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "build", lambda spec: Timed(spec, clock))
    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_it_is_the_time_of_a_forward_pass_in_milliseconds(clock: Clock) -> None:
    assert measure_latencies([FAST, SLOW]) == pytest.approx({FAST: 1.0, SLOW: 4.0})


def test_it_is_the_median_after_the_warm_up(clock: Clock) -> None:
    """Slow first passes and a disturbance do not count: 5 × 9 s, then 14 × 1 s, 2 × 2 s, 14 × 30 s: 2 s."""
    times = [1.0] * 14 + [2.0] * 2 + [30.0] * 14
    assert (WARM_UP, RUNS, statistics.median(times)) == (5, len(times), 2.0)
    clock.durations[FAST] = iter([9.0] * WARM_UP + times)
    assert measure_latencies([FAST]) == pytest.approx({FAST: 2000.0})


def test_at_least_twenty_passes_count() -> None:
    assert RUNS >= 20


def test_networks_take_turns(clock: Clock) -> None:
    """A machine that is slower for a while is slower for all of them; the first of a round is the last of the next."""
    assert (WARM_UP + RUNS) % 2 == 1
    measure_latencies([FAST, SLOW])
    assert clock.order == [FAST, SLOW, SLOW, FAST] * ((WARM_UP + RUNS) // 2) + [FAST, SLOW]


def test_a_network_named_twice_is_measured_once(clock: Clock) -> None:
    assert measure_latencies([FAST, FAST, FAST.replace()]) == pytest.approx({FAST: 1.0})
    assert len(clock.order) == WARM_UP + RUNS


def test_one_input_and_one_thread(clock: Clock) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measure_latencies([FAST])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert clock.threads == {1}
    assert clock.shapes == {(1, *FAST.input_shape)}


def test_threads_come_back_after_an_error(clock: Clock) -> None:
    before = torch.get_num_threads()
    clock.durations[FAST] = iter([])
    torch.set_num_threads(2)
    try:
        with pytest.raises(StopIteration):
            measure_latencies([FAST])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# Memory


def test_what_was_measured_is_remembered(clock: Clock, tmp_path: Path) -> None:
    memory = tmp_path / "latency.json"
    first = remembered_latencies([FAST], memory)
    clock.durations[FAST] = cycle([7.0])
    clock.order.clear()
    assert remembered_latencies([FAST], memory) == first
    assert clock.order == []


def test_a_new_network_has_all_measured_again(clock: Clock, tmp_path: Path) -> None:
    """Latencies of different days would not compare."""
    memory = tmp_path / "latency.json"
    remembered_latencies([FAST], memory)
    clock.durations[FAST] = cycle([7.0])
    both = pytest.approx({FAST: 7000.0, SLOW: 4.0})
    assert remembered_latencies([FAST, SLOW], memory) == both
    clock.order.clear()
    assert remembered_latencies([FAST, SLOW], memory) == both
    assert clock.order == []
    assert set(json.loads(memory.read_text())) == {"conditions", "ms"}
    assert len(json.loads(memory.read_text())["ms"]) == 2


@pytest.mark.parametrize("changed", ["machine", "isa", "torch", "runs"])
def test_other_conditions_are_another_measurement(
    changed: str, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "latency.json"
    remembered_latencies([FAST, SLOW], memory)
    clock.durations[FAST] = cycle([0.003])
    other = {**conditions(), changed: "other"}
    monkeypatch.setattr(latency, "conditions", lambda: other)
    assert remembered_latencies([FAST], memory) == pytest.approx({FAST: 3.0})
    record = json.loads(memory.read_text())
    assert record["conditions"] == other
    assert list(record["ms"].values()) == pytest.approx([3.0]), "SLOW's was measured under the conditions of before"


@pytest.mark.parametrize("content", ["", "{", '{"ms": {}}'])
def test_a_damaged_memory_is_no_memory(content: str, clock: Clock, tmp_path: Path) -> None:
    memory = tmp_path / "latency.json"
    memory.write_text(content)
    assert remembered_latencies([FAST], memory) == pytest.approx({FAST: 1.0})
    assert json.loads(memory.read_text())["conditions"] == conditions()


def test_pruned_networks_are_told_apart(clock: Clock, tmp_path: Path) -> None:
    pruned = FAST.replace(kept={"stem.0": 3})
    clock.durations[pruned] = cycle([0.0005])
    assert remembered_latencies([FAST, pruned], tmp_path / "latency.json") == pytest.approx({FAST: 1.0, pruned: 0.5})


# Trained networks


@pytest.fixture
def folders(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """What two trials left, one of which takes four times as long."""
    specs = {tmp_path / "fast": FAST, tmp_path / "slow": SLOW}
    monkeypatch.setattr(latency, "load_package", lambda folder: (Timed(specs[folder], clock).eval(), None))
    return {"d1": tmp_path / "fast", "d2": tmp_path / "slow"}


def test_trained_networks_are_timed_as_they_are(folders: dict[str, Path], clock: Clock, tmp_path: Path) -> None:
    """By digest, in turns, and not built anew from their specs."""
    assert remembered_trial_latencies(folders, tmp_path / "latency.json") == pytest.approx({"d1": 1.0, "d2": 4.0})
    assert clock.order[:4] == [FAST, SLOW, SLOW, FAST]
    assert json.loads((tmp_path / "latency.json").read_text())["ms"].keys() == {"d1", "d2"}


def test_trained_networks_of_one_architecture_are_told_apart(
    folders: dict[str, Path], clock: Clock, tmp_path: Path
) -> None:
    """Their zero points differ: here the second of each pair of passes takes three times as long."""
    clock.durations[FAST] = cycle([0.001, 0.003, 0.003, 0.001])
    twice = {"d1": folders["d1"], "d3": folders["d1"]}
    assert remembered_trial_latencies(twice, tmp_path / "latency.json") == pytest.approx({"d1": 1.0, "d3": 3.0})


def test_trained_networks_are_remembered_until_one_is_new(
    folders: dict[str, Path], clock: Clock, tmp_path: Path
) -> None:
    memory = tmp_path / "latency.json"
    first = {"d1": folders["d1"]}
    remembered_trial_latencies(first, memory)
    clock.durations[FAST] = cycle([7.0])
    assert remembered_trial_latencies(first, memory) == pytest.approx({"d1": 1.0})
    assert remembered_trial_latencies(folders, memory) == pytest.approx({"d1": 7000.0, "d2": 4.0})
    clock.order.clear()
    assert remembered_trial_latencies(first, memory) == pytest.approx({"d1": 7000.0})
    assert clock.order == []


def test_a_trained_network_that_is_read_takes_time(tmp_path: Path) -> None:
    spec = FAST.replace(width=1 / 32)
    save_package(tmp_path / "model", build(spec), Description(spec=spec, classes=("a", "b", "c"), clips=ClipSettings()))
    (taken,) = remembered_trial_latencies({"d1": tmp_path / "model"}, tmp_path / "latency.json").values()
    assert 0 < taken < 10_000


# Conditions


def test_conditions_name_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Little CPU @ 1 GHz\nmodel name\t: Other\n")
    monkeypatch.setattr(latency, "Path", lambda _: tmp_path / "cpuinfo")
    assert latency.processor() == "Little CPU @ 1 GHz"
    monkeypatch.delenv(ISA_CAP, raising=False)
    isa = torch.backends.cpu.get_cpu_capability()
    assert conditions() | {"torch": ""} == {
        "machine": "Little CPU @ 1 GHz", "isa": isa, "threads": 1, "batch": 1, "runs": RUNS, "torch": "",
    }  # fmt: skip


def test_conditions_say_what_the_kernels_are_held_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_CAP, "AVX2")
    assert conditions()["isa"] == f"{torch.backends.cpu.get_cpu_capability()}, oneDNN at most AVX2"
    monkeypatch.setenv(ISA_CAP, "")
    assert conditions()["isa"] == torch.backends.cpu.get_cpu_capability()


def test_a_machine_that_does_not_name_its_processor_has_an_architecture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(latency, "Path", lambda _: tmp_path / "none")
    monkeypatch.setattr(latency, "platform", SimpleNamespace(processor=lambda: "", machine=lambda: "mips"))
    assert latency.processor() == "mips"


def test_a_real_network_takes_time() -> None:
    spec = FAST.replace(width=1 / 32)
    (taken,) = measure_latencies([spec]).values()
    assert 0 < taken < 10_000
