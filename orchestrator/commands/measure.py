"""`orchestrate measure`: the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from orchestrator.commands.options import JsonOption


def measure(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL", help="Model or export folders; the first is what others are compared with."),
    ],
    batch: Annotated[int, typer.Option(help="Clips or images per forward pass.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    runs: Annotated[int, typer.Option(help="Rounds; each runs every model once.")] = 50,
    video: Annotated[
        Path | None, typer.Option(help="Also go from this video (for reid: image) file to the outputs.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to run.")] = "cpu",
    record: Annotated[
        bool, typer.Option("--record", help="Keep it in the models' store, for orchestrate models and best.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Latency, memory, size and energy of models on this machine, side by side."""
    from orchestrator.measure.measure import Conditions, circumstances, measure_models
    from orchestrator.measure.terminal import print_measurements
    from orchestrator.registry.measuring import owner_of, record_rows

    conditions = Conditions(batch=batch, threads=threads, runs=runs)
    owners = [owner_of(model) for model in models] if record else []
    with Console(stderr=True).status(f"measuring {len(models)} models" if len(models) > 1 else "measuring"):
        rows = measure_models(models, conditions, video=video, device=device)
    if record:
        record_rows(owners, rows, conditions, device)
    under = circumstances(conditions, device)
    if as_json:
        typer.echo(json.dumps({"conditions": under, "models": [row.to_dict() for row in rows]}, indent=1))
    else:
        print_measurements(Console(), rows, under)
        for root in dict.fromkeys(store.root for store, _ in owners):
            typer.echo(f"Recorded in {root}.")
