"""The pruners by name: how filters are scored, and how the sparsity is reached over time.

Sources:
    [1] Li et al. Pruning filters for efficient ConvNets. arXiv:1608.08710 (L1).
    [2] He et al. Filter pruning via geometric median. arXiv:1811.00250 (FPGM).
    [3] Zhu, Gupta. To prune, or not to prune. arXiv:1710.01878 (AGP).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Schedule = Literal["one-shot", "linear", "cubic"]


@dataclass(frozen=True)
class Pruner:
    """A pruner is an importance and a schedule."""

    importance: str
    """Key of `compression.pruning.importance.IMPORTANCES`, or `random`."""
    schedule: Schedule
    """`one-shot`: the whole sparsity before fine-tuning; `linear`, `cubic`: see `compression.pruning.schedule`."""


PRUNERS: dict[str, Pruner] = {
    "l1": Pruner("l1", "one-shot"),
    "l2": Pruner("l2", "one-shot"),
    "fpgm": Pruner("fpgm", "one-shot"),
    "agp": Pruner("l1", "cubic"),
    "l1-iterative": Pruner("l1", "linear"),
    "l2-iterative": Pruner("l2", "linear"),
    "fpgm-iterative": Pruner("fpgm", "linear"),
    "random": Pruner("random", "one-shot"),
}
"""Pruners by the names that `configs.schema.PrunerName` lists."""
