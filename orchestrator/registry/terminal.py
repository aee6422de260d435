"""What a terminal shows of models: tables of them; readable from 80 columns on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from orchestrator.registry.listing import grouped
from orchestrator.registry.model import Measured, StoredModel
from orchestrator.report import METRICS, UNKNOWN, count, gmacs, percent
from orchestrator.terminal import plain_table

GAP = 2
"""Characters between two columns."""
NAME_WIDTH = 26
"""Longer names are broken where the terminal is narrow, shorter ones never."""
ACCURACY = ">accuracy"
"""Heading that becomes the metric's name."""
STYLES = {"tags": "bold cyan", "legend": "dim"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of numbers or words beside the name."""

    heading: str
    """As `plain_table` takes it."""
    cell: Callable[[StoredModel], str]
    """What it says of a model."""
    spare: int = 0
    """Which is left out first for want of width: the highest; 0: never."""

    def width(self, models: Sequence[StoredModel]) -> int:
        """Characters that it takes, with the gap before it."""
        return GAP + max(len(self.heading.removeprefix(">")), *(len(self.cell(model)) for model in models))


def print_models(console: Console, models: Sequence[StoredModel]) -> None:
    """A table per data set and metric, for accuracies of different ones don't compare; and what times were measured
    under, with a letter at each time where that differs."""
    under = conditions_of(models)
    marks = dict(zip(under, "abcdefghijklmnopqrstuvwxyz", strict=False)) if len(under) > 1 else {}
    everything = columns(marks)
    shown = fitting(everything, models, console.width)
    for (fingerprint, metric), group in grouped(models).items():
        console.print(Text.assemble((group[0].data_source or "data", "bold"), (f" {fingerprint[:8]}", "dim")))
        _print_group(console, group, METRICS[metric], shown)
    if any(model.drop_points is not None for model in models):
        console.print(Text("drop: points below the base network of its search", STYLES["legend"]))
    for said in under:
        console.print(Text(f"ms{' ' + marks[said] if said in marks else ''}: {said}", STYLES["legend"]))
    if left_out := [column.heading.removeprefix(">") for column in everything if column not in shown]:
        console.print(Text(f"left out for want of width: {', '.join(left_out)} (--json has all)", STYLES["legend"]))


def columns(marks: dict[str, str]) -> list[Column]:
    """All columns.

    Args:
        marks: letter by what times were measured under, where that differs.
    """

    def milliseconds(model: StoredModel) -> str:
        if model.latency is None:
            return UNKNOWN
        mark = marks.get(describe_conditions(model.latency))
        return gmacs(model.latency.value) + (f" {mark}" if mark else "")

    return [
        Column(heading="kind", cell=lambda model: model.kind),
        Column(heading="bits", cell=lambda model: model.precision, spare=3),
        Column(heading=ACCURACY, cell=lambda model: percent(model.accuracy)),
        Column(heading=">drop", cell=lambda model: drop(model.drop_points)),
        Column(heading=">GMACs", cell=lambda model: gmacs(model.gmacs)),
        Column(heading=">params", cell=lambda model: count(model.params), spare=2),
        Column(heading=">MB", cell=lambda model: gmacs(model.size_mb), spare=1),
        Column(heading=">ms", cell=milliseconds),
    ]


def fitting(everything: Sequence[Column], models: Sequence[StoredModel], width: int) -> list[Column]:
    """The columns that fit beside names that can still be read."""
    shown = list(everything)
    names = min(NAME_WIDTH, max(len(model.name) for model in models))
    while names + sum(column.width(models) for column in shown) > width:
        spare = max(shown, key=lambda column: column.spare)
        if not spare.spare:
            break
        shown.remove(spare)
    return shown


def drop(points: float | None) -> str:
    """Points below a base network, with one decimal; above it: negative."""
    if points is None:
        return UNKNOWN
    return "0.0" if round(points, 1) == 0 else f"{points:.1f}".replace("-", "−")


def conditions_of(models: Sequence[StoredModel]) -> list[str]:
    """What latencies were measured under, each once, in the order of the models."""
    return list(dict.fromkeys(describe_conditions(model.latency) for model in models if model.latency))


def describe_conditions(measured: Measured) -> str:
    """What a number was measured under, but for how often: that changes how exact it is, not what it is of."""
    said = dict(measured.conditions)
    words = [str(said[key]) for key in ("machine", "isa") if said.get(key)]
    threads = said.get("threads")
    words += [] if threads is None else [f"{threads} thread{'' if threads == 1 else 's'}"]
    words += [f"batch {said['batch']}"] if "batch" in said else []
    words += [f"torch {said['torch']}"] if "torch" in said else []
    others = {key: value for key, value in said.items() if key not in ("machine", "isa", "threads", "batch", "torch")}
    others.pop("runs", None)
    return ", ".join([*words, *(f"{key} {json.dumps(value)}" for key, value in sorted(others.items()))])


def _print_group(console: Console, models: Sequence[StoredModel], metric: str, shown: Sequence[Column]) -> None:
    """One table; tags stand below the name."""
    headings = [column.heading.replace(ACCURACY, f">{metric}") for column in shown]
    table = plain_table("model", *headings)
    for column in table.columns[1:]:
        column.no_wrap = True
    for model in models:
        name = Text(model.name)
        if model.tags:
            name.append(f"\n  {' '.join(model.tags)}", STYLES["tags"])
        table.add_row(name, *(column.cell(model) for column in shown))
    console.print(table)
