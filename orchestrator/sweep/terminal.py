"""What a terminal shows of a pruner sweep and of a sensitivity analysis; readable from 100 columns on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.report import UNKNOWN, Row, State, count, gmacs, points, share, words
from orchestrator.sweep.sensitivity_file import sweep_command
from orchestrator.sweep.table import (
    UNFINISHED,
    Column,
    Summary,
    best,
    columns,
    drop_points,
    failures,
    finished_accuracy,
    mean_front,
    milliseconds,
    notes,
    prune_headline,
    scatter,
    sensitivity_headline,
    sparsities,
    summarise,
    written,
    written_drop,
    written_network,
)
from orchestrator.terminal import STYLES, plain_table

SPARSITY_WIDTH, GAP = 12, 2
"""Characters of a table's first column with both margins, and between two columns."""
LATENCY_WIDTH = 100
"""A narrower terminal would cut numbers off if it were shown latencies as well."""
FAILURES_SHOWN = 8
"""Cells without a result that are listed with their reason; the report has all."""


def print_sweep(console: Console, state: State, report: Path | None) -> None:
    """A pruner sweep: the source's table, what the best pruner costs at every sparsity, and what went wrong.

    Args:
        console: where to.
        state: the sweep, in whatever state it is.
        report: its `report.html`, if it was written.
    """
    summaries = summarise(state["cells"])
    _print_status(console, state)
    if summaries:
        for table in _accuracy_tables(state, summaries, console.width):
            console.print(table)
        console.print(Text(f"{words(state).title} in %. {scatter(summaries)}", "dim"))
        if any(row.mean is not None for row in summaries):
            console.print(_cost_table(state, summaries, console.width))
            if mean_front(summaries, state["teacher"]):
                console.print(Text("✓ on the Pareto front: no pruner is as accurate for less", "dim"))
    _print_failures(console, state)
    console.print(Text(prune_headline(state, summaries), "bold"))
    if any(cell["path"] for cell in state["cells"]) and report is not None:
        console.print(Text(f"Models: {report.parent / 'models'}"), soft_wrap=True)
    _print_report(console, report)


def print_sensitivity(console: Console, state: State, report: Path | None) -> None:
    """A sensitivity analysis: points lost by layer and sparsity, what each layer may lose, and how to use it.

    Args:
        console: where to.
        state: the analysis, in whatever state it is.
        report: its `report.html`, if it was written.
    """
    _print_status(console, state)
    if state["layers"]:
        console.print(_layer_table(state))
        limit = f"largest sparsity that costs the layer alone at most {state['max_drop']:g} points"
        console.print(Text(f"Points of {words(state).metric} lost by sparsity of the layer; may lose: {limit}.", "dim"))
    _print_failures(console, state)
    console.print(Text(sensitivity_headline(state), "bold"))
    if report is not None and state["status"] == "finished" and state["layers"]:
        console.print(Text(f"Use: {sweep_command(state, report.parent)}"), soft_wrap=True)
    _print_report(console, report)


def _print_status(console: Console, state: State) -> None:
    reason = f" ({state['stop_reason']})" if state["stop_reason"] else ""
    status = state["status"]
    console.print(Text.assemble((state["run"], "bold"), " · ", (status, STYLES.get(status, "dim")), reason))


def _accuracy_tables(state: State, summaries: Sequence[Summary], width: int) -> list[Table]:
    """Sparsity × pruner, as in the source, in as many parts as the terminal's width makes necessary."""
    parts: list[list[Column]] = [[]]
    left = width - SPARSITY_WIDTH
    for column in columns(summaries):
        needed = GAP + max(len(column.label), *(len(written(row)) for row in summaries if row.column == column))
        if needed > left and parts[-1]:
            parts.append([])
            left = width - SPARSITY_WIDTH
        parts[-1].append(column)
        left -= needed
    return [_accuracy_table(state, summaries, part) for part in parts]


def _accuracy_table(state: State, summaries: Sequence[Summary], across: Sequence[Column]) -> Table:
    """Some of its columns; the best of a row is bold, of all columns."""
    table = plain_table("sparsity", *(f">{column.label}" for column in across))
    for column, shown in zip(across, table.columns[1:], strict=True):
        shown.style = "dim" if column.control else ""
    cells = {(row.sparsity, row.column): row for row in summaries}
    unpruned = written_network(state["teacher"])
    table.add_row("unpruned", *("" if column.control == "scratch" else unpruned for column in across))
    for sparsity in sparsities(summaries):
        leaders = best(summaries, sparsity)
        line = [_accuracy_cell(cells.get((sparsity, column)), leaders) for column in across]
        table.add_row(f"{sparsity:g}", *line)
    return table


def _accuracy_cell(row: Summary | None, leaders: Sequence[Summary]) -> Text:
    if row is None:
        return Text("")
    if row.mean is None:
        return Text(written(row), "red" if row.status in UNFINISHED else "dim")
    return Text(written(row), "bold green" if row in leaders else "")


def _cost_table(state: State, summaries: Sequence[Summary], width: int) -> Table:
    """What the most accurate pruner of every sparsity costs; its latency where the terminal has room for that."""
    metric, latency = words(state).metric, bool(state["latency"]) and width >= LATENCY_WIDTH
    headings = ["sparsity", "pruner", f">{metric}", ">points", ">GMACs", ">share", ">params", ">share"]
    table = plain_table(*headings, *((">ms", ">share") if latency else ()), "")
    teacher, front = state["teacher"], mean_front(summaries, state["teacher"])
    for sparsity in sparsities(summaries):
        row = _most_accurate(summaries, sparsity)
        if row is None:
            continue
        timing = (milliseconds(row.latency_ms), share(row.latency_ms, teacher.get("latency_ms"))) if latency else ()
        table.add_row(
            f"{sparsity:g}",
            row.column.label,
            written(row),
            points(row.mean, finished_accuracy(teacher)),
            gmacs(row.gmacs),
            share(row.gmacs, teacher["gmacs"]),
            count(row.params),
            share(row.params, teacher["params"]),
            *timing,
            Text("✓" if row in front else "", "green"),
        )
    return table


def _most_accurate(summaries: Sequence[Summary], sparsity: float) -> Summary | None:
    rivals = [
        (row.mean, row)
        for row in summaries
        if row.sparsity == sparsity and row.control is None and row.mean is not None
    ]
    return max(rivals, key=lambda rival: rival[0])[1] if rivals else None


def _layer_table(state: State) -> Table:
    across = sorted({point["sparsity"] for layer in state["layers"] for point in layer["points"]})
    table = plain_table("layer", ">filters", *(f">{sparsity:g}" for sparsity in across), ">may lose")
    for layer in state["layers"]:
        others = len([name for name in layer["coupled"] if name != layer["layer"]])
        name = Text(layer["layer"]).append(f" +{others}" if others else "", "dim")
        points_by_sparsity = {point["sparsity"]: point for point in layer["points"]}
        drops = [_drop_cell(points_by_sparsity.get(sparsity), state) for sparsity in across]
        known = any(finished_accuracy(point) is not None for point in layer["points"])
        limit = f"{layer['max_sparsity']:g}" if known and layer["max_sparsity"] is not None else UNKNOWN
        table.add_row(name, str(layer["channels"]), *drops, limit)
    return table


def _drop_cell(point: Row | None, state: State) -> Text:
    drop = None if point is None else drop_points(point, state)
    if point is None or drop is None:
        broken = point is not None and point["status"] in UNFINISHED
        return Text(point["status"] if broken and point else UNKNOWN, "red" if broken else "dim")
    return Text(written_drop(drop), "yellow" if round(drop, 6) > state["max_drop"] else "green")


def _print_failures(console: Console, state: State) -> None:
    broken = failures(state["cells"])
    for row in broken[:FAILURES_SHOWN]:
        console.print(Text(f"{row['name']} {row['status']}: {row['reason'] or 'no reason given'}", "red"))
    if len(broken) > FAILURES_SHOWN:
        console.print(Text(f"… and {len(broken) - FAILURES_SHOWN} more without a result", "red"))
    if found := notes(state["cells"]):
        first = next(iter(found))
        more = f" (and {len(found) - 1} more such notes in the report)" if len(found) > 1 else ""
        console.print(Text(f"Note: {first}{more}", "dim"))


def _print_report(console: Console, report: Path | None) -> None:
    if report is not None:
        console.print(Text(f"Report: {report}"), soft_wrap=True)
