"""`orchestrate transfer --dry-run`: every fine-tuning with its cost; trains nothing."""

from __future__ import annotations

from rich.console import Console

from configs.schema import RunSettings
from orchestrator.dry_run import Quiet
from orchestrator.report import count, gmacs
from orchestrator.session import Session
from orchestrator.terminal import plain_table
from orchestrator.transfer.driver import TransferDriver


def print_tunings(console: Console, settings: RunSettings) -> None:
    """Check the input as the run itself would, and show what it would train.

    Raises:
        UserError: as the run itself would.
    """
    session = Session(settings, Quiet(), algorithm="transfer")
    session.open()
    driver = session.driver
    assert isinstance(driver, TransferDriver)
    table = plain_table("fine-tuning", ">GMACs", ">params", ">epochs", "")
    for tuning in driver.tunings:
        trial, cost = driver.trial(tuning), session.cost(driver.trial(tuning).network)
        table.add_row(
            tuning.name,
            gmacs(cost.gmacs),
            count(cost.params),
            str(trial.train.epochs if trial.train else 0),
            "stored" if session.store.result(trial.digest) else "",
        )
    data = session.manifest
    console.print(f"Plan of run {session.name}: {len(driver.tunings)} fine-tunings on {data.source}, {data.root}.")
    console.print(table)
    for name, reason in driver.unfit.items():
        console.print(f"{name} is left out: {reason}.", markup=False)
    rate = next(iter(driver.trials.values())).train
    assert rate is not None
    console.print(
        f"Learning rate {rate.lr:g}; new classifiers for {len(data.classes)} classes; {len(data.train)} training and "
        f"{len(data.val)} validation videos in the first split."
    )
