"""Pareto fronts: which points no other beats, how much they cover, and where a front bends most.

Pure functions of points, each with one value per objective; whether less or more of an objective is better is said by
`minimise`. A point beats another where it is at least as good in every objective and better in one, so that equal
points stay in together. Values are compared as they are: nothing is rounded.

Fronts and volumes are computed by moocore (exact, O(n log n) up to three objectives).

Sources:
    [1] Das. On characterizing the "knee" of the Pareto curve based on Normal-Boundary Intersection. Structural
        Optimization 18, 1999.
    [2] Zitzler, Thiele. Multiobjective evolutionary algorithms: a comparative case study and the Strength Pareto
        Approach. IEEE Transactions on Evolutionary Computation 3(4), 1999 (hypervolume).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = Sequence[float]
"""A value per objective."""
Values = NDArray[np.float64]

TOLERANCE = 1e-9
"""Distances below this share of the front's extent are none."""


def front(points: Sequence[Point], *, minimise: Sequence[bool]) -> list[bool]:
    """Which points no other beats.

    Args:
        points: [point, objective], finite, in any order.
        minimise: per objective, whether less is better.

    Returns:
        Per point, whether it is on the front; points equal to one that is are on it too.

    Raises:
        ValueError: a point has another number of values than there are objectives, or a value is not finite.
    """
    values = _to_minimise(points, minimise)
    if not len(values):
        return []
    import moocore  # only here: the command line starts faster

    return [bool(kept) for kept in moocore.is_nondominated(values, keep_weakly=True)]


def hypervolume(points: Sequence[Point], reference: Point, *, minimise: Sequence[bool]) -> float:
    """Volume of all that the points beat and that itself beats a reference point ([2]); more is better.

    A point that is not better than the reference in every objective adds nothing.

    Args:
        points: as of `front`.
        reference: a value per objective, usually the worst that is of interest.
        minimise: as of `front`.

    Returns:
        The volume >= 0, in the product of the objectives' units.

    Raises:
        ValueError: as `front`; also of the reference.
    """
    values, (corner,) = _to_minimise(points, minimise), _to_minimise([reference], minimise)
    if not len(values):
        return 0.0
    import moocore

    return float(moocore.hypervolume(values, ref=corner))


def knee(points: Sequence[Point], *, minimise: Sequence[bool]) -> int | None:
    """The point at which a front bends most: past it, a little of one objective costs much of another.

    Objectives are scaled to 0 (best on the front) to 1 (worst on it). The knee is the point of the front that lies
    farthest from the line (three objectives: plane) through the front's extremes, the best points in each objective, on
    the side of the ideal point 0 ([1]). Where one point is best in two of three objectives there is a line as well.

    Args:
        points: as of `front`.
        minimise: as of `front`.

    Returns:
        Index of the knee, of equal points the first. None where fewer than three different points are on the front, or
        where none of them is on the ideal point's side: such a front is straight or bends the other way.

    Raises:
        ValueError: as `front`.
    """
    values = _to_minimise(points, minimise)
    kept = np.flatnonzero(front(points, minimise=minimise))
    values = values[kept]
    if len(np.unique(values, axis=0)) < 3:
        return None
    lowest, highest = values.min(axis=0), values.max(axis=0)
    scaled = (values - lowest) / np.where(highest > lowest, highest - lowest, 1.0)
    bulges = _towards_ideal(scaled)
    if bulges.max() <= TOLERANCE:
        return None
    farthest = np.flatnonzero(bulges >= bulges.max() - TOLERANCE)
    return int(kept[min(farthest, key=lambda index: (*values[index], index))])


def _towards_ideal(scaled: Values) -> Values:
    """Distance of each point of a scaled front from the line or plane through its extremes, towards the ideal point."""
    extremes = np.stack([scaled[_best_in(scaled, objective)] for objective in range(scaled.shape[1])])
    along = extremes[1:] - extremes[0]
    across = np.eye(scaled.shape[1]) - np.linalg.pinv(along, rcond=TOLERANCE) @ along
    to_ideal = -extremes[0] @ across
    reach = float(np.linalg.norm(to_ideal))
    if reach <= TOLERANCE:  # the extremes are in line with the ideal point: no side is nearer to it
        return np.zeros(len(scaled))
    bulges: Values = (scaled - extremes[0]) @ across @ to_ideal / reach
    return bulges


def _best_in(scaled: Values, objective: int) -> int:
    """Row that is best in an objective; of equal ones in the next, and after the last in the first, so that corners
    that are best in two objectives each are all found."""
    return min(range(len(scaled)), key=lambda row: tuple(np.roll(scaled[row], -objective)))


def _to_minimise(points: Sequence[Point], minimise: Sequence[bool]) -> Values:
    """The points as [point, objective], with less being better in all objectives."""
    if any(len(point) != len(minimise) for point in points):
        raise ValueError(f"points need {len(minimise)} values each, one per objective")
    values = np.asarray(points, dtype=np.float64).reshape(len(points), len(minimise))
    if not np.isfinite(values).all():
        raise ValueError("points need finite values")
    return values * np.where(minimise, 1.0, -1.0)
