"""The observer behind TensorBoard and MLflow: it brings a log up to what the store has, trial by trial.

The store's metrics are the truth, and a log knows what it has already. So a search that goes on writes no point twice,
one that was answered from the store is logged as if it had been trained, and a log that could not be reached for a
while has no gap in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from orchestrator.observer import TrialRow
from orchestrator.store import Store
from orchestrator.telemetry.fan import Containment
from trainers.loop import EpochMetrics
from trainers.trial import TrialResult

RETRY_SECONDS = 60.0
"""Time after a failure in which a log is left alone: each try may make the run wait."""


class Log(Protocol):
    """Where epochs and results of trials are kept for people."""

    def update(self, trial: TrialRow, epochs: Sequence[EpochMetrics], result: TrialResult | None) -> None:
        """Add what is not yet there.

        Args:
            trial: whose they are; its digest says whether it is known.
            epochs: all that it has done so far, in order.
            result: what came of it, once it is over.
        """

    def close(self) -> None:
        """The run is over, or was cut off."""


class Logger:
    """An `Observer` that feeds a log."""

    def __init__(
        self,
        what: str,
        log: Log,
        store: Store,
        *,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Feed a log.

        Args:
            what: what a failure is called, for a person.
            log: the log.
            store: has the metrics.
            tell: says something to a person: once, however often the log fails.
            clock: seconds since whenever.
        """
        self._log, self._store, self._clock = log, store, clock
        self._contained = Containment(what, tell)
        self._retry_at = 0.0
        self._rows: dict[str, TrialRow] = {}
        self._results: dict[str, TrialResult] = {}
        self._heard: dict[str, EpochMetrics] = {}
        self._behind: dict[str, None] = {}
        """Trials with something that the log lacks, oldest first."""

    def stage_started(self, stage: str, trials: Sequence[TrialRow]) -> None:
        """Learn the trials' names and costs."""
        self._rows |= {row.digest: row for row in trials}

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        """Log the epoch, and those before it that the log lacks."""
        self._heard[digest] = metrics
        self._behind[digest] = None
        self._catch_up()

    def trial_finished(self, result: TrialResult) -> None:
        """Log the result."""
        self._results[result.trial] = result
        self._behind[result.trial] = None
        self._catch_up()

    def stage_finished(self, summary: str) -> None:
        """See `Observer`; nothing to be logged."""

    def message(self, text: str) -> None:
        """See `Observer`; nothing to be logged."""

    def close(self) -> None:
        """Try once more what could not be logged."""
        self._retry_at = self._clock()
        self._catch_up()
        with self._contained():
            self._log.close()

    def _catch_up(self) -> None:
        """Log what is to be logged; after a failure, nothing for a while."""
        if self._clock() < self._retry_at:
            return
        self._retry_at = self._clock() + RETRY_SECONDS
        with self._contained():
            while self._behind:
                digest = next(iter(self._behind))
                self._log.update(self._rows[digest], self._epochs(digest), self._results.get(digest))
                del self._behind[digest]
            self._retry_at = 0.0

    def _epochs(self, digest: str) -> list[EpochMetrics]:
        """All epochs of a trial, with the one that was heard last should the store not show it yet."""
        epochs = self._store.metrics(digest)
        heard = self._heard.get(digest)
        return [*epochs, heard] if heard and heard["epoch"] == len(epochs) + 1 else epochs


def scalars(epoch: EpochMetrics) -> dict[str, float]:
    """The numbers of an epoch's metrics, but for the epoch's own."""
    return {name: float(value) for name, value in epoch.items() if name != "epoch" and isinstance(value, int | float)}


def final_scalars(result: TrialResult) -> dict[str, float]:
    """The numbers of a result: accuracies on all validation data, and time."""
    values = {"top1": result.top1, "top5": result.top5, "map": result.map, "seconds": result.seconds}
    return {f"final_{name}": value for name, value in values.items() if value is not None}
