"""What a terminal shows of measured models; readable from 80 columns on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from orchestrator.measure.measure import Measurement
from orchestrator.report import UNKNOWN
from orchestrator.terminal import plain_table

NAME_WIDTH = 28
"""Characters of a model's name, which is folded when it is longer."""


def print_measurements(console: Console, rows: Sequence[Measurement], under: Mapping[str, Any]) -> None:
    """Time, then what else a model needs, then the way from a file; what was not measured is not shown, or says why.

    Args:
        console: where to.
        rows: the models; the first is what the others are compared with.
        under: `circumstances` of the measurement.
    """
    names = short_names([row.model for row in rows])
    if len(rows) > 1:
        console.print(Text(f"Compared with {rows[0].model}", "bold"), soft_wrap=True)
    else:
        console.print(Text(rows[0].model, "bold"), soft_wrap=True)
    _print_time(console, names, rows)
    _print_needs(console, names, rows)
    if any(row.end_to_end for row in rows):
        _print_end_to_end(console, names, rows)
    for note in dict.fromkeys(note for row in rows for note in row.notes):
        console.print(Text(f"Not measured: {note}", "yellow"))
    console.print(Text(_sentence(under), "dim"))


def short_names(models: Sequence[str]) -> list[str]:
    """The models' folders below the folder that all are in; a single one, and that folder itself, by its own name."""
    paths = [os.path.abspath(model) for model in models]
    top = os.path.commonpath({os.path.dirname(path) for path in paths})
    return [os.path.relpath(path, top or ".") if path != top else Path(path).name for path in paths]


def number(value: float | None, unit: str = "") -> str:
    """Three digits that count, and all digits before the point; a dash for what is not known."""
    if value is None:
        return UNKNOWN
    decimals = next((places for places, limit in enumerate((100, 10, 1, 0.1)) if abs(value) >= limit), 4)
    return f"{value:.{decimals}f}{unit}"


def _print_time(console: Console, names: Sequence[str], rows: Sequence[Measurement]) -> None:
    compared = len(rows) > 1
    table = plain_table("model", "format", ">median ms", ">p95 ms", ">per s", *([">faster"] if compared else []))
    table.columns[0].max_width = NAME_WIDTH
    for name, row in zip(names, rows, strict=True):
        faster = [number(row.speedup, "×")] if compared else []
        table.add_row(name, _format(row), number(row.median_ms), number(row.p95_ms), number(row.per_second), *faster)
    console.print(table)


def _print_needs(console: Console, names: Sequence[str], rows: Sequence[Measurement]) -> None:
    on_gpu = any(row.gpu_percent is not None or row.gpu_mb is not None for row in rows)
    compared = len(rows) > 1
    headings = [*([">smaller"] if compared else []), ">peak memory MB", *([">GPU %", ">GPU MB"] if on_gpu else [])]
    table = plain_table("model", ">file MB", *headings, ">energy mJ")
    table.columns[0].max_width = NAME_WIDTH
    for name, row in zip(names, rows, strict=True):
        energy = row.energy_source if row.energy_mj is None else number(row.energy_mj)
        gpu = (number(row.gpu_percent), number(row.gpu_mb)) if on_gpu else ()
        smaller = [number(row.times_smaller, "×")] if compared else []
        table.add_row(name, number(row.size_mb), *smaller, number(row.peak_mb), *gpu, energy)
    console.print(table)
    if sources := {row.energy_source for row in rows if row.energy_mj is not None}:
        text = f"Energy per clip or image, idling included: {', '.join(sorted(sources))}."
        console.print(Text(text, "dim"))


def _print_end_to_end(console: Console, names: Sequence[str], rows: Sequence[Measurement]) -> None:
    table = plain_table("from the file on", ">decode ms", ">clip ms", ">network ms", ">all ms")
    table.columns[0].max_width = NAME_WIDTH
    for name, row in zip(names, rows, strict=True):
        parts = row.end_to_end or {}
        table.add_row(name, *(number(parts.get(f"{part}_ms")) for part in ("decode", "clip", "network", "total")))
    console.print(table)


def _format(row: Measurement) -> str:
    """`package, fp32`; where the format says it already, once."""
    return row.format if row.format.endswith(row.precision) else f"{row.format}, {row.precision}"


def _sentence(under: Mapping[str, Any]) -> str:
    threads = f"{under['threads']} thread" + ("s" if under["threads"] > 1 else "")
    return (
        f"Batch {under['batch']}, {threads}, {under['runs']} rounds on {under['machine']}; "
        f"torch {under['torch']}, onnxruntime {under['onnxruntime']}."
    )
