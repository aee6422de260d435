"""Which model to take: constraints, the Pareto front of what satisfies them, the winner, and why each other one lost.

Pure functions of models; nothing is measured, read or written here. The same models give the same choice in whatever
order they come.

The winner is the most accurate model that satisfies the constraints; of equally accurate ones the one better in the
other objectives, in their order, then the one with fewer GMACs, fewer parameters, one that a run hands on (an imported
teacher is a copy of such a one), the smaller digest. Or it is the knee of the front, where that is preferred and there
is one. Controls never win: they were trained for comparison only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from configs.errors import UserError
from orchestrator import pareto
from orchestrator.registry import reasons
from orchestrator.registry.constraints import Constraints, impossible, models_of
from orchestrator.registry.front import Front, front_of, point_of, rank
from orchestrator.registry.groups import group_of, require_one_group
from orchestrator.registry.model import StoredModel
from orchestrator.registry.quantities import MEASURED, OBJECTIVES, Here, ObjectiveName

__all__ = ["Choice", "Constraints", "Loser", "choose", "objectives_of"]

Prefer = Literal["accuracy", "knee"]
Because = Literal["control", "constraint", "unmeasured", "beaten", "front"]

DEFAULT: tuple[ObjectiveName, ...] = ("accuracy", "gmacs")
MOST_OBJECTIVES = 3


@dataclass(frozen=True, kw_only=True)
class Loser:
    """A model that was not chosen."""

    model: StoredModel
    because: Because
    """`control`: trained for comparison only; `constraint`: one excludes it; `unmeasured`: a latency or energy that is
    asked for is not known; `beaten`: another is better; `front`: on the front, but elsewhere than the winner."""
    why: str
    """The reason as a clause: `costs 6.10 GMACs, 1.10 more than --max-gmacs`."""
    flags: tuple[str, ...] = ()
    """Constraints that it does not satisfy."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and what it was chosen from."""

    winner: StoredModel
    rule: str
    """What it was chosen by, in a sentence."""
    front: Front
    """Of the models that satisfy the constraints; its reference is of all that compare, whether they do or not."""
    losers: tuple[Loser, ...]
    """Everything else, the best first."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        front = self.front
        return {
            "winner": self.winner.to_dict(),
            "rule": self.rule,
            "objectives": list(front.objectives),
            "front": [_named(model) for model in front.models],
            "knee": _named(front.knee) if front.knee else None,
            "hypervolume": front.hypervolume,
            "reference": dict(front.reference),
            "lost": [
                {**_named(loser.model), "because": loser.because, "why": loser.why, "constraints": list(loser.flags)}
                for loser in self.losers
            ],
        }


def choose(
    models: Sequence[StoredModel],
    constraints: Constraints,
    objectives: Sequence[ObjectiveName] = DEFAULT,
    *,
    prefer: Prefer = "accuracy",
    here: Here = None,
) -> Choice:
    """Choose a model.

    Args:
        models: what there is, each once.
        constraints: what it must satisfy.
        objectives: what the front is of, accuracy among them; see `objectives_of`.
        prefer: the most accurate one, or the knee of the front.
        here: conditions that latencies and energies must be of to count (`orchestrator.latency.conditions`); none: none
            of them counts.

    Raises:
        UserError: there is nothing to choose from; no model satisfies the constraints (says what each excludes); those
            that do are of different data or metric, and don't compare; an objective is known of none.
    """
    rivals = [model for model in models if model.kind != "control"]
    _require_some(rivals, models)
    fit = fitting(rivals, constraints, here)
    if not fit:
        raise impossible(rivals, constraints, here)
    require_one_group(fit)
    known = [model for model in fit if point_of(model, objectives, here)]
    if not known:
        raise UserError(_nothing_known(fit, objectives, here))
    alike = [model for model in rivals if group_of(model) == group_of(fit[0])]
    front = front_of(known, objectives, here, compared=alike)
    winner = front.knee if prefer == "knee" and front.knee else front.models[0]
    lost = [model for model in models if model.digest != winner.digest]
    lost.sort(key=lambda model: rank(model, objectives, here))
    explain = _explainer(winner, front, constraints, prefer, here)
    return Choice(
        winner=winner,
        rule=_rule(constraints, prefer, front),
        front=front,
        losers=tuple(explain(model) for model in lost),
    )


def fitting(models: Sequence[StoredModel], constraints: Constraints, here: Here) -> list[StoredModel]:
    """Models that satisfy all constraints."""
    return [model for model in models if all(limit.holds(model, here) for limit in constraints.limits())]


def objectives_of(text: str) -> tuple[ObjectiveName, ...]:
    """`accuracy,gmacs` as objectives.

    Raises:
        UserError: one is unknown or given twice, there are too many, or accuracy is not among them.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in OBJECTIVES:
            near = get_close_matches(name, OBJECTIVES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"--objectives has {name!r}; {hint}It takes {', '.join(OBJECTIVES)}")
    found = tuple(name for name in OBJECTIVES if name in names)
    if len(found) < len(names):
        raise UserError(f"--objectives is {text!r}, but each can be given only once")
    if "accuracy" not in found:
        raise UserError(
            f"--objectives is {text!r}, but accuracy must be one of them: the cheapest network knows nothing"
        )
    if len(found) > MOST_OBJECTIVES:
        raise UserError(
            f"--objectives is {text!r}, but with more than {MOST_OBJECTIVES} almost every model is on the front; bound "
            "the others instead, as with --max-gmacs"
        )
    return tuple(sorted(found, key=names.index))


def _explainer(
    winner: StoredModel, front: Front, constraints: Constraints, prefer: Prefer, here: Here
) -> Callable[[StoredModel], Loser]:
    """What says why a model lost against this winner."""
    objectives = front.objectives
    on_front = {model.digest for model in front.models}
    at_knee = prefer == "knee" and winner is front.knee
    rivals = [winner, *sorted(front.models, key=lambda model: not model.aliases)]  # of equals, one that people know

    def explain(model: StoredModel) -> Loser:
        if model.kind == "control":
            return Loser(model=model, because="control", why="trained for comparison only")
        if broken := [limit for limit in constraints.limits() if not limit.holds(model, here)]:
            unmeasured = all(limit.quantity in MEASURED and limit.excess(model, here) is None for limit in broken)
            return Loser(
                model=model,
                because="unmeasured" if unmeasured else "constraint",
                why=" and ".join(limit.why_not(model, here) for limit in broken),
                flags=tuple(limit.flag for limit in broken),
            )
        if point_of(model, objectives, here) is None:
            missing = [OBJECTIVES[name] for name in objectives if OBJECTIVES[name].value(model, here) is None]
            return Loser(model=model, because="unmeasured", why=" and ".join(quantity.unknown for quantity in missing))
        if model.digest in on_front:
            why = reasons.why_off_the_knee if at_knee else reasons.why_second
            return Loser(model=model, because="front", why=why(model, winner, objectives, here))
        rival = next(rival for rival in rivals if _beats(rival, model, objectives, here))
        return Loser(model=model, because="beaten", why=reasons.why_beaten(model, rival, objectives, here))

    return explain


def _beats(rival: StoredModel, model: StoredModel, objectives: Sequence[ObjectiveName], here: Here) -> bool:
    """Whether one of two models with all objectives known beats the other."""
    points = [point for one in (rival, model) if (point := point_of(one, objectives, here))]
    return pareto.front(points, minimise=[OBJECTIVES[name].less_is_better for name in objectives]) == [True, False]


def _require_some(rivals: Sequence[StoredModel], models: Sequence[StoredModel]) -> None:
    if rivals:
        return
    if models:
        raise UserError(f"there is nothing to choose from but {models_of(len(models))} trained for comparison only")
    raise UserError("there is no model to choose from; `orchestrate models --all` lists what there is")


def _nothing_known(models: Sequence[StoredModel], objectives: Sequence[ObjectiveName], here: Here) -> str:
    missing = [name for name in objectives if any(OBJECTIVES[name].value(model, here) is None for model in models)]
    return (
        f"--objectives asks for {' and '.join(missing)}, which none of the {models_of(len(models))} that satisfy the "
        f"constraints has; of {reasons.called(models[0])}: {OBJECTIVES[missing[0]].unknown}"
    )


def _rule(constraints: Constraints, prefer: Prefer, front: Front) -> str:
    """What the winner was chosen by."""
    which = "that satisfies the constraints" if constraints.limits() else "there is"
    if prefer == "accuracy":
        return f"the most accurate model {which}"
    if front.knee:
        return "the knee of the front: past it, a little of one objective costs much of another"
    return f"the front has no knee (it takes three points and a bend); the most accurate model {which}"


def _named(model: StoredModel) -> dict[str, str]:
    return {"digest": model.digest, "name": model.name}


def counted(losers: Sequence[Loser]) -> dict[str, int]:
    """How many models lost for which reason, the most frequent first; one that two constraints exclude counts twice."""
    labels = {
        "control": "trained for comparison only",
        "unmeasured": "not measured here",
        "beaten": "beaten",
        "front": "elsewhere on the front",
    }
    found = Counter(
        label
        for loser in losers
        for label in (loser.flags if loser.because == "constraint" else [labels[loser.because]])
    )
    return dict(found.most_common())
