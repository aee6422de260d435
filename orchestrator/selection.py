"""Which hypothesis of an iteration becomes the next network: the selection rules of PAS, on numbers alone.

Units: costs are multiply-adds of one clip or image, accuracies are fractions in [0, 1]: top-1 of networks that
classify, mAP of those that re-identify.

Sources:
    [1] Deep video understanding … (PhD thesis), Eq. 6.1 and 6.3; ties and the switch between the two are decided in
        `specs/pas.md` section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Rule = Literal["max_accuracy", "ratio"]


class SelectionError(ValueError):
    """No hypothesis of the iteration can be selected."""


@dataclass(frozen=True)
class Candidate:
    """One trained hypothesis ε_j(R), in numbers."""

    axis: str
    """The axis j that was reduced."""
    macs: int
    """C(ε_j(R))."""
    accuracy: float | None
    """Acc(ε_j(R)); none: the training diverged or failed for good."""
    top5: float | None
    """Top-5 accuracy, or CMC at rank 5; none likewise."""


@dataclass(frozen=True)
class Selection:
    """The chosen hypothesis, and the rule that chose it."""

    winner: Candidate
    """ε*(R), the next network."""
    rule: Rule
    """`max_accuracy`: Eq. 6.3, `ratio`: Eq. 6.1."""
    why: str
    """What about the costs led to that rule, for people."""


def select(
    candidates: Sequence[Candidate],
    *,
    teacher_macs: int,
    teacher_accuracy: float,
    parent_macs: int,
    tolerance: float,
    axis_order: Sequence[str],
) -> Selection:
    """Choose ε* among the hypotheses of one iteration ([1], sec. 6.1.2).

        Eq. 6.3:  argmax_j Acc(ε_j(R))                                            all cost ratios C(ε_j(R)) / C(R) alike
        Eq. 6.1:  argmax_j [C(B) − C(ε_j(R))] / [Acc(B) − Acc(ε_j(R))]            otherwise

    Ratios are alike when each lies within `tolerance` of their median. Under Eq. 6.1 a hypothesis that loses no
    accuracy ranks above all that do; among such, the more accurate wins. Ties: higher accuracy, higher top-5,
    lower cost, axis order.

    Args:
        candidates: the hypotheses of the iteration; those that failed count for the rule and are never chosen.
        teacher_macs: C(B).
        teacher_accuracy: Acc(B).
        parent_macs: C(R), cost of the network that was reduced.
        tolerance: largest deviation from the median, as a share of the median.
        axis_order: axes, the preferred first.

    Raises:
        SelectionError: no candidate has an accuracy.
    """
    trained = [candidate for candidate in candidates if candidate.accuracy is not None]
    if not trained:
        axes = ", ".join(candidate.axis for candidate in candidates) or "none"
        raise SelectionError(f"no hypothesis of this iteration has an accuracy to be chosen by (axes tried: {axes})")
    rule, why = _choose_rule(candidates, parent_macs, tolerance)

    def merit(candidate: Candidate) -> tuple[float, ...]:
        """The rule's quantity, then what breaks ties; larger is better."""
        accuracy, top5 = candidate.accuracy or 0.0, candidate.top5 or 0.0
        lost = teacher_accuracy - accuracy
        saved_per_loss = (teacher_macs - candidate.macs) / lost if lost > 0 else math.inf
        quantity = accuracy if rule == "max_accuracy" else saved_per_loss
        return quantity, accuracy, top5, -candidate.macs, -axis_order.index(candidate.axis)

    return Selection(max(trained, key=merit), rule, why)


def _choose_rule(candidates: Sequence[Candidate], parent_macs: int, tolerance: float) -> tuple[Rule, str]:
    """Eq. 6.3 where every cost ratio lies near their median, else Eq. 6.1; and why.

    The parent's cost divides out of the comparison, which is therefore made on the costs themselves.
    """
    costs = [candidate.macs for candidate in candidates]
    middle = median(costs)
    farthest = max(candidates, key=lambda candidate: abs(candidate.macs - middle))
    deviation = farthest.macs - middle
    if abs(deviation) <= tolerance * middle:
        spread = f"{min(costs) / parent_macs:.2f}-{max(costs) / parent_macs:.2f}"
        within = f"{100 * tolerance:g} % of their median {middle / parent_macs:.2f}"
        return "max_accuracy", f"cost ratios {spread} lie within {within}"
    side = "above" if deviation > 0 else "below"
    return "ratio", (
        f"axis {farthest.axis} keeps {farthest.macs / parent_macs:.2f} of the cost, "
        f"{100 * abs(deviation) / middle:.0f} % {side} the median {middle / parent_macs:.2f}"
    )
