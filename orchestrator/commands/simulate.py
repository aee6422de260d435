"""The command `orchestrate simulate`: how long a search would take on a cluster, with nodes that are lost."""

from __future__ import annotations

import functools
import json
import math
import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from configs.errors import UserError
from orchestrator.commands.options import BackboneOption, ConfigOption, JsonOption, SetOption, settings_from
from orchestrator.report import duration
from orchestrator.simulation.cluster import ClusterPlan
from orchestrator.simulation.search import GMACS_PER_SECOND, Workload, middle, simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.simulation.search import Outcome

UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def simulate_search(
    config: ConfigOption = None,
    backbone: BackboneOption = None,
    set_: SetOption = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of the cluster.")] = 64,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs that a lost node takes with it.")] = 4,
    gpus_per_trial: Annotated[int, typer.Option(min=1, help="GPUs of one training, all at once.")] = 64,
    node_loss_every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Mean time between losses of nodes, e.g. 6h \\[default: never]."),
    ] = None,
    repair: Annotated[str, typer.Option(metavar="TIME", help="Until a lost node is replaced.")] = "10min",
    videos: Annotated[int, typer.Option(min=1, help="Training videos.")] = 240_000,
    gmacs_per_second: Annotated[
        float,
        typer.Option(help="Multiply-adds of one GPU, 1e9 per second, all told; default: the source's V100."),
    ] = GMACS_PER_SECOND,
    checkpoint_time: Annotated[str, typer.Option(metavar="TIME", help="What writing a checkpoint takes.")] = "10s",
    sequence: Annotated[str, typer.Option(help="Axes that win, e.g. c,f,t,t,t \\[default: the cheapest].")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Histories of losses; the table shows medians.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """How long on that cluster? The search's own state machine, made-up trainings and losses, a clock of its own."""
    from compression.cost import measure_cost
    from trainers.backbones import build, preset

    settings = settings_from(config or ("kinetics-r2plus1d" if backbone is None else None), set_, backbone=backbone,
                             data=None, flags={})  # fmt: skip
    cost = functools.cache(lambda network: measure_cost(network, build))
    loss = None if node_loss_every is None else seconds_in(node_loss_every, "--node-loss-every")
    histories = 1 if loss is None else seeds
    rows: list[tuple[int, list[Outcome]]] = []
    try:
        plan = ClusterPlan(gpus=gpus, gpus_per_node=min(gpus_per_node, gpus), seconds_between_losses=loss,
                           repair_seconds=seconds_in(repair, "--repair"))  # fmt: skip
        for every in checkpoint_choices(settings.train.epochs):
            workload = Workload(
                teacher=preset(settings.network, classes=400),
                search=settings.search,
                recipe=settings.train,
                videos=videos,
                clips_per_video=settings.clips.per_video,
                gpus_per_trial=gpus_per_trial,
                gmacs_per_second=gmacs_per_second,
                checkpoint_every=every,
                checkpoint_seconds=seconds_in(checkpoint_time, "--checkpoint-time"),
                sequence=sequence,
            )
            rows.append((every, [simulate(workload, plan, cost, seed=seed) for seed in range(histories)]))
    except ValueError as error:
        raise UserError(f"this can't be simulated: {error}") from error
    if as_json:
        typer.echo(json.dumps([{"checkpoint_every": every, **middle(found).to_dict()} for every, found in rows]))
    else:
        print_outcomes(Console(), rows)


def checkpoint_choices(epochs: int) -> list[int]:
    """Intervals between checkpoints that are worth comparing, in epochs."""
    return sorted({every for every in (1, 2, 5, 15, epochs) if every <= epochs})


def seconds_in(text: str, option: str) -> float:
    """`6h`, `10 min`, `90s` in seconds.

    Raises:
        UserError: no such time.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text)
    if found is None or found[2] not in UNITS or not math.isfinite(float(found[1])):
        raise UserError(f"{option} is {text!r}, but must be a number and a unit ({', '.join(UNITS)}), like 6h or 10min")
    return float(found[1]) * UNITS[found[2]]


def print_outcomes(console: Console, rows: Sequence[tuple[int, Sequence[Outcome]]]) -> None:
    """A row per interval between checkpoints."""
    from orchestrator.terminal import plain_table

    table = plain_table(">checkpoint", ">wall time", ">90 % below", ">GPU-hours", ">redone", ">idle", ">lost nodes")
    for every, found in rows:
        one = middle(found)
        slowest = sorted(outcome.seconds for outcome in found)[math.ceil(0.9 * len(found)) - 1]
        table.add_row(
            f"{every} epoch{'s' if every > 1 else ''}",
            duration(one.seconds),
            duration(slowest),
            f"{one.gpu_hours:,.0f}",
            f"{one.redone_gpu_hours:,.0f}",
            f"{one.idle_gpu_hours:,.0f}",
            str(one.losses),
        )
    console.print(table)
    trainings, histories = rows[0][1][0].trainings, len(rows[0][1])
    seen = f"medians of {histories} histories of losses" if histories > 1 else "no node is lost"
    console.print(f"{trainings} trainings; {seen}. The teacher is given: its own training is not counted.", style="dim")
