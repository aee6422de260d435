"""The card of the network that a step of a chain left."""

from __future__ import annotations

from typing import Any

from orchestrator.report import Row, State
from orchestrator.report.quantise_card import (
    beside,
    integers,
    layers,
    measured_on,
    numbers,
    origin,
    use,
    verdict,
    what_it_does,
)

DONE = {
    "pas": "shrunk by progressive architecture shrinkage",
    "prune": "pruned and fine-tuned; what was removed is gone, not masked",
    "quantise": "quantised to INT8",
}
"""What a step does, by kind."""


def step_card(model: Row, state: State, record: dict[str, Any]) -> str:
    """Text of `card.md` for what a step of a chain left.

    Args:
        model: an entry of `state["steps"]`.
        state: the chain that it came from.
        record: `result.json` of the trial that made it: its own network, recipe and versions.
    """
    quantised, teacher = model["step"] == "quantise", state["teacher"]
    before = _before(model, state)
    first = before is teacher
    others = [("teacher", teacher)] if first else [(before["title"], before), ("teacher", teacher)]
    said = [beside(model, teacher, state, "the teacher"), measured_on(model, state)]
    if not first:
        said.insert(0, beside(model, before, state, f"the step before ({before['title']})"))
    parts = [
        f"# {model['title']} of {state['backbone']}",
        verdict(model, state) if quantised else "",
        f"A {state['backbone']} network that {what_it_does(state)}. {_steps(model, state)}"
        + (f" {integers(record)}" if quantised else ""),
        numbers({**model, "name": model["title"]}, others, state),
        " ".join(said),
        layers(model),
        _notes(model),
        use(quantised=quantised),
        origin(model, state, record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _before(model: Row, state: State) -> Row:
    """The network that the step started from: what an earlier step left, unless it left none of its own."""
    earlier = state["steps"][: _place(model, state)]
    return next((step for step in reversed(earlier) if step["path"]), state["teacher"])


def _place(model: Row, state: State) -> int:
    """How many steps come before it."""
    return next(place for place, step in enumerate(state["steps"]) if step["path"] == model["path"])


def _steps(model: Row, state: State) -> str:
    """What was done to the teacher up to this step."""
    steps = [step for step in state["steps"][: _place(model, state) + 1] if step["path"]]
    done = "; ".join(f"{step['title']} ({DONE[step['step']]})" for step in steps)
    number = "1 step" if len(steps) == 1 else f"{len(steps)} steps"
    return f"Made from `{state['teacher']['name']}` in {number}: {done}."


def _notes(model: Row) -> str:
    return "\n".join(["## Notes", "", *(f"- {note}" for note in model["notes"])]) if model["notes"] else ""
