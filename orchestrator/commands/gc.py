"""The command `orchestrate gc`: options, and what is said of what was removed."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from orchestrator.commands.options import JsonOption, RunsOption

if TYPE_CHECKING:
    from orchestrator.registry.collection import Plan

KEPT = {
    "needed": "tagged, handed over, or what such a model came from",
    "unfinished": "not finished, so that they are where it goes on",
    "at work": "a process is at work there",
}
"""Why trials keep their checkpoints, in words."""


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")] = False,
    unused: Annotated[bool, typer.Option("--unused", help="Also trials that no run refers to.")] = False,
    runs: RunsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove checkpoints of finished trials, except those of tagged and handed-over models and of their ancestors."""
    from configs.schema import RunSettings
    from orchestrator.registry.collection import collect, plan
    from orchestrator.store import Store

    store = Store(runs or RunSettings().runtime.runs)
    found = (plan if dry_run else collect)(store, unused=unused)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, **found.to_dict()}, indent=1))
    else:
        print_plan(Console(), found, dry_run=dry_run)


def print_plan(console: Console, found: Plan, *, dry_run: bool = False) -> None:
    """What goes, how much that is, and what stays."""
    from orchestrator.measure.terminal import number
    from orchestrator.terminal import plain_table

    verb = "Would remove" if dry_run else "Removed"
    whole = [removal for removal in found.removals if removal.what == "trial"]
    if whole:
        table = plain_table("trial that nothing refers to", "digest", ">MB")
        for removal in whole:
            table.add_row(Text(removal.name), removal.digest, number(removal.size_mb))
        console.print(table)
    counted = Counter(removal.what for removal in found.removals)
    parts = [
        f"the checkpoints of {trials_of(counted['checkpoints'])}" if counted["checkpoints"] else "",
        f"{trials_of(len(whole))} as a whole" if whole else "",
        f"what an interrupted removal left of {trials_of(counted['leftover'])}" if counted["leftover"] else "",
    ]
    if said := ", ".join(part for part in parts if part):
        console.print(Text(f"{verb} {said}: {number(found.size_mb)} MB."))
    else:
        console.print(Text("There is nothing to remove."))
    for why, trials in Counter(why for _, why in found.kept).items():
        console.print(Text(f"Kept the checkpoints of {trials_of(trials)}: {KEPT[why]}.", "dim"))


def trials_of(count: int) -> str:
    """`1 trial`, `5 trials`."""
    return f"{count} trial" + ("" if count == 1 else "s")
