"""Measuring models: whose turn it is, ratios within rounds, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from configs.errors import UserError
from orchestrator.commands.measure import measure
from orchestrator.measure import measure as measuring
from orchestrator.measure import turns
from orchestrator.measure.measure import (
    Conditions,
    Measurement,
    circumstances,
    latency_of,
    measure_models,
    time_in_turns,
)
from orchestrator.measure.probes.alone import Needs
from orchestrator.measure.terminal import number, print_measurements, short_names
from orchestrator.measure.turns import cuda_events, random_inputs, stopwatch, take_turns, thread_count, wall_clock
from tests.trainers.tiny import ALL_SPECS, CLASSES, CLIPS, SPEC, random_network
from trainers.backbones import Network, build, fast_order
from trainers.package import Description, save_package

# Turns


def test_everyone_is_first_once_in_as_many_rounds() -> None:
    order: list[str] = []
    calls = [lambda name=name: order.append(name) for name in "abc"]
    take_turns(calls, Conditions(runs=3, warm_up=0))
    assert "".join(order) == "abc" + "bca" + "cab"


def test_times_are_each_one_s_own_in_the_order_of_rounds_and_without_the_warm_up() -> None:
    clocks = [iter([9.0, 9.0, 1.0, 2.0, 3.0]), iter([9.0, 9.0, 10.0, 20.0, 30.0])]
    watches = [lambda call, clock=clock: next(clock) for clock in clocks]
    assert take_turns([print, print], Conditions(runs=3, warm_up=2), watches) == [[1, 2, 3], [10, 20, 30]]


def test_the_wall_clock_is_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0, 5.25])
    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert wall_clock(lambda: None) == 250.0


def test_a_gpu_s_time_is_between_two_events_around_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("record")

        def synchronize(self) -> None:
            log.append("wait for event")

        def elapsed_time(self, end: Event) -> float:
            log.append("read")
            return 7.0 if end is not self else -7.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait for all"))
    watch = stopwatch(torch.device("cuda"))
    assert watch is cuda_events
    assert watch(lambda: log.append("call")) == 7.0
    assert log == ["wait for all", "record", "call", "record", "wait for event", "read"]
    assert stopwatch(torch.device("cpu")) is wall_clock


class Spy(Network):
    """Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.given: list[tuple[Any, ...]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()
        self.given.append((tuple(inputs.shape), inputs.is_contiguous(memory_format=torch.channels_last_3d), *state))
        return inputs


def test_networks_are_timed_as_they_are_deployed() -> None:
    spy = Spy().train()
    before = torch.get_num_threads()
    (times,) = time_in_turns([spy], Conditions(batch=2, threads=3, runs=4, warm_up=1))
    assert len(times) == 4
    assert spy.given == [((2, *SPEC.input_shape), True, False, True, 3)] * 5
    assert torch.get_num_threads() == before


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with thread_count(before + 1):
            assert torch.get_num_threads() == before + 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ALL_SPECS)
def test_every_backbone_s_inputs_are_random_and_take_the_weights_order(name: str) -> None:
    network = fast_order(build(ALL_SPECS[name]).eval())
    inputs = random_inputs(network, 2)  # type: ignore[arg-type]
    assert inputs.shape == (2, *ALL_SPECS[name].input_shape)
    assert 0 <= inputs.min() < inputs.max() <= 1
    with torch.inference_mode():
        assert network(inputs).shape[0] == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"batch": 0}, "--batch is 0, but must be at least 1"),
        ({"threads": -1}, "--threads is -1, but must be at least 1"),
        ({"runs": 0}, "--runs is 0, but must be at least 1"),
        ({"warm_up": -1}, "--warm-up is -1, but must be at least 0"),
    ],
)
def test_conditions_that_measure_nothing_are_refused(changes: dict[str, int], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Conditions(**changes)


# Numbers


def test_numbers_of_some_times() -> None:
    """By hand: the ratios 2, 3, 1, 3, 1 have the median 2 (medians have the ratio 5/3); p95 is 4/5 on from 4 to 5."""
    times, reference = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 6.0, 3.0, 12.0, 5.0]
    numbers = latency_of(times, reference, 2)
    assert numbers == {"median_ms": 3.0, "p95_ms": pytest.approx(4.8), "per_second": pytest.approx(2000 / 3),
                       "speedup": 2.0}  # fmt: skip


def save(folder: Path, **changes: Any) -> Path:
    spec = SPEC.replace(**changes)
    save_package(folder, random_network(spec), Description(spec=spec, classes=CLASSES, clips=CLIPS))
    return folder


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """The same network twice, and a larger one."""
    return [save(tmp_path / "one"), save(tmp_path / "same"), save(tmp_path / "wide", width=1 / 8)]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Processes that would have been started; each finds 12 MB."""
    asked: list[tuple[Any, ...]] = []

    def needs(*arguments: Any) -> Needs:
        asked.append(arguments)
        return Needs(peak_mb=12.0, notes=("energy: it is a test",))

    monkeypatch.setattr(measuring, "measure_alone", needs)
    return asked


def test_models_are_compared_with_the_first(
    models: list[Path], alone: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = Conditions(batch=2, runs=3, warm_up=0)
    calls: list[tuple[list[Any], Conditions]] = []

    def timed(networks: list[Network], given: Conditions) -> list[list[float]]:
        calls.append(([network.spec for network in networks], given))
        return [[4.0, 8.0, 4.0], [4.0, 8.0, 4.0], [8.0, 16.0, 16.0]]

    monkeypatch.setattr(measuring, "time_in_turns", timed)
    one, same, wide = measure_models(models, conditions)
    assert calls == [([SPEC, SPEC, SPEC.replace(width=1 / 8)], conditions)], "all within one run"
    assert alone == [(model, conditions, "cpu") for model in models]
    assert [row.speedup for row in (one, same, wide)] == [1.0, 1.0, 0.5]
    assert (one.median_ms, one.per_second, wide.median_ms) == (4.0, 500.0, 16.0)
    assert one.model == str(models[0])
    assert (one.format, one.precision) == ("package", "fp32")
    sizes = [(model / "model.safetensors").stat().st_size for model in models]
    assert [row.size_mb for row in (one, same, wide)] == [size / 1e6 for size in sizes]
    assert wide.times_smaller == sizes[0] / sizes[2] < 1 == same.times_smaller
    assert (one.peak_mb, one.energy_mj, one.energy_source) == (12.0, None, "no counter")
    assert one.notes == ("energy: it is a test",)
    assert one.end_to_end is None


def test_real_networks_take_time(models: list[Path], alone: list[tuple[Any, ...]]) -> None:
    rows = measure_models(models[:2], Conditions(runs=3, warm_up=1))
    assert all(0 < row.median_ms <= row.p95_ms for row in rows)
    assert rows[0].speedup == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"paths": []}, "there is no model to measure; give at least one"),
        ({"paths": [Path("nowhere")]}, "nowhere is "),
        ({"device": "cuda"}, "--device is cuda, but PyTorch finds no CUDA device here"),
    ],
)
def test_what_can_t_be_measured_is_refused(
    change: dict[str, Any], problem: str, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=problem):
        measure_models(**{"paths": models, "conditions": Conditions(), **change})


def test_integers_are_refused_on_a_gpu(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("orchestrator.measure.probes.loading.format_of", lambda path: "onnx-int8")
    with pytest.raises(UserError, match=r"--device is cuda, but .*one is in the format onnx-int8, which runs on CPUs"):
        measure_models(models, Conditions(), device="cuda")


# The command


def test_json_has_conditions_and_every_number(
    models: list[Path], alone: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    measure(models[:2], batch=2, threads=1, runs=2, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["conditions"] == circumstances(Conditions(batch=2, runs=2))
    assert printed["conditions"].keys() == {
        *("machine", "device", "batch", "threads", "runs", "warm_up", "torch", "onnxruntime")
    }
    assert [row["model"] for row in printed["models"]] == [str(model) for model in models[:2]]
    assert all(row.keys() == Measurement.__dataclass_fields__.keys() for row in printed["models"])


def test_table_is_printed_without_json(
    models: list[Path], alone: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    measure(models[:1], runs=2)
    assert "median ms" in capsys.readouterr().out


# The table


def row(model: str, **changes: Any) -> Measurement:
    fields = {
        "format": "package", "precision": "fp32", "median_ms": 123.4, "p95_ms": 130.0, "per_second": 8.1,
        "speedup": 1.0, "size_mb": 125.3, "times_smaller": 1.0, "peak_mb": 310.0, **changes,
    }  # fmt: skip
    return Measurement(model=model, **fields)


INT8 = {"format": "onnx-int8", "precision": "int8", "median_ms": 20.0, "speedup": 6.17, "size_mb": 31.6}
JOURNEY = {"decode_ms": 53.7, "clip_ms": 12.1, "network_ms": 17.5, "total_ms": 83.9}
UNDER = {
    "machine": "A processor with a name of forty characters", "device": "cpu", "batch": 1, "threads": 2, "runs": 50,
    "torch": "2.15.0", "onnxruntime": "1.31.1",
}  # fmt: skip


@pytest.fixture(params=[80, 100])
def show(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Prints to a terminal of this width; runs of blanks come back as one."""

    def printed(*rows: Measurement) -> str:
        console = Console(width=request.param, force_terminal=False)
        with console.capture() as capture:
            print_measurements(console, rows, UNDER)
        text = capture.get()
        lines = text.splitlines()[1:]  # the first is a path, which must not be broken
        assert max(map(len, lines)) <= request.param
        assert "…" not in text
        return "\n".join(" ".join(line.split()) for line in text.splitlines())

    return printed


def test_models_are_told_apart_and_compared(show: Callable[..., str]) -> None:
    text = show(row("runs/a/models/PAS-2"), row("runs/a/models/PAS-2/exports/onnx-int8", **INT8, times_smaller=3.97))
    assert text.startswith("Compared with runs/a/models/PAS-2\n")
    assert "\nPAS-2 package, fp32 123 130 8.10 1.00×\n" in text
    assert "\nPAS-2/exports/onnx-int8 onnx-int8 20.0 130 8.10 6.17×\n" in text
    assert "\nPAS-2/exports/onnx-int8 31.6 3.97× 310 no counter\n" in text
    assert "Batch 1, 2 threads, 50 rounds" in text


def test_a_single_model_is_compared_with_nothing(show: Callable[..., str]) -> None:
    text = show(row("runs/a/models/PAS-2"))
    assert text.startswith("runs/a/models/PAS-2\n")
    assert "faster" not in text
    assert "smaller" not in text


def test_energy_and_gpu_are_shown_where_they_were_measured(show: Callable[..., str]) -> None:
    text = show(row("m", energy_mj=812.5, energy_source="NVML", gpu_percent=97.0, gpu_mb=1234.0))
    assert "\nmodel file MB peak memory MB GPU % GPU MB energy mJ\n" in text
    assert "\nm 125 310 97.0 1234 812\n" in text
    assert "Energy per clip or image, idling included: NVML." in text
    assert "GPU" not in show(row("m"))


def test_the_way_from_a_file_is_shown_where_it_was_gone(show: Callable[..., str]) -> None:
    text = show(row("m", end_to_end=JOURNEY))
    assert "\nfrom the file on decode ms clip ms network ms all ms\n" in text
    assert "\nm 53.7 12.1 17.5 83.9\n" in text
    assert "decode" not in show(row("m"))


def test_why_something_is_missing_is_said_once(show: Callable[..., str]) -> None:
    text = show(row("a", peak_mb=None, notes=("energy: none",)), row("b", notes=("energy: none",)))
    assert text.count("Not measured: energy: none") == 1
    assert "–" in text


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["runs/a/models/PAS-2"], ["PAS-2"]),
        (["runs/a/teacher", "runs/b/teacher/"], ["a/teacher", "b/teacher"]),
        (["m", "m/exports/onnx"], ["m", "m/exports/onnx"]),
        ([str(Path.cwd() / "a/m"), "b/m"], ["a/m", "b/m"]),
        (["/x/m", "/y/m"], ["x/m", "y/m"]),
        (["m", "m"], ["m", "m"]),
    ],
)
def test_names_are_as_short_as_they_can_be(models: list[str], names: list[str]) -> None:
    assert short_names(models) == names


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (1234.5, "1234"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123"),
     (0.0123, "0.0123"), (0.0, "0.0000")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text
