"""The report of a search: one self-contained page, and its main picture as PNG."""

from __future__ import annotations

from pathlib import Path

import jinja2
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from compression.reduction import AXES
from orchestrator.report import (
    Row,
    State,
    clip,
    count,
    duration,
    gmacs,
    headline,
    percent,
    points,
    share,
    standard_error,
)
from orchestrator.report.figure import THEME, Curves, curves_figure, search_figure, to_svg, write_png
from trainers.files import write_atomically, write_text

RULES = {
    "max_accuracy": "highest top-1 (Eq. 6.3)",
    "ratio": "most cost saved per point of top-1 lost (Eq. 6.1)",
}
"""The source's two rules of selection, in words."""


def write_report(state: State, curves: Curves, folder: Path) -> Path:
    """Write `report.html` and `report.png` into the folder of a run, each at once or not at all.

    Args:
        state: the search, in whatever state it is: running, failed, without any result.
        curves: its trials' epochs, by digest; may be empty.
        folder: made where it is missing; an earlier report there is replaced.

    Returns:
        Path of `report.html`.
    """
    write_atomically(folder / "report.png", lambda path: write_png(search_figure(state), path))
    page = folder / "report.html"
    write_text(page, render(state, curves))
    return page


def render(state: State, curves: Curves) -> str:
    """The page as text; equal arguments give equal pages."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clip=clip, count=count, duration=duration, gmacs=gmacs, percent=percent, points=points, share=share
    )
    return environment.get_template("template.html.j2").render(
        state=state,
        headline=headline(state),
        key_figures=key_figures(state),
        noise=noise(state),
        comparisons=comparisons(state),
        pictures=_pictures(state, curves),
        config=yaml.safe_dump(state["config"], sort_keys=False, allow_unicode=True),
        axes={letter: axis.name for letter, axis in AXES.items()},
        rules=RULES,
        theme=THEME,
    )


def key_figures(state: State) -> list[tuple[str, str, str]]:
    """The few numbers at the top of the page: name, value, and what it is measured against."""
    teacher, stats = state["teacher"], state["stats"]
    figures = [("Teacher", percent(teacher["top1"]), f"top-1 at {gmacs(teacher['gmacs'])} GMACs per clip")]
    if state["family"]:
        smallest = state["family"][-1]
        figures += [
            (smallest["name"], percent(smallest["top1"]), f"top-1 at {gmacs(smallest['gmacs'])} GMACs per clip"),
            ("Cost", share(smallest["gmacs"], teacher["gmacs"]), "of the teacher's multiply-adds"),
            ("Size", share(smallest["params"], teacher["params"]), "of the teacher's parameters"),
        ]
    trained = f"networks in {stats['trial_epochs']} epochs, {stats['cached']} more from the store"
    cores = f"and {duration(stats['core_seconds'])} of CPU cores"
    return [*figures, ("Trained", str(stats["trained"]), trained), ("Time", duration(stats["seconds"]), cores)]


def noise(state: State) -> str:
    """How far apart two top-1 accuracies must be to mean something; empty before anything is measured."""
    smallest, videos = [state["teacher"], *state["family"]][-1], state["data"]["val_videos"]
    if smallest["top1"] is None:
        return ""
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
    if state["teacher"]["top1"] is not None:
        wide, narrow = search_figure(state), search_figure(state, narrow=True)
        pictures["search"] = _inline("search", "Top-1 over cost of every network tried", wide, narrow)
    if any(curves.values()):
        wide, narrow = curves_figure(state, curves), curves_figure(state, curves, narrow=True)
        pictures["curves"] = _inline("curves", "Loss and top-1 over epochs", wide, narrow)
    return pictures


def _inline(name: str, description: str, wide: Figure, narrow: Figure) -> tuple[Markup, Markup]:
    """Both pictures as elements of the page; their text was escaped when they were drawn."""
    return Markup(to_svg(wide, f"{name}-wide", description)), Markup(to_svg(narrow, f"{name}-narrow", description))
