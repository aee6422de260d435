"""How much is pruned when: sparsity over the steps of a gradual pruner.

Units: sparsities are shares of filters removed, in [0, 1); steps are whatever the caller counts (epochs, say).

Sources:
    [1] Zhu, Gupta. To prune, or not to prune. arXiv:1710.01878.
"""

from __future__ import annotations


def agp_sparsity(step: int, *, steps: int, initial: float, final: float) -> float:
    """Sparsity of automated gradual pruning: fast at first, while filters are redundant, and slow in the end.

        s_t = s_f + (s_i − s_f) (1 − t / n)³        ([1], Eq. 1 with t0 = 0, Δt = 1)

    Args:
        step: t; the initial sparsity before 0, the final one after n.
        steps: n > 0.
        initial: s_i.
        final: s_f.

    Raises:
        ValueError: `steps` is not positive.
    """
    return final + (initial - final) * (1 - _share_done(step, steps)) ** 3


def linear_sparsity(step: int, *, steps: int, initial: float, final: float) -> float:
    """Sparsity that grows by the same amount in each step: s_t = s_i + (s_f − s_i) t / n.

    Args and errors are those of `agp_sparsity`.
    """
    return final + (initial - final) * (1 - _share_done(step, steps))


def _share_done(step: int, steps: int) -> float:
    if steps <= 0:
        raise ValueError(f"steps is {steps}, but must be > 0")
    return min(max(step / steps, 0.0), 1.0)
