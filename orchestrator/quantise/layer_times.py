"""How long each layer of a network takes alone, in integers and in floating point: one thread, one input, here.

Random inputs do: the time of a convolution does not depend on their values. Their signs matter, though: integers whose
zero is not 0 are slower, by far in oneDNN's linear layers, and those behind a ReLU start at 0. So a layer is fed random
integers with the zero that it has in the network, and whole networks are quantised with ranges of random inputs.

Batch norms are folded into convolutions either way, so that a layer is its weights and a bias. A layer that stays in
floating point within an INT8 network is fed integers and must give integers, which is counted as part of it, as if no
neighbour stayed there with it; its ReLU is a step of its own there. Because a network is more than its layers, those
that look slow in INT8 only stay in floating point if the network as a whole is clearly faster for it. What is compared
takes turns, and ratios are medians over rounds of the ratio within a round, which noise hardly moves.

Units: milliseconds.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

from compression.cost import empty_input
from compression.quantisation.layers import QuantisationError
from compression.quantisation.torch_ao import convert, prepare, use_engine
from compression.spec import Quantisation
from orchestrator import latency
from orchestrator.measure.turns import Conditions, speedup, take_turns, thread_count, time_in_turns
from trainers.backbones import Network, SimulatedNetwork, fast_order, in_fast_order
from trainers.files import read_json, write_json

RUNS = 25
"""Passes whose median is a layer's time."""
WARM_UP = 5
"""Passes before them."""
SLOWER = 1.1
"""A layer is slow in integers if it takes more than so many times as long as in floating point: medians scatter."""
WORTH = 1.1
"""The network must be so many times as fast with its slow layers in floating point, or they are quantised as well:
which layers compute in integers decides accuracy and size too, and must not depend on what noise a measurement had."""
SCALE = 0.02
"""Of the random integers that layers are fed, and give."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Given:
    """What a layer is given."""

    shape: tuple[int, ...]
    signed: bool
    """Whether there are values below 0."""

    @property
    def zero_point(self) -> int:
        """The integer that means 0."""
        return 128 if self.signed else 0

    def example(self) -> Tensor:
        """Random values like it."""
        return in_fast_order(torch.rand(self.shape) - (0.5 if self.signed else 0.0))


@dataclass(frozen=True)
class LayerTime:
    """One layer alone."""

    layer: str
    """Its name."""
    int8_ms: float
    """From integers to integers."""
    float_ms: float
    """The same in floating point, with the change to it and back."""
    slower: float
    """How many times as long it takes in integers."""

    @property
    def is_slow(self) -> bool:
        """Whether an INT8 network may be faster with this layer in floating point."""
        return self.slower > SLOWER

    @property
    def why_float(self) -> str:
        """What a slow layer stays in floating point for."""
        return f"slower in INT8: {self.int8_ms:#.2g} ms against {self.float_ms:#.2g} ms"


@dataclass(frozen=True)
class LayerTimes:
    """What was measured of a network's layers."""

    layers: tuple[LayerTime, ...]
    int8_ms: float | None = None
    """The network with all layers in INT8 that are not excluded; none where no layer looks slow."""
    mixed_ms: float | None = None
    """The same with those in floating point that look slow."""
    faster: float | None = None
    """How many times as fast the second is as the first."""

    @property
    def slow(self) -> tuple[LayerTime, ...]:
        """Layers that look slow and had better stay in floating point."""
        if self.faster is None or self.faster < WORTH:
            return ()
        return tuple(time for time in self.layers if time.is_slow)


def remembered_layer_times(
    network: Network, layers: Sequence[str], excluded: Sequence[str], engine: str, memory: Path
) -> LayerTimes:
    """As `measure`, unless that was done here before: a search that is replayed takes the same decisions.

    Args:
        network: in floating point, trained: its ranges are those of whole networks that are compared.
        layers: names of its convolutions and linear layers.
        excluded: those that stay in floating point anyway.
        engine: integer kernels.
        memory: file with an earlier measurement; forgotten where it is of another network or other conditions.
    """
    about = {
        "conditions": {**latency.conditions(), "runs": RUNS, "engine": engine},
        "network": network.spec.to_dict(),
        "layers": list(layers),
        "excluded": list(excluded),
    }
    record: dict[str, Any] = read_json(memory) or {}
    if {key: record.get(key) for key in about} != about or "times" not in record:
        record = {**about, "times": asdict(measure(network, layers, excluded, engine))}
        write_json(memory, record)
    times = record["times"]
    return LayerTimes(**{**times, "layers": tuple(LayerTime(**row) for row in times["layers"])})


def measure(network: Network, layers: Sequence[str], excluded: Sequence[str], engine: str) -> LayerTimes:
    """Times of all layers, and of the network with and without those in INT8 that look slow; arguments as above."""
    times = tuple(measure_layers(network, layers, engine))
    slow = {time.layer for time in times if time.is_slow} - {*excluded}
    if not slow:
        return LayerTimes(times)
    every, mixed = time_mixtures(network, layers, ({*excluded}, slow | {*excluded}), engine)
    return LayerTimes(times, statistics.median(every), statistics.median(mixed), speedup(every, mixed))


def time_mixtures(
    network: Network, layers: Sequence[str], kept: Sequence[Collection[str]], engine: str
) -> list[list[float]]:
    """Milliseconds per round of a network in integers but for some layers.

    Args:
        network: in floating point.
        layers: names of its convolutions and linear layers.
        kept: those in floating point, of each network that is timed.
        engine: integer kernels.
    """
    mixtures = [mixture(network, layers, floating, engine) for floating in kept]
    return time_in_turns(mixtures, Conditions(runs=latency.RUNS, warm_up=latency.WARM_UP))


def mixture(network: Network, layers: Sequence[str], floating: Collection[str], engine: str) -> Network:
    """A network with some layers in floating point; with all of them there, the network that it came from."""
    kept = tuple(layer for layer in layers if layer in floating)
    if len(kept) == len(layers):
        return network
    simulated = SimulatedNetwork(network, Quantisation(engine=engine, float_layers=kept), learning=True)
    simulated.measure_ranges()
    with torch.no_grad():
        simulated(torch.randn_like(empty_input(network.spec)))
    return simulated.converted()


def measure_layers(network: Network, layers: Sequence[str], engine: str) -> list[LayerTime]:
    """Times of layers, which take turns: as in a network, none finds its weights still in the cache.

    Layers that are alike are measured once.

    Args:
        network: in floating point.
        layers: names of its convolutions and linear layers.
        engine: integer kernels.

    Raises:
        compression.quantisation.layers.QuantisationError: no such kernels here.
    """
    use_engine(engine)
    inputs = given_to(network, layers)
    alone = {name: with_bias(network.get_submodule(name)) for name in layers}
    kinds = {name: (repr(alone[name]), inputs[name]) for name in layers}
    first: dict[tuple[str, Given], str] = {}
    for name, kind in kinds.items():
        first.setdefault(kind, name)
    calls: list[Call] = []
    with thread_count(1), torch.inference_mode():
        for (_, given), name in first.items():
            calls += pair(alone[name], given, engine)
        times = take_turns(calls, Conditions(runs=RUNS, warm_up=WARM_UP))
    measured = dict(zip(first, zip(times[::2], times[1::2], strict=True), strict=True))
    return [layer_time(name, *measured[kinds[name]]) for name in layers]


def layer_time(name: str, int8: Sequence[float], floating: Sequence[float]) -> LayerTime:
    """A layer's time, from milliseconds of each round in integers and in floating point."""
    return LayerTime(name, statistics.median(int8), statistics.median(floating), speedup(int8, floating))


def given_to(network: Network, layers: Sequence[str]) -> dict[str, Given]:
    """What layers are given in a forward pass of one random input, by name.

    Raises:
        compression.quantisation.layers.QuantisationError: a layer takes no part in it.
    """
    found: dict[str, Given] = {}

    def remember(name: str) -> Callable[..., None]:
        return lambda _, inputs: found.update({name: Given(tuple(inputs[0].shape), bool((inputs[0] < 0).any()))})

    hooks = [network.get_submodule(name).register_forward_pre_hook(remember(name)) for name in layers]
    training = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.randn_like(empty_input(network.spec)))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    if unused := sorted(set(layers) - found.keys()):
        raise QuantisationError(f"{unused[0]} takes no part in a forward pass, so it can't be quantised; remove it")
    return found


def with_bias(layer: nn.Module) -> nn.Module:
    """A copy of a convolution or linear layer as it is once a batch norm is folded in."""
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    alone = copy.deepcopy(layer)
    alone.bias = nn.Parameter(torch.zeros(layer.weight.shape[0]))
    return fast_order(alone.eval())


class FloatWay(nn.Module):
    """A layer in floating point, from integers to integers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, integers: Tensor) -> Tensor:
        """Values to the layer, and what its ReLU leaves as integers again."""
        return to_integers(F.relu(self.layer(integers.dequantize())), 0)


def pair(layer: nn.Module, given: Given, engine: str) -> tuple[Call, Call]:
    """A layer on integers, in integers and in floating point: both as a graph, whose call costs something by itself."""
    integers = to_integers(given.example(), given.zero_point)
    integer_way = without_borders(quantise_alone(layer, given.example(), engine))
    float_way = symbolic_trace(FloatWay(layer))
    return lambda: integer_way(integers), lambda: float_way(integers)


def to_integers(values: Tensor, zero_point: int) -> Tensor:
    """Values as a tensor of integers of 8 bits."""
    return torch.quantize_per_tensor(values, SCALE, zero_point, torch.quint8)


def quantise_alone(layer: nn.Module, inputs: Tensor, engine: str) -> GraphModule:
    """A network of one layer with a ReLU, in integers; as if for training, which finds ranges ten times as fast."""
    prepared = prepare(nn.Sequential(layer, nn.ReLU()), inputs, Quantisation(engine=engine), training=True)
    prepared(inputs)
    return convert(prepared)


def without_borders(graph: GraphModule) -> GraphModule:
    """A network of one layer in integers without the change to integers before it and back after it, in place.

    Raises:
        compression.quantisation.layers.QuantisationError: the layer did not come to compute in integers.
    """
    borders = [node for node in graph.graph.nodes if node.target in (torch.quantize_per_tensor, "dequantize")]
    if len(borders) != 2:
        raise QuantisationError(f"a layer alone does not compute in integers with these kernels: {graph.code.strip()}")
    for node in borders:
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
