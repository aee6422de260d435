"""The commands `orchestrate models`, `lineage` and `tag`: what the store holds, where it comes from, and labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from configs.errors import UserError
from configs.schema import RunSettings
from orchestrator.commands.options import JsonOption, RunsOption

if TYPE_CHECKING:
    from orchestrator.registry.model import StoredModel
    from orchestrator.registry.registry import Registry

SHOWN = 10
"""Faults of a store that are listed; the others are counted."""

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Tag, digest or its start, RUN/NAME, trial name, or model folder.")
]
WhereOption = Annotated[
    str | None, typer.Option(metavar="EXPR", help="Only some, e.g. 'backbone=slowfast and (int8 or gmacs<1)'.")
]


def models(
    sort: Annotated[
        Literal["top1", "map", "accuracy", "gmacs", "params", "size", "latency", "drop", "name"],
        typer.Option(metavar="KEY", help="accuracy, top1, map, gmacs, params, size, latency, drop or name."),
    ] = "accuracy",
    where: WhereOption = None,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Only the model with this tag.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what no run hands on and nobody tagged.")] = False,
    as_json: JsonOption = False,
    runs: RunsOption = None,
) -> None:
    """List the models of all runs: what they reach and cost."""
    from orchestrator.registry.listing import listed, sorted_by
    from orchestrator.registry.terminal import print_models
    from orchestrator.registry.where import parse

    condition = parse(where) if where is not None else None
    registry = open_registry(runs)
    found = sorted_by(listed(registry, everything=everything, tag=tag, where=condition), sort)
    warn(registry)
    if as_json:
        typer.echo(json.dumps([model.to_dict() for model in found], indent=1, allow_nan=False))
        return
    console = Console()
    if found:
        print_models(console, found)
    console.print(Text(summary(registry, found, everything=everything or tag is not None)), soft_wrap=True)


def lineage(
    model: ModelArgument,
    children: Annotated[bool, typer.Option("--children", help="Also what was made from it.")] = False,
    as_json: JsonOption = False,
    runs: RunsOption = None,
) -> None:
    """Show what a model was made from, step by step, back to its base network."""
    from orchestrator.registry.family_tree import lineage_json, lineage_tree, offspring_tree

    registry = open_registry(runs)
    found = registry.find(model)
    if as_json:
        typer.echo(json.dumps(lineage_json(registry, found, children=children), indent=1, allow_nan=False))
        return
    console = Console()
    console.print(lineage_tree(registry, found), highlight=False)
    if children:
        made = bool(registry.children(found))
        console.print(Text("\nMade from it:" if made else "\nNothing was made from it.", "bold"))
        if made:
            console.print(offspring_tree(registry, found), highlight=False)


def tag(
    model: ModelArgument,
    name: Annotated[str, typer.Argument(metavar="TAG", help="Small letters, digits, '.', '_', '-'.")],
    move: Annotated[bool, typer.Option("--move", help="Take it from the model that has it.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take it from this model.")] = False,
    runs: RunsOption = None,
) -> None:
    """Label a model, e.g. `production`: a name that stays while searches come and go, and keeps it from `gc`."""
    from orchestrator.registry.tags import remove_tag, set_tag

    if move and remove:
        raise UserError("--move and --remove can't both be meant; give one of them")
    registry = open_registry(runs)
    found = registry.find(model)
    names = {each.digest: each.name for each in registry.models}
    if remove:
        remove_tag(registry.store, found.digest, name, names)
    else:
        set_tag(registry.store, found.digest, name, names, move=move)
    said = f"no longer has the tag {name}" if remove else f"has the tag {name}"
    Console().print(escape(f"{found.name} ({found.digest}) {said}."), highlight=False, soft_wrap=True)


def open_registry(runs: Path | None) -> Registry:
    """The registry of the store below a folder, by default the settings' one."""
    from orchestrator.registry.registry import Registry
    from orchestrator.store import Store

    return Registry.open(Store(runs or RunSettings().runtime.runs))


def warn(registry: Registry) -> None:
    """Say on stderr what of a store can't be used."""
    lines = [f"trials/{damage.digest} is left out: {damage.reason}" for damage in registry.damaged]
    lines += dict.fromkeys(registry.tag_problems.values())
    console = Console(stderr=True, soft_wrap=True)
    for line in lines[:SHOWN]:
        console.print(f"[yellow]warning:[/] {escape(line)}", highlight=False)
    if len(lines) > SHOWN:
        console.print(f"[yellow]warning:[/] and {len(lines) - SHOWN} more like these", highlight=False)


def summary(registry: Registry, found: Sequence[StoredModel], *, everything: bool) -> str:
    """How many of how many are listed, or what to do where there are none."""
    everywhere, root = len(registry.models), registry.store.root
    if not everywhere:
        return f"There are no models in {root} yet; `orchestrate pas` searches for some, `--runs DIR` looks elsewhere."
    said = f"{len(found)} of {everywhere} models in {root}"
    return said if everything else f"{said}; --all also lists what no run hands on"
