"""The picture of a model among its family: accuracy over multiply-adds, from the base network to what was made of it.

It shares colours and typography with those of a search (`orchestrator/report/figure.py`). Shape and colour both tell
how a model was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from orchestrator.handoff.manifest import Handoff
from orchestrator.handoff.markdown import plain
from orchestrator.registry.model import StoredModel
from orchestrator.report import METRICS, WORDS, percent
from orchestrator.report.chain_figure import PLACES
from orchestrator.report.figure import LEAST_SPAN, add_legend, ink, new_figure, scale_axes, style_axes


class Style(NamedTuple):
    """How one kind of models is drawn."""

    colour: str
    """Of `THEME`."""
    marker: str
    label: str
    """In the legend."""


STYLES = {
    "base": Style("ink", "*", "base network"),
    "trained": Style("muted", "p", "trained"),
    "imported": Style("muted", "p", "given from outside"),
    "transferred": Style("axis-t", "^", "fine-tuned"),
    "control": Style("muted", "X", "control"),
    "pas": Style("axis-s", "o", "shrunk"),
    "pruned": Style("axis-f", "D", "pruned"),
    "quantised": Style("axis-c", "s", "quantised"),
    "export": Style("axis-l", "P", "exported file"),
}
"""By kind, in the order of the legend."""
APART = {"imported": -13.0, "quantised": 13.0, "export": 26.0}
"""Points (1/72 inch) to the right of its place, by kind: what is made of a network costs as many multiply-adds."""
MARKER = 9
"""Size of the marker of a model that is handed on, in points."""
CLEAR = 1.6
"""How much further than `PLACES` says a label stands from the middle of the ring."""
LABEL_LENGTH = 36
"""Characters of a name at most; the rest becomes an ellipsis."""


class Point(NamedTuple):
    """A model in the picture."""

    kind: str
    """Key of `STYLES`."""
    gmacs: float
    accuracy: float
    """In percent."""
    strong: bool = True
    """Whether a run hands it on; the others are small."""


def base_of_family(handoff: Handoff, family: Sequence[StoredModel]) -> StoredModel | None:
    """The network that the family's drops are measured from; none: it is the model itself, or not in the store."""
    ancestors = {ancestor.digest for ancestor in handoff.lineage}
    bases = [model for model in family if model.digest in ancestors and model.drop_points is None]
    return next((model for model in bases if model.digest != handoff.digest), None)


def kind_of(handoff: Handoff, family: Sequence[StoredModel]) -> str | None:
    """How the model was made; none: the family lacks it."""
    return next((model.kind for model in family if model.digest == handoff.digest), None)


def family_figure(handoff: Handoff, family: Sequence[StoredModel]) -> Figure:
    """Accuracy over GMACs of a family, with one model ringed and named; cheaper to the right.

    Args:
        handoff: the model.
        family: models of the same base network on the same data.
    """
    figure = new_figure(narrow=False, height=4.9)
    axes = figure.add_subplot()
    style_axes(axes)
    axes.set_xlabel(f"GMACs per {WORDS[handoff.accuracy.metric].item} (log scale, cheaper to the right)")
    axes.set_ylabel(f"{METRICS[handoff.accuracy.metric]} (%)")
    points = family_points(handoff, family)
    shown = in_view(points)
    for point in sorted(shown, key=lambda point: point.strong):
        _plot(axes, point, **_style(point))
    if (itself := own_point(handoff, family)) is not None:
        _plot(axes, itself, **RING)
    if shown:
        scale_axes(axes)
    if itself is not None:
        _name(axes, itself, shown, handoff.name)
    if below := len(points) - len(shown):
        _say_below(axes, below)
    add_legend(figure, _legend(shown), columns=8)
    return figure


RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 21,
    "markerfacecolor": "none",
    "markeredgecolor": ink("ink"),
    "markeredgewidth": 2,
    "zorder": 6,
}
"""Around the model that the picture is about."""


def own_point(handoff: Handoff, family: Sequence[StoredModel]) -> Point | None:
    """The model itself; none where its accuracy is not known."""
    measured = handoff.accuracy
    value = measured.map if measured.metric == "map" else measured.top1
    if value is None:
        return None
    kind = kind_of(handoff, family) or ("quantised" if handoff.precision == "int8" else "trained")
    base = base_of_family(handoff, family)
    return Point("base" if base is None and not handoff.lineage else kind, handoff.cost.gmacs, 100 * value)


def family_points(handoff: Handoff, family: Sequence[StoredModel]) -> list[Point]:
    """Everything that is drawn: the family, the model itself once, and the files that it was exported to."""
    base, itself = base_of_family(handoff, family), own_point(handoff, family)
    points = [
        Point("base" if model is base else model.kind, model.gmacs, 100 * model.accuracy, bool(model.aliases))
        for model in family
        if model.digest != handoff.digest and model.metric == handoff.accuracy.metric
    ]
    exports = [
        Point("export", handoff.cost.gmacs, 100 * exported.accuracy)
        for exported in handoff.exports
        if exported.accuracy is not None
    ]
    return [*points, *exports, *([itself] if itself else [])]


def in_view(points: Sequence[Point]) -> list[Point]:
    """Those that are drawn: not what fell so far below all that is handed on that these would lie on one line."""
    handed = [point.accuracy for point in points if point.strong]
    if not handed:
        return list(points)
    least = min(handed) - max(LEAST_SPAN, max(handed) - min(handed))
    return [point for point in points if point.accuracy >= least]


def _plot(axes: Axes, point: Point, **style: Any) -> None:
    """A marker at the place of a point, or beside it as `APART` says."""
    (drawn,) = axes.plot([point.gmacs], [point.accuracy])
    drawn.set(linestyle="", **style, transform=axes.transData + _aside(axes, point))


def _aside(axes: Axes, point: Point) -> ScaledTranslation:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return ScaledTranslation(APART.get(point.kind, 0) / 72, 0, figure.dpi_scale_trans)


def _style(point: Point) -> dict[str, Any]:
    colour, marker, _ = STYLES[point.kind]
    return {
        "marker": marker,
        "markersize": 16 if point.kind == "base" else MARKER if point.strong else 5,
        "color": ink(colour),
        "markeredgecolor": ink("paper"),
        "markeredgewidth": 0.8,
        "zorder": 4 if point.strong else 3,
    }


def _say_below(axes: Axes, count: int) -> None:
    said = "1 more model lies below" if count == 1 else f"{count} more models lie below"
    axes.text(0.01, 0.02, said, transform=axes.transAxes, fontsize=10, color=ink("muted"))


def _name(axes: Axes, itself: Point, points: Sequence[Point], name: str) -> None:
    """Name and accuracy beside the ring, at the first place where they hide no other model."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    shown = plain(name)
    shown = shown if len(shown) <= LABEL_LENGTH else f"{shown[: LABEL_LENGTH - 1]}…"
    label = axes.annotate(
        f"{shown}\n{percent(itself.accuracy / 100)}",
        (itself.gmacs, itself.accuracy),
        xytext=PLACES[0][:2],
        textcoords="offset points",
        fontsize=10.5,
        color=ink("ink"),
        linespacing=1.25,
        zorder=7,
        parse_math=False,  # a name may have dollar signs
    )
    label.set_in_layout(False)
    figure.draw_without_rendering()  # places in pixels are only known after the layout
    marks = np.array([(axes.transData + _aside(axes, point)).transform(point[1:3]) for point in points])
    frame = axes.get_window_extent()
    for right, up, across, along in PLACES:
        place = (CLEAR * right + APART.get(itself.kind, 0), CLEAR * up)
        label.set(position=place, horizontalalignment=across, verticalalignment=along)
        box = label.get_window_extent()
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        around = box.padded(figure.dpi * MARKER / 2 / 72)
        hides = np.all((marks > around.min) & (marks < around.max), axis=1).any()
        if inside and not hides:
            return


def _legend(points: Sequence[Point]) -> list[Line2D]:
    drawn = {point.kind for point in points}
    return [
        Line2D([], [], linestyle="", marker=marker, markersize=8, color=ink(colour), label=label)
        for kind, (colour, marker, label) in STYLES.items()
        if kind in drawn
    ]
