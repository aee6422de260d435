"""The picture of a transfer: accuracy on the other videos over cost, and beside it the accuracy of before.

It shares colours and typography with that of a search (`figure.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.report import State
from orchestrator.report.figure import CONTROL, PATH, add_legend, ink, new_figure, scale_axes, style_axes
from orchestrator.transfer.table import data_title, sources_title, summarise

BEFORE: dict[str, Any] = {**CONTROL, "markersize": 7}
AFTER: dict[str, Any] = {**PATH, "marker": "o", "markersize": 8}
BAR: dict[str, Any] = {"color": ink("ink"), "capsize": 3, "linewidth": 1.4, "zorder": 3}


def is_drawable(state: State) -> bool:
    """Whether any network was fine-tuned."""
    return bool(_reached(state))


def transfer_figure(state: State, *, narrow: bool = False) -> Figure:
    """Top-1 over GMACs on a logarithmic axis, cheaper to the right; bars are one sample standard deviation.

    Args:
        state: a transfer.
        narrow: drawn for a column of 400 pixels instead of 900.
    """
    figure = new_figure(narrow, height=4.6)
    axes = figure.add_subplot()
    style_axes(axes)
    axes.set_xlabel("GMACs per clip (log scale, cheaper to the right)")
    axes.set_ylabel("top-1 (%)")
    rows = _reached(state)
    if not rows:
        axes.text(0.5, 0.5, "nothing is fine-tuned yet", ha="center", transform=axes.transAxes, color=ink("muted"))
        axes.set(xticks=[], yticks=[])
        return figure
    before = [(point.cost, point.before) for point in rows if point.before is not None]
    axes.plot([cost for cost, _ in before], [100 * value for _, value in before], **BEFORE, zorder=2)
    for point in rows:
        spread = None if point.deviation is None else 100 * point.deviation
        axes.errorbar([point.cost], [100 * point.mean], yerr=spread, **BAR)
    axes.plot([point.cost for point in rows], [100 * point.mean for point in rows], **AFTER, zorder=4)
    for point in rows:
        _label(axes, point, left=point is not rows[0])
    scale_axes(axes)
    add_legend(figure, _legend(state, bool(before)), columns=2 if narrow else 4)
    return figure


class _Point(NamedTuple):
    name: str
    cost: float
    mean: float
    deviation: float | None
    before: float | None


def _reached(state: State) -> list[_Point]:
    """Networks with what they reached and what they had reached before, the most costly first."""
    points = [
        _Point(row.name, row.gmacs, row.mean, row.deviation, row.before)
        for row in summarise(state)
        if row.mean is not None and row.gmacs is not None
    ]
    return sorted(points, key=lambda point: -point.cost)


def _label(axes: Axes, point: _Point, *, left: bool) -> None:
    """Its name below the marker: to the left, where the line comes from and seldom falls; of the first to the right."""
    label = axes.annotate(
        point.name,
        (point.cost, 100 * point.mean),
        xytext=(-8 if left else 8, -9),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        fontsize=10.5,
        color=ink("ink"),
        zorder=5,
    )
    label.set_in_layout(False)


def _legend(state: State, before: bool) -> list[Line2D]:
    title = sources_title(summarise(state))
    handles = [Line2D([], [], **AFTER, label=f"{data_title(state)}, fine-tuned")]
    if before:
        handles.append(Line2D([], [], **BEFORE, label="before" if title == "before" else f"{title}, before"))
    return handles
