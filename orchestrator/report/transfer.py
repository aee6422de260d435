"""The report of a transfer: one self-contained page, and its picture as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.report import State, percent, share
from orchestrator.report.figure import write_png
from orchestrator.report.page import KeyFigure, effort, inline, render_page
from orchestrator.report.run_lineage import run_forest
from orchestrator.report.transfer_figure import is_drawable, transfer_figure
from orchestrator.transfer.table import (
    base_of,
    data_title,
    distance,
    in_percent,
    over,
    scatter,
    sources_title,
    split_title,
    summarise,
    transfer_headline,
    written,
)
from trainers.files import write_atomically, write_text


def write_transfer_report(state: State, folder: Path) -> Path:
    """Write `report.html` and `report.png` into the folder of a run, each at once or not at all.

    Args:
        state: a transfer, in whatever state it is: running, failed, without any result.
        folder: made where it is missing; an earlier report there is replaced.

    Returns:
        Path of `report.html`.
    """
    write_atomically(folder / "report.png", lambda path: write_png(transfer_figure(state), path))
    page = folder / "report.html"
    write_text(page, render_transfer(state))
    return page


def render_transfer(state: State) -> str:
    """The page as text; equal states give equal pages."""
    rows = summarise(state)
    pictures = {}
    if is_drawable(state):
        description = f"Top-1 on {data_title(state)} over cost, per network"
        pictures["transfer"] = inline("transfer", description, transfer_figure, state)
    context: dict[str, Any] = {
        "headline": transfer_headline(state),
        "key_figures": transfer_key_figures(state),
        "rows": rows,
        "base": base_of(rows),
        "across": [row["split"] for row in state["splits"]] if len(state["splits"]) > 1 else [],
        "data": data_title(state),
        "before": sources_title(rows),
        "scatter": scatter(state, rows),
        "bars": " Bars are one sample standard deviation." if any(row.deviation is not None for row in rows) else "",
        "recipe": transfer_recipe(state),
        "in_percent": in_percent,
        "written": written,
        "distance": distance,
        "split_title": split_title,
        "pictures": pictures,
        "lineage": run_forest(state),
    }
    return render_page("transfer.html.j2", state, state["transfers"], context)


def transfer_key_figures(state: State) -> list[KeyFigure]:
    """The base, the smallest network and what it costs, and what the run took."""
    rows = summarise(state)
    base, last = base_of(rows), rows[-1]
    note = f"top-1 on {data_title(state)}" + (f", {over(state)}" if over(state) else "")
    figures = [(base.name, percent(base.mean), note)]
    if last is not base:
        figures.append((last.name, percent(last.mean), f"{distance(last, base)} points against {base.name}"))
        figures.append(("Cost", share(last.gmacs, base.gmacs), f"of the multiply-adds of {base.name}"))
    return [*figures, *effort(state)]


def transfer_recipe(state: State) -> list[tuple[str, str]]:
    """How the networks were fine-tuned, in words: what, and how."""
    train, transfer = state["config"]["train"], state["config"]["transfer"]
    rate, divisor, epochs = train["lr"], transfer["lr_divisor"], transfer["epochs"] or train["epochs"]
    return [
        ("start", "the trained networks, with a new classifier"),
        ("learning rate", f"{rate / divisor:g}: {rate:g}, with which they were trained, divided by {divisor:g}"),
        ("epochs", f"{epochs}, in batches of {train['batch']} clips"),
        ("distillation", "none"),
    ]
