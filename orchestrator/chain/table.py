"""What a chain of steps amounts to, as plain numbers and in a sentence.

Pure functions of a chain's state (plain JSON, see `orchestrator/report/__init__.py`); nothing is drawn here.
"""

from __future__ import annotations

from orchestrator.quantise.table import gain, without_options
from orchestrator.report import Row, State, percent, points, words
from orchestrator.sweep.table import UNFINISHED, compared, finished_accuracy, milliseconds


def reached(state: State) -> list[Row]:
    """The steps that are finished, in order; a step after one that broke is not."""
    return [step for step in state["steps"] if finished_accuracy(step) is not None]


def integer_step(state: State) -> Row | None:
    """The step that quantised, if its layers are known."""
    return next((step for step in state["steps"] if step["step"] == "quantise" and step["layers"]), None)


def chain_name(steps: list[Row]) -> str:
    """Steps as people name what comes of them: `PAS-2 (s, c), AGP 0.5, INT8 by QAT`."""
    return ", ".join(step["title"] for step in steps)


def chain_headline(state: State) -> str:
    """The result of a chain in one sentence, or why there is none yet; where it stopped short, in another."""
    done, teacher = reached(state), state["teacher"]
    reference = finished_accuracy(teacher)
    if not done or reference is None:
        return _without_result(state)
    last = done[-1]
    value = finished_accuracy(last)
    assert value is not None
    at = "" if last["latency_ms"] is None else f" at {milliseconds(last['latency_ms'])} ms per {words(state).item}"
    gains = gain(last, teacher)
    beside = f"{compared(value, reference)} the teacher" + (f", {gains}" if gains else "")
    result = f"{percent(value)} {words(state).metric}{at}, {beside}."
    so_far = "So far, " if state["status"] == "running" and len(done) < len(state["steps"]) else ""
    return f"{so_far}{chain_name(done)}: {result}{_and_then(state, last)}"


def _and_then(state: State, last: Row) -> str:
    """What is wrong with the last network, or what kept the chain from its end."""
    if last["accepted"] is False:
        return f" The gate rejects it: {without_options(last['rejected'])}."
    end = next((step for step in state["steps"] if step["status"] in UNFINISHED), None)
    if end is not None:
        return f" The chain ended there: {end['title']} {end['status']}."
    short = state["status"] in ("failed", "interrupted") and len(reached(state)) < len(state["steps"])
    return f" The chain {'was ' if state['status'] == 'interrupted' else ''}{state['status']} there." if short else ""


def change(drop_points: float | None) -> str:
    """Points lost as a signed difference: 0.3 points lost are `−0.3`."""
    return points(None if drop_points is None else -drop_points / 100, 0.0)


def step_notes(state: State) -> list[tuple[str, str]]:
    """Every note with the title of its step."""
    return [(step["title"], note) for step in state["steps"] for note in step["notes"]]


def _without_result(state: State) -> str:
    if state["status"] == "running":
        if finished_accuracy(state["teacher"]) is None:
            return "No step is done yet: the teacher is being trained or measured."
        waiting = next((step["title"] for step in state["steps"]), "the first step")
        return f"No step is done yet: {waiting} is under way."
    end = next((step for step in state["steps"] if step["status"] in UNFINISHED), None)
    reason = state["stop_reason"] or (f"{end['title']} {end['status']}" if end else "")
    return f"The chain {state['status']} before its first step was done{f': {reason}' if reason else ''}."
