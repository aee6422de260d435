"""Selection of the next network: Eq. 6.1 and 6.3 read literally, ties, failures, and the source's own decisions."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.selection import Candidate, Selection, SelectionError, select

AXES = "stfcl"
TEACHER = {"teacher_macs": 1000, "teacher_accuracy": 0.75}


def choose(*candidates: Candidate, parent_macs: int = 1000, tolerance: float = 0.15, **changes: Any) -> Selection:
    """`select` with a teacher of 1000 multiply-adds and an accuracy of 0.75."""
    known = {**TEACHER, "axis_order": AXES, **changes}
    return select(candidates, parent_macs=parent_macs, tolerance=tolerance, **known)


# A second reading of the rules: pairwise, in exact arithmetic.


def ratios_are_alike(candidates: list[Candidate], parent_macs: int, tolerance: Fraction) -> bool:
    ratios = sorted(Fraction(c.macs, parent_macs) for c in candidates)
    middle = (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2
    return all(middle * (1 - tolerance) <= ratio <= middle * (1 + tolerance) for ratio in ratios)


def beats_on_quality(one: Candidate, other: Candidate, *, alike: bool, macs: int, accuracy: float) -> bool | None:
    """Whether `one` is better by the equation alone; None where the equation can't tell them apart."""
    assert one.accuracy is not None
    assert other.accuracy is not None
    lost, other_lost = Fraction(accuracy) - Fraction(one.accuracy), Fraction(accuracy) - Fraction(other.accuracy)
    if alike or (lost <= 0 and other_lost <= 0):
        left, right = Fraction(one.accuracy), Fraction(other.accuracy)
    elif lost > 0 and other_lost > 0:  # (C(B) - C) / lost, both sides multiplied by both losses
        left, right = (macs - one.macs) * other_lost, (macs - other.macs) * lost
    else:
        return lost <= 0
    return None if left == right else left > right


def beats(one: Candidate, other: Candidate, **context: Any) -> bool:
    by_quality = beats_on_quality(one, other, **context)
    if by_quality is not None:
        return by_quality
    for better, worse in ((one.accuracy, other.accuracy), (one.top5, other.top5), (other.macs, one.macs)):
        if better != worse:
            return better > worse  # type: ignore[operator]
    return AXES.index(one.axis) < AXES.index(other.axis)


@st.composite
def iterations(draw: st.DrawFn) -> list[Candidate]:
    """Hypotheses on distinct axes; accuracies are 64ths, exact in binary, and few, so that ties are common."""
    axes = draw(st.permutations(AXES))[: draw(st.integers(1, 5))]
    macs = st.one_of(st.integers(450, 550), st.integers(1, 999))
    accuracy = st.integers(40, 52).map(lambda n: n / 64)
    hypotheses = []
    for axis in axes:
        drawn = draw(st.none() | accuracy)
        top5 = None if drawn is None else draw(st.sampled_from([0.875, 0.9375]))
        hypotheses.append(Candidate(axis, draw(macs), drawn, top5))
    return hypotheses


@given(iterations())
def test_the_winner_beats_every_other_one(candidates: list[Candidate]) -> None:
    usable = [c for c in candidates if c.accuracy is not None]
    if not usable:
        with pytest.raises(SelectionError):
            choose(*candidates)
        return
    alike = ratios_are_alike(candidates, 1000, Fraction(15, 100))
    selection = choose(*candidates)
    assert selection.rule == ("max_accuracy" if alike else "ratio")
    for other in usable:
        if other != selection.winner:
            assert beats(selection.winner, other, alike=alike, macs=1000, accuracy=0.75)


@given(iterations())
def test_the_order_in_which_results_arrive_does_not_matter(candidates: list[Candidate]) -> None:
    if any(c.accuracy is not None for c in candidates):
        forwards, backwards = choose(*candidates), choose(*reversed(candidates))
        assert (forwards.winner, forwards.rule) == (backwards.winner, backwards.rule)


S = Candidate("s", 500, 0.70, 0.90)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (dataclasses.replace(S, axis="l", accuracy=0.71, top5=0.80, macs=520), S),
        (dataclasses.replace(S, axis="l", top5=0.91, macs=520), S),
        (dataclasses.replace(S, axis="l", macs=499), S),
        (S, dataclasses.replace(S, axis="t")),
        (dataclasses.replace(S, axis="c"), dataclasses.replace(S, axis="l")),
    ],
    ids=["accuracy", "then top-5", "then cost", "then axis order s before t", "then axis order c before l"],
)
def test_ties_under_eq_6_3(better: Candidate, worse: Candidate) -> None:
    for pair in itertools.permutations((better, worse)):
        assert choose(*pair).winner == better


def test_eq_6_1_prefers_more_saved_per_point_lost() -> None:
    """(1000 - 500) / 0.05 = 10000 > (1000 - 800) / 0.03 = 6667, although the latter is more accurate."""
    half, little = Candidate("s", 500, 0.70, 0.9), Candidate("t", 800, 0.72, 0.9)
    assert choose(half, little).winner == half
    assert choose(half, little).rule == "ratio"
    assert choose(half, little, tolerance=0.5).winner == little  # Eq. 6.3 would take the accurate one


@pytest.mark.parametrize("accuracy", [0.75, 0.76])
def test_eq_6_1_ranks_a_hypothesis_that_loses_nothing_first(accuracy: float) -> None:
    """A literal reading would divide by zero, or give the better network a negative quality."""
    costly, frugal = Candidate("l", 900, accuracy, 0.9), Candidate("s", 100, 0.7499, 0.99)
    assert choose(costly, frugal).winner == costly


def test_eq_6_1_takes_the_more_accurate_of_two_that_beat_the_teacher() -> None:
    frugal, accurate = Candidate("s", 100, 0.76, 0.99), Candidate("l", 900, 0.77, 0.9)
    assert choose(frugal, accurate).winner == accurate


def test_eq_6_1_breaks_ties_like_eq_6_3() -> None:
    """Equal quotients, 500 / 0.25 = 250 / 0.125: accuracy first. Equal in all but top-5: top-5."""
    half, quarter = Candidate("s", 500, 0.5, 0.9), Candidate("l", 750, 0.625, 0.8)
    assert choose(half, quarter).winner == quarter
    twin = dataclasses.replace(half, axis="f", top5=0.95)
    assert choose(half, twin, Candidate("l", 900, 0.5, 0.9)).winner == twin


@pytest.mark.parametrize(("macs", "rule"), [(115, "max_accuracy"), (116, "ratio"), (85, "max_accuracy"), (84, "ratio")])
def test_the_tolerance_is_a_share_of_the_median_and_includes_its_ends(macs: int, rule: str) -> None:
    others = [Candidate("s", 100, 0.7, 0.9), Candidate("t", 100, 0.7, 0.9)]
    assert choose(*others, Candidate("f", macs, 0.7, 0.9), parent_macs=200).rule == rule


def test_a_hypothesis_that_failed_counts_for_the_rule_and_is_not_selected() -> None:
    """Its cost is known without training, so the rule does not depend on which trainings succeed."""
    failed = Candidate("t", 830, None, None)
    selection = choose(Candidate("s", 500, 0.1, 0.2), Candidate("c", 500, 0.05, 0.2), failed)
    assert selection.winner.axis == "s"
    assert selection.rule == "ratio"


def test_zero_accuracy_is_a_result() -> None:
    assert choose(Candidate("s", 500, 0.0, 0.0), Candidate("t", 500, None, None)).winner.axis == "s"


def test_nothing_to_select_lists_what_was_tried() -> None:
    with pytest.raises(SelectionError, match=r"axes tried: s, t\)"):
        choose(Candidate("s", 500, None, None), Candidate("t", 500, None, None))
    with pytest.raises(SelectionError, match=r"axes tried: none\)"):
        choose()


def test_why_eq_6_3() -> None:
    candidates = [Candidate(axis, macs, 0.7, 0.9) for axis, macs in zip("stf", (490, 510, 540), strict=True)]
    assert choose(*candidates).why == "cost ratios 0.49-0.54 lie within 15 % of their median 0.51"


@pytest.mark.parametrize(
    ("macs", "why"),
    [
        (830, "axis t keeps 0.83 of the cost, 66 % above the median 0.50"),
        (250, "axis t keeps 0.25 of the cost, 50 % below the median 0.50"),
    ],
)
def test_why_eq_6_1(macs: int, why: str) -> None:
    candidates = [Candidate(axis, cost, 0.7, 0.9) for axis, cost in zip("stf", (500, macs, 500), strict=True)]
    assert choose(*candidates).why == why


@pytest.mark.parametrize(
    ("percentages", "winner"),
    [
        ((60.5, 62.0, 61.5, 67.3, 65.5), "c"),
        ((63.8, 66.3, 66.2, 66.7, 66.5), "c"),
        ((63.5, 65.4, 65.8, 65.3, 65.1), "f"),
        ((62.8, 65.3, 64.1, 63.0, 63.5), "t"),
        ((62.2, 63.7, 63.9, 61.8, 62.2), "f"),
    ],
)
def test_eq_6_3_on_every_iteration_that_the_source_lists(percentages: tuple[float, ...], winner: str) -> None:
    """Table 6.9, R(2+1)D-18 on UCF101: the largest number of each row, every operator taken to halve the cost."""
    row = [Candidate(axis, 500, top1 / 100, 0.9) for axis, top1 in zip(AXES, percentages, strict=True)]
    assert choose(*row, teacher_accuracy=0.623).winner.axis == winner
