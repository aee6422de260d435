"""A run as a command does it: with a live display, and a last word."""

from __future__ import annotations

import typer
from rich.console import Console

from configs.schema import RunSettings

INTERRUPTED = 130


def execute(settings: RunSettings, algorithm: str) -> None:
    """Do a run with a live display, and say at the end what came of it."""
    from orchestrator.session import Session
    from orchestrator.terminal import choose_observer
    from orchestrator.views import VIEWS

    console = Console()
    with choose_observer(console) as observer:
        session = Session(settings, observer, algorithm=algorithm)
        try:
            state = session.execute()
        except KeyboardInterrupt:
            observer.message(f"Interrupted. The same command goes on where this one stopped (run {session.name}).")
            raise typer.Exit(INTERRUPTED) from None
    VIEWS[algorithm].print_result(console, state, session.run.path / "report.html")
