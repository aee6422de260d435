"""The report of a chain of steps: one self-contained page, and its picture as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compression.reduction import AXES
from orchestrator.chain.table import chain_headline, change, integer_step, reached, step_notes
from orchestrator.quantise.table import coverage, in_points, layer_lines
from orchestrator.report import Row, State, accuracy, gmacs, metric_of, percent, share, words
from orchestrator.report.chain_figure import chain_figure, is_drawable
from orchestrator.report.figure import write_png
from orchestrator.report.html import RULES
from orchestrator.report.lineage_figure import Node
from orchestrator.report.page import KeyFigure, effort, faster_and_smaller, inline, render_page
from orchestrator.report.run_lineage import run_forest
from orchestrator.sweep.table import compared, finished_accuracy
from trainers.files import write_atomically, write_text


def write_chain_report(state: State, folder: Path, origins: Sequence[Node] = ()) -> Path:
    """Write `report.html` and `report.png` into the folder of a run, each at once or not at all.

    Args:
        state: a chain, in whatever state it is: running, failed, without any step.
        folder: made where it is missing; an earlier report there is replaced.
        origins: what its teacher was made of, see `origins_of`.

    Returns:
        Path of `report.html`.
    """
    write_atomically(folder / "report.png", lambda path: write_png(chain_figure(state), path))
    page = folder / "report.html"
    write_text(page, render_chain(state, origins))
    return page


def render_chain(state: State, origins: Sequence[Node] = ()) -> str:
    """The page as text; equal states give equal pages."""
    pictures = {}
    if is_drawable(state):
        pictures["chain"] = inline("chain", f"{words(state).title} over latency along the chain", chain_figure, state)
    quantised = integer_step(state)
    context = {
        "headline": chain_headline(state).replace(" ms ", "\u00a0ms "),
        "key_figures": chain_key_figures(state),
        "change": change,
        "reference": finished_accuracy(state["teacher"]),
        "iterations": [_iteration(iteration, state) for iteration in state["iterations"]],
        "step_notes": step_notes(state),
        "quantised": quantised,
        "lines": layer_lines(quantised) if quantised else [],
        "coverage": coverage(quantised) if quantised else "",
        "limit": in_points(state["max_drop_points"]),
        "axes": {letter: axis.name for letter, axis in AXES.items()},
        "pictures": pictures,
        "lineage": run_forest(state, origins),
    }
    return render_page("chain.html.j2", state, state["steps"], context)


def chain_key_figures(state: State) -> list[KeyFigure]:
    """The teacher, the network at the end, and what the chain took."""
    teacher, spoken, done = state["teacher"], words(state), reached(state)
    reference = finished_accuracy(teacher)
    cost = f"{spoken.metric} at {gmacs(teacher['gmacs'])} GMACs per {spoken.item}"
    figures = [("Teacher", percent(reference), cost)]
    if done and reference is not None:
        last = done[-1]
        value = finished_accuracy(last)
        assert value is not None
        note = f"{spoken.metric}, {compared(value, reference)} the teacher"
        figures += [(last["title"], percent(value), note), *faster_and_smaller(last, teacher, "the teacher")]
        figures.append(("Cost", share(last["gmacs"], teacher["gmacs"]), "of the teacher's multiply-adds"))
    return [*figures, *effort(state)]


def _iteration(iteration: dict[str, Any], state: State) -> dict[str, Any]:
    """An iteration of progressive architecture shrinkage in one line: what was chosen, and what the rivals reached."""
    metric, winner = metric_of(state), iteration["winner"]
    chosen = next((row for row in iteration["hypotheses"] if row["axis"] == winner), None)
    rivals = [row for row in iteration["hypotheses"] if row["axis"] != winner]
    rule = iteration["rule"]
    return {
        "number": iteration["iteration"],
        "chosen": chosen,
        "accepted": iteration.get("accepted", True),
        "rivals": [(row["axis"], _reached(row, metric)) for row in rivals],
        "rule": RULES[rule].format(metric=words(state).metric) if rule else "",
    }


def _reached(row: Row, metric: str) -> str:
    """What a hypothesis reached in %, or what became of it."""
    value = accuracy(row, metric)
    return str(row["status"]) if value is None else percent(value)
