"""The pictures of a search: accuracy over cost, as in Fig. 6.3 and 6.4 of [1], and the training curves.

Everything is drawn in the colours of `THEME`. In an SVG they become CSS variables, so that one picture follows the
page from light to dark; a PNG has the light ones. Shape and colour both tell the axes apart (palette of Okabe and
Ito, safe for the colour-blind).

Sources:
    [1] Deep video understanding … (PhD thesis), chapter 6.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from compression.reduction import AXES
from orchestrator.report import Row, State, accuracy, metric_of, share, words

Curves = dict[str, list[dict[str, Any]]]
"""One row per epoch, by trial digest."""

THEME = {
    "paper": ("#ffffff", "#15181c"),
    "ink": ("#1b1f24", "#e9ecef"),
    "muted": ("#656d76", "#9da5ae"),
    "rule": ("#dce0e5", "#32383f"),
    "axis-s": ("#0072b2", "#56b4e9"),
    "axis-t": ("#e69f00", "#f2b632"),
    "axis-f": ("#009e73", "#2fc79a"),
    "axis-c": ("#d55e00", "#ff8347"),
    "axis-l": ("#cc79a7", "#e59ac3"),
}
"""Colours by name: light, dark. The light ones are distinct, as each stands for its name in an SVG."""

MARKERS = {"s": "o", "t": "^", "f": "v", "c": "s", "l": "D"}
PATH: dict[str, Any] = {"color": THEME["ink"][0], "linewidth": 2}
CONTROL: dict[str, Any] = {
    "color": THEME["muted"][0],
    "linestyle": (0, (4, 3)),
    "marker": "o",
    "markerfacecolor": THEME["paper"][0],
}
LEAST_SPAN = 10.0
"""Points of accuracy shown at least, so that noise does not look like a result."""
INCH_WIDE, INCH_NARROW = 9.6, 4.4


def search_figure(state: State, *, narrow: bool = False) -> Figure:
    """Top-1 or mAP over GMACs: every hypothesis, the chosen path, and the control where there is one.

    Cost falls to the right on a logarithmic axis, so that the picture reads in the order of the search.

    Args:
        state: the search.
        narrow: drawn for a column of 400 pixels instead of 900.
    """
    figure = new_figure(narrow, height=4.9)
    axes = figure.add_subplot()
    style_axes(axes)
    axes.set_xlabel(f"GMACs per {words(state).item} (log scale, cheaper to the right)")
    axes.set_ylabel(f"{words(state).metric} (%)")
    metric = metric_of(state)
    path = _measured([state["teacher"], *state["family"]], metric)
    controls = _measured([it["control"] for it in state["iterations"] if it["control"]], metric)
    _draw_hypotheses(axes, state)
    _draw_line(axes, controls, metric, **CONTROL)
    _draw_line(axes, path, metric, **PATH, zorder=3)
    _draw_line(axes, path[:1], metric, color=ink("ink"), linestyle="", marker="*", markersize=17, zorder=4)
    for row in path:
        _label(axes, row, state)
    if path:
        scale_axes(axes)
    else:
        axes.text(0.5, 0.5, "nothing is trained yet", ha="center", transform=axes.transAxes, color=ink("muted"))
        axes.set(xticks=[], yticks=[])
    add_legend(figure, _search_legend(state, bool(controls)), columns=3 if narrow else 8)
    return figure


def curves_figure(state: State, curves: Curves, *, narrow: bool = False) -> Figure:
    """Loss and top-1 or mAP over epochs as small multiples: the teacher, then one pair of panels per iteration.

    Args:
        state: the search.
        curves: its trials' epochs; trials without any are left out.
        narrow: drawn for a column of 400 pixels instead of 900.
    """
    groups = _groups(state, curves)
    across = not narrow and len(groups) > 1
    figure = new_figure(narrow, height=5.2 if across else 2.5 * max(1, len(groups)))
    shape = (2, len(groups)) if across else (max(1, len(groups)), 2)
    panels = figure.subplots(*shape, squeeze=False)
    for axes in panels.flat:
        style_axes(axes)
    for number, group in enumerate(groups):
        loss, right = panels[:, number] if across else panels[number]
        right.sharey(panels[-1, 0] if across else panels[0, 1])
        for axes, key, scale in ((loss, "loss", 1.0), (right, metric_of(state), 100.0)):
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            for line in group.lines:
                seen = [row for row in curves[line.digest] if row.get(key) is not None]
                epochs, values = [row["epoch"] for row in seen], [scale * row[key] for row in seen]
                axes.plot(epochs, values, color=line.colour, linestyle=line.style, marker=".", linewidth=1.6)
        loss.set_title(group.title, loc="left", fontsize=11, color=ink("ink"))
        right.set_xlabel("epoch")
        if not across:
            loss.set_xlabel("epoch")
        if number == 0 or not across:
            loss.set_ylabel("loss")
            right.set_ylabel(f"{words(state).metric} (%)")
    add_legend(figure, _curves_legend(groups), columns=3 if narrow else 8)
    return figure


def write_png(figure: Figure, path: Path) -> None:
    """Write the picture as PNG, 160 dots per inch, whatever the file's name ends in."""
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=160, metadata={"Software": None})


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The picture as an `<svg>` element to be put into a page: equal figures give equal text.

    Args:
        figure: drawn in the colours of `THEME`.
        name: prefix of every id in it, unique in the page.
        description: read out in place of the picture; plain text without quotes.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with mpl.rc_context({"svg.hashsalt": "orchestrate", "svg.fonttype": "none"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for before in ('id="', 'href="#', "url(#"):
        svg = svg.replace(before, f"{before}{name}-")
    for variable, (light, _) in THEME.items():
        svg = svg.replace(light, f"var(--{variable}, {light})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


class _Line(NamedTuple):
    digest: str
    label: str
    colour: str
    style: Literal["-", "--"]


class _Group(NamedTuple):
    title: str
    lines: list[_Line]


def _groups(state: State, curves: Curves) -> list[_Group]:
    """What is drawn together: the teacher, then each iteration's hypotheses and control."""
    groups = [_Group("Teacher", [_Line(state["teacher"]["trial"], "teacher", ink("ink"), "-")])]
    for iteration in state["iterations"]:
        lines = [
            _Line(row["trial"], AXES[row["axis"]].name, ink(f"axis-{row['axis']}"), "-")
            for row in iteration["hypotheses"]
        ]
        if iteration["control"]:
            lines.append(_Line(iteration["control"]["trial"], "control", ink("muted"), "--"))
        groups.append(_Group(f"Iteration {iteration['iteration']}", lines))
    drawn = [_Group(group.title, [line for line in group.lines if curves.get(line.digest)]) for group in groups]
    return [group for group in drawn if group.lines]


def ink(name: str) -> str:
    """The light shade of a colour of `THEME`."""
    return THEME[name][0]


def new_figure(narrow: bool, height: float) -> Figure:
    """An empty picture for a wide or a narrow page; height in inches."""
    size = (INCH_NARROW if narrow else INCH_WIDE, height)
    return Figure(figsize=size, layout="constrained", facecolor=ink("paper"))


def style_axes(axes: Axes) -> None:
    """Give axes the look of all our pictures."""
    axes.set_facecolor(ink("paper"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink("rule"))
    axes.tick_params(which="both", colors=ink("muted"), labelsize=10, length=3)
    axes.grid(color=ink("rule"), linewidth=0.8)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=ink("muted"), fontsize=10.5)


def scale_axes(axes: Axes) -> None:
    """Cost on a logarithmic axis that falls to the right, and no less than `LEAST_SPAN` points upwards."""
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.margins(x=0.09, y=0.14)
    low, high = axes.get_ylim()
    if (missing := LEAST_SPAN - (high - low)) > 0:
        axes.set_ylim(low - missing / 2, high + missing / 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _plain(value: float) -> str:
    """A number of few digits, never with an exponent."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _measured(rows: Sequence[Row], metric: str) -> list[Row]:
    return [row for row in rows if accuracy(row, metric) is not None]


def _draw_line(axes: Axes, rows: Sequence[Row], metric: str, **style: Any) -> None:
    axes.plot([row["gmacs"] for row in rows], [100 * row[metric] for row in rows], **style)


def _draw_hypotheses(axes: Axes, state: State) -> None:
    """Each one a marker, with a thin line from its parent; the winner's is ringed and hides no other."""
    parents, metric = [state["teacher"], *state["family"]], metric_of(state)
    for parent, iteration in zip(parents, state["iterations"], strict=False):
        for row in _measured(iteration["hypotheses"], metric):
            winner = row["axis"] == iteration["winner"]
            _draw_line(axes, [parent, row], metric, color=ink("rule"), linewidth=1.2)
            _draw_line(
                axes,
                [row],
                metric,
                marker=MARKERS[row["axis"]],
                markersize=10 if winner else 8,
                color=ink(f"axis-{row['axis']}"),
                markeredgecolor=ink("ink" if winner else "paper"),
                markeredgewidth=1.8 if winner else 0.8,
                zorder=4 if winner else 5,
            )


def _label(axes: Axes, row: Row, state: State) -> None:
    """Name and share of the teacher's cost, above and to the right: the path falls to the right, so there is room."""
    teacher = state["teacher"]
    name = "Teacher" if row is teacher else row["name"]
    axes.annotate(
        f"{name}\n{share(row['gmacs'], teacher['gmacs'])}",
        (row["gmacs"], 100 * row[metric_of(state)]),
        xytext=(7, 8),
        textcoords="offset points",
        fontsize=10.5,
        color=ink("ink"),
        linespacing=1.25,
        zorder=7,
    )


def add_legend(figure: Figure, handles: list[Line2D], columns: int) -> None:
    """A legend below the picture, if there is anything to explain."""
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(columns, len(handles)),
            frameon=False,
            fontsize=10,
            labelcolor=ink("ink"),
            handletextpad=0.5,
            columnspacing=1.4,
        )


def _search_legend(state: State, controls: bool) -> list[Line2D]:
    rows = [row for iteration in state["iterations"] for row in iteration["hypotheses"]]
    tried = {row["axis"] for row in _measured(rows, metric_of(state))}
    handles = [
        Line2D(
            [], [], linestyle="", marker=MARKERS[axis], markersize=8, color=ink(f"axis-{axis}"), label=AXES[axis].name
        )
        for axis in AXES
        if axis in tried
    ]
    if state["family"]:
        handles.append(Line2D([], [], **PATH, label="chosen path"))
    if controls:
        handles.append(Line2D([], [], **CONTROL, label="control"))
    return handles


def _curves_legend(groups: list[_Group]) -> list[Line2D]:
    lines = {line.label: line for group in groups for line in group.lines}
    order = ["teacher", *(axis.name for axis in AXES.values()), "control"]
    return [
        Line2D([], [], color=lines[label].colour, linestyle=lines[label].style, label=label)
        for label in order
        if label in lines
    ]
