"""The picture of a sweep of quantised networks: accuracy over latency, and what the gate lets through.

It shares colours and typography with that of a search (`figure.py`). Shape and colour both tell the methods apart;
what the gate rejects is hollow.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from matplotlib.transforms import ScaledTranslation

from orchestrator.quantise.table import LABELS, best_of, times
from orchestrator.report import Row, State, words
from orchestrator.report.figure import add_legend, ink, new_figure, scale_axes, style_axes
from orchestrator.sweep.table import finished_accuracy

STYLES = {"ptq": ("axis-s", "o"), "qat": ("axis-c", "s")}
"""Colour of `THEME` and marker."""
APART = 7.0
"""Points (1/72 inch) between the markers of two methods that take equally long, as they often do."""
GATE: dict[str, Any] = {"color": ink("muted"), "linewidth": 1, "linestyle": (0, (4, 3))}


def is_drawable(state: State) -> bool:
    """Whether there is a network whose accuracy and latency are known."""
    return bool(_measured([state["teacher"], *state["candidates"]]))


def quantise_figure(state: State, *, narrow: bool = False) -> Figure:
    """Accuracy over latency of the FP32 network and every candidate; faster to the right.

    Args:
        state: a sweep of quantised networks.
        narrow: drawn for a column of 400 pixels instead of 900.
    """
    figure = new_figure(narrow, height=4.6)
    axes = figure.add_subplot()
    style_axes(axes)
    axes.set_xlabel(f"ms per {words(state).item} (log scale, faster to the right)")
    axes.set_ylabel(f"{words(state).metric} (%)")
    if not is_drawable(state):
        axes.text(0.5, 0.5, "no latency is measured yet", ha="center", transform=axes.transAxes, color=ink("muted"))
        axes.set(xticks=[], yticks=[])
        return figure
    rows = _measured(state["candidates"])
    methods = [method for method in LABELS if any(row["method"] == method for row in rows)]
    for row in rows:
        _draw(axes, row, (methods.index(row["method"]) - (len(methods) - 1) / 2) * APART)
    for teacher in _measured([state["teacher"]]):
        _draw_gate(axes, teacher, state["max_drop_points"])
        _draw_teacher(axes, teacher)
    scale_latency(axes, narrow)
    _label_best(axes, state)
    add_legend(figure, _legend(rows, methods), columns=2 if narrow else 6)
    return figure


def scale_latency(axes: Axes, narrow: bool) -> None:
    """Latency on a logarithmic axis that falls to the right, with room for labels and ticks that do not collide."""
    scale_axes(axes)
    axes.margins(x=0.3 if narrow else 0.2)
    high, low = axes.get_xlim()
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 8 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if narrow and high / low > 15 else subs))


def _measured(rows: list[Row]) -> list[Row]:
    return [row for row in rows if finished_accuracy(row) is not None and row["latency_ms"] is not None]


def _place(row: Row) -> tuple[float, float]:
    value = finished_accuracy(row)
    assert value is not None
    return row["latency_ms"], 100 * value


def _draw(axes: Axes, row: Row, aside: float) -> None:
    """One candidate, so many points aside of its place."""
    colour, marker = STYLES.get(row["method"], ("ink", "X"))
    figure = axes.get_figure(root=True)
    assert figure is not None
    x, y = _place(row)
    (drawn,) = axes.plot([x], [y])
    drawn.set(
        linestyle="",
        marker=marker,
        markersize=11 if row["best"] else 8,
        markerfacecolor=ink("paper" if row["accepted"] is False else colour),
        markeredgecolor=ink("ink" if row["best"] else colour),
        markeredgewidth=1.8,
        zorder=5 if row["best"] else 4,
        transform=axes.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans),
    )


def _draw_gate(axes: Axes, teacher: Row, max_drop_points: float) -> None:
    """Where the FP32 network is no longer beaten: a network passes above the one line and right of the other."""
    latency, accuracy = _place(teacher)
    axes.axhline(accuracy - max_drop_points, **GATE, zorder=2)
    axes.axvline(latency, **GATE, zorder=2)


def _draw_teacher(axes: Axes, teacher: Row) -> None:
    x, y = _place(teacher)
    axes.plot([x], [y], color=ink("ink"), linestyle="", marker="*", markersize=17, zorder=6)
    axes.annotate("FP32", (x, y), xytext=(10, 7), textcoords="offset points", fontsize=10.5, color=ink("ink"))


def _label_best(axes: Axes, state: State) -> None:
    row = best_of(state)
    if row is None or not _measured([row]):
        return
    faster = times(state["teacher"]["latency_ms"], row["latency_ms"])
    axes.annotate(
        f"{LABELS.get(row['method'], row['method'])}\n{faster} faster",
        _place(row),
        xytext=(14, 0),
        textcoords="offset points",
        va="center",
        fontsize=10.5,
        color=ink("ink"),
        linespacing=1.25,
        zorder=7,
    )


def _legend(rows: list[Row], methods: list[str]) -> list[Line2D]:
    handles = [_handle("FP32", "*", "ink", size=12)]
    for method in methods:
        colour, marker = STYLES.get(method, ("ink", "X"))
        handles.append(_handle(f"INT8 by {LABELS[method]}", marker, colour))
    if any(row["accepted"] is False for row in rows):
        handles.append(_handle("rejected", "o", "paper", "muted"))
    if any(row["best"] for row in rows):
        handles.append(_handle("chosen", "s", "muted", "ink", size=10))
    return [*handles, Line2D([], [], **GATE, label="gate")]


def _handle(label: str, marker: str, face: str, edge: str | None = None, size: float = 8) -> Line2D:
    """A marker in the legend; `face` and `edge` are colours of `THEME`."""
    handle = Line2D([], [], linestyle="", marker=marker, markersize=size, label=label)
    handle.set(markerfacecolor=ink(face), markeredgecolor=ink(edge or face), markeredgewidth=1.8 if edge else 1.0)
    return handle
