"""`orchestrate features`: the command."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from configs.errors import RunError, UserError
from orchestrator.commands.options import JsonOption

if TYPE_CHECKING:
    from orchestrator.handoff.video import Precomputed

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def features(
    package: Annotated[Path, typer.Argument(help="Folder that `orchestrate handoff` wrote.")],
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="Video files.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the arrays.")],
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Feature map \\[default: the model's outputs].")
    ] = None,
    every: Annotated[
        int | None, typer.Option(metavar="N", help="Frames from a window to the next \\[default: a window's length].")
    ] = None,
    pool: Annotated[
        Literal["all", "space", "none"], typer.Option(help="Average over time and space, over space, or not at all.")
    ] = "all",
    half: Annotated[bool, typer.Option("--half", help="Store float16 in place of float32.")] = False,
    batch: Annotated[int, typer.Option(help="Windows per forward pass.")] = 8,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 …")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Features of whole videos as .npy arrays with time stamps, for detectors. A video that fails stops no other."""
    from orchestrator.handoff import load
    from orchestrator.handoff.video import Settings, check_settings, precompute

    require_different_names(videos)
    model = load(package, stages=[stage] if stage else None, device=device)
    settings = Settings(stage=stage, every=every, pool=pool, dtype="float16" if half else "float32", batch=batch)
    check_settings(model, settings)
    console, code = Console(stderr=as_json), 0
    made: list[Precomputed] = []
    try:
        with Console(stderr=True).status("reading") as status:
            for number, video in enumerate(videos, start=1):
                status.update(escape(f"{video.name} ({number} of {len(videos)})"))
                try:
                    made.append(precompute(model, video, to, settings))
                    print_features(console, video, made[-1])
                except (UserError, RunError) as error:
                    code = max(code, BAD_INPUT if isinstance(error, UserError) else FAILED)
                    console.print(f"[bold red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. Of this video nothing was written; those before it are whole.")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps([one.to_dict() for one in made], indent=1))
    if code:
        raise typer.Exit(code)


def require_different_names(videos: Sequence[Path]) -> None:
    """Refuse videos whose arrays would have the same names.

    Raises:
        UserError: naming two of them.
    """
    of_name: dict[str, list[Path]] = defaultdict(list)
    for video in videos:
        of_name[video.stem].append(video)
    if same := next((group for group in of_name.values() if len(group) > 1), None):
        raise UserError(f"{same[0]} and {same[1]} would both be written as {same[0].stem}; write one elsewhere")


def print_features(console: Console, video: Path, made: Precomputed) -> None:
    """A line per video, and what to know of it."""
    shape = " × ".join(map(str, made.shape))
    line = f"{escape(video.name)}: {made.seconds:.2f} s, {shape} in {escape(str(made.features))}"
    console.print(line, highlight=False, soft_wrap=True)
    for note in made.notes:
        console.print(f"  [yellow]{escape(note)}[/]", highlight=False, soft_wrap=True)
