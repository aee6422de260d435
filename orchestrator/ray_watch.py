"""What Tune tells of its trials while a stage runs, passed on: epochs, results, and what was lost on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from orchestrator.blame import Event, trials_at_fault
from orchestrator.failures import Action, Failure, Record
from orchestrator.observer import Observer
from orchestrator.ray_failures import address_in, cause_of_loss, process_in
from trainers.incidents import Incident
from trainers.trial import Trial, TrialResult

EPOCH, RESULT, INCIDENT = "epoch_metrics", "trial_result", "incident"
"""What a step reports: an epoch, the end, or something that the training got over; the first step reports nothing but
where it is (which Tune adds to every report), so that a process that dies in its first epoch died somewhere."""


@dataclass
class _Place:
    """Where a trial is, and how far it came."""

    trial: Trial
    node: str | None = None
    process: int | None = None
    epoch: int = 0


class Watch(tune.Callback):
    """Passes on what trials report, and why they were lost."""

    def __init__(self, observer: Observer, failed: Record, history: list[Event]) -> None:
        """`history` is continued: it spans the Tuners of a run."""
        self.observer, self.failed, self.history = observer, failed, history
        self.lost: dict[str, Failure] = {}
        """Trials that Tune gave up, by digest: whoever runs the next Tuner decides, and tells."""
        self._places: dict[str, _Place] = {}
        self._allowed: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks to restore an experiment, which is never done here."""
        return {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Where a trial is, an epoch, an incident, or the end."""
        place = self._place(trial)
        place.node, place.process = result.get(tune.result.NODE_IP), result.get(tune.result.PID)
        if metrics := result.get(EPOCH):
            place.epoch = metrics["epoch"]
            self.history.append(Event(trial=place.trial.digest, node=place.node, at_epoch=place.epoch))
            self.observer.epoch_finished(place.trial.digest, metrics)
        elif data := result.get(INCIDENT):
            self.failed(Failure.got_over(place.trial, Incident(**data), place.node))
        elif data := result.get(RESULT):
            found = TrialResult(**data)
            self.history.append(Event(trial=found.trial, node=place.node, at_epoch=found.epochs))
            if found.status != "finished" and not found.cached:
                self.failed(Failure.of_result(found, place.node))
            self.observer.trial_finished(found)
        self._warn(trial, place)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial was lost, and starts again."""
        self.failed(self._loss(trial, "retried"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial was lost once too often."""
        loss = self._loss(trial, "given up")
        self.lost[loss.trial or ""] = loss

    def _warn(self, trial: Any, place: _Place) -> None:
        """Let Tune give a trial up when it is lost here, too, where that would be its own fault."""
        if trial.trial_id not in self._allowed:
            self._allowed[trial.trial_id] = trial.max_failures
        lost_here = Event(trial=place.trial.digest, node=place.node, cause="process", at_epoch=place.epoch)
        at_fault = place.trial.digest in trials_at_fault([*self.history, lost_here])
        trial.max_failures = trial.num_failures if at_fault else self._allowed[trial.trial_id]

    def trial_of(self, error: BaseException) -> tuple[Trial, int, str | None] | None:
        """The trial whose process an error names, the epochs it had done, and its node."""
        number, node = process_in(error), address_in(error)
        for place in self._places.values():
            if number is not None and place.process == number and node in (None, place.node):
                return place.trial, place.epoch, place.node
        return None

    def _loss(self, trial: Any, action: Action) -> Failure:
        place = self._place(trial)
        error = _last_error(trial)
        failure = Failure(
            trial=place.trial.digest,
            name=place.trial.name,
            cause=cause_of_loss(error),
            node=place.node or address_in(error),
            at_epoch=place.epoch,
            action=action,
        )
        self.history.append(
            Event(trial=place.trial.digest, node=failure.node, cause=failure.cause, at_epoch=place.epoch)
        )
        return failure

    def _place(self, trial: Any) -> _Place:
        return self._places.setdefault(trial.trial_id, _Place(Trial.from_dict(trial.config["trial"])))


def _last_error(trial: Any) -> str | None:
    """Text of the last thing that went wrong with a trial of Tune's, which appends each to a file of the driver."""
    if trial.error_file is None:
        return None
    text: str = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    return text.rpartition("Failure # ")[2]
