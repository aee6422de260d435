"""How much a filter matters, judged by the weights alone.

Pure functions of one convolution's weight tensor, one score per filter; the lowest go first. Filters that can only be
removed together are judged by the sum of their scores.

Axes (named as in the annotations):  filter: output channels of the convolution.
Units: scores have that of the weights and are comparable within one group of coupled convolutions only.

Sources:
    [1] Li et al. Pruning filters for efficient ConvNets. arXiv:1608.08710 (L1).
    [2] He et al. Filter pruning via geometric median for deep convolutional neural networks acceleration.
        arXiv:1811.00250 (FPGM).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from compression.pruning.groups import ChannelGroup

RANDOM = "random"
"""The control: filters by lot. It is no function of the weights, so it is not among `IMPORTANCES`."""


def l1(weight: Float[Tensor, " filter *rest"]) -> Float[Tensor, " filter"]:
    """Sum of a filter's absolute weights ([1]): s_j = ‖F_j‖₁, in float32."""
    return _rows(weight).abs().sum(1)


def l2(weight: Float[Tensor, " filter *rest"]) -> Float[Tensor, " filter"]:
    """Length of a filter: s_j = ‖F_j‖₂, in float32."""
    norms: Tensor = torch.linalg.vector_norm(_rows(weight), dim=1)
    return norms


def fpgm(weight: Float[Tensor, " filter *rest"]) -> Float[Tensor, " filter"]:
    """Distance of a filter to all others ([2], Eq. 5): s_j = Σ_i ‖F_j − F_i‖₂, in float32.

    Filters near the geometric median can be replaced by the others, however large they are. The distances are of
    signed weights, by way of a matrix product, which is 10 times faster than one by one; in float64 and from the
    mean filter, because those of similar filters would drown in rounding otherwise.
    """
    rows = _rows(weight).double()
    rows = rows - rows.mean(0)
    return torch.cdist(rows, rows, compute_mode="use_mm_for_euclid_dist").sum(1).float()


Importance = Callable[[Tensor], Tensor]

IMPORTANCES: dict[str, Importance] = {"l1": l1, "l2": l2, "fpgm": fpgm}
"""Scores by name."""


def random_scores(name: str, channels: int, seed: int) -> Float[Tensor, " filter"]:
    """Scores by lot, uniform in [0, 1).

    Args:
        name: the group's; each has a stream of its own, so that the order in which groups are scored doesn't matter.
        channels: number of scores.
        seed: any integer.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(channels, generator=generator)


def group_scores(
    module: nn.Module, groups: Sequence[ChannelGroup], importance: str, seed: int
) -> dict[str, Float[Tensor, " _"]]:
    """Importance of every filter of every group: the sum over its coupled convolutions (`specs/e2tad.md` 16.2).

    Args:
        module: has the groups' layers; not changed.
        groups: of `compression.pruning.groups.find_groups`.
        importance: key of `IMPORTANCES`, or `random`.
        seed: of `random`; unused by the others.

    Returns:
        One float32 score per filter by the group's name, on the CPU.

    Raises:
        ValueError: unknown importance.
    """
    if importance == RANDOM:
        return {group.name: random_scores(group.name, group.channels, seed) for group in groups}
    if importance not in IMPORTANCES:
        raise ValueError(f"importance is {importance!r}, but must be one of {', '.join(IMPORTANCES)}, {RANDOM}")
    score = IMPORTANCES[importance]
    return {
        group.name: torch.stack([score(_weight(module, layer)) for layer in group.layers]).sum(0).cpu()
        for group in groups
    }


def _rows(weight: Tensor) -> Float[Tensor, "filter weights"]:
    return weight.detach().float().flatten(1)


def _weight(module: nn.Module, layer: str) -> Tensor:
    weight = module.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight
