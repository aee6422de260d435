"""The five reduction operators of progressive architecture shrinkage, as arithmetic on network specs.

Sources:
    [1] Deep video understanding … (PhD thesis), sec. 6.1.1 and Table 6.10; rounding decided in `specs/pas.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from compression.spec import NetworkSpec

REFERENCE_CHANNELS = tuple(2**k for k in range(3, 12))
"""Channel counts at which axis c is asked whether it still changes anything: 8 … 2048, as in both tables."""


class ReductionError(ValueError):
    """A reduction that can't be done, or that would change nothing."""


@dataclass(frozen=True)
class Axis:
    """One dimension along which a network shrinks."""

    letter: str
    """The source's symbol."""
    name: str
    """Word for people and for trial names."""
    factor: float
    """The source's step γ, meant to halve the cost."""
    keeps_weights: bool
    """Whether every weight keeps its shape, so that the parent's weights can be inherited as they are."""
    effect: Callable[[NetworkSpec], tuple[int, ...]]
    """The integers that this axis determines; a step that leaves them alone is no reduction."""


def channel_counts(spec: NetworkSpec) -> tuple[int, ...]:
    """What axis c determines: the width of every pruned layer, and of reference layers for those that were not."""
    return *map(spec.channels, REFERENCE_CHANNELS), *(spec.channels(1, layer) for layer in spec.kept)


AXES: dict[str, Axis] = {
    "s": Axis("s", "side", 1.4, True, lambda spec: (spec.input_side,)),
    "t": Axis("t", "length", 2.0, True, lambda spec: (spec.clip_span, spec.frames)),
    "f": Axis("f", "rate", 2.0, True, lambda spec: (spec.frames,)),
    "c": Axis("c", "channels", 1.4, False, channel_counts),
    "l": Axis("l", "layers", 2.0, False, lambda spec: spec.stage_blocks),
}
"""Axes in the source's order, which is also the last tie-break of selection."""


def reduce(spec: NetworkSpec, axis: str, factor: float | None = None) -> NetworkSpec:
    """Apply ε_axis: multiply the axis' total factor γ̄ by `factor`.

    Args:
        spec: the network to shrink; not changed.
        axis: a key of `AXES`.
        factor: γ > 1, no unit; the source's step when left out.

    Returns:
        The smaller network's spec.

    Raises:
        ReductionError: unknown axis, factor not above 1, or nothing is left to reduce on this axis.
    """
    if axis not in AXES:
        raise ReductionError(f"axis is {axis!r}, but must be one of {', '.join(AXES)}")
    factor = AXES[axis].factor if factor is None else factor
    if not factor > 1:
        raise ReductionError(f"factor of axis {axis} is {factor}, but must be > 1")
    total = getattr(spec.factors, axis) * factor
    smaller = spec.replace(factors=dataclasses.replace(spec.factors, **{axis: total}))
    effect = AXES[axis].effect
    if effect(smaller) == effect(spec):
        raise ReductionError(
            f"axis {axis} ({AXES[axis].name}) is exhausted: a further factor {factor:g} changes nothing "
            f"(still {effect(spec)})"
        )
    return smaller


def reduce_sequence(spec: NetworkSpec, axes: str | list[str]) -> list[NetworkSpec]:
    """The network before and after each of a sequence of steps, e.g. `"csts"`.

    Raises:
        ReductionError: as `reduce`, naming the step.
    """
    steps = [spec]
    for number, axis in enumerate(axes, start=1):
        try:
            steps.append(reduce(steps[-1], axis))
        except ReductionError as error:
            raise ReductionError(f"step {number}: {error}") from error
    return steps
