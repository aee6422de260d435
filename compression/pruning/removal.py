"""Removing filters for real, with everything that depends on them.

A network that is cut computes what it did with these filters, and the norms after them, at zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compression.pruning.followers import remove_filters
from compression.pruning.groups import ChannelGroup, trace
from compression.pruning.selection import PruningError


def cut(module: nn.Module, example: Tensor, keep: Mapping[str, Tensor], *, timeout_seconds: float = 60.0) -> None:
    """Remove, in place, the filters that are not kept: from their convolutions, norms, and the layers that read them.

    Parameters are replaced (give the optimiser the new ones), buffers too; gradients, `requires_grad`, dtype, order in
    memory and mode survive. On an error the network is as it was.

    Args:
        module: the network.
        example: an input; only its shape and type matter.
        keep: per group, named as by `groups.find_groups`, the indices of the filters to keep; other groups keep all.
        timeout_seconds: after which tracing is given up.

    Raises:
        compression.pruning.groups.GraphError: the network can't be traced.
        PruningError: there is no such group, or its indices are none, or out of range.
    """
    traces = {traced.group.name: traced for traced in trace(module, example, timeout_seconds=timeout_seconds)}
    groups = {name: traced.group for name, traced in traces.items()}
    removals = {name: filters_to_remove(groups, name, indices) for name, indices in keep.items()}
    remove_filters(module, ((traces[name].followers, filters) for name, filters in removals.items()))


def filters_to_remove(groups: Mapping[str, ChannelGroup], name: str, keep: Tensor) -> list[int]:
    """The filters of a group that are not kept.

    Raises:
        PruningError: as `cut`.
    """
    if name not in groups:
        raise PruningError(f"keep names {name!r}, but the groups are {', '.join(groups)}")
    channels = groups[name].channels
    kept = set(keep.tolist()) if keep.dim() == 1 and keep.dtype == torch.int64 else set()
    if not kept or len(kept) < len(keep) or not kept <= set(range(channels)):
        raise PruningError(
            f"keep[{name!r}] is {keep}, but must be different indices into its {channels} filters, at least one"
        )
    return [index for index in range(channels) if index not in kept]
