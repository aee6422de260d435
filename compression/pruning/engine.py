"""Who chooses the filters: our own importances, or NNI's pruners. Either way ours removes them (`removal.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from compression.pruning.groups import ChannelGroup
from compression.pruning.importance import group_scores
from compression.pruning.selection import Choice, PruningRule, choose

Engine = Literal["own", "nni"]


def choose_filters(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    rule: PruningRule,
    *,
    sparsity: float,
    originals: Mapping[str, int],
    seed: int,
    engine: Engine = "own",
    scores: Mapping[str, Tensor] | None = None,
) -> Choice:
    """The filters that stay.

    Args:
        module: the network, which may be pruned already; not changed.
        groups: its groups of coupled convolutions.
        rule: what may be taken away.
        sparsity: share of the unpruned network's filters that is to be gone, in [0, 1).
        originals: channels of the unpruned network, by group.
        seed: of random importance.
        engine: `nni` needs the extra of that name.
        scores: known importances, by group; computed when left out. NNI has its own.

    Raises:
        PruningError: as `choose`; or NNI can't do what the rule says, or is not installed.
    """
    if engine == "nni":
        from compression.pruning.nni_engine import nni_choose  # an optional dependency, slow to import

        return nni_choose(module, groups, rule, sparsity=sparsity, originals=originals)
    if scores is None:
        scores = group_scores(module, groups, rule.importance, seed)
    return choose(groups, scores, rule, sparsity=sparsity, originals=originals)
