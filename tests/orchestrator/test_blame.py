"""Whose fault it is, from histories written out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.blame import Event, nodes_at_fault, trials_at_fault
from trainers.incidents import Cause

NODES = ("A", "B", "C")


def failed(trial: str, node: str | None, cause: Cause = "process") -> Event:
    return Event(trial=trial, node=node, cause=cause)


def got_on(trial: str, node: str) -> Event:
    return Event(trial=trial, node=node)


@pytest.mark.parametrize(
    ("events", "nodes", "trials"),
    [
        ([], "", ""),
        ([failed("t", "A")], "", ""),
        ([failed("t", "A"), failed("t", "A")], "", ""),
        ([failed("t", "A"), failed("u", "A")], "A", ""),
        ([failed("t", "A"), got_on("v", "A"), failed("u", "A")], "", ""),
        ([failed("t", "A"), failed("u", "A"), got_on("v", "A")], "", ""),
        ([failed("t", "A"), failed("u", "A"), got_on("v", "B")], "A", ""),
        ([failed("t", "A"), failed("t", "B")], "", "t"),
        ([failed("t", "A"), got_on("t", "B"), failed("t", "B")], "", ""),
        ([failed("t", "A"), got_on("u", "B"), failed("t", "B")], "", "t"),
        ([failed("t", "A", "node"), failed("t", "B", "node"), failed("u", "A", "node")], "", ""),
        ([failed("t", "A", "memory"), failed("t", "B", "memory")], "", ""),
        ([failed("t", "A", "storage"), failed("u", "A", "storage")], "A", ""),
        ([failed("t", None), failed("u", None), failed("t", "A")], "", ""),
    ],
)
def test_fault(events: list[Event], nodes: str, trials: str) -> None:
    assert nodes_at_fault(events, NODES) == set(nodes)
    assert trials_at_fault(events) == set(trials)


def test_a_node_that_is_gone_is_not_avoided() -> None:
    assert nodes_at_fault([failed("t", "A"), failed("u", "A")], ("B", "C")) == set()


def test_how_many_it_takes() -> None:
    events = [failed("t", "A"), failed("u", "A"), failed("t", "B")]
    assert nodes_at_fault(events, NODES, trials=3) == set()
    assert trials_at_fault(events, nodes=3) == set()


CAUSES = st.sampled_from([None, "process", "node", "memory", "storage", "other"])
HISTORIES = st.lists(
    st.builds(Event, trial=st.sampled_from("tuv"), node=st.sampled_from([*NODES, None]), cause=CAUSES), max_size=12
)


@given(HISTORIES, st.sets(st.sampled_from(NODES)))
def test_there_is_always_a_node_left(events: list[Event], alive: set[str]) -> None:
    avoided = nodes_at_fault(events, alive)
    assert avoided <= alive
    assert not alive or avoided != alive


@given(HISTORIES)
def test_only_those_are_blamed_whose_last_event_is_a_failure_of_theirs(events: list[Event]) -> None:
    for trial in trials_at_fault(events):
        assert len({event.node for event in events if event.trial == trial and event.cause is not None}) >= 2
    for event in events:
        assert trial_free_after(events, event.trial)


def trial_free_after(events: list[Event], trial: str) -> bool:
    """Once a training gets on, it is free of blame."""
    return trial not in trials_at_fault([*events, got_on(trial, "A")])
