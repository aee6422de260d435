"""What a terminal shows of a transfer; readable from 80 columns on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.quantise.terminal import print_broken, print_folders, print_status
from orchestrator.report import State, count, gmacs
from orchestrator.sweep.table import UNFINISHED
from orchestrator.terminal import plain_table
from orchestrator.transfer.table import (
    Summary,
    base_of,
    data_title,
    distance,
    in_percent,
    scatter,
    sources_title,
    split_title,
    summarise,
    transfer_headline,
    written,
)

PARAMS_WIDTH = 100
"""A narrower terminal would cut numbers off if it were shown parameters as well."""


def print_transfer(console: Console, state: State, report: Path | None) -> None:
    """A transfer: what every network reached on every split, and what went wrong.

    Args:
        console: where to.
        state: the transfer, in whatever state it is.
        report: its `report.html`, if it was written.
    """
    rows = summarise(state)
    print_status(console, state)
    if rows:
        console.print(_table(state, rows, wide=console.width >= PARAMS_WIDTH))
        before = sources_title(rows)
        where = "on the data of its training" if before == "before" else f"on {before}"
        about = f"Top-1 in % on {data_title(state)}; before: {where}. "
        about += f"Points: against {base_of(rows).name}. " if len(rows) > 1 else ""
        console.print(Text(about + scatter(state, rows), "dim"))
    for row in rows:
        if row.reason:
            console.print(Text(f"{row.name} was left out: {row.reason}", "yellow"))
    print_broken(console, state["transfers"])
    console.print(Text(transfer_headline(state), "bold"))
    print_folders(console, state["transfers"], report)


def _table(state: State, rows: Sequence[Summary], *, wide: bool) -> Table:
    """Table 6.6; a single split is its own mean."""
    splits = [row["split"] for row in state["splits"]]
    across = splits if len(splits) > 1 else []
    shown = [split_title(split) if split == across[0] else str(split) for split in across]
    headings = ["network", ">GMACs", *([">params"] if wide else []), ">before", *(f">{split}" for split in shown)]
    table = plain_table(*headings, ">mean" if across else f">{data_title(state)}", ">points")
    base = base_of(rows)
    for row in rows:
        unfinished = row.mean is None and row.status in UNFINISHED
        table.add_row(
            Text(row.name),
            gmacs(row.gmacs),
            *([count(row.params)] if wide else []),
            in_percent(row.before),
            *(in_percent(row.by_split.get(split)) for split in across),
            Text(written(row), "red" if unfinished else "bold" if row.mean is not None else "dim"),
            "" if row is base else distance(row, base),
        )
    return table
