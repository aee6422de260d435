"""What a model must satisfy to be chosen, why one does not, and what to say where none does.

Units: GMACs per clip or image, MB (1e6 bytes), ms and mJ per input, points; accuracies are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from configs.errors import UserError
from orchestrator.registry.model import StoredModel
from orchestrator.registry.quantities import (
    DROP,
    ENERGY,
    GMACS,
    LATENCY,
    MAP,
    PARAMETERS,
    SIZE,
    TOP1,
    Here,
    Quantity,
)

QUANTITIES: dict[str, Quantity] = {
    "max_gmacs": GMACS,
    "max_params": PARAMETERS,
    "max_size_mb": SIZE,
    "max_latency_ms": LATENCY,
    "max_energy_mj": ENERGY,
    "max_drop": DROP,
    "min_top1": TOP1,
    "min_map": MAP,
}
"""What each constraint bounds."""
FRACTIONS = ("min_top1", "min_map")
DIGITS = 3
"""Digits that count of a bound that is proposed."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One bound: `--max-gmacs 5`."""

    flag: str
    """How it was given."""
    bound: float
    """The largest value allowed, or the smallest where more is better."""
    quantity: Quantity
    """What it bounds."""

    def excess(self, model: StoredModel, here: Here) -> float | None:
        """How far a model is beyond the bound, 0 where it is not; none where its value is not known."""
        value = self.quantity.value(model, here)
        if value is None:
            return None
        over = value - self.bound if self.quantity.less_is_better else self.bound - value
        return 0.0 if over <= 0 or math.isclose(value, self.bound, rel_tol=1e-9, abs_tol=1e-9) else over

    def holds(self, model: StoredModel, here: Here) -> bool:
        """Whether a model satisfies it; one whose value is not known does not."""
        return self.excess(model, here) == 0.0

    def why_not(self, model: StoredModel, here: Here) -> str:
        """Why a model does not satisfy it, as a clause: `costs 6.10 GMACs, 1.10 more than --max-gmacs`."""
        over, quantity = self.excess(model, here), self.quantity
        if over is None:
            return quantity.unknown
        side = "more" if quantity.less_is_better else "less"
        value = quantity.written(quantity.value(model, here))
        return f"{quantity.says} {value}, {quantity.difference(over)} {side} than {self.flag}"

    def loosened(self, model: StoredModel, here: Here) -> str:
        """The option that would just let a model in: `--max-gmacs 6.11`."""
        value = self.quantity.value(model, here)
        assert value is not None  # asked only of models that a number keeps out
        return f"{self.flag} {enough(value, up=self.quantity.less_is_better)}"


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What a model must satisfy; none: whatever it is.

    Raises:
        UserError: a bound that is no such number.
    """

    max_gmacs: float | None = None
    """GMACs per clip or image."""
    max_params: float | None = None
    """Parameters."""
    max_size_mb: float | None = None
    """Megabytes of the weights file."""
    max_latency_ms: float | None = None
    """Milliseconds per input, on this machine."""
    max_energy_mj: float | None = None
    """Millijoules per input, on this machine."""
    max_drop: float | None = None
    """Points below the base network of its search; may be negative."""
    min_top1: float | None = None
    """Top-1 accuracy of classifiers, a fraction."""
    min_map: float | None = None
    """Mean average precision of networks that re-identify, a fraction."""

    def __post_init__(self) -> None:
        for limit in self.limits():
            _check(limit)

    def limits(self) -> tuple[Limit, ...]:
        """The bounds that were given."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return tuple(
            Limit(flag="--" + name.replace("_", "-"), bound=bound, quantity=QUANTITIES[name])
            for name, bound in given.items()
            if bound is not None
        )


def enough(value: float, *, up: bool) -> str:
    """A number of three digits that a value does not exceed (`up`), or that does not exceed it."""
    exact = Decimal(repr(value))
    last = Decimal(1).scaleb(exact.adjusted() - DIGITS + 1) if exact else Decimal(1)
    rounded = exact.quantize(last, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    return f"{rounded.normalize():f}"


def impossible(models: Sequence[StoredModel], constraints: Constraints, here: Here) -> UserError:
    """What to say where no model satisfies all constraints: what each excludes, and which model comes nearest.

    Args:
        models: what there is to choose from, at least one.
        constraints: at least one, which together exclude all.
        here: see `quantities.py`.
    """
    limits = constraints.limits()
    broken = {model.digest: [limit for limit in limits if not limit.holds(model, here)] for model in models}
    lines = [f"the constraints exclude {'all ' if len(models) > 1 else ''}{models_of(len(models))}"]
    for limit in limits:
        excluded = sum(limit in found for found in broken.values())
        alone = sum(found == [limit] for found in broken.values())
        lines.append(f"  {limit.flag} {limit.bound:.10g} excludes {excluded}, {alone} of them alone")
    nearest = min(models, key=lambda model: (*_distance(model, broken[model.digest], here), model.digest))
    why = " and ".join(limit.why_not(nearest, here) for limit in broken[nearest.digest])
    known = [limit for limit in broken[nearest.digest] if limit.excess(nearest, here) is not None]
    options = " ".join(limit.loosened(nearest, here) for limit in known)
    cure = f"; {options} would let it in" if len(known) == len(broken[nearest.digest]) else ""
    return UserError("\n".join([*lines, f"nearest is {nearest.name}: {why}{cure}"]))


def models_of(number: int) -> str:
    """`1 model`, `5 models`."""
    return f"{number} model" + ("" if number == 1 else "s")


def _distance(model: StoredModel, broken: Sequence[Limit], here: Here) -> tuple[int, int, float]:
    """How far a model is from satisfying all: what is not known first, then bounds broken, then by what share each."""
    unknown = sum(limit.excess(model, here) is None for limit in broken)
    shares = (_share(limit, model, here) for limit in broken)
    return unknown, len(broken), sum(shares)


def _share(limit: Limit, model: StoredModel, here: Here) -> float:
    """What a model is beyond a bound, as a share of the larger of both numbers."""
    over, value = limit.excess(model, here), limit.quantity.value(model, here)
    return 1.0 if over is None or value is None else over / max(abs(limit.bound), abs(value))


def _check(limit: Limit) -> None:
    flag, bound = limit.flag, limit.bound
    name = flag.removeprefix("--").replace("-", "_")
    if not math.isfinite(bound):
        raise UserError(f"{flag} is {bound}, but must be a number")
    if name in FRACTIONS:
        if bound > 1:
            raise UserError(f"{flag} is {bound:g}, but must be a fraction between 0 and 1: {_as_fraction(bound)}")
        if bound < 0:
            raise UserError(f"{flag} is {bound:g}, but must be a fraction between 0 and 1; 0.8 asks for 80 %")
    elif name != "max_drop" and bound <= 0:
        raise UserError(f"{flag} is {bound:g}, but nothing costs so little; give a number above 0, or leave it out")


def _as_fraction(percent: float) -> str:
    """What somebody meant who gave percent."""
    return f"{percent / 100:g}, not {percent:g}" if percent <= 100 else "0.8 asks for 80 %"
