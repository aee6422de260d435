"""The reports of a pruner sweep and of a sensitivity analysis: one self-contained page each, and a picture as PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from orchestrator.failures import retries
from orchestrator.report import (
    Row,
    State,
    accuracy,
    count,
    data_sizes,
    duration,
    gmacs,
    percent,
    points,
    share,
    words,
)
from orchestrator.report.figure import THEME, to_svg, write_png
from orchestrator.report.lineage_figure import Node
from orchestrator.report.run_lineage import run_forest
from orchestrator.report.sweep_figure import (
    HEAT,
    HEAT_INVERTED,
    PRUNER_STYLES,
    heat_bounds,
    heat_step,
    sensitivity_figure,
    sensitivity_picture,
    sweep_figure,
)
from orchestrator.report.templates import read_template
from orchestrator.sweep.sensitivity_file import SENSITIVITY_FILE, sweep_command
from orchestrator.sweep.table import (
    CLOSE_POINTS,
    Summary,
    best,
    by_sensitivity,
    chosen,
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
    worst_point,
    written,
    written_drop,
    written_network,
)
from trainers.files import write_atomically, write_text

KeyFigure = tuple[str, str, str]
"""A number at the top of the page: name, value, and what it is measured against."""


FILTERS: dict[str, Callable[..., Any]] = {
    "accuracy": accuracy,
    "count": count,
    "duration": duration,
    "gmacs": gmacs,
    "milliseconds": milliseconds,
    "percent": percent,
    "points": points,
    "retries": retries,
    "share": share,
    "written": written,
    "written_network": written_network,
}
"""How the page writes numbers."""


def write_sweep_report(state: State, folder: Path, origins: Sequence[Node] = ()) -> Path:
    """Write `report.html` and `report.png` into the folder of a run, each at once or not at all.

    Args:
        state: a pruner sweep or a sensitivity analysis, in whatever state it is: running, failed, without any result.
        folder: made where it is missing; an earlier report there is replaced.
        origins: what its teacher was made of, see `origins_of`.

    Returns:
        Path of `report.html`.
    """
    picture = sensitivity_picture if is_sensitivity(state) else sweep_figure
    write_atomically(folder / "report.png", lambda path: write_png(picture(state), path))
    page = folder / "report.html"
    write_text(page, render_sweep(state, folder, origins))
    return page


def render_sweep(state: State, folder: Path | None = None, origins: Sequence[Node] = ()) -> str:
    """The page as text; equal states give equal pages.

    Args:
        state: as for `write_sweep_report`.
        folder: of the run, as the commands on the page are to name it; none: below `runs`.
        origins: as for `write_sweep_report`.
    """
    common = {
        "state": state,
        "words": words(state),
        "data_sizes": data_sizes(state["data"]),
        "failures": failures(state["cells"]),
        "notes": notes(state["cells"]),
        "config": yaml.safe_dump(state["config"], sort_keys=False, allow_unicode=True),
        "theme": THEME,
        "lineage": run_forest(state, origins),
    }
    if is_sensitivity(state):
        return read_template("sensitivity.html.j2", FILTERS).render(common | _of_sensitivity(state, folder))
    return read_template("sweep.html.j2", FILTERS).render(common | _of_sweep(state))


def is_sensitivity(state: State) -> bool:
    """Whether a sweep pruned one layer at a time."""
    return bool(state["algorithm"] == "sweep-sensitivity")


def sweep_key_figures(state: State, summaries: Sequence[Summary]) -> list[KeyFigure]:
    """The unpruned network, the one that the headline speaks of, and what the sweep took."""
    teacher, row = state["teacher"], chosen(summaries, state["teacher"])
    figures = [_unpruned(state)]
    if row is not None:
        spoken = words(state)
        cost = f"{spoken.metric} at {gmacs(row.gmacs)} GMACs per {spoken.item}"
        figures += [
            (f"{row.column.label} {row.sparsity:g}", percent(row.mean), cost),
            ("Cost", share(row.gmacs, teacher["gmacs"]), "of the unpruned multiply-adds"),
            ("Size", share(row.params, teacher["params"]), "of the unpruned parameters"),
        ]
        if row.latency_ms is not None and (unpruned_ms := teacher.get("latency_ms")) is not None:
            compared = f"ms, where the unpruned takes {milliseconds(unpruned_ms)}"
            figures.append(("Latency", milliseconds(row.latency_ms), compared))
    stats = state["stats"]
    trained = f"networks in {stats['trial_epochs']} epochs, {stats['cached']} more from the store"
    return [*figures, ("Trained", str(stats["trained"]), trained), _time(state)]


def sensitivity_key_figures(state: State) -> list[KeyFigure]:
    """The unpruned network, the most sensitive layer, and what the analysis took."""
    figures, worst = [_unpruned(state)], worst_point(state)
    if worst is not None:
        layer, point, drop = worst
        figures += [
            ("Layers", str(len(state["layers"])), "pruned one at a time, with those coupled to them"),
            ("Largest drop", f"{drop:.1f}", f"points, by {layer['layer']} at sparsity {point['sparsity']:g}"),
        ]
    stats = state["stats"]
    return [*figures, ("Run", str(stats["trained"]), f"networks, {stats['cached']} more from the store"), _time(state)]


def _unpruned(state: State) -> KeyFigure:
    teacher, spoken = state["teacher"], words(state)
    cost = f"{spoken.metric} at {gmacs(teacher['gmacs'])} GMACs per {spoken.item}"
    return "Unpruned", percent(finished_accuracy(teacher)), cost


def _time(state: State) -> KeyFigure:
    stats = state["stats"]
    return "Time", duration(stats["seconds"]), f"and {duration(stats['core_seconds'])} of CPU cores"


def _of_sweep(state: State) -> dict[str, Any]:
    summaries = summarise(state["cells"])
    across = columns(summaries)
    pictures = {}
    if finished_accuracy(state["teacher"]) is not None:
        pictures["sweep"] = _inline("sweep", f"{words(state).title} over cost, per pruner", sweep_figure, state)
    return {
        "headline": prune_headline(state, summaries),
        "key_figures": sweep_key_figures(state, summaries),
        "summaries": summaries,
        "columns": across,
        "controls": [column.control for column in across if column.control],
        "sparsities": sparsities(summaries),
        "table": {(row.sparsity, row.column): row for row in summaries},
        "best": {sparsity: best(summaries, sparsity) for sparsity in sparsities(summaries)},
        "front": mean_front(summaries, state["teacher"]),
        "reference": finished_accuracy(state["teacher"]),
        "has_reached": any(row.reached is not None for row in summaries),
        "has_deviation": any(row.deviation is not None for row in summaries),
        "scatter": scatter(summaries),
        "close": CLOSE_POINTS,
        "colours": {pruner: colour for pruner, (colour, _) in PRUNER_STYLES.items()},
        "pictures": pictures,
    }


def _of_sensitivity(state: State, folder: Path | None) -> dict[str, Any]:
    measured = bool(by_sensitivity(state))
    pictures = {}
    if measured:
        description = f"{words(state).title} over the sparsity of one layer at a time"
        pictures["sensitivity"] = _inline("sensitivity", description, sensitivity_figure, state)
    across = sorted({point["sparsity"] for layer in state["layers"] for point in layer["points"]})
    bounds = [f"{bound:g}" for bound in heat_bounds(state["max_drop"])]
    return {
        "headline": sensitivity_headline(state),
        "command": sweep_command(state, folder or Path("runs") / state["run"]),
        "sensitivity_file": SENSITIVITY_FILE,
        "key_figures": sensitivity_key_figures(state),
        "sparsities": across,
        "rows": [(layer, [_heat_cell(layer, sparsity, state) for sparsity in across]) for layer in state["layers"]],
        "measured": measured,
        "heat": HEAT,
        "inverted": HEAT_INVERTED,
        "scale": [*(f"up to {bound}" for bound in bounds), f"more than {bounds[-1]} points"],
        "pictures": pictures,
    }


def _heat_cell(layer: Row, sparsity: float, state: State) -> tuple[str, int | None, str]:
    """Drop in points as it is written, its colour, and the status; no colour where there is no result."""
    point = next((point for point in layer["points"] if point["sparsity"] == sparsity), None)
    drop = None if point is None else drop_points(point, state)
    if point is None or drop is None:
        return "", None, "" if point is None else point["status"]
    return written_drop(drop), heat_step(drop, state["max_drop"]), "finished"


def _inline(name: str, description: str, draw: Callable[..., Figure], state: State) -> tuple[Markup, Markup]:
    """A picture for a wide and for a narrow page; their text was escaped when they were drawn."""
    wide, narrow = draw(state), draw(state, narrow=True)
    return Markup(to_svg(wide, f"{name}-wide", description)), Markup(to_svg(narrow, f"{name}-narrow", description))
