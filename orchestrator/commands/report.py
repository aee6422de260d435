"""The command `orchestrate report`: the page of a run again, or one page of everything in a store."""

from __future__ import annotations

from typing import Annotated

import typer

from configs.errors import UserError
from configs.schema import RunSettings
from orchestrator.commands.options import RunsOption


def report(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Name or folder of a run.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="One page of all searches and models instead, in the folder of all runs.")
    ] = False,
    where: Annotated[
        str | None, typer.Option(metavar="EXPR", help="With --all: which models, e.g. 'backbone=slowfast and int8'.")
    ] = None,
    runs: RunsOption = None,
) -> None:
    """Write a run's report.html and report.png again, or --all: one report.html of everything in the store."""
    if everything == (run is not None):
        given = "both a run and --all are given" if everything else "neither a run nor --all is given"
        raise UserError(
            f"{given}; `orchestrate report RUN` writes one run's page, `orchestrate report --all` one of all"
        )
    if where is not None and not everything:
        raise UserError("--where chooses the models of --all, but one run is reported as it is; leave it out")
    from orchestrator.report.all import write_overall_report
    from orchestrator.store import Store
    from orchestrator.views import VIEWS

    store = Store(runs or RunSettings().runtime.runs)
    if run is None:
        typer.echo(write_overall_report(store, where or ""))
        return
    folder = store.find_run(run)
    state = folder.require_state()
    typer.echo(VIEWS[state["algorithm"]].write_report(store, state, folder.path))
