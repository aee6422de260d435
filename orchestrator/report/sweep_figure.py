"""The pictures of a pruner sweep: accuracy over cost per pruner, and over sparsity per layer.

They share colours and typography with those of a search (`figure.py`). Shape and colour both tell pruners apart; a
pruner's iterative variant has its colour, with hollow markers. Bands are ± one sample standard deviation over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from orchestrator.report import UNKNOWN, Row, State, words
from orchestrator.report.figure import LEAST_SPAN, PATH, add_legend, ink, new_figure, scale_axes, style_axes
from orchestrator.report.labels import place_labels
from orchestrator.sweep.table import (
    Column,
    Summary,
    by_sensitivity,
    columns,
    drop_points,
    finished_accuracy,
    mean_front,
    summarise,
    written_drop,
)

PRUNER_STYLES = {
    "l1": ("axis-s", "o"),
    "l2": ("axis-t", "^"),
    "fpgm": ("axis-f", "v"),
    "agp": ("axis-c", "s"),
    "random": ("axis-l", "D"),
}
"""Colour of `THEME` and marker."""
CONTROL_MARKERS = {"scratch": "o", "random": "D"}
LAYER_STYLES = (("axis-c", "s"), ("axis-s", "o"), ("axis-f", "v"), ("axis-t", "^"), ("axis-l", "D"))
"""Colours and markers of the layers that are told apart, the most sensitive first."""

HEAT = (
    ("#fff6e0", "#211e19"),
    ("#fee2a8", "#3f2d14"),
    ("#fdbd69", "#6a4212"),
    ("#f58a3c", "#935211"),
    ("#c2470f", "#e08a2e"),
    ("#8a2c04", "#ffc76b"),
)
"""Colours from no drop to a large one: light, dark. One hue that only grows stronger, for the colour-blind too."""
HEAT_BOUNDS = (0.25, 0.5, 1.0, 2.5, 5.0)
"""Where one colour ends and the next begins, in multiples of the largest drop that is accepted."""
HEAT_INVERTED = 4
"""The colour from which on text in it is as light as the page, or as dark."""


def sweep_figure(state: State, *, narrow: bool = False) -> Figure:
    """Accuracy over GMACs: one curve per pruner, controls dashed in grey, and the Pareto front stepped.

    Args:
        state: a pruner sweep.
        narrow: drawn for a column of 400 pixels instead of 900.
    """
    summaries, teacher = summarise(state["cells"]), state["teacher"]
    drawn = [row for row in summaries if row.mean is not None and row.gmacs is not None]
    figure = new_figure(narrow, height=5.4)
    axes = figure.add_subplot()
    style_axes(axes)
    axes.set_xlabel(f"GMACs per {words(state).item} (log scale, cheaper to the right)")
    axes.set_ylabel(f"{words(state).metric} (%)")
    start = _teacher_point(teacher)
    for column in columns(drawn):
        _draw_column(axes, column, [row for row in drawn if row.column == column], start)
    front = mean_front(drawn, teacher)
    _draw_front(axes, [*_unbeaten(start, front), *map(_point, front)])
    axes.plot(*_coordinates(start), color=ink("ink"), linestyle="", marker="*", markersize=17, zorder=7)
    if start or drawn:
        scale_axes(axes)
        if narrow:
            axes.margins(x=0.17)  # the label of the last marker needs more of a narrow picture
        axes.xaxis.set_major_locator(LogLocator(subs=cost_ticks(*axes.get_xlim(), narrow)))
    else:
        _say_nothing(axes, "nothing is measured yet")
    add_legend(figure, _sweep_legend(columns(drawn), front, start), columns=3 if narrow else 9)
    labels = [(f"{row.column.label} {row.sparsity:g}", _point(row)) for row in reversed(front)]
    place_labels(axes, labels, start)
    return figure


def sensitivity_figure(state: State, *, narrow: bool = False) -> Figure:
    """Accuracy over the sparsity of one layer at a time: the most sensitive in colour, the others in grey.

    Args:
        state: a sensitivity analysis.
        narrow: drawn for a column of 400 pixels instead of 900.
    """
    figure = new_figure(narrow, height=5.0)
    axes = figure.add_subplot()
    _draw_sensitivity(axes, state)
    add_legend(figure, _sensitivity_legend(state), columns=1 if narrow else 4)
    return figure


def sensitivity_picture(state: State) -> Figure:
    """The same with the heat map of layers and sparsities below; for a file of its own, not for a page."""
    layers = state["layers"]
    below = 0.9 + 0.24 * max(1, len(layers))
    figure = new_figure(narrow=False, height=5.0 + below)
    curves, heat = figure.subplots(2, 1, height_ratios=(4.0, below))
    _draw_sensitivity(curves, state)
    _draw_heat(heat, state)
    add_legend(figure, _sensitivity_legend(state), columns=4)
    return figure


def heat_bounds(max_drop: float) -> list[float]:
    """Largest drop in points of every colour but the last."""
    return [bound * (max_drop or 1.0) for bound in HEAT_BOUNDS]


def heat_step(drop: float, max_drop: float) -> int:
    """Index of a drop's colour in `HEAT`."""
    return sum(round(drop, 6) > bound for bound in heat_bounds(max_drop))


class _Point(NamedTuple):
    gmacs: float
    percent: float


def _point(row: Summary) -> _Point:
    assert row.gmacs is not None
    assert row.mean is not None
    return _Point(row.gmacs, 100 * row.mean)


def _teacher_point(teacher: Row) -> list[_Point]:
    value = finished_accuracy(teacher)
    return [] if value is None else [_Point(teacher["gmacs"], 100 * value)]


def cost_ticks(high: float, low: float, narrow: bool) -> tuple[float, ...]:
    """Multiples of powers of ten that are written at an axis: several, but not so many that they collide."""
    decades = math.log10(high / low)
    if decades < 0.8:
        return (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    return (1.0, 3.0) if narrow and decades > 1.2 else (1.0, 2.0, 5.0)


def _unbeaten(start: Sequence[_Point], front: Sequence[Summary]) -> list[_Point]:
    """The unpruned network, unless one on the front is as accurate at no more cost."""
    points = [_point(row) for row in front]
    return [own for own in start if not any(p.gmacs <= own.gmacs and p.percent >= own.percent for p in points)]


def _coordinates(points: Sequence[_Point]) -> tuple[list[float], list[float]]:
    return [point.gmacs for point in points], [point.percent for point in points]


def _line_style(column: Column) -> dict[str, Any]:
    if column.control is not None:
        return {
            "color": ink("muted"),
            "linestyle": (0, (4, 3)),
            "linewidth": 1.4,
            "marker": CONTROL_MARKERS.get(column.control, "x"),
            "markersize": 5.5,
            "markerfacecolor": ink("paper"),
        }
    base = column.pruner.removesuffix("-iterative")
    colour, marker = PRUNER_STYLES.get(base, ("ink", "X"))
    hollow = base != column.pruner
    return {
        "color": ink(colour),
        "linestyle": ":" if hollow else "-",
        "linewidth": 1.8,
        "marker": marker,
        "markersize": 7,
        "markerfacecolor": ink("paper" if hollow else colour),
    }


def _draw_column(axes: Axes, column: Column, rows: Sequence[Summary], start: Sequence[_Point]) -> None:
    """A curve with its band; a pruner's starts at the unpruned network, which random weights know nothing of."""
    style, points = _line_style(column), [_point(row) for row in rows]
    zorder = 3 if column.control else 4
    axes.plot(*_coordinates([*start, *points] if column.control is None else points), **style, zorder=zorder)
    axes.lines[-1].set_markevery(slice(len(start) if column.control is None else 0, None))
    deviations = np.array([100 * (row.deviation or 0.0) for row in rows])
    if deviations.any():
        x, y = map(np.asarray, _coordinates(points))
        axes.fill_between(x, y - deviations, y + deviations, color=style["color"], alpha=0.13, linewidth=0, zorder=2)


def _draw_front(axes: Axes, points: Sequence[_Point]) -> None:
    """The best accuracy for every cost: a step down wherever a network on the front gets too expensive."""
    if len(points) < 2:
        return
    x, y = _coordinates(sorted(points))
    axes.plot(x, y, **_front_line(), drawstyle="steps-post", zorder=3.5)
    axes.plot(x, y, **{**_front_ring(), "linestyle": ""}, zorder=6)


def _front_line() -> dict[str, Any]:
    return {**PATH, "linewidth": 1.1}


def _front_ring() -> dict[str, Any]:
    return {
        "color": ink("ink"),
        "marker": "o",
        "markersize": 12,
        "markerfacecolor": "none",
        "markeredgewidth": 1.3,
    }


def _sweep_legend(drawn: Sequence[Column], front: Sequence[Summary], start: Sequence[_Point]) -> list[Line2D]:
    handles = []
    if start:
        handles.append(Line2D([], [], linestyle="", marker="*", markersize=12, color=ink("ink"), label="unpruned"))
    handles += [
        Line2D([], [], **_line_style(column), label=f"control: {column.label}" if column.control else column.label)
        for column in drawn
    ]
    if front:
        handles.append(Line2D([], [], **{**_front_line(), **_front_ring(), "markersize": 10}, label="Pareto front"))
    return handles


def _draw_sensitivity(axes: Axes, state: State) -> None:
    style_axes(axes)
    axes.set_xlabel("sparsity of the layer")
    axes.set_ylabel(f"{words(state).metric} (%)")
    reference, ranked = finished_accuracy(state["teacher"]), by_sensitivity(state)
    if reference is None or not ranked:
        _say_nothing(axes, "no layer is measured yet")
        return
    for position, layer in reversed(list(enumerate(ranked))):
        known = [(row["sparsity"], value) for row in layer["points"] if (value := finished_accuracy(row)) is not None]
        curve = [(0.0, reference), *known]
        axes.plot(
            [sparsity for sparsity, _ in curve],
            [100 * value for _, value in curve],
            **_layer_style(position),
            zorder=3 if position < len(LAYER_STYLES) else 2,
        )
    axes.axhline(100 * reference - state["max_drop"], **_limit_style(), zorder=2.5)
    low, high = axes.get_ylim()
    bottom = max(0.0, min(low, high - LEAST_SPAN))
    axes.set_ylim(bottom, max(high, bottom + LEAST_SPAN))


def _layer_style(position: int) -> dict[str, Any]:
    if position >= len(LAYER_STYLES):
        return {"color": ink("muted"), "linewidth": 1, "alpha": 0.45}
    colour, marker = LAYER_STYLES[position]
    return {"color": ink(colour), "marker": marker, "markersize": 6.5, "linewidth": 1.8}


def _limit_style() -> dict[str, Any]:
    return {"color": ink("ink"), "linewidth": 1, "linestyle": (0, (4, 3))}


def _sensitivity_legend(state: State) -> list[Line2D]:
    ranked = by_sensitivity(state)
    handles = [
        Line2D([], [], **_layer_style(position), label=layer["layer"])
        for position, layer in enumerate(ranked[: len(LAYER_STYLES)])
    ]
    if others := len(ranked) - len(handles):
        handles.append(Line2D([], [], **_layer_style(len(LAYER_STYLES)), label=f"{others} other layers"))
    if ranked:
        handles.append(Line2D([], [], **_limit_style(), label=f"{state['max_drop']:g} points lost"))
    return handles


def _draw_heat(axes: Axes, state: State) -> None:
    """Layer × sparsity, the drop in points written in every cell; white where nothing is known."""
    style_axes(axes)
    layers, max_drop = state["layers"], state["max_drop"]
    across = sorted({row["sparsity"] for layer in layers for row in layer["points"]})
    if not across:
        _say_nothing(axes, "no layer is measured yet")
        return
    drops = np.full((len(layers), len(across)), np.nan)
    for line, layer in enumerate(layers):
        for row in layer["points"]:
            drop = drop_points(row, state)
            drops[line, across.index(row["sparsity"])] = np.nan if drop is None else drop
    bounds = [-1e3, *heat_bounds(max_drop), 1e3]
    colours = ListedColormap([light for light, _ in HEAT])
    axes.pcolormesh(drops, cmap=colours, norm=BoundaryNorm(bounds, len(HEAT)), edgecolors=ink("paper"), linewidth=1.5)
    for (line, column), drop in np.ndenumerate(drops):
        known = not np.isnan(drop)
        light = known and heat_step(drop, max_drop) >= HEAT_INVERTED
        axes.text(
            column + 0.5, line + 0.5, written_drop(drop) if known else UNKNOWN,
            ha="center", va="center", fontsize=9.5, color=ink("paper" if light else "ink"),
        )  # fmt: skip
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_xticks([number + 0.5 for number in range(len(across))], [f"{value:g}" for value in across])
    axes.set_yticks([number + 0.5 for number in range(len(layers))], [layer["layer"] for layer in layers])
    axes.set_xlabel("sparsity of the layer; in the cells: points lost")


def _say_nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", transform=axes.transAxes, color=ink("muted"))
    axes.set(xticks=[], yticks=[])
