"""The report of everything in a store: searches, models, what no other model beats, and where models come from.

One self-contained page, beside the folders of the runs. It reads without JavaScript; a small script only hides and
sorts rows of the table of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from configs.errors import UserError
from orchestrator.registry.model import StoredModel
from orchestrator.registry.registry import Damage, Registry
from orchestrator.registry.where import parse
from orchestrator.report import METRICS, State, duration, gmacs, percent, points
from orchestrator.report.all_figure import STYLES, drawn_marks, overall_figure
from orchestrator.report.comparison import Comparison, compare_costs, compare_latencies, data_names
from orchestrator.report.figure import THEME, to_svg
from orchestrator.report.lineage_figure import KINDS, Node, store_forest, trace
from orchestrator.report.page import FILTERS, KeyFigure
from orchestrator.report.states import Effort, effort_of, read_states
from orchestrator.report.templates import read_template
from orchestrator.store import Store
from orchestrator.views import VIEWS
from trainers.files import write_text

REPORT_FILE = "report.html"
"""Of a run, and of a whole store."""
LEAST_MARKS = 2
"""Models below which there is nothing to be compared in a picture."""
FAULTS = (AttributeError, AssertionError, IndexError, KeyError, TypeError, ValueError)
"""What a state that some other version wrote may raise when it is put into words."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A run in a line."""

    name: str
    """Of its folder."""
    link: str | None
    """Address of its own report, as seen from this one; none: it has none."""
    kind: str
    """What it was."""
    backbone: str
    status: str
    headline: str
    """Its result in a sentence, or why there is none."""
    seconds: float
    """Of its last start."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What the page shows."""

    searches: tuple[Search, ...]
    """By name."""
    unreadable: tuple[tuple[str, str], ...]
    """Runs that can't be shown, and why."""
    effort: Effort
    """What the runs took."""
    models: tuple[StoredModel, ...]
    """Those that the page is about."""
    known: int
    """All models of the store."""
    where: str
    """The condition that chose them; empty: all."""
    damaged: tuple[Damage, ...]
    """Trials that can't be used."""
    problems: tuple[str, ...]
    """What is wrong with tags."""
    forest: tuple[Node, ...]
    """Where the models come from."""


def write_overall_report(store: Store, where: str = "") -> Path:
    """Write `report.html` into the folder of the store, at once or not at all.

    Args:
        store: all of it is read.
        where: which models the page is about, as of `orchestrate models --where`; empty: all.

    Returns:
        Path of the page.

    Raises:
        UserError: there is nothing in the store, or the condition can't be read.
    """
    page = store.root / REPORT_FILE
    write_text(page, render_overview(read_overview(store, where)))
    return page


def read_overview(store: Store, where: str = "") -> Overview:
    """Read a store.

    Raises:
        UserError: see `write_overall_report`.
    """
    condition = parse(where) if where else None
    registry, (states, unreadable) = Registry.open(store), read_states(store)
    if not registry.models and not registry.damaged and not states and not unreadable:
        raise UserError(
            f"there is nothing in {store.root} yet; `orchestrate pas` makes models, `--runs DIR` looks elsewhere"
        )
    chosen = tuple(model for model in registry.models if condition is None or condition.holds(model))
    searches = []
    for name, state in states.items():
        if state["algorithm"] not in VIEWS:
            unreadable[name] = f"it is of the kind {state['algorithm']!r}, which this version does not know"
            continue
        try:
            searches.append(_search(store, name, state))
        except FAULTS as error:
            unreadable[name] = f"its state can't be put into words ({type(error).__name__}: {error})"
    return Overview(
        searches=tuple(searches),
        unreadable=tuple(sorted(unreadable.items())),
        effort=effort_of(states.values()),
        models=chosen,
        known=len(registry.models),
        where=where,
        damaged=registry.damaged,
        problems=tuple(dict.fromkeys(registry.tag_problems.values())),
        forest=store_forest(trace(registry.models, states.values()), chosen),
    )


def render_overview(overview: Overview) -> str:
    """The page as text; equal arguments give equal pages."""
    comparisons = compare_costs(overview.models)
    rows = model_rows(overview.models, comparisons)
    return read_template("all.html.j2", FILTERS).render(
        overview=overview,
        headline=overall_headline(overview, comparisons),
        key_figures=overall_key_figures(overview, comparisons),
        pictures=_pictures(comparisons, compare_latencies(overview.models)),
        rows=rows,
        choices=filter_choices(overview.models),
        lineage=overview.forest,
        theme=THEME,
    )


def overall_headline(overview: Overview, comparisons: Sequence[Comparison]) -> str:
    """What is there, and what the best of it costs: of the data set with the most models."""
    where = f" where {overview.where}" if overview.where else ""
    start = (
        f"{_number(len(overview.models), 'model')}{where} from {_number(len(overview.searches), 'search', 'searches')}"
    )
    largest = max(comparisons, key=lambda one: len(one.marks), default=None)
    if largest is None or len(largest.front) < 2:
        return f"{start}."
    first, *_, last = largest.front
    metric = largest.words.metric
    return (
        f"{start}. On {largest.data} the best reach from {percent(last.model.accuracy)} {metric} at "
        f"{gmacs(last.cost)} GMACs to {percent(first.model.accuracy)} at {gmacs(first.cost)}."
    )


def overall_key_figures(overview: Overview, comparisons: Sequence[Comparison]) -> list[KeyFigure]:
    """How much of everything there is, and what it took."""
    effort, models = overview.effort, overview.models
    handed_on, tagged = sum(bool(model.aliases) for model in models), sum(bool(model.tags) for model in models)
    finished = sum(search.status == "finished" for search in overview.searches)
    return [
        ("Searches", str(len(overview.searches)), f"{finished} finished"),
        ("Models", f"{len(models):,}", f"{handed_on} handed on, {tagged} tagged"),
        (
            "On a front",
            str(sum(len(one.front) for one in comparisons)),
            f"models, of {_number(len(comparisons), 'data set')}",
        ),
        ("Trained", str(effort.trainings), f"networks, in {_number(effort.epochs, 'epoch')}"),
        ("Time", duration(effort.core_seconds), "of CPU cores for these"),
        (
            "From the store",
            duration(effort.saved_core_seconds),
            f"spared by {_number(effort.answered, 'known result')}",
        ),
    ]


def model_rows(models: Iterable[StoredModel], comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Every model as the table shows it: the fronts first, then by data set and cost."""
    everything = tuple(models)
    names = data_names(everything)
    marks = {mark.model.digest: mark for comparison in comparisons for mark in comparison.front}
    rows = [
        {
            "model": model,
            "kind": KINDS[model.kind],
            "data": names[model.trial.data],
            "metric": METRICS[model.metric],
            "on_front": model.digest in marks,
            "is_knee": model.digest in marks and marks[model.digest].is_knee,
            "drop": points(-(model.drop_points or 0.0) / 100, 0.0) if model.drop_points is not None else None,
            "text": _searched(model),
        }
        for model in everything
    ]
    return sorted(rows, key=lambda row: (not row["on_front"], row["data"], -row["model"].gmacs, row["model"].digest))


def filter_choices(models: Iterable[StoredModel]) -> list[tuple[str, str, list[str]]]:
    """What rows can be chosen by: name of the attribute, label, and values."""
    everything = tuple(models)
    names = data_names(everything)
    kinds = {KINDS[model.kind] for model in everything}
    return [
        ("backbone", "Backbone", sorted({model.backbone for model in everything})),
        ("kind", "Kind", [kind for kind in KINDS.values() if kind in kinds]),
        ("precision", "Precision", sorted({model.precision for model in everything})),
        ("data", "Data", sorted(set(names.values()))),
    ]


def _search(store: Store, name: str, state: State) -> Search:
    view = VIEWS[state["algorithm"]]
    folder = store.root / name
    return Search(
        name=name,
        link=f"{quote(name, safe='')}/{REPORT_FILE}" if (folder / REPORT_FILE).is_file() else None,
        kind=view.title,
        backbone=str(state["backbone"]),
        status=str(state["status"]),
        headline=view.headline(state),
        seconds=float(state["stats"]["seconds"]),
    )


def _pictures(costs: Sequence[Comparison], latencies: Sequence[Comparison]) -> list[dict[str, Any]]:
    """What there is to see: per comparison a title, what it says, and the picture wide and narrow."""
    pictures = []
    for number, comparison in enumerate([*costs, *latencies]):
        if len(comparison.marks) < LEAST_MARKS:
            continue
        over = "GMACs" if comparison.conditions is None else "latency"
        title = f"{comparison.data}: {comparison.words.metric} over {over}"
        pictures.append(
            {
                "title": title,
                "comparison": comparison,
                "left_out": len(comparison.marks) - len(drawn_marks(comparison)),
                "wide": _inline(f"all-{number}-wide", title, comparison, narrow=False),
                "narrow": _inline(f"all-{number}-narrow", title, comparison, narrow=True),
            }
        )
    return sorted(pictures, key=lambda picture: picture["comparison"].data)


def _inline(name: str, title: str, comparison: Comparison, *, narrow: bool) -> Markup:
    """A picture as an element of the page; text in it was escaped when it was drawn."""
    return Markup(to_svg(overall_figure(comparison, narrow=narrow), name, str(escape(title))))


def _searched(model: StoredModel) -> str:
    """What a model can be found by."""
    pruning = model.trial.pruning
    words = [model.digest, model.trial.name, *model.aliases, *model.tags, model.backbone, STYLES[model.kind][2]]
    return " ".join([*words, *([pruning.pruner] if pruning else [])]).lower()


def _number(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
