"""What loses channels with a filter that is removed: sides of layers, and how they are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Prune = Callable[[nn.Module, list[int]], object]
"""Removes one layer's channels, given by index, on one of its sides; a method of Torch-Pruning's."""


@dataclass(frozen=True)
class Follower:
    """A side of a layer on which it loses channels with a group's filters."""

    layer: str
    """The layer's dotted name."""
    prune: Prune
    """Removes channels on that side."""
    channels: tuple[int, ...]
    """Channels of that side …"""
    filters: tuple[int, ...]
    """… and the group's filter that each of them comes from."""


def remove_filters(module: nn.Module, removals: Iterable[tuple[Iterable[Follower], Iterable[int]]]) -> None:
    """Remove filters in place, each side of each layer at once: indices are those before anything is removed.

    Args:
        module: has the layers.
        removals: per group, what follows it, and the filters to remove.
    """
    lost: dict[tuple[str, Prune], set[int]] = {}
    for followers, filters in removals:
        gone = frozenset(filters)
        for follower in followers:
            pairs = zip(follower.channels, follower.filters, strict=True)
            channels = {channel for channel, filter_ in pairs if filter_ in gone}
            lost.setdefault((follower.layer, follower.prune), set()).update(channels)
    for (layer, prune), channels in lost.items():
        if channels:
            cut_side(module.get_submodule(layer), prune, sorted(channels))


def cut_side(layer: nn.Module, prune: Prune, channels: list[int]) -> None:
    """Remove a layer's channels on one side; Torch-Pruning forgets what else there is to know of a parameter."""
    before: Mapping[str, nn.Parameter] = dict(layer.named_parameters(recurse=False))
    with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode can never be trained again
        prune(layer, channels)
    for name, old in before.items():
        new = layer.get_parameter(name)
        new.requires_grad_(old.requires_grad)
        new.data = new.data.contiguous(memory_format=memory_format(old))


def memory_format(tensor: Tensor) -> torch.memory_format:
    """The order of a tensor's axes in memory; the plain one where several fit."""
    if not tensor.is_contiguous():
        for order in (torch.channels_last, torch.channels_last_3d):
            if tensor.dim() == (4 if order is torch.channels_last else 5) and tensor.is_contiguous(memory_format=order):
                return order
    return torch.contiguous_format
