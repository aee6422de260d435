"""Times of single layers, in integers and in floating point."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from compression.quantisation.layers import QuantisationError
from compression.quantisation.torch_ao import default_engine, quantisable_layers
from compression.spec import Quantisation
from orchestrator import latency
from orchestrator.measure.turns import Conditions
from orchestrator.quantise import layer_times
from orchestrator.quantise.layer_times import (
    RUNS,
    Given,
    LayerTime,
    given_to,
    measure_layers,
    pair,
    quantise_alone,
    remembered_layer_times,
    to_integers,
    with_bias,
)
from tests.trainers.tiny import ALL_SPECS, REID_SPEC, SPEC
from trainers.backbones import Network, build, fast_order, in_fast_order

ENGINE = default_engine()


class Clock:
    """Gives calls the times that a test says, in the order of the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: list[float] = []
        self.calls = 0
        self.threads: set[int] = set()
        monkeypatch.setattr(layer_times, "take_turns", self.take_turns)

    def take_turns(self, calls: Sequence[Callable[[], object]], conditions: Conditions) -> list[list[float]]:
        self.calls = len(calls)
        self.threads.add(torch.get_num_threads())
        times = self.times or [float(number) for number in range(1, len(calls) + 1)]
        return [[1e9 * time, time, 1e-9 * time] for time in times[: len(calls)]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(scope="module")
def network() -> Network:
    return build(SPEC)


# What is slow


@pytest.mark.parametrize(("slower", "slow"), [(0.5, False), (1.0, False), (1.09, False), (1.11, True)])
def test_a_layer_is_slow_beyond_what_ratios_scatter(slower: float, slow: bool) -> None:
    assert LayerTime("fc", slower, 1.0, slower).is_slow == slow


def test_a_layer_is_judged_by_rounds() -> None:
    """Of a machine that gets slower from round to round; and of one that is disturbed, where medians mislead."""
    time = layer_times.layer_time("fc", [1.5, 3.0, 6.0], [1.0, 2.0, 4.0])
    assert (time, time.is_slow) == (LayerTime("fc", 3.0, 2.0, 1.5), True)
    drifting = layer_times.layer_time("fc", [1.0, 4.0, 4.0], [1.0, 1.0, 4.0])
    assert (drifting, drifting.is_slow) == (LayerTime("fc", 4.0, 1.0, 1.0), False)


def test_a_slow_layer_says_why_it_is_in_float() -> None:
    assert LayerTime("fc", 0.3121, 0.2449, 1.27).why_float == "slower in INT8: 0.31 ms against 0.24 ms"


# What is timed


def test_every_layer_is_timed(clock: Clock) -> None:
    network = build(REID_SPEC)
    layers = quantisable_layers(network)
    assert [time.layer for time in measure_layers(network, layers, ENGINE)] == list(layers)
    assert clock.threads == {1}
    assert torch.get_num_threads() >= 1


def test_layers_that_are_alike_are_timed_once(clock: Clock) -> None:
    """Two kinds, each in integers and in floating point: medians of 1, 2, 3 and 4 beside a slow and a fast pass."""
    network = Chain(nn.Conv3d(3, 3, 1), nn.Conv3d(3, 3, 1, bias=False), nn.Conv3d(3, 4, 1))
    measured = measure_layers(network, ["0", "1", "2"], ENGINE)  # type: ignore[arg-type]
    assert clock.calls == 4
    assert measured == [LayerTime("0", 1.0, 2.0, 0.5), LayerTime("1", 1.0, 2.0, 0.5), LayerTime("2", 3.0, 4.0, 0.75)]


class Chain(nn.Sequential):
    """Layers in a row that are fed what `SPEC` is."""

    spec = SPEC


class Lazy(Chain):
    """A network that leaves all but its first layer out."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self[0](clips)
        return out


STEMS = {"r2plus1d": 1, "slowfast": 2, "reid": 1}
"""Layers that are given values below 0: the input. All others are behind a ReLU."""


@pytest.mark.parametrize("name", ALL_SPECS)
def test_layers_are_given_what_a_network_gives_them(name: str) -> None:
    network = build(ALL_SPECS[name])
    layers = quantisable_layers(network)
    network.train()
    given = given_to(network, layers)
    assert network.training
    assert given.keys() == set(layers)
    assert [found.shape[0] for found in given.values() if found.signed] == [1] * STEMS[name]
    assert (1, *ALL_SPECS[name].input_shape) in [found.shape for found in given.values() if found.signed]
    for layer in layers:
        module = network.get_submodule(layer)
        inputs = module.in_features if isinstance(module, nn.Linear) else getattr(module, "in_channels", None)
        assert given[layer].shape[:2] == (1, inputs)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_layer_without_work_is_named() -> None:
    with pytest.raises(QuantisationError, match="1 takes no part in a forward pass"):
        given_to(Lazy(nn.Conv3d(3, 3, 1), nn.Linear(3, 2)), ["0", "1"])  # type: ignore[arg-type]


def test_a_layer_alone_is_what_folding_a_batch_norm_leaves() -> None:
    convolution = nn.Conv3d(3, 5, 3, stride=2, bias=False)
    alone = with_bias(convolution)
    assert isinstance(alone.bias, nn.Parameter)
    assert alone.bias.shape == (5,)
    assert convolution.bias is None
    torch.testing.assert_close(alone.weight, convolution.weight)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv3d": (nn.Conv3d(3, 5, 3, stride=2, padding=1, bias=False), (1, 3, 4, 8, 8)),
    "conv2d": (nn.Conv2d(4, 4, 3, groups=2), (1, 4, 8, 8)),
    "linear": (nn.Linear(6, 3), (1, 6)),
}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_both_ways_go_from_integers_to_integers(kind: str, signed: bool) -> None:
    """So that they are compared at the same task."""
    layer, shape = LAYERS[kind]
    with torch.inference_mode():
        integer_way, float_way = pair(with_bias(layer), Given(shape, signed), ENGINE)
        first, second = integer_way(), float_way()
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert first.dtype == second.dtype == torch.quint8
    assert first.shape == second.shape


def test_the_integer_way_computes_the_layer() -> None:
    """On inputs whose range it was calibrated on, within two steps of the result's grid (weights are rounded too)."""
    torch.manual_seed(0)
    layer = with_bias(nn.Linear(6, 3))
    inputs = torch.linspace(-2.56, 2.54, 12).reshape(2, 6)
    quantised = layer_times.without_borders(quantise_alone(layer, inputs, ENGINE))
    with torch.inference_mode():
        out = quantised(to_integers(inputs, 128))
        expected = layer(inputs).relu()
    assert (out.dequantize() - expected).abs().max() <= 2 * out.q_scale()


def test_a_layer_without_integer_kernel_is_told() -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(QuantisationError, match="does not compute in integers"):
        layer_times.without_borders(graph)


@pytest.mark.parametrize(("signed", "smallest", "zero"), [(True, -0.5, 128), (False, 0.0, 0)])
def test_examples_are_like_what_is_given(signed: bool, smallest: float, zero: int) -> None:
    given = Given((1, 3, 4, 8, 8), signed)
    example = given.example()
    assert (example.min() < 0).item() == signed
    assert smallest <= example.min().item() <= example.max().item() <= smallest + 1
    assert given.zero_point == zero


def test_integers_keep_the_fast_order() -> None:
    integers = to_integers(in_fast_order(torch.rand(1, 3, 4, 8, 8)), 0)
    assert integers.is_contiguous(memory_format=torch.channels_last_3d)
    assert integers.dequantize().is_contiguous(memory_format=torch.channels_last_3d)


def test_a_real_network_takes_time(network: Network) -> None:
    layers = quantisable_layers(network)[:2]
    assert all(0 < min(time.int8_ms, time.float_ms) < 1000 for time in measure_layers(network, layers, ENGINE))


# Whether it is worth it


class Mixtures:
    """Networks with layers in floating point, which take as long as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *times: list[float]) -> None:
        self.times = times
        self.networks: list[Network] = []
        monkeypatch.setattr(layer_times, "time_in_turns", self.time)

    def time(self, networks: Sequence[Network], conditions: Conditions) -> list[list[float]]:
        assert (conditions.runs, conditions.threads) == (latency.RUNS, 1)
        self.networks += networks
        return list(self.times)


@pytest.mark.parametrize(("mixed", "slow"), [(1.1, []), (0.92, []), (0.9, ["fc"])])
def test_slow_layers_stay_in_float_if_that_makes_the_network_faster(
    mixed: float, slow: list[str], clock: Clock, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.times = [1.0, 2.0, 9.0, 2.0]
    mixtures = Mixtures(monkeypatch, [1.0] * 3, [mixed] * 3)
    times = layer_times.measure(network, ["stem.0", "fc"], [], ENGINE)
    assert (times.int8_ms, times.mixed_ms, times.faster) == (1.0, mixed, 1 / mixed)
    assert [time.layer for time in times.slow] == slow
    assert [mixture.spec.quantisation for mixture in mixtures.networks] == [
        Quantisation(engine=ENGINE),
        Quantisation(engine=ENGINE, float_layers=("fc",)),
    ]


def test_a_network_is_judged_by_rounds(clock: Clock, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Medians are 2 and 1 ms, but in most rounds the two were equally fast."""
    clock.times = [1.0, 2.0, 9.0, 2.0]
    Mixtures(monkeypatch, [1.0, 2.0, 2.0], [1.0, 1.0, 2.0])
    times = layer_times.measure(network, ["stem.0", "fc"], [], ENGINE)
    assert (times.int8_ms, times.mixed_ms, times.faster, times.slow) == (2.0, 1.0, 1.0, ())


def test_networks_that_are_timed_have_the_zeros_of_trained_ones(network: Network) -> None:
    """The first layer's inputs are signed: their 0 is in the middle. Behind a ReLU it is 0."""
    layers = quantisable_layers(network)
    mixed = layer_times.mixture(network, layers, ["fc"], ENGINE)
    assert mixed.spec == SPEC.replace(quantisation=Quantisation(engine=ENGINE, float_layers=("fc",)))
    zeros = [
        int(zero) for name, zero in mixed.state_dict().items() if name.endswith("zero_point") and zero.numel() == 1
    ]
    assert 96 < zeros[0] < 160
    assert 0 in zeros


def test_where_no_layer_looks_slow_no_network_is_measured(
    clock: Clock, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.times = [1.0, 2.0, 9.0, 2.0]
    mixtures = Mixtures(monkeypatch)
    assert layer_times.measure(network, ["stem.0", "fc"], ["fc"], ENGINE).slow == ()
    assert mixtures.networks == []


def test_a_network_without_integers_is_the_one_it_came_from(
    clock: Clock, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.times = [1.0, 2.0, 9.0, 2.0]
    mixtures = Mixtures(monkeypatch, [1.0], [0.5])
    assert [t.layer for t in layer_times.measure(network, ["stem.0", "fc"], ["stem.0"], ENGINE).slow] == ["fc"]
    assert mixtures.networks[1] is network


# Memory


def times_of(network: Network, layers: list[str], memory: Path) -> list[LayerTime]:
    return list(remembered_layer_times(network, layers, [], ENGINE, memory).layers)


@pytest.fixture
def known(clock: Clock, network: Network, tmp_path: Path) -> Path:
    """What was measured of a network."""
    clock.times = [1.0, 2.0] * 50
    times_of(network, ["stem.0", "fc"], tmp_path / "layer_times.json")
    clock.calls = 0
    clock.times = [5.0, 6.0] * 50
    return tmp_path / "layer_times.json"


def test_what_was_measured_is_remembered(known: Path, clock: Clock, network: Network) -> None:
    times = times_of(network, ["stem.0", "fc"], known)
    assert times == [LayerTime("stem.0", 1.0, 2.0, 0.5), LayerTime("fc", 1.0, 2.0, 0.5)]
    assert clock.calls == 0
    record = json.loads(known.read_text())
    assert record["conditions"] == {**latency.conditions(), "runs": RUNS, "engine": ENGINE}


def test_another_network_is_another_measurement(known: Path, clock: Clock) -> None:
    other = fast_order(build(SPEC.replace(width=1 / 16)))
    assert isinstance(other, Network)
    assert times_of(other, ["stem.0", "fc"], known)[0] == LayerTime("stem.0", 5.0, 6.0, 5 / 6)


def test_other_layers_are_another_measurement(known: Path, clock: Clock, network: Network) -> None:
    assert times_of(network, ["fc"], known) == [LayerTime("fc", 5.0, 6.0, 5 / 6)]


def test_another_machine_is_another_measurement(
    known: Path, clock: Clock, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**latency.conditions(), "machine": "other"}
    monkeypatch.setattr(latency, "conditions", lambda: other)
    assert times_of(network, ["stem.0", "fc"], known)[0] == LayerTime("stem.0", 5.0, 6.0, 5 / 6)


@pytest.mark.parametrize("content", ["", "{", '{"layers": []}'])
def test_a_damaged_memory_is_no_memory(content: str, known: Path, clock: Clock, network: Network) -> None:
    known.write_text(content)
    assert times_of(network, ["fc"], known) == [LayerTime("fc", 5.0, 6.0, 5 / 6)]
