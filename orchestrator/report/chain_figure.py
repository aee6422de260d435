"""The picture of a chain of steps: accuracy over latency, from the teacher to the network at the end.

It shares colours and typography with that of a search (`figure.py`). Shape and colour both tell the kinds of steps
apart; a network that the gate rejects is hollow.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox, BboxBase
from numpy.typing import NDArray

from orchestrator.chain.table import reached
from orchestrator.quantise.table import times
from orchestrator.report import Row, State, words
from orchestrator.report.figure import PATH, add_legend, ink, new_figure, style_axes
from orchestrator.report.quantise_figure import scale_latency
from orchestrator.sweep.table import finished_accuracy

STYLES = {
    "pas": ("axis-s", "o", "shrunk"),
    "prune": ("axis-f", "D", "pruned"),
    "quantise": ("axis-c", "s", "quantised"),
}
"""Colour of `THEME`, marker, and what is done."""
PLACES = (
    (7, 9, "left", "bottom"),
    (7, -9, "left", "top"),
    (-7, -9, "right", "top"),
    (-7, 9, "right", "bottom"),
    (0, 14, "center", "bottom"),
    (0, -14, "center", "top"),
    (-14, 0, "right", "center"),
    (0, 48, "center", "bottom"),
    (0, -48, "center", "top"),
)
"""Where a label may stand beside its marker: points to the right and upwards, and how it is aligned; best first."""
SPARE = 1.15
"""A page's font may be wider than the one that labels are measured with, by so much."""


def is_drawable(state: State) -> bool:
    """Whether there is a network whose accuracy and latency are known."""
    return bool(_path(state))


def chain_figure(state: State, *, narrow: bool = False) -> Figure:
    """Accuracy over latency along the chain; faster to the right.

    Args:
        state: a chain.
        narrow: drawn for a column of 400 pixels instead of 900.
    """
    figure = new_figure(narrow, height=4.6)
    axes = figure.add_subplot()
    style_axes(axes)
    axes.set_xlabel(f"ms per {words(state).item} (log scale, faster to the right)")
    axes.set_ylabel(f"{words(state).metric} (%)")
    path = _path(state)
    if not path:
        axes.text(0.5, 0.5, "no latency is measured yet", ha="center", transform=axes.transAxes, color=ink("muted"))
        axes.set(xticks=[], yticks=[])
        return figure
    places = [_place(row) for row in path]
    axes.plot([x for x, _ in places], [y for _, y in places], **{**PATH, "linewidth": 1.4}, zorder=3)
    for row in path:
        _draw(axes, row, state)
    scale_latency(axes, narrow)
    _add_labels(axes, path, state)
    add_legend(figure, _legend(path, state), columns=3 if narrow else 5)
    return figure


def _path(state: State) -> list[Row]:
    """The networks along the chain that are measured."""
    done = [state["teacher"], *reached(state)]
    return [row for row in done if finished_accuracy(row) is not None and row["latency_ms"] is not None]


def _place(row: Row) -> tuple[float, float]:
    value = finished_accuracy(row)
    assert value is not None
    return row["latency_ms"], 100 * value


def _draw(axes: Axes, row: Row, state: State) -> None:
    x, y = _place(row)
    if row is state["teacher"]:
        axes.plot([x], [y], color=ink("ink"), linestyle="", marker="*", markersize=17, zorder=5)
        return
    axes.plot([x], [y], **_marker(row["step"], hollow=row["accepted"] is False), markersize=10, zorder=5)


def _marker(kind: str, *, hollow: bool) -> dict[str, Any]:
    colour, marker, _ = STYLES[kind]
    face = ink("paper" if hollow else colour)
    return {
        "linestyle": "",
        "marker": marker,
        "markerfacecolor": face,
        "markeredgecolor": ink(colour),
        "markeredgewidth": 1.8,
    }


def _add_labels(axes: Axes, path: list[Row], state: State) -> None:
    """Title and gain of every network, at the first place beside its marker where it hides nothing."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # places in pixels are only known after the layout
    line = _line_pixels(axes, path)
    boxes: list[Bbox] = []
    for row in path:
        own = row is state["teacher"]
        faster = "" if own else f"\n{times(state['teacher']['latency_ms'], row['latency_ms'])} faster"
        label = axes.annotate(
            f"{'Teacher' if own else row['title']}{faster}",
            _place(row),
            xytext=PLACES[0][:2],
            textcoords="offset points",
            fontsize=10.5,
            color=ink("ink"),
            linespacing=1.25,
            zorder=7,
        )
        label.set_in_layout(False)
        boxes.append(_settle(label, line, boxes, figure.bbox))


def _settle(label: Annotation, line: NDArray[np.float64], others: list[Bbox], frame: BboxBase) -> Bbox:
    """Move a label to the best of `PLACES` that is free, else to the last; returns where it is, in pixels."""
    for right, up, across, along in PLACES:
        label.set(position=(right, up), horizontalalignment=across, verticalalignment=along)
        box = label.get_window_extent().expanded(SPARE, 1)
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
        hides = ((line > (box.x0, box.y0)) & (line < (box.x1, box.y1))).all(axis=1).any()
        if inside and not hides and not any(box.overlaps(other) for other in others):
            break
    return box


def _line_pixels(axes: Axes, path: list[Row]) -> NDArray[np.float64]:
    """Points close together on the line from network to network, in pixels."""
    corners = axes.transData.transform([_place(row) for row in path])
    return np.concatenate([np.linspace(one, other, 80) for one, other in pairwise(corners)] or [corners])


def _legend(path: list[Row], state: State) -> list[Line2D]:
    handles = [Line2D([], [], linestyle="", marker="*", markersize=12, color=ink("ink"), label="teacher")]
    steps = [row for row in path if row is not state["teacher"]]
    for kind in dict.fromkeys(row["step"] for row in steps):
        handles.append(Line2D([], [], **_marker(kind, hollow=False), markersize=8, label=STYLES[kind][2]))
    if any(row["accepted"] is False for row in steps):
        handles.append(Line2D([], [], **_marker("quantise", hollow=True), markersize=8, label="rejected"))
    return handles
