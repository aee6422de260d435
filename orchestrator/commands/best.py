"""The command `orchestrate best`: options, what is measured first, and what is shown of the choice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from orchestrator.commands.options import JsonOption, RunsOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.registry.best import Choice, Constraints
    from orchestrator.registry.model import StoredModel
    from orchestrator.registry.quantities import Here
    from orchestrator.registry.registry import Registry


def best(
    max_gmacs: Annotated[float | None, typer.Option(help="GMACs per clip or image at most.")] = None,
    max_params: Annotated[float | None, typer.Option(help="Parameters at most; 1e6 is a million.")] = None,
    max_size_mb: Annotated[float | None, typer.Option(help="MB of weights at most.")] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Milliseconds per input at most, here.")] = None,
    max_energy_mj: Annotated[float | None, typer.Option(help="Millijoules per input at most, here.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points below its search's base network at most.")] = None,
    min_top1: Annotated[float | None, typer.Option(help="Top-1 of classifiers at least, from 0 to 1.")] = None,
    min_map: Annotated[float | None, typer.Option(help="mAP of ReID networks at least, from 0 to 1.")] = None,
    objectives: Annotated[
        str, typer.Option(help="What models are compared by: accuracy, and one or two costs.")
    ] = "accuracy,gmacs",
    prefer: Annotated[
        Literal["accuracy", "knee"], typer.Option(help="The most accurate one, or the knee of the front.")
    ] = "accuracy",
    where: Annotated[str | None, typer.Option(metavar="EXPR", help="Only these: 'backbone=slowfast and int8'.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Where latencies are missing, measure first.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say of every other model why it lost.")] = False,
    runs: RunsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose a model of the store: the most accurate one that satisfies the constraints."""
    from configs.schema import RunSettings
    from orchestrator.latency import conditions
    from orchestrator.registry.best import Constraints, choose, objectives_of
    from orchestrator.registry.registry import Registry
    from orchestrator.registry.where import parse
    from orchestrator.store import Store

    constraints = Constraints(
        max_gmacs=max_gmacs,
        max_params=max_params,
        max_size_mb=max_size_mb,
        max_latency_ms=max_latency_ms,
        max_energy_mj=max_energy_mj,
        max_drop=max_drop,
        min_top1=min_top1,
        min_map=min_map,
    )
    names, condition = objectives_of(objectives), parse(where) if where else None
    registry = Registry.open(Store(runs or RunSettings().runtime.runs))
    registry.require_whole()
    models = [model for model in registry.models if condition is None or condition.holds(model)]
    here = conditions()
    if measure:
        models = measured_here(registry, models, constraints, here)
    choice = choose(models, constraints, names, prefer=prefer, here=here)
    folder = registry.folder(choice.winner)
    if as_json:
        typer.echo(json.dumps({**choice.to_dict(), "folder": str(folder)}, indent=1, allow_nan=False))
    else:
        print_choice(Console(), choice, folder, here, explain=explain)


def measured_here(
    registry: Registry, models: Sequence[StoredModel], constraints: Constraints, here: Here
) -> list[StoredModel]:
    """The models, with the latency of each that satisfies the other constraints.

    If one of those lacks it they are all measured, in turns, and it is taken down: a machine is faster at one time than
    at another, and which network is faster than which shows only side by side.
    """
    from orchestrator.registry.best import fitting
    from orchestrator.registry.measuring import measure_latencies
    from orchestrator.registry.quantities import LATENCY

    others = dataclasses.replace(constraints, max_latency_ms=None)
    candidates = fitting([model for model in models if model.kind != "control"], others, here)
    if all(LATENCY.value(model, here) is not None for model in candidates):
        return list(models)
    with Console(stderr=True).status(f"measuring the latency of {len(candidates)} models"):
        found = measure_latencies(registry.store, [model.digest for model in candidates])
    return [dataclasses.replace(model, latency=found.get(model.digest, model.latency)) for model in models]


def print_choice(console: Console, choice: Choice, folder: Path, here: Here, *, explain: bool = False) -> None:
    """The winner, the front, why the others lost, and what to do next."""
    from orchestrator.registry.reasons import called, handle

    winner = choice.winner
    console.print(Text.assemble((called(winner), "bold green"), f": {choice.rule}"), soft_wrap=True)
    console.print(Text(_numbers(winner, here)), soft_wrap=True)
    console.print(Text(str(folder)), soft_wrap=True)
    console.print()
    _print_front(console, choice, here)
    if explain:
        _print_losers(console, choice)
    elif choice.losers:
        _print_summary(console, choice)
    console.print(Text(f"Hand it over: orchestrate handoff {handle(winner)} DIR"), soft_wrap=True)


def _numbers(model: StoredModel, here: Here) -> str:
    """What a model reaches and costs, as far as it is known, in one line."""
    from orchestrator.registry.quantities import DROP, ENERGY, GMACS, LATENCY, PARAMETERS, SIZE
    from orchestrator.report import METRICS, percent

    known = [quantity for quantity in (GMACS, PARAMETERS, SIZE, LATENCY, ENERGY) if quantity.value(model, here)]
    drop = DROP.value(model, here)
    lost = [] if not drop else [f"{DROP.number(abs(drop))} points {'below' if drop > 0 else 'above'} its base network"]
    accuracy = f"{METRICS[model.metric]} {percent(model.accuracy)}"
    return ", ".join([accuracy, *lost, *(quantity.written(quantity.value(model, here)) for quantity in known)])


def _print_front(console: Console, choice: Choice, here: Here) -> None:
    from orchestrator.registry.quantities import OBJECTIVES
    from orchestrator.registry.reasons import called
    from orchestrator.report import METRICS
    from orchestrator.terminal import plain_table

    front = choice.front
    costs = {name: OBJECTIVES[name] for name in front.objectives if name != "accuracy"}
    units = [f">{quantity.unit}" for quantity in costs.values()]
    table = plain_table("Pareto front", "", f">{METRICS[choice.winner.metric]} %", *units)
    for model in front.models:
        marks = [word for word, one in (("chosen", choice.winner), ("knee", front.knee)) if model is one]
        values = [
            quantity.number(value) for quantity in costs.values() if (value := quantity.value(model, here)) is not None
        ]
        name = Text(called(model), "bold" if model is choice.winner else "")
        table.add_row(name, Text(", ".join(marks), "green"), OBJECTIVES["accuracy"].number(model.accuracy), *values)
    console.print(table)
    below = " and ".join(quantity.written(front.reference[name]) for name, quantity in costs.items())
    share = f"Hypervolume {front.hypervolume:.3f}, as a share of all that is above accuracy 0"
    console.print(Text(f"{share} and below {below}." if below else f"{share}.", "dim"))


def _print_losers(console: Console, choice: Choice) -> None:
    from orchestrator.registry.reasons import called
    from orchestrator.terminal import plain_table

    table = plain_table("not chosen", "why")
    table.columns[0].max_width = 32
    for loser in choice.losers:
        table.add_row(Text(called(loser.model)), Text(loser.why))
    console.print(table)


def _print_summary(console: Console, choice: Choice) -> None:
    from orchestrator.registry.best import counted

    reasons: dict[str, Any] = counted(choice.losers)
    lost = len(choice.losers)
    counts = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
    console.print(Text(f"{lost} {'other' if lost == 1 else 'others'} lost ({counts}); --explain says why.", "dim"))
