"""What a terminal shows of a sweep of quantised networks; readable from 80 columns on."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.quantise.table import (
    LayerLine,
    Summary,
    broken,
    coverage,
    decibels,
    explained,
    label_of,
    layer_lines,
    left_in_float,
    measured_under,
    megabytes,
    quantise_headline,
    scatter,
    shown_models,
    summarise,
    times,
    written,
)
from orchestrator.report import Row, State, points, words
from orchestrator.sweep.table import UNFINISHED, finished_accuracy, milliseconds, written_network
from orchestrator.terminal import STYLES, plain_table

SHOWN = 6
"""Rejected networks, networks without a result and layers in float that are listed; the report has all."""


def print_quantise(console: Console, state: State, report: Path | None) -> None:
    """A sweep of quantised networks: what each method costs and gains, what was left in float, and what went wrong.

    Args:
        console: where to.
        state: the sweep, in whatever state it is.
        report: its `report.html`, if it was written.
    """
    summaries, models = summarise(state["candidates"]), shown_models(state)
    print_status(console, state)
    if summaries:
        console.print(_table(state, summaries))
        said = (
            f"{words(state).title} in %. {scatter(summaries)}",
            explained(summaries),
            measured_under(state["latency"]),
        )
        console.print(Text(" ".join(f"{text.rstrip('.')}." for text in said if text), "dim"))
    for summary in summaries:
        for reason in summary.reasons[:1]:
            others = f" ({len(summary.reasons) - 1} more such in the report)" if len(summary.reasons) > 1 else ""
            console.print(Text(f"{summary.label} {summary.verdict}: {reason}{others}", "red"))
    for model in models[:1]:
        print_float_layers(console, model, label_of(model["method"], model["fallbacks"]))
    print_broken(console, state["candidates"])
    console.print(Text(quantise_headline(state), "bold"))
    print_folders(console, state["candidates"], report)


def print_quantise_state(console: Console, state: State) -> None:
    """The sweep in full: also every layer of the chosen network, or of the first that was exported."""
    for model in shown_models(state)[:1]:
        console.print(
            Text(f"{label_of(model['method'], model['fallbacks'])} ({model['name']}), layer by layer", "bold")
        )
        console.print(layer_table(layer_lines(model, state["layer_times"])))
    print_quantise(console, state, None)


def print_status(console: Console, state: State) -> None:
    """A run's name, and how it stands."""
    reason = f" ({state['stop_reason']})" if state["stop_reason"] else ""
    status = state["status"]
    console.print(Text.assemble((state["run"], "bold"), " · ", (status, STYLES.get(status, "dim")), reason))


def layer_table(lines: list[LayerLine]) -> Table:
    """Every layer of a quantised network: in what it computes, what that costs, and why it is in float."""
    timed = any(line.int8_ms is not None for line in lines)
    table = plain_table(
        "layer", "kind", "runs in", ">dB", *((">INT8 ms", ">float ms") if timed else ()), "why in float"
    )
    for line in lines:
        table.add_row(
            Text(line.name),
            line.kind,
            Text("INT8" if line.int8 else "float", "" if line.int8 else "yellow"),
            decibels(line.noise_db),
            *((milliseconds(line.int8_ms), milliseconds(line.float_ms)) if timed else ()),
            Text("" if line.int8 else line.reason or "no reason given"),
        )
    return table


def print_float_layers(console: Console, model: Row, name: str) -> None:
    """How much of a network runs in integers, and what does not and why.

    Args:
        console: where to.
        model: a network whose layers are known.
        name: what it is called.
    """
    if share := coverage(model):
        console.print(Text(f"{name}: {share} with weights in INT8", "green"))
    layers = left_in_float(model)
    for layer, reason in layers[:SHOWN]:
        console.print(Text.assemble("  float: ", (layer, "yellow"), f" ({reason})"))
    if len(layers) > SHOWN:
        console.print(Text(f"  … and {len(layers) - SHOWN} more in float", "dim"))


def print_broken(console: Console, rows: list[Row]) -> None:
    """Networks that are over without a result, with the reason."""
    gone = broken(rows)
    for row in gone[:SHOWN]:
        console.print(Text(f"{row['name']} {row['status']}: {row['reason'] or 'no reason given'}", "red"))
    if len(gone) > SHOWN:
        console.print(Text(f"… and {len(gone) - SHOWN} more without a result", "red"))


def print_folders(console: Console, rows: list[Row], report: Path | None) -> None:
    """Where to find models and report, of a run whose report was written."""
    if report is None:
        return
    if any(row["path"] for row in rows):
        console.print(Text(f"Models: {report.parent / 'models'}"), soft_wrap=True)
    console.print(Text(f"Report: {report}"), soft_wrap=True)


def _table(state: State, summaries: list[Summary]) -> Table:
    teacher = state["teacher"]
    reference = finished_accuracy(teacher)
    headings = ["network", f">{words(state).metric}", ">points", ">MB", ">smaller", ">ms", ">faster", "gate"]
    table = plain_table(*headings)
    size, latency = megabytes(teacher["size_mb"]), milliseconds(teacher["latency_ms"])
    table.add_row("FP32", written_network(teacher), "", size, "", latency, "", "")
    for row in summaries:
        verdict = Text(row.verdict, "" if not row.judged else "green" if row.accepted else "red")
        table.add_row(
            Text(row.label),
            Text(written(row), "red" if row.status in UNFINISHED and row.mean is None else ""),
            points(row.mean, reference),
            megabytes(row.size_mb),
            times(teacher["size_mb"], row.size_mb),
            milliseconds(row.latency_ms),
            times(teacher["latency_ms"], row.latency_ms),
            verdict,
            style="bold" if row.best else None,
        )
    return table
