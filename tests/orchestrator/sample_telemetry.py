"""What a run says to its observers, made up; and a log that remembers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.observer import TrialRow
from orchestrator.store import Store
from orchestrator.telemetry.metrics import Progress
from trainers.loop import EpochMetrics
from trainers.results import write_metrics
from trainers.trial import Status, TrialResult


def row(digest: str, *, epochs: int = 2) -> TrialRow:
    return TrialRow(name=f"net-{digest}", digest=digest, epochs=epochs, gmacs=0.5, params=1000)


def epoch(number: int, *, loss: float = 1.0, top1: float | None = None) -> EpochMetrics:
    """An epoch of half a minute."""
    return {
        "epoch": number,
        "loss": loss,
        "ce": loss,
        "train_top1": 0.25,
        "top1": top1,
        "lr": 0.1,
        "clips_per_second": 20.0,
        "data_wait": 0.125,
        "seconds": 30.0,
    }


def result(
    digest: str,
    *,
    status: Status = "finished",
    top1: float | None = 0.75,
    seconds: float = 1800.0,
    cached: bool = False,
    reason: str | None = None,
    transient: bool = False,
) -> TrialResult:
    return TrialResult(
        trial=digest,
        name=f"net-{digest}",
        status=status,
        top1=top1 if status == "finished" else None,
        seconds=seconds,
        epochs=2,
        cached=cached,
        reason=reason,
        transient=transient,
    )


def progress() -> Progress:
    """Of a run on half a GPU and two cores per trial."""
    return Progress("mine", algorithm="pas", backbone="slowfast", gpus_per_trial=0.5, cpus_per_trial=2)


def state() -> dict[str, Any]:
    """A search after its first iteration: the family's member is worse and cheaper than the teacher."""
    teacher = {"name": "net-t", "trial": "t", "top1": 0.9, "gmacs": 1.0}
    hypothesis = {"name": "net-a", "trial": "a", "axis": "s", "top1": 0.75, "gmacs": 0.5}
    member = {**hypothesis, "name": "PAS-1", "path": "models/PAS-1"}
    return {
        "metric": "top1",
        "backbone": "slowfast",
        "teacher": teacher,
        "iterations": [{"hypotheses": [hypothesis], "control": None}],
        "family": [member],
    }


def store_epochs(store: Store, digest: str, epochs: Sequence[EpochMetrics]) -> None:
    folder = store.trial_folder(digest)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder, list(epochs))


def prepared_store(path: Path) -> Store:
    store = Store(path / "runs")
    store.prepare()
    return store
