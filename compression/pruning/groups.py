"""Which filters can only be removed together, found by Torch-Pruning's dependency graph.

Convolutions whose outputs are added lose the same channels, so they are one group; whatever reads those channels
(norms, the next layers, through concatenations) follows. What can be pruned are the filters of Conv2d and Conv3d.
Depth-wise convolutions follow their input. Left out are groups whose filters don't correspond one to one (an output
that is added to a concatenation), and those that reach a layer which can't lose single channels (a grouped
convolution, group norm, attention …). A convolution whose output is the network's can be pruned (an embedding gets
shorter); exclude it where each of its filters has a meaning.

Torch-Pruning takes operations that it doesn't know for element-wise ones, and can run for ever. So it is given a
skeleton and a time limit (`tracing.py`), and what it says is tried out: half of every group is removed from the
skeleton, which must then still run. What is used of it beyond its documented interface is that of version 1.6.1.

Sources:
    [1] Fang et al. DepGraph: towards any structural pruning. arXiv:2301.12900 (Torch-Pruning's method).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch_pruning
from torch import Tensor, nn

from compression.pruning.followers import Follower, Prune, remove_filters
from compression.pruning.tracing import ADVICE, GraphError, described, skeleton, watched

__all__ = ["ChannelGroup", "GraphError", "Trace", "find_groups", "trace"]

FOLLOWERS = (nn.Conv2d, nn.Conv3d, nn.Linear, nn.PReLU, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Layers that can lose single channels without changing what the others compute."""


@dataclass(frozen=True)
class ChannelGroup:
    """Convolutions whose filters go together: filter i of one can only be removed with filter i of all others."""

    name: str
    """The first layer's name, by which the group goes."""
    channels: int
    """Filters of each."""
    layers: tuple[str, ...]
    """Dotted names of the convolutions, in module order."""


@dataclass(frozen=True)
class Trace:
    """A group, and all that follows it."""

    group: ChannelGroup
    """The group."""
    followers: tuple[Follower, ...]
    """Every side of a layer that loses channels with it, the convolutions' own included."""


def find_groups(module: nn.Module, example: Tensor, *, timeout_seconds: float = 60.0) -> tuple[ChannelGroup, ...]:
    """All groups of a network whose filters can be pruned, in module order.

    Args:
        module: the network; it is neither changed nor run.
        example: an input; only its shape and type matter.
        timeout_seconds: after which tracing is given up.

    Raises:
        GraphError: the network can't be traced, or not in that time; names the module.
    """
    return tuple(traced.group for traced in trace(module, example, timeout_seconds=timeout_seconds))


def trace(module: nn.Module, example: Tensor, *, timeout_seconds: float) -> tuple[Trace, ...]:
    """All groups of a network with what follows them. Arguments and errors are those of `find_groups`."""
    check_unshared(module)
    with torch.inference_mode(False):  # what is made in inference mode never has gradients
        copied, example = skeleton(module), torch.empty_like(example, device="meta")
        halved = skeleton(module)
    traces = watched(copied, lambda: tuple(traced_groups(copied, example)), timeout_seconds=timeout_seconds)
    remove_filters(halved, ((traced.followers, range(traced.group.channels // 2)) for traced in traces))
    watched(halved, lambda: halved(example), timeout_seconds=timeout_seconds)
    return traces


def check_unshared(module: nn.Module) -> None:
    """Refuse weights that several layers share: cut, they would come apart.

    Raises:
        GraphError: there are such.
    """
    owners: dict[nn.Parameter, str] = {}
    for name, layer in module.named_modules():
        for parameter in layer.parameters(recurse=False):
            if (owner := owners.setdefault(parameter, name)) != name:
                raise GraphError(f"{described(module, name)} shares weights with {owner}; such layers can't be pruned")


@dataclass(frozen=True)
class Side:
    """One side of a layer (or a bare parameter) in a group, as Torch-Pruning has it."""

    layer: Any
    """The layer; or the parameter, if no layer that is known has it."""
    prune: Prune
    """Torch-Pruning's function that removes channels on that side."""
    writes: bool
    """Whether the channels are its output's; of layers that have as many inputs as outputs always."""
    channels: tuple[int, ...]
    """Channels of that side."""
    filters: tuple[int, ...]
    """The filter that each of them comes from."""


def traced_groups(module: nn.Module, example: Tensor) -> Iterator[Trace]:
    """Groups of a skeleton, in module order.

    Raises:
        GraphError: a convolution's output takes a way that gradients don't.
    """
    graph = build_graph(module, example)
    names = {layer: name for name, layer in module.named_modules()}
    position = {layer: number for number, layer in enumerate(names)}
    done: set[nn.Module] = set()
    for layer in names:
        if not is_prunable(layer) or layer in done or layer not in graph.module2node:
            continue
        sides = [
            side for side in coupled_sides(graph, layer) if side.layer in names or isinstance(side.layer, nn.Parameter)
        ]
        writers = sorted((side.layer for side in sides if is_writer(side)), key=position.__getitem__)
        done.update(writers)
        if all(can_follow(side, layer.out_channels) for side in sides):
            group = ChannelGroup(names[writers[0]], layer.out_channels, tuple(names[writer] for writer in writers))
            followers = (Follower(names[side.layer], side.prune, side.channels, side.filters) for side in sides)
            yield Trace(group, tuple(followers))


def build_graph(module: nn.Module, example: Tensor) -> torch_pruning.DependencyGraph:
    """Torch-Pruning's graph of a skeleton.

    Raises:
        GraphError: a convolution that was run is missing in it.
    """
    ran: list[nn.Module] = []
    names = {layer: name for name, layer in module.named_modules()}
    convolutions = (layer for layer in names if isinstance(layer, nn.Conv2d | nn.Conv3d))
    hooks = [layer.register_forward_hook(lambda layer, *_: ran.append(layer)) for layer in convolutions]
    # Without a function of ours it would first try the network with the batch's items as separate arguments.
    graph = torch_pruning.DependencyGraph().build_dependency(
        module, example, forward_fn=lambda network, inputs: network(inputs), verbose=False
    )
    for hook in hooks:
        hook.remove()
    for layer in ran:
        if layer not in graph.module2node:
            raise GraphError(f"{described(module, names[layer])} can't be traced: no gradient reaches it; {ADVICE}")
    return graph


def coupled_sides(graph: torch_pruning.DependencyGraph, layer: nn.Conv2d | nn.Conv3d) -> Iterator[Side]:
    """Everything that loses channels with a convolution's filters, operations between layers included."""
    prune = graph.get_pruner_of_module(layer).prune_out_channels
    for item in graph.get_pruning_group(layer, prune, list(range(layer.out_channels))):
        target, handler = item.dep.target.module, item.dep.handler
        writes = handler == graph.get_pruner_of_module(target).prune_out_channels
        yield Side(target, handler, writes, tuple(item.idxs), tuple(item.root_idxs))


def is_prunable(layer: object) -> TypeGuard[nn.Conv2d | nn.Conv3d]:
    """Whether a layer's filters can be chosen freely."""
    return isinstance(layer, nn.Conv2d | nn.Conv3d) and layer.groups == 1


def is_writer(side: Side) -> bool:
    """Whether a side is the filters of a convolution."""
    return side.writes and is_prunable(side.layer)


def can_follow(side: Side, filters: int) -> bool:
    """Whether a side can lose any of the group's filters; of the coupled convolutions, all and in the same order."""
    if isinstance(side.layer, nn.Conv2d | nn.Conv3d) and side.layer.groups > 1:
        return side.layer.groups == side.layer.in_channels == side.layer.out_channels
    if is_writer(side):
        return side.layer.out_channels == filters and sorted(zip(side.channels, side.filters, strict=True)) == [
            (index, index) for index in range(filters)
        ]
    return isinstance(side.layer, FOLLOWERS)
