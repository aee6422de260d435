"""What a terminal shows of a chain of steps; readable from 80 columns on."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.chain.table import chain_headline, change, integer_step, step_notes
from orchestrator.quantise.table import layer_lines, measured_under, megabytes, times
from orchestrator.quantise.terminal import layer_table, print_broken, print_float_layers, print_folders, print_status
from orchestrator.report import Row, State, count, gmacs, points, words
from orchestrator.sweep.table import UNFINISHED, finished_accuracy, milliseconds, written_network
from orchestrator.terminal import plain_table

SIZE_WIDTH = 100
"""A narrower terminal would cut numbers off if it were shown parameters and the gain in size as well."""


def print_chain(console: Console, state: State, report: Path | None) -> None:
    """A chain: what every step cost and gained, and what went wrong.

    Args:
        console: where to.
        state: the chain, in whatever state it is.
        report: its `report.html`, if it was written.
    """
    print_status(console, state)
    if state["steps"]:
        console.print(_table(state, wide=console.width >= SIZE_WIDTH))
        about = f"{words(state).title} in %; points by the step; in all, smaller and faster: against the teacher."
        console.print(Text(f"{about} {measured_under(state['latency'])}".strip(), "dim"))
    for step in state["steps"]:
        if step["accepted"] is False:
            console.print(Text(f"{step['title']} rejected: {'; '.join(step['rejected'])}", "red"))
    if quantised := integer_step(state):
        print_float_layers(console, quantised, quantised["title"])
    print_broken(console, state["steps"])
    for title, note in step_notes(state):
        console.print(Text(f"Note: {title}: {note}", "dim"))
    console.print(Text(chain_headline(state), "bold"))
    print_folders(console, state["steps"], report)


def print_chain_state(console: Console, state: State) -> None:
    """The chain in full: also every layer of the quantised network."""
    if quantised := integer_step(state):
        console.print(Text(f"{quantised['title']}, layer by layer", "bold"))
        console.print(layer_table(layer_lines(quantised)))
    print_chain(console, state, None)


def _table(state: State, *, wide: bool) -> Table:
    headings = ["step", f">{words(state).metric}", ">points", ">in all", ">GMACs"]
    headings += [">params", ">MB", ">smaller", ">ms", ">faster"] if wide else [">MB", ">ms", ">faster"]
    table = plain_table(*headings, "")
    teacher = state["teacher"]
    for row in (teacher, *state["steps"]):
        own = row is teacher
        size = megabytes(row["size_mb"])
        broken = row["status"] in UNFINISHED
        table.add_row(
            Text("teacher" if own else row["title"]),
            written_network(row),
            "" if own else change(row["drop_points"]),
            "" if own else points(finished_accuracy(row), finished_accuracy(teacher)),
            gmacs(row["gmacs"]),
            *((count(row["params"]), size, _gain(state, row, "size_mb")) if wide else (size,)),
            milliseconds(row["latency_ms"]),
            _gain(state, row, "latency_ms"),
            Text(row["status"], "red" if broken else "dim") if row["status"] != "finished" else _verdict(row, own),
        )
    return table


def _gain(state: State, row: Row, key: str) -> str:
    return "" if row is state["teacher"] else times(state["teacher"][key], row[key])


def _verdict(row: Row, teacher: bool) -> Text:
    accepted = None if teacher else row["accepted"]
    if accepted is None:
        return Text("")
    return Text("accepted", "green") if accepted else Text("rejected", "red")
