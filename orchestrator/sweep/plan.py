"""`orchestrate sweep prune --dry-run`: every cell with its cost; trains nothing."""

from __future__ import annotations

from rich.console import Console

from configs.errors import UserError
from configs.schema import RunSettings
from orchestrator.dry_run import Quiet
from orchestrator.report import count, gmacs, share
from orchestrator.session import Session
from orchestrator.sweep.driver import SweepDriver
from orchestrator.sweep.table import LABELS
from orchestrator.terminal import plain_table


def print_cells(console: Console, settings: RunSettings) -> None:
    """Check the input as the run itself would, and show what it would train.

    Raises:
        UserError: as the run itself would; also global pruning, which can't be told without trained weights.
    """
    session = Session(settings, Quiet(), algorithm="sweep-prune")
    session.open()
    driver = session.driver
    assert isinstance(driver, SweepDriver)
    if settings.prune.scope == "global":
        raise UserError(
            "prune.scope is global, but then what each layer loses depends on trained weights; leave out --dry-run"
        )
    cells = driver.plan_cells(session.untrained())
    unpruned = session.cost(session.network)
    table = plain_table("cell", ">GMACs", ">of unpruned", ">params", ">of unpruned", ">epochs", "")
    for cell in cells:
        trial = driver.trial(cell)
        table.add_row(
            cell.name,
            gmacs(cell.cost.gmacs),
            share(cell.cost.macs, unpruned.macs),
            count(cell.cost.params),
            share(cell.cost.params, unpruned.params),
            str(trial.train.epochs if trial.train else 0),
            "stored" if session.store.result(trial.digest) else "",
        )
    console.print(f"Plan of run {session.name}: {len(cells)} cells, all pruned from {session.teacher.name}.")
    console.print(table)
    pruners = ", ".join(LABELS[pruner] for pruner in settings.sweep.pruners)
    epochs = sum(trial.train.epochs for cell in cells if (trial := driver.trial(cell)).train)
    teacher = session.teacher.train.epochs if session.teacher.train else 0
    console.print(f"{pruners}: {teacher + epochs} trial-epochs over {len(session.manifest.train)} training examples.")
