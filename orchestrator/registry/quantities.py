"""What models are judged by: accuracy, and what they cost. Read off a model, and written for people.

Units as in `model.py`; an accuracy is written in percent, and a difference of two in points.

Latencies and energies count only if they were measured under the conditions that the caller compares under (`here`,
see `orchestrator.latency.conditions`): the same machine, instruction set, threads, batch and torch. Only the number of
rounds may differ, which changes how exact a median is, not what it is of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from compression.spec import Factors
from orchestrator.registry.model import Measured, StoredModel
from orchestrator.report import UNKNOWN, count, gmacs

Here = Mapping[str, Any] | None
"""Conditions that measurements must be of to count; none: none counts."""
ObjectiveName = Literal["accuracy", "gmacs", "params", "size", "latency", "energy"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something that models are judged by."""

    name: str
    """What people call it: `latency`."""
    unit: str
    """What its number is followed by; empty: nothing."""
    says: str
    """What a model does with so much of it: `costs`."""
    less_is_better: bool
    """Whether less of it is better."""
    value: Callable[[StoredModel, Here], float | None]
    """How much of it a model has; none: it is not known."""
    number: Callable[[float], str]
    """A value without its unit."""
    unknown: str
    """Why it is not known, and what to do about it, as a clause."""

    def written(self, value: float | None) -> str:
        """A value with its unit; a dash where it is not known."""
        return UNKNOWN if value is None else f"{self.number(value)} {self.unit}".rstrip()

    def difference(self, size: float) -> str:
        """How far two values are apart, without the unit; of fractions in points."""
        return f"{fine(100 * size)} points" if self.unit == "%" else self.number(size)


def comparable(measured: Measured | None, here: Here) -> bool:
    """Whether a measurement was made under the conditions that are compared under, up to the number of rounds."""
    if measured is None or not here:
        return False
    return all(measured.conditions.get(key) == value for key, value in here.items() if key != "runs")


def fine(value: float) -> str:
    """A difference with one decimal, and as many as it takes not to be called nothing: `1.2`, `0.03`."""
    for decimals in (1, 2, 3):
        if float(text := f"{value:.{decimals}f}") or not value:
            return text
    return f"{value:.1g}"


def drop_of(model: StoredModel) -> float | None:
    """Points that a model fell below the base network of its search; a base network itself fell by none."""
    unreduced = model.trial.network.factors == Factors()  # or it was shrunk by a search that the store has lost
    if model.drop_points is None and model.kind in ("trained", "imported") and unreduced:
        return 0.0
    return model.drop_points


def _measured(name: Literal["latency", "energy"]) -> Callable[[StoredModel, Here], float | None]:
    def value(model: StoredModel, here: Here) -> float | None:
        measured: Measured | None = getattr(model, name)
        return measured.value if measured is not None and comparable(measured, here) else None

    return value


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


GMACS = Quantity(
    name="GMACs",
    unit="GMACs",
    says="costs",
    less_is_better=True,
    value=lambda model, here: model.gmacs,
    number=gmacs,
    unknown="its cost is not known",
)
PARAMETERS = Quantity(
    name="parameters",
    unit="parameters",
    says="has",
    less_is_better=True,
    value=lambda model, here: model.params,
    number=lambda value: count(round(value)),
    unknown="its parameters are not known",
)
SIZE = Quantity(
    name="size",
    unit="MB",
    says="takes",
    less_is_better=True,
    value=lambda model, here: model.size_mb,
    number=gmacs,
    unknown="its size is not known",
)
LATENCY = Quantity(
    name="latency",
    unit="ms",
    says="takes",
    less_is_better=True,
    value=_measured("latency"),
    number=gmacs,
    unknown="its latency was never measured here: orchestrate best --measure",
)
ENERGY = Quantity(
    name="energy",
    unit="mJ",
    says="takes",
    less_is_better=True,
    value=_measured("energy"),
    number=gmacs,
    unknown="its energy was never measured here: orchestrate measure FOLDER --record",
)
ACCURACY = Quantity(
    name="accuracy",
    unit="%",
    says="reaches",
    less_is_better=False,
    value=lambda model, here: model.accuracy,
    number=_percent,
    unknown="its accuracy is not known",
)
TOP1 = Quantity(
    name="top-1",
    unit="%",
    says="reaches top-1",
    less_is_better=False,
    value=lambda model, here: model.top1 if model.metric == "top1" else None,
    number=_percent,
    unknown="it has no top-1: it re-identifies",
)
MAP = Quantity(
    name="mAP",
    unit="%",
    says="reaches mAP",
    less_is_better=False,
    value=lambda model, here: model.map,
    number=_percent,
    unknown="it has no mAP: it classifies",
)
DROP = Quantity(
    name="drop",
    unit="points",
    says="fell by",
    less_is_better=True,
    value=lambda model, here: drop_of(model),
    number=fine,
    unknown="its drop is not known: the base network of its search, on the same data, is not in this store",
)

OBJECTIVES: dict[ObjectiveName, Quantity] = {
    "accuracy": ACCURACY,
    "gmacs": GMACS,
    "params": PARAMETERS,
    "size": SIZE,
    "latency": LATENCY,
    "energy": ENERGY,
}
"""What models can be compared by."""
MEASURED = (LATENCY, ENERGY)
"""What may not be known, and can be measured."""
