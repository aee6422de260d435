"""The command `orchestrate export`: options, what is shown of an export, and the exit code that its verdict has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configs.schema import QuantiseSettings
from orchestrator.commands.options import DataOption, JsonOption, data_flags
from orchestrator.report import METRICS, UNKNOWN, percent
from orchestrator.report.export_card import lost_points, size, times

if TYPE_CHECKING:
    from orchestrator.export.export import Export

DEFAULTS = QuantiseSettings()
REJECTED, INTERRUPTED = 1, 130


def export(
    model: Annotated[Path, typer.Argument(help="Model folder, e.g. runs/NAME/models/PAS-2.")],
    format_: Annotated[
        Literal["int8", "onnx", "onnx-int8", "torch-export"],
        typer.Option("--format", metavar="FORMAT", help="int8, onnx, onnx-int8 or torch-export."),
    ],
    to: Annotated[Path | None, typer.Option(help="Folder to be written \\[default: MODEL/exports/FORMAT].")] = None,
    original: Annotated[
        Path | None, typer.Option(help="Model folder of the FP32 original \\[default: as MODEL says, or MODEL].")
    ] = None,
    max_drop_points: Annotated[
        float, typer.Option(metavar="P", help="Points of accuracy that may be lost.")
    ] = DEFAULTS.max_drop_points,
    calibration: Annotated[
        int, typer.Option(metavar="N", help="Training examples that ranges are measured on.")
    ] = DEFAULTS.calibration,
    batch: Annotated[int, typer.Option(help="Inputs at a time, for latency.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads, for latency.")] = 1,
    runs: Annotated[int, typer.Option(help="Forward passes of each, for latency.")] = 50,
    data: DataOption = None,
    split: Annotated[int | None, typer.Option(help="Official split of UCF101 and HMDB51.")] = None,
    accuracy: Annotated[bool, typer.Option("--accuracy/--no-accuracy", help="Measure accuracy, and judge it.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Exit with 0 even where the file is rejected.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a file to deploy, measured against its FP32 original. Slower, or worse than allowed: rejected, exit 1."""
    from orchestrator.export.export import export_model
    from orchestrator.export.request import ExportRequest
    from orchestrator.measure.turns import Conditions

    request = ExportRequest(
        model=model,
        format=format_,
        to=to,
        original=original,
        max_drop_points=max_drop_points,
        calibration=calibration,
        conditions=Conditions(batch=batch, threads=threads, runs=runs),
        data=data_flags(data) | {"data.split": split},
        accuracy=accuracy,
    )
    try:
        with Console(stderr=True).status("reading") as status:
            made = export_model(request, lambda doing: status.update(escape(doing)))
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. Nothing was written; an earlier export is as it was.")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(made.to_dict(), allow_nan=False))
    else:
        print_export(Console(), made, force=force)
    if not made.verdict.accepted and not force:
        raise typer.Exit(REJECTED)


def print_export(console: Console, made: Export, *, force: bool = False) -> None:
    """A row for the original and one for the file, what differs, and the verdict."""
    numbers = made.numbers
    metric = numbers["metric"]
    table = Table(title=f"{numbers['name']} as {numbers['format']}", title_justify="left")
    table.add_column("")
    for heading in ("size", "median", "95 %", METRICS[metric]):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in (("FP32 original", numbers["fp32"]), (numbers["format"], numbers)):
        table.add_row(name, *_cells(row, metric))
    drop = numbers["drop_points"]
    change = UNKNOWN if drop is None else f"{lost_points(drop)} points"
    table.add_row("", size(numbers["smaller"]), f"{times(numbers['speedup'])} as fast", "", change)
    console.print(table)
    for one in numbers["returned"]:
        console.print(escape(f"{one['layer']} stays in floating point {one['reason']}."), highlight=False)
    for note in numbers["notes"]:
        console.print(escape(note), highlight=False)
    said, style = escape(made.verdict.describe()), "green" if made.verdict.accepted else "bold red"
    console.print(f"[{style}]{said}[/]", highlight=False, soft_wrap=True)
    console.print(escape(f"Written to {made.folder}"), highlight=False, soft_wrap=True)
    if not made.verdict.accepted and not force:
        console.print("Its card says so. --force ends with exit code 0 all the same.", style="dim")


def _cells(row: dict[str, Any], metric: str) -> tuple[str, ...]:
    return (
        f"{row['size_mb']:.3g} MB",
        f"{row['latency_ms']:.2f} ms",
        f"{row['p95_ms']:.2f} ms",
        percent(row.get(metric)),
    )
