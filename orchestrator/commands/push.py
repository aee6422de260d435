"""The command `orchestrate push`: a package to a folder, or to the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from orchestrator.commands.options import JsonOption

if TYPE_CHECKING:
    from orchestrator.handoff.push import Pushed


def push(
    package: Annotated[Path, typer.Argument(help="Folder that `orchestrate handoff` wrote.")],
    target: Annotated[str, typer.Argument(help="owner/name on the Hub, or a folder: ./x, /x, file:///x.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="R", help="Branch \\[default: main].")] = None,
    message: Annotated[str | None, typer.Option(metavar="M", help="Of the commit \\[default: Hand over NAME].")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the files; push nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish a package, verified first. An earlier package there is replaced; anything else is left alone: exit 2."""
    from orchestrator.handoff.hub import HubOptions
    from orchestrator.handoff.push import push_package

    options = HubOptions(private=private, revision=revision, message=message)
    pushed = push_package(package, target, options, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps(pushed.to_dict(), allow_nan=False))
    else:
        print_pushed(Console(), pushed)


def print_pushed(console: Console, pushed: Pushed) -> None:
    """The files of a dry run, then what was done, or would be."""
    from orchestrator.terminal import plain_table

    if pushed.dry_run:
        table = plain_table("file", ">bytes")
        for file in pushed.files:
            copy = f" (a copy of {file.source})" if file.source != file.path else ""
            table.add_row(Text(f"{file.path}{copy}"), f"{file.bytes:,}")
        console.print(table)
    count, megabytes = len(pushed.files), pushed.bytes / 1e6
    did = "Would push" if pushed.dry_run else "Pushed"
    said = f"{did} {pushed.name}, {count} files, {megabytes:.3g} MB, to {pushed.url or pushed.target}"
    console.print(Text(said), soft_wrap=True)
