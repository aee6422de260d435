"""The report of a search: one self-contained page, and its main picture as PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from compression.reduction import AXES
from orchestrator.failures import retries
from orchestrator.report import (
    Row,
    State,
    accuracy,
    clip,
    count,
    data_sizes,
    duration,
    gmacs,
    headline,
    metric_of,
    percent,
    points,
    share,
    standard_error,
    words,
)
from orchestrator.report.figure import THEME, Curves, curves_figure, search_figure, to_svg, write_png
from orchestrator.report.lineage_figure import Node
from orchestrator.report.run_lineage import run_forest
from orchestrator.report.templates import read_template
from trainers.files import write_atomically, write_text

RULES = {
    "max_accuracy": "highest {metric} (Eq. 6.3)",
    "ratio": "most cost saved per point of {metric} lost (Eq. 6.1)",
}
"""The source's two rules of selection, in words."""


FILTERS: dict[str, Callable[..., Any]] = {
    "accuracy": accuracy,
    "clip": clip,
    "count": count,
    "duration": duration,
    "gmacs": gmacs,
    "percent": percent,
    "points": points,
    "retries": retries,
    "share": share,
}
"""How the page writes numbers."""


def write_report(state: State, curves: Curves, folder: Path, origins: Sequence[Node] = ()) -> Path:
    """Write `report.html` and `report.png` into the folder of a run, each at once or not at all.

    Args:
        state: the search, in whatever state it is: running, failed, without any result.
        curves: its trials' epochs, by digest; may be empty.
        folder: made where it is missing; an earlier report there is replaced.
        origins: what its teacher was made of, see `origins_of`.

    Returns:
        Path of `report.html`.
    """
    write_atomically(folder / "report.png", lambda path: write_png(search_figure(state), path))
    page = folder / "report.html"
    write_text(page, render(state, curves, origins))
    return page


def render(state: State, curves: Curves, origins: Sequence[Node] = ()) -> str:
    """The page as text; equal arguments give equal pages."""
    return read_template("template.html.j2", FILTERS).render(
        state=state,
        metric=metric_of(state),
        words=words(state),
        headline=headline(state),
        key_figures=key_figures(state),
        noise=noise(state),
        comparisons=comparisons(state),
        data_sizes=data_sizes(state["data"]),
        pictures=_pictures(state, curves),
        lineage=run_forest(state, origins),
        config=yaml.safe_dump(state["config"], sort_keys=False, allow_unicode=True),
        axes={letter: axis.name for letter, axis in AXES.items()},
        rules={rule: text.format(metric=words(state).metric) for rule, text in RULES.items()},
        theme=THEME,
    )


def key_figures(state: State) -> list[tuple[str, str, str]]:
    """The few numbers at the top of the page: name, value, and what it is measured against."""
    teacher, stats = state["teacher"], state["stats"]

    def reached(name: str, row: Row) -> tuple[str, str, str]:
        spoken = words(state)
        cost = f"{spoken.metric} at {gmacs(row['gmacs'])} GMACs per {spoken.item}"
        return name, percent(accuracy(row, metric_of(state))), cost

    figures = [reached("Teacher", teacher)]
    if state["family"]:
        smallest = state["family"][-1]
        figures += [
            reached(smallest["name"], smallest),
            ("Cost", share(smallest["gmacs"], teacher["gmacs"]), "of the teacher's multiply-adds"),
            ("Size", share(smallest["params"], teacher["params"]), "of the teacher's parameters"),
        ]
    trained = f"networks in {stats['trial_epochs']} epochs, {stats['cached']} more from the store"
    cores = f"and {duration(stats['core_seconds'])} of CPU cores"
    return [*figures, ("Trained", str(stats["trained"]), trained), ("Time", duration(stats["seconds"]), cores)]


def noise(state: State) -> str:
    """How far apart two accuracies must be to mean something; empty before anything is measured."""
    smallest, metric = [state["teacher"], *state["family"]][-1], metric_of(state)
    if accuracy(smallest, metric) is None:
        return ""
    if metric == "map":
        return (
            f"mAP is a mean over {state['data']['queries']} queries, which share identities and a gallery: it has no "
            "simple standard error, and only other seeds show how far it scatters."
        )
    videos = state["data"]["val_videos"]
    error = 100 * standard_error(smallest["top1"], videos)
    return (
        f"One standard error of {percent(smallest['top1'])} top-1 on {videos} validation videos is {error:.1f} points."
    )


def comparisons(state: State) -> list[tuple[Row, Row]]:
    """Every member of the family with the control of its architecture, where one was trained."""
    pairs = zip(state["family"], state["iterations"], strict=False)
    return [(member, iteration["control"]) for member, iteration in pairs if iteration["control"]]


def _pictures(state: State, curves: Curves) -> dict[str, tuple[Markup, Markup]]:
    """What there is to see, each drawn for a wide and for a narrow page."""
    pictures = {}
    title = words(state).title
    if accuracy(state["teacher"], metric_of(state)) is not None:
        wide, narrow = search_figure(state), search_figure(state, narrow=True)
        pictures["search"] = _inline("search", f"{title} over cost of every network tried", wide, narrow)
    if any(curves.values()):
        wide, narrow = curves_figure(state, curves), curves_figure(state, curves, narrow=True)
        pictures["curves"] = _inline("curves", f"Loss and {words(state).metric} over epochs", wide, narrow)
    return pictures


def _inline(name: str, description: str, wide: Figure, narrow: Figure) -> tuple[Markup, Markup]:
    """Both pictures as elements of the page; their text was escaped when they were drawn."""
    return Markup(to_svg(wide, f"{name}-wide", description)), Markup(to_svg(narrow, f"{name}-narrow", description))
