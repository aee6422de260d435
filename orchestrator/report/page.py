"""What the pages of quantised networks and of chains have in common: filters, data and settings, pictures in a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from orchestrator.failures import retries
from orchestrator.quantise.table import broken, decibels, measured_under, megabytes, times
from orchestrator.report import (
    UNKNOWN,
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
from orchestrator.report.figure import THEME, to_svg
from orchestrator.report.templates import read_template
from orchestrator.sweep.table import milliseconds, written_network

KeyFigure = tuple[str, str, str]
"""A number at the top of the page: name, value, and what it is measured against."""
FILTERS: dict[str, Callable[..., str | float | None]] = {
    "accuracy": accuracy,
    "count": count,
    "decibels": decibels,
    "duration": duration,
    "gmacs": gmacs,
    "megabytes": megabytes,
    "milliseconds": milliseconds,
    "percent": percent,
    "points": points,
    "retries": retries,
    "share": share,
    "times": times,
    "written_network": written_network,
}
"""How pages write numbers."""


def render_page(template: str, state: State, rows: Sequence[Row], context: dict[str, Any]) -> str:
    """A page as text; equal arguments give equal pages.

    Args:
        template: file beside this one that extends `base.html.j2`.
        state: the run, in whatever state it is.
        rows: its networks beside the teacher; `base.html.j2` lists those without a result.
        context: what else the template asks for.
    """
    common = {
        "state": {**state, "cells": rows},  # what the base page calls them, whichever kind of run it is
        "words": words(state),
        "data_sizes": data_sizes(state["data"]),
        "failures": [{**row, "trial": row["trial"] or UNKNOWN} for row in broken(rows)],
        "notes": {},
        "config": yaml.safe_dump(state["config"], sort_keys=False, allow_unicode=True),
        "theme": THEME,
        "measured_under": measured_under(state["latency"]),
    }
    return read_template(template, FILTERS).render(common | context)


def inline(name: str, description: str, draw: Callable[..., Figure], state: State) -> tuple[Markup, Markup]:
    """A picture for a wide and for a narrow page; their text was escaped when they were drawn.

    Args:
        name: prefix of every id in it, unique in the page.
        description: read out in place of the picture; plain text without quotes.
        draw: takes a state, and `narrow`.
        state: what is drawn.
    """
    wide, narrow = draw(state), draw(state, narrow=True)
    return Markup(to_svg(wide, f"{name}-wide", description)), Markup(to_svg(narrow, f"{name}-narrow", description))


def effort(state: State) -> list[KeyFigure]:
    """What a run took."""
    stats = state["stats"]
    trained = f"networks in {stats['trial_epochs']} epochs, {stats['cached']} more from the store"
    cores = f"and {duration(stats['core_seconds'])} of CPU cores"
    return [("Run", str(stats["trained"]), trained), ("Time", duration(stats["seconds"]), cores)]


def faster_and_smaller(row: Row, teacher: Row, name: str) -> list[KeyFigure]:
    """How much faster and smaller a network is than the one it was made from, as far as both are measured.

    Args:
        row: the network.
        teacher: the other.
        name: what the other is called.
    """
    figures = []
    if row["latency_ms"] is not None and teacher["latency_ms"] is not None:
        note = f"{milliseconds(row['latency_ms'])} ms, where {name} takes {milliseconds(teacher['latency_ms'])}"
        figures.append(("Faster", times(teacher["latency_ms"], row["latency_ms"]), note))
    if row["size_mb"] is not None and teacher["size_mb"] is not None:
        note = f"{megabytes(row['size_mb'])} MB, where {name} has {megabytes(teacher['size_mb'])}"
        figures.append(("Smaller", times(teacher["size_mb"], row["size_mb"]), note))
    return figures
