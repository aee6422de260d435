"""Algorithm 1 as a state machine, against a second reading of it on plain dictionaries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.cost import Cost
from compression.spec import NetworkSpec, nearest
from configs.errors import RunError
from configs.schema import SearchSettings
from orchestrator.pas import Hypothesis, Model, PasSearch
from orchestrator.selection import Candidate, Selection, SelectionError, select
from trainers.trial import TrialResult

STEPS = {"s": 1.4, "t": 2.0, "f": 2.0, "c": 1.4, "l": 2.0}
WORDS = {"s": "side", "t": "length", "f": "rate", "c": "channels", "l": "layers"}
INHERIT = {"s", "t", "f"}
BASE = NetworkSpec(backbone="slowfast", classes=8, clip_frames=8, side=16, blocks=(2, 4), width=1 / 8)
TEACHER_ACCURACY = 0.8

Told = Mapping[str, tuple[str, float | None]]
"""Status and accuracy of every trial that a search may ask for, by name."""


def made_up_cost(network: NetworkSpec) -> Cost:
    """As a convolution's: linear in frames and blocks, quadratic in side and channels."""
    work = network.frames * network.input_side**2 * network.channels(64) ** 2 * sum(network.stage_blocks)
    return Cost(macs=work, params=network.channels(64) ** 2)


TEACHER = Model(network=BASE, cost=made_up_cost(BASE), trial="teacher", accuracy=TEACHER_ACCURACY, top5=1.0)


def answer(told: Told, name: str) -> TrialResult:
    """The result of the trial of this name, which is also its digest."""
    status, top1 = told.get(name, ("finished", 0.5))
    return TrialResult(trial=name, name=name, status=status, top1=top1, top5=top1)  # type: ignore[arg-type]


def run(settings: dict[str, Any], told: Told) -> tuple[PasSearch, list[list[Hypothesis]]]:
    """A search played to its end, and its proposals; each proposal is asked for twice."""
    search = PasSearch(TEACHER, SearchSettings(**settings), made_up_cost)
    batches = []
    while proposed := search.propose():
        assert search.propose() == proposed
        batches.append(proposed)
        assert len(batches) <= settings.get("iterations", 5) + 1, "the search does not end"
        search.tell([answer(told, hypothesis.name) for hypothesis in proposed])
    assert search.propose() == []
    return search, batches


# The second reading.


@dataclass
class Reading:
    """What Algorithm 1 does, written down by hand."""

    batches: list[list[tuple[str, dict[str, float], str | None]]] = field(default_factory=list)
    """Per batch: name, total factors and start of every trial."""
    selections: list[Selection] = field(default_factory=list)
    family: int = 0
    stop: str = ""


def integers(factors: dict[str, float]) -> dict[str, Any]:
    """The whole numbers that each axis of `BASE` comes to."""
    return {
        "s": nearest(16 / factors["s"]),
        "t": (max(1, nearest(8 / factors["t"])), max(1, nearest(8 / (factors["t"] * factors["f"])))),
        "f": max(1, nearest(8 / (factors["t"] * factors["f"]))),
        "c": [max(1, nearest(2**k / 8 / factors["c"])) for k in range(3, 12)],
        "l": [max(1, math.floor(blocks / factors["l"])) for blocks in (2, 4)],
    }


def macs(factors: dict[str, float]) -> int:
    of = integers(factors)
    return int(of["f"] * of["s"] ** 2 * of["c"][3] ** 2 * sum(of["l"]))


def read_algorithm(settings: dict[str, Any], told: Told) -> Reading:
    """B is reduced step by step; every step tries each operator that still changes something."""
    reading = Reading()
    parent, factors = "teacher", dict.fromkeys(STEPS, 1.0)
    due: list[tuple[str, dict[str, float], str | None]] = []
    while not reading.stop:
        tau = len(reading.selections) + 1
        tried: dict[str, dict[str, float]] = {}
        for axis in STEPS:
            total = {**factors, axis: factors[axis] * settings["factors"].get(axis, STEPS[axis])}
            if axis in settings["axes"] and integers(total)[axis] != integers(factors)[axis]:
                tried[axis] = total
        names = {axis: f"slowfast-pas{tau}-{WORDS[axis]}" for axis in tried}
        if not tried:
            reading.stop = "exhausted"
            break
        batch = [(names[axis], tried[axis], parent if axis in INHERIT else None) for axis in tried]
        reading.batches.append(batch + due)
        due = []

        results = {axis: answer(told, names[axis]) for axis in tried}
        try:
            selection = select(
                [Candidate(axis, macs(tried[axis]), results[axis].top1, results[axis].top5) for axis in tried],
                teacher_macs=macs(dict.fromkeys(STEPS, 1.0)),
                teacher_accuracy=TEACHER_ACCURACY,
                parent_macs=macs(factors),
                tolerance=0.15,
                axis_order="stfcl",
            )
        except SelectionError:
            reading.stop = "nothing usable"
            return reading
        reading.selections.append(selection)
        chosen = selection.winner
        assert chosen.accuracy is not None
        lost_points = round(100 * TEACHER_ACCURACY) - round(100 * chosen.accuracy)
        if settings["max_drop"] is not None and lost_points > settings["max_drop"]:
            reading.stop = "max_drop"
            break
        reading.family = tau
        parent, factors = names[chosen.axis], tried[chosen.axis]
        if settings["control"]:
            due = [(f"slowfast-pas{tau}-control", factors, None)]
        if settings["target_gmacs"] is not None and chosen.macs / 1e9 <= settings["target_gmacs"]:
            reading.stop = "target"
        elif tau == settings["iterations"]:
            reading.stop = "iterations"
    reading.batches += [due] if due else []
    return reading


searches = st.fixed_dictionaries(
    {
        "axes": st.lists(st.sampled_from("stfcl"), min_size=1, unique=True),
        "factors": st.dictionaries(st.sampled_from("stfcl"), st.sampled_from([1.2, 1.5, 3.0]), max_size=2),
        "iterations": st.integers(1, 6),
        "target_gmacs": st.none() | st.sampled_from([macs(dict.fromkeys(STEPS, 1.0)) / 1e9 / k for k in (2, 4, 16)]),
        "max_drop": st.none() | st.integers(0, 60),
        "control": st.booleans(),
    }
)
outcomes = st.one_of(
    st.integers(0, 20).map(lambda twentieths: ("finished", twentieths / 20)),
    st.sampled_from([("diverged", None), ("failed", None)]),
)
names = [f"slowfast-pas{tau}-{word}" for tau in range(1, 7) for word in [*WORDS.values(), "control"]]
tellings = st.fixed_dictionaries(dict.fromkeys(names, outcomes))

STOP_REASONS = {
    "exhausted": "every axis is exhausted",
    "max_drop": "points below the teacher",
    "target": "GMACs, target is",
    "iterations": "iterations done",
}


def proposals(batches: list[list[Hypothesis]]) -> list[list[tuple[str, dict[str, float], str | None]]]:
    return [[(h.name, h.network.factors.as_dict(), h.start) for h in batch] for batch in batches]


@given(searches, tellings)
def test_search_is_algorithm_1(settings: dict[str, Any], told: Told) -> None:
    expected = read_algorithm(settings, told)
    if expected.stop == "nothing usable":
        with pytest.raises(RunError, match="came out usable"):
            run(settings, told)
        return
    search, batches = run(settings, told)
    assert proposals(batches) == expected.batches
    assert [iteration.selection for iteration in search.iterations] == expected.selections
    assert [iteration.number for iteration in search.family] == [*range(1, expected.family + 1)]
    assert search.stop_reason is not None
    assert STOP_REASONS[expected.stop] in search.stop_reason


@given(searches, tellings)
def test_every_cost_is_that_of_the_proposed_network(settings: dict[str, Any], told: Told) -> None:
    search = PasSearch(TEACHER, SearchSettings(**settings), made_up_cost)
    for hypothesis in search.propose():
        assert hypothesis.cost.macs == macs(hypothesis.network.factors.as_dict())


@given(searches, tellings)
def test_more_iterations_extend_a_search(settings: dict[str, Any], told: Told) -> None:
    """What lets a run be extended: the longer search asks first for what the shorter one asked for."""
    told = {name: outcome if outcome[1] is not None else ("finished", 0.4) for name, outcome in told.items()}
    shorter, _ = run(settings, told)
    longer, _ = run({**settings, "iterations": settings["iterations"] + 1}, told)
    for one, other in zip(shorter.iterations, longer.iterations, strict=False):
        assert (one.hypotheses, one.results, one.selection) == (other.hypotheses, other.results, other.selection)
    assert len(longer.iterations) - len(shorter.iterations) in (0, 1)


# Cases that are easier to read than a property.


def test_parent_moves_to_the_winner() -> None:
    told: Told = dict.fromkeys(
        ["slowfast-pas1-side", "slowfast-pas2-channels", "slowfast-pas3-channels"], ("finished", 0.7)
    )
    search, batches = run({"axes": ("s", "c"), "iterations": 3}, told)
    assert proposals(batches)[1][0][1:] == ({"s": 1.4**2, "t": 1, "f": 1, "c": 1, "l": 1}, "slowfast-pas1-side")
    assert proposals(batches)[2][0][1:] == ({"s": 1.4**2, "t": 1, "f": 1, "c": 1.4, "l": 1}, "slowfast-pas2-channels")
    assert search.current.trial == "slowfast-pas3-channels"


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_what_did_not_finish_is_not_chosen(status: str) -> None:
    search, _ = run({"axes": ("s", "t"), "iterations": 1}, {"slowfast-pas1-side": (status, None)})
    assert search.iterations[0].winner == 1


def test_nothing_usable_ends_the_search_with_a_table_of_reasons() -> None:
    search = PasSearch(TEACHER, SearchSettings(axes=("s", "t")), made_up_cost)
    first, second = search.propose()
    with pytest.raises(RunError) as error:
        search.tell(
            [
                TrialResult(trial="1", name=first.name, status="diverged", reason="the loss was nan"),
                TrialResult(trial="2", name=second.name, status="failed", reason="out of memory"),
            ]
        )
    assert str(error.value).splitlines() == [
        "no hypothesis of iteration 1 came out usable:",
        "  slowfast-pas1-side           diverged  the loss was nan",
        "  slowfast-pas1-length         failed    out of memory",
    ]
    assert search.propose() == []


def test_a_drop_of_exactly_max_drop_is_accepted() -> None:
    """100 · (0.8 − 0.75) is 5.000000000000004 in floating point, which is not more than 5 points."""
    search, _ = run({"axes": ("s",), "iterations": 1, "max_drop": 5}, {"slowfast-pas1-side": ("finished", 0.75)})
    assert len(search.family) == 1


def test_the_rejected_winner_is_reported_but_not_in_the_family() -> None:
    told: Told = {"slowfast-pas1-side": ("finished", 0.8), "slowfast-pas2-side": ("finished", 0.6)}
    search, _ = run({"axes": ("s",), "max_drop": 10, "control": True}, told)
    assert [iteration.number for iteration in search.family] == [1]
    assert search.iterations[1].winner == 0
    assert search.iterations[1].control is None
    assert search.current.trial == "slowfast-pas1-side"
    assert search.stop_reason == "the best of iteration 2 is 20.0 points below the teacher, max_drop is 10"


def test_networks_that_re_identify_are_compared_by_map() -> None:
    """Side is better at rank 1, length in mAP; it is 10.0 points of mAP below the teacher, so `max_drop` keeps it."""
    search = PasSearch(TEACHER, SearchSettings(axes=("s", "t"), iterations=1, max_drop=10), made_up_cost)
    scores = {"slowfast-pas1-side": (0.95, 0.5), "slowfast-pas1-length": (0.6, 0.7)}
    search.tell(
        [
            TrialResult(
                trial=h.name, name=h.name, status="finished", top1=scores[h.name][0], top5=1.0, map=scores[h.name][1]
            )
            for h in search.propose()
        ]
    )
    assert search.current.trial == "slowfast-pas1-length"
    assert search.current.accuracy == 0.7


def test_an_exhausted_axis_is_skipped_with_the_reason() -> None:
    told: Told = dict.fromkeys(["slowfast-pas1-layers", "slowfast-pas2-layers"], ("finished", 0.7))
    search, batches = run({"axes": ("s", "l"), "iterations": 3}, told)
    assert [[h.axis for h in batch] for batch in batches] == [["s", "l"], ["s", "l"], ["s"]]
    assert list(search.iterations[2].skipped) == ["l"]
    assert "exhausted" in search.iterations[2].skipped["l"]


def test_a_control_that_failed_does_not_stop_the_search() -> None:
    told: Told = {"slowfast-pas1-control": ("failed", None)}
    search, _ = run({"axes": ("s",), "iterations": 2, "control": True}, told)
    first, second = (iteration.control_result for iteration in search.iterations)
    assert first is not None
    assert first.status == "failed"
    assert second is not None
    assert len(search.family) == 2


def test_results_must_match_the_proposal() -> None:
    search = PasSearch(TEACHER, SearchSettings(axes=("s", "t")), made_up_cost)
    search.propose()
    with pytest.raises(ValueError, match="1 results for 2 proposals"):
        search.tell([answer({}, "slowfast-pas1-side")])
