"""The pictures of everything in a store: accuracy over GMACs, and over latency, with what no other model beats.

They share colours and typography with those of a search (`figure.py`). Shape and colour both tell how a model was made;
models that no run handed on are faint.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from orchestrator.registry.model import Kind
from orchestrator.report.comparison import Comparison, Mark
from orchestrator.report.figure import PATH, add_legend, ink, new_figure, scale_axes, style_axes
from orchestrator.report.labels import place_labels
from orchestrator.report.sweep_figure import cost_ticks

STYLES: dict[Kind, tuple[str, str, str]] = {
    "trained": ("ink", "*", "base network"),
    "imported": ("ink", "P", "imported"),
    "pas": ("axis-s", "o", "shrunk (PAS)"),
    "pruned": ("axis-f", "D", "pruned"),
    "quantised": ("axis-c", "s", "INT8"),
    "transferred": ("axis-l", "^", "transferred"),
    "control": ("muted", "o", "control"),
}
"""Colour of `THEME`, marker, and what it is called, by how a model was made."""
SIZES = {"*": 15.0, "P": 10.0, "D": 7.5}
"""Markers that need another size than `SIZE` to look as large."""
SIZE, FAINT_SIZE, FAINT = 8.5, 0.65, 0.45
"""Size of a marker in points; share of it, and opacity, of those that stay in the background."""
BELOW, LEAST_BELOW = 0.25, 0.05
"""How far below the others one in the background is drawn: as a share of what the others span, and in accuracy."""
STEP_POINTS = 60
"""Points by which labels know where a piece of the front is."""
FRONT_LINE: dict[str, Any] = {**PATH, "linewidth": 1.1}
KNEE: dict[str, Any] = {
    **{"color": ink("ink"), "linestyle": "", "marker": "o", "markersize": 14},
    **{"markerfacecolor": "none", "markeredgewidth": 1.3},
}


def overall_figure(comparison: Comparison, *, narrow: bool = False) -> Figure:
    """Accuracy over cost of every model that compares; cheaper to the right, on a logarithmic axis.

    Args:
        comparison: at least one model.
        narrow: drawn for a column of 400 pixels instead of 900.
    """
    timed = comparison.conditions is not None
    figure = new_figure(narrow, height=4.2 if timed else 5.2)
    axes = figure.add_subplot()
    style_axes(axes)
    unit, better = ("ms", "faster") if timed else ("GMACs", "cheaper")
    axes.set_xlabel(f"{unit} per {comparison.words.item} (log scale, {better} to the right)")
    axes.set_ylabel(f"{comparison.words.metric} (%)")
    for mark in drawn_marks(comparison):
        _draw(axes, mark)
    _draw_front(axes, comparison.front)
    scale_axes(axes)
    axes.margins(x=0.17 if narrow else 0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=cost_ticks(*axes.get_xlim(), narrow)))
    add_legend(figure, _legend(comparison), columns=3 if narrow else 9)
    labels = [(mark.label, _point(mark)) for mark in _named(comparison)]
    place_labels(axes, labels, also=_steps(comparison.front))
    return figure


def drawn_marks(comparison: Comparison) -> tuple[Mark, ...]:
    """What the picture shows: all but those in the background that are so bad that the others would be squeezed."""
    prominent = [mark.model.accuracy for mark in comparison.marks if _is_prominent(mark)]
    if not prominent:
        return comparison.marks
    floor = min(prominent) - max(LEAST_BELOW, BELOW * (max(prominent) - min(prominent)))
    return tuple(mark for mark in comparison.marks if mark.model.accuracy >= floor)


def _draw(axes: Axes, mark: Mark) -> None:
    style, prominent = _marker(mark.model.kind), _is_prominent(mark)
    if mark.on_front:
        style |= {"markeredgecolor": ink("ink"), "markeredgewidth": 1.6}
    if not prominent:
        style |= {"markersize": FAINT_SIZE * style["markersize"], "alpha": FAINT}
    cost, percent = _point(mark)
    axes.plot([cost], [percent], **style, zorder=(3, 5)[prominent] + mark.on_front)


def _draw_front(axes: Axes, marks: Sequence[Mark]) -> None:
    """The best accuracy for every cost: a step down wherever a model on the front gets too expensive."""
    points = sorted(_point(mark) for mark in marks)
    if len(points) > 1:
        axes.plot(*zip(*points, strict=True), **FRONT_LINE, drawstyle="steps-post", zorder=4)
    for mark in marks:
        if mark.is_knee:
            cost, percent = _point(mark)
            axes.plot([cost], [percent], **KNEE, zorder=7)


def _steps(marks: Sequence[Mark]) -> list[tuple[float, float]]:
    """Points close together on the line of the front."""
    along = []
    for (cost, percent), (next_cost, next_percent) in pairwise(sorted(_point(mark) for mark in marks)):
        along += [(float(x), percent) for x in np.geomspace(cost, next_cost, STEP_POINTS)]
        along += [(next_cost, float(y)) for y in np.linspace(percent, next_percent, STEP_POINTS)]
    return along


def _point(mark: Mark) -> tuple[float, float]:
    return mark.cost, 100 * mark.model.accuracy


def _is_prominent(mark: Mark) -> bool:
    """Whether a run hands it on or somebody tagged it; a control never is."""
    model = mark.model
    return model.kind != "control" and (mark.on_front or bool(model.aliases or model.tags))


def _named(comparison: Comparison) -> list[Mark]:
    """Models with a label, the most important first: tagged, then the knee, then the front from its cheap end."""
    named = [mark for mark in reversed(comparison.marks) if mark.on_front or mark.model.tags]
    return sorted(named, key=lambda mark: (not mark.model.tags, not mark.is_knee))


def _marker(kind: Kind) -> dict[str, Any]:
    colour, marker, _ = STYLES[kind]
    return {
        "linestyle": "",
        "marker": marker,
        "markersize": SIZES.get(marker, SIZE),
        "markerfacecolor": ink("paper" if kind == "control" else colour),
        "markeredgecolor": ink(colour if kind == "control" else "paper"),
        "markeredgewidth": 1.2 if kind == "control" else 0.8,
    }


def _legend(comparison: Comparison) -> list[Line2D]:
    kinds = {mark.model.kind for mark in drawn_marks(comparison)}
    handles = [Line2D([], [], **_marker(kind), label=STYLES[kind][2]) for kind in STYLES if kind in kinds]
    if len(comparison.front) > 1:
        handles.append(Line2D([], [], **FRONT_LINE, label="Pareto front"))
    if any(mark.is_knee for mark in comparison.marks):
        handles.append(Line2D([], [], **{**KNEE, "markersize": 12}, label="knee"))
    return handles
