"""The Pareto front of models: which ones no other beats, where it bends, and how much it covers.

Units: the hypervolume is a share of the box between the reference (accuracy 0 at the highest cost of what is compared)
and the ideal (accuracy 1 at no cost).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator import pareto
from orchestrator.registry.model import StoredModel
from orchestrator.registry.quantities import OBJECTIVES, Here, ObjectiveName


@dataclass(frozen=True, kw_only=True)
class Front:
    """A Pareto front."""

    objectives: tuple[ObjectiveName, ...]
    """What it is of."""
    models: tuple[StoredModel, ...]
    """What is on it, by `rank`."""
    knee: StoredModel | None
    """Where it bends most; none: it has fewer than three different points, or does not bend."""
    hypervolume: float
    """Share of the box that it covers."""
    reference: Mapping[ObjectiveName, float]
    """The worst corner of the box."""


def front_of(
    models: Sequence[StoredModel],
    objectives: Sequence[ObjectiveName],
    here: Here,
    *,
    compared: Sequence[StoredModel] = (),
) -> Front:
    """The front of models that compare: of one data set and metric, with all objectives known.

    Args:
        models: at least one; controls are the caller's to leave out.
        objectives: what it is of.
        here: see `quantities.py`.
        compared: further models whose costs the reference is taken from, so that it stays where it is when constraints
            leave others to choose from.
    """
    ranked = sorted(models, key=lambda model: rank(model, objectives, here))
    minimise = [OBJECTIVES[name].less_is_better for name in objectives]
    placed = [(model, point) for model in ranked if (point := point_of(model, objectives, here))]
    points = [point for _, point in placed]
    kept = pareto.front(points, minimise=minimise)
    index = pareto.knee(points, minimise=minimise)
    every = [point for model in (*ranked, *compared) if (point := point_of(model, objectives, here))]
    worst = [max(values) if less else 0.0 for values, less in zip(zip(*every, strict=True), minimise, strict=True)]
    box = math.prod(corner for corner, less in zip(worst, minimise, strict=True) if less)
    return Front(
        objectives=tuple(objectives),
        models=tuple(model for (model, _), on_it in zip(placed, kept, strict=True) if on_it),
        knee=None if index is None else placed[index][0],
        hypervolume=pareto.hypervolume(points, worst, minimise=minimise) / box,
        reference=dict(zip(objectives, worst, strict=True)),
    )


def point_of(model: StoredModel, objectives: Sequence[ObjectiveName], here: Here) -> tuple[float, ...] | None:
    """A model's values; none where one is not known."""
    values = [OBJECTIVES[name].value(model, here) for name in objectives]
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else None


def rank(model: StoredModel, objectives: Sequence[ObjectiveName], here: Here) -> tuple[Any, ...]:
    """What models are ordered by, the best first: accuracy, the other objectives in their order, GMACs, parameters,
    whether a run hands it on, digest. The first of all is on the front."""
    costs = [OBJECTIVES[name].value(model, here) for name in objectives if name != "accuracy"]
    unknown_last = [(cost is None, cost or 0.0) for cost in costs]
    return -model.accuracy, *unknown_last, model.gmacs, model.params, not model.aliases, model.digest
