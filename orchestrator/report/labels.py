"""Labels beside the marks of a picture, where they hide nothing.

Lengths are points (1/72 inch) beside a mark, and pixels within the picture. Sizes of text are estimates, because a page
shows it in its reader's font.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from orchestrator.report.figure import ink

LETTER, LINE = 6.1, 12.0
"""Width of a letter and height of a line, in points."""

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in pixels."""


def place_labels(
    axes: Axes, labels: Sequence[tuple[str, tuple[float, float]]], also: Sequence[tuple[float, float]] = ()
) -> list[str]:
    """Write each label at the first place beside its point where it hides nothing; leave out what has no such place.

    Args:
        axes: everything else is drawn, and its limits are set.
        labels: text and point, the most important first; the text is written as it is, without formulas.
        also: points that must not be hidden beside those that are drawn as lines.

    Returns:
        What was written.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return []
    figure.draw_without_rendering()  # places in pixels are only known after the layout
    unit = figure.dpi / 72
    frame = axes.get_window_extent()
    taken = np.concatenate([*_line_pixels(axes), axes.transData.transform(np.reshape(also, (-1, 2)))])
    boxes: list[Box] = []
    written = []
    for text, point in labels:
        width, height = LETTER * len(text) * unit, LINE * unit
        x, y = axes.transData.transform(point)
        for right, up in _offsets(width / unit):
            left, bottom = x + right * unit, y + up * unit
            box = (left, bottom, left + width, bottom + height)
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 + 4 * unit and frame.y0 <= box[1] and box[3] <= frame.y1
            if inside and not _hits(box, taken) and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                written.append(text)
                axes.annotate(
                    text, point, xytext=(right, up), textcoords="offset points", fontsize=10, color=ink("ink"),
                    va="bottom", zorder=8, parse_math=False,
                )  # fmt: skip
                break
    return written


def _offsets(width: float) -> Iterator[tuple[float, float]]:
    """Where a label's lower left corner may be, in points from its network: best first, and never far away."""
    yield from ((6, 4), (8, 8), (-width / 2, 9), (5, 14), (-width / 2, 15), (-width / 2, -21))
    yield from ((-width - 7, 6), (-width - 5, -17), (6, -17), (-width - 5, 14))


def _line_pixels(axes: Axes) -> list[NDArray[np.float64]]:
    """Points close together on everything that is drawn as a line, and every mark, in pixels."""
    return [
        pixels if line.get_linestyle() == "None" else _along(pixels)
        for line in axes.lines
        if len(pixels := axes.transData.transform(np.asarray(line.get_xydata())))
        if line.get_drawstyle() == "default"
    ]


def _along(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.linspace(first, last, 60) for first, last in pairwise(pixels)] or [pixels])


def _hits(box: Box, pixels: NDArray[np.float64]) -> bool:
    left, bottom, right, top = box
    inside = (pixels > (left - 1, bottom - 1)) & (pixels < (right + 1, top + 1))
    return bool(inside.all(axis=1).any())


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
