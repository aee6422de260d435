"""A run as a command does it: with a live display, and a last word."""

from __future__ import annotations

import typer
from rich.console import Console

from configs.schema import RunSettings
from orchestrator.commands import submit as submission

INTERRUPTED = 130


def execute(settings: RunSettings, algorithm: str, *, submit: str | None = None, wait: bool = True) -> None:
    """Do a run with a live display, and say at the end what came of it; or have a cluster do it.

    Args:
        settings: of the run.
        algorithm: key of `SEARCHES`.
        submit: address of a Ray cluster's dashboard, to which the run is submitted as a job.
        wait: whether the job's log is followed to its end.
    """
    if submit is not None:
        raise typer.Exit(submission.submit(settings, algorithm, submit, wait=wait))
    submission.refuse_no_wait(wait=wait)
    from orchestrator.failures import retries
    from orchestrator.jobs.arrival import require_same_code
    from orchestrator.session import Session
    from orchestrator.telemetry.watching import watched
    from orchestrator.terminal import choose_observer
    from orchestrator.views import VIEWS

    require_same_code()
    console = Console()
    with choose_observer(console) as shown, watched(settings, algorithm, shown, settings.runtime.log) as observer:
        session = Session(settings, observer, algorithm=algorithm)
        try:
            state = session.execute()
        except KeyboardInterrupt:
            observer.message(f"Interrupted. The same command goes on where this one stopped (run {session.name}).")
            raise typer.Exit(INTERRUPTED) from None
    VIEWS[algorithm].print_result(console, state, session.run.path / "report.html")
    if text := retries(state):
        console.print(text, markup=False, highlight=False)
