"""Pareto fronts against fronts worked out by hand, and against the definition, pair by pair and cell by cell."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.pareto import front, hypervolume, knee

COST_AND_ACCURACY = (True, False)

GRID = 5
"""Coordinates are whole numbers below this: ties are frequent, and volumes can be counted in cells."""


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], tuple[bool, ...]]:
    """Points of two or three objectives, and which of these are to be small."""
    minimise = draw(st.lists(st.booleans(), min_size=2, max_size=3))
    point = st.tuples(*[st.integers(0, GRID - 1)] * len(minimise))
    return draw(st.lists(point, max_size=12)), tuple(minimise)


def beats(one: Sequence[float], other: Sequence[float], minimise: Sequence[bool]) -> bool:
    """The definition."""
    no_worse = all(a <= b if less else a >= b for a, b, less in zip(one, other, minimise, strict=True))
    return no_worse and tuple(one) != tuple(other)


def test_front_by_hand() -> None:
    points = [(1.0, 0.9), (0.5, 0.8), (0.5, 0.7), (0.6, 0.8), (0.2, 0.5), (0.2, 0.5)]
    assert front(points, minimise=COST_AND_ACCURACY) == [True, True, False, False, True, True]


def test_a_third_objective_lets_more_stay() -> None:
    points = [(1, 0.9, 5), (2, 0.9, 4), (2, 0.9, 6)]
    assert front(points, minimise=(True, False, True)) == [True, True, False]


@given(problems())
def test_front_is_what_no_other_point_beats(problem: tuple[list[tuple[int, ...]], tuple[bool, ...]]) -> None:
    points, minimise = problem
    expected = [not any(beats(other, point, minimise) for other in points) for point in points]
    assert front(points, minimise=minimise) == expected


@given(problems(), st.randoms(use_true_random=False))
def test_order_of_the_points_does_not_matter(
    problem: tuple[list[tuple[int, ...]], tuple[bool, ...]], random: Random
) -> None:
    points, minimise = problem
    shuffled = list(points)
    random.shuffle(shuffled)
    kept = dict(zip(points, front(points, minimise=minimise), strict=True))
    assert front(shuffled, minimise=minimise) == [kept[point] for point in shuffled]
    one, other = knee(points, minimise=minimise), knee(shuffled, minimise=minimise)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert points[one] == shuffled[other]


def test_a_line_of_one_objective_has_its_best_on_the_front() -> None:
    assert front([(3,), (1,), (1,)], minimise=[True]) == [False, True, True]


def test_no_points_have_no_front() -> None:
    assert front([], minimise=COST_AND_ACCURACY) == []
    assert hypervolume([], (1, 0), minimise=COST_AND_ACCURACY) == 0
    assert knee([], minimise=COST_AND_ACCURACY) is None


def test_hypervolume_by_hand() -> None:
    """Two rectangles that overlap: 0.8 x 0.5 and 0.5 x 0.9, 0.5 x 0.5 of them in common."""
    points = [(0.2, 0.5), (0.5, 0.9)]
    assert hypervolume(points, (1, 0), minimise=COST_AND_ACCURACY) == pytest.approx(0.4 + 0.45 - 0.25)


def test_hypervolume_in_three_objectives_by_hand() -> None:
    """Boxes of 1 x 2 x 3 and 2 x 1 x 3 from the corner (3, 3, 3), 1 x 1 x 3 of them in common."""
    assert hypervolume([(2, 1, 0), (1, 2, 0)], (3, 3, 3), minimise=[True] * 3) == pytest.approx(6 + 6 - 3)


def test_point_beyond_the_reference_adds_nothing() -> None:
    points = [(0.5, 0.5)]
    expected = hypervolume(points, (1, 0), minimise=COST_AND_ACCURACY)
    assert hypervolume([*points, (1.5, 0.9), (0.1, -0.1)], (1, 0), minimise=COST_AND_ACCURACY) == expected


@given(problems())
def test_hypervolume_counts_the_cells_that_a_point_covers(
    problem: tuple[list[tuple[int, ...]], tuple[bool, ...]],
) -> None:
    """The reference is the worst corner of the grid, one past it; a unit cell is covered by what is no worse."""
    points, minimise = problem
    reference = [GRID if less else -1 for less in minimise]
    small = [tuple(v if less else GRID - 1 - v for v, less in zip(p, minimise, strict=True)) for p in points]
    cells = itertools.product(range(GRID), repeat=len(minimise))
    covered = sum(any(all(v <= c for v, c in zip(p, cell, strict=True)) for p in small) for cell in cells)
    assert hypervolume(points, reference, minimise=minimise) == pytest.approx(covered)


def test_knee_by_hand() -> None:
    """Scaled, the line through the extremes is x + y = 1; (0.2, 0.1) is 0.7 / √2 from it, (0.1, 0.6) 0.3 / √2."""
    points = [(0.0, 1.0), (0.1, 0.6), (0.2, 0.1), (1.0, 0.0)]
    assert knee(points, minimise=(True, True)) == 2


def test_knee_does_not_depend_on_units() -> None:
    points = [(0.0, 1.0), (0.1, 0.6), (0.2, 0.1), (1.0, 0.0)]
    assert knee([(40 * cost + 7, 90 - 3 * loss) for cost, loss in points], minimise=(True, False)) == 2


def test_knee_is_on_the_front() -> None:
    points = [(0.0, 1.0), (0.2, 0.1), (1.0, 0.0), (0.2, 0.2), (0.9, 0.9)]
    assert knee(points, minimise=(True, True)) == 1


def test_knee_of_three_objectives_by_hand() -> None:
    """The extremes span the plane x + y + z = 1; the sums of the others are 0.6 and 0.8."""
    points = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.2, 0.2, 0.2), (0.1, 0.1, 0.6)]
    assert knee(points, minimise=[True] * 3) == 3


def test_knee_where_one_point_is_best_in_two_objectives() -> None:
    """The line from (1, 0, 0) to (0, 1, 1); the middle of it is (0.5, 0.5, 0.5), and (0.5, 0.1, 0.1) is farther from
    it than (0.5, 0.4, 0.4)."""
    points = [(1, 0, 0), (0.5, 0.4, 0.4), (0.4, 0.1, 0.5), (0.5, 0.1, 0.1), (0, 1, 1)]
    assert knee(points, minimise=[True] * 3) == 3


@pytest.mark.parametrize(
    "points",
    [
        [(1, 1)],
        [(0, 1), (1, 0)],
        [(0, 1), (0, 1), (1, 0), (1, 0)],
        [(0, 1), (1, 0), (1, 1)],
        [(0, 1), (0.5, 0.5), (1, 0)],
        [(0, 1), (0.7, 0.7), (1, 0)],
    ],
    ids=["one", "two", "two, each twice", "two and a beaten one", "straight", "bent the other way"],
)
def test_front_without_a_knee(points: list[tuple[float, float]]) -> None:
    assert knee(points, minimise=(True, True)) is None


def test_equal_knees_are_the_first_and_mirrored_ones_the_one_better_in_the_first_objective() -> None:
    assert knee([(0, 1), (0.2, 0.2), (0.2, 0.2), (1, 0)], minimise=(True, True)) == 1
    assert knee([(0, 1), (0.3, 0.1), (0.1, 0.3), (1, 0)], minimise=(True, True)) == 2


@given(problems())
def test_what_is_called_a_knee_is_on_the_front(problem: tuple[list[tuple[int, ...]], tuple[bool, ...]]) -> None:
    points, minimise = problem
    index = knee(points, minimise=minimise)
    assert index is None or front(points, minimise=minimise)[index]


@pytest.mark.parametrize("points", [[(1.0, math.nan)], [(1.0, math.inf)], [(1.0, 2.0, 3.0)], [(1.0, 2.0), (1.0,)]])
def test_what_is_no_point_is_refused(points: list[tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="values"):
        front(points, minimise=COST_AND_ACCURACY)
