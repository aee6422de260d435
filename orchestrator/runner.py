"""Running a batch of trials: what a runner is, the one that needs no cluster, and the look-up before either.

A runner is asked for the trials of one stage (one PAS iteration, one sweep) and answers with their results. It never
sees a trial whose result is already in the store.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol, Self

from configs.errors import RunError, UserError
from orchestrator.failures import Failure, Record
from orchestrator.observer import Observer
from orchestrator.store import Store
from trainers.files import write_text
from trainers.incidents import Incident, cause_of
from trainers.loop import EpochMetrics, run_trial
from trainers.site import Site
from trainers.trial import Trial, TrialResult

log = logging.getLogger(__name__)


class Runner(Protocol):
    """Trains trials, somewhere. A context manager: what it starts, it stops."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def train(self, stage: str, trials: Sequence[Trial]) -> list[TrialResult]:
        """Train trials that the store does not know; results in the same order.

        Args:
            stage: name of the stage, for people.
            trials: what to train.
        """
        ...


def run_stage(
    runner: Runner,
    store: Store,
    observer: Observer,
    stage: str,
    trials: Sequence[Trial],
) -> list[TrialResult]:
    """Results of a stage's trials: from the store where it knows them, from the runner where not."""
    known = {trial.digest: result for trial in trials if (result := store.result(trial.digest))}
    missing = list({trial.digest: trial for trial in trials if trial.digest not in known}.values())
    for trial in trials:
        if trial.digest in known:
            known[trial.digest] = replace(known[trial.digest], cached=True, name=trial.name)
            observer.trial_finished(known[trial.digest])
    if missing:
        known.update({result.trial: result for result in runner.train(stage, missing)})
    return [known[trial.digest] for trial in trials]


def refuse_transient(results: Sequence[TrialResult]) -> None:
    """Stop where a trial failed for a reason outside itself: it may well succeed the next time.

    Raises:
        RunError: lists what could not be run, and why.
    """
    if blocked := [result for result in results if result.transient]:
        lines = "\n".join(f"  {result.name}: {result.reason}" for result in blocked)
        raise RunError(
            f"{len(blocked)} of {len(results)} trainings could not be run:\n{lines}\n"
            "Once the cause is gone, the same command goes on from the last checkpoints"
        )


def ignore(_: Failure) -> None:
    """Nobody counts."""


class LocalRunner:
    """One trial after the other in this process: for debugging, and for machines without Ray."""

    def __init__(self, site: Site, observer: Observer, *, failed: Record = ignore) -> None:
        """`failed` is told of what goes wrong."""
        self.site = site
        self.observer = observer
        self.failed = failed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def train(self, stage: str, trials: Sequence[Trial]) -> list[TrialResult]:
        """See `Runner.train`."""
        return [self._train(trial) for trial in trials]

    def _train(self, trial: Trial) -> TrialResult:
        with closing(guarded(trial, self.site)) as reports:
            while True:
                try:
                    report = next(reports)
                except StopIteration as end:
                    result: TrialResult = end.value
                    if result.status != "finished" and not result.cached:
                        self.failed(Failure.of_result(result))
                    self.observer.trial_finished(result)
                    return result
                if isinstance(report, Incident):
                    self.failed(Failure.got_over(trial, report))
                else:
                    self.observer.epoch_finished(trial.digest, report)


def guarded(trial: Trial, site: Site) -> Generator[EpochMetrics | Incident, None, TrialResult]:
    """`run_trial`, with an error turned into a result of status `failed`.

    An error that the trial would meet again is no reason to start it again on another node, so it is an answer. It is
    not written as a result: once its cause is gone, the same command tries again. The traceback goes to `failure.txt`.
    """
    try:
        return (yield from run_trial(trial, site))
    except Exception as error:
        log.debug("trial %s failed", trial.name, exc_info=True)
        cause = cause_of(error)
        transient = isinstance(error, OSError | UserError) or cause == "storage"
        reason = str(error) if transient else f"{type(error).__name__}: {error}"
        try:
            write_text(site.trial_folder(trial.digest) / "failure.txt", traceback.format_exc())
        except OSError:
            log.warning("the traceback of %s could not be written", trial.name)
        return TrialResult(
            trial=trial.digest, name=trial.name, status="failed", reason=reason, transient=transient, cause=cause
        )
