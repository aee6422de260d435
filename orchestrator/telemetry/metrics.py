"""What is measured of a run: the metrics' names, and their values as a run's progress and state say them.

Pure: nothing is written here. Every metric is a gauge, since a run that starts again replays itself and says anew what
there is to say; a counter would count what was answered from the store a second time.

Units: accuracies and shares are fractions, costs GMACs per clip or image, GPU-seconds and core-seconds the time that
trials trained and evaluated, times the GPUs or CPU cores that each holds (the dashboard shows hours).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from orchestrator import pareto
from orchestrator.observer import TrialRow
from orchestrator.registry.runs import exported, networks_of
from orchestrator.state import State
from trainers.trial import TrialResult

TRIALS_SHOWN = 300
"""Trials with series of their own: the last so many; a sensitivity analysis has thousands. Sums are over all."""
STATES = ("pending", "running", "finished", "diverged", "failed", "cached")
"""What a trial can be; `cached`: finished, and answered from the store."""
CAUSES = {"lost ": "lost", "OutOfMemoryError": "memory"}
"""How the reason of a failure begins, and what it is called; see `cause_of` for the others."""
CAUSE_NAMES = ("non_finite", *CAUSES.values(), "outside", "error")

RUN = ("run", "algorithm", "backbone")
TRIAL = (*RUN, "trial", "change")
MEMBER = (*RUN, "member")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row of `METRICS`."""

    help: str
    """What it is, with its unit."""
    labels: tuple[str, ...]
    """Names of its labels. `change` is the axis that a hypothesis shrinks, or a cell's pruner; empty for others."""


METRICS = {
    "orchestrate_iteration": Metric(help="Iterations of the search begun", labels=RUN),
    "orchestrate_trials": Metric(help="Trials that the run has asked for, by state", labels=(*RUN, "state")),
    "orchestrate_failures": Metric(help="Trials that did not finish, by cause", labels=(*RUN, "cause")),
    "orchestrate_gpu_seconds_used": Metric(help="GPU-seconds of the trials that this run trained", labels=RUN),
    "orchestrate_gpu_seconds_saved": Metric(help="GPU-seconds of the trials answered from the store", labels=RUN),
    "orchestrate_core_seconds_used": Metric(help="Core-seconds of the trials that this run trained", labels=RUN),
    "orchestrate_core_seconds_saved": Metric(help="Core-seconds of the trials answered from the store", labels=RUN),
    "orchestrate_accuracy": Metric(help="Accuracy when last evaluated: top-1, or mAP of re-id", labels=TRIAL),
    "orchestrate_loss": Metric(help="Training loss of the last epoch", labels=TRIAL),
    "orchestrate_epoch": Metric(help="Epochs trained", labels=TRIAL),
    "orchestrate_epochs": Metric(help="Epochs to be trained", labels=TRIAL),
    "orchestrate_gmacs": Metric(help="Cost of the network, in GMACs per clip or image", labels=TRIAL),
    "orchestrate_params": Metric(help="Parameters of the network", labels=TRIAL),
    "orchestrate_clips_per_second": Metric(help="Clips or images trained per second; 0 once it is over", labels=TRIAL),
    "orchestrate_data_wait_share": Metric(help="Share of the last epoch spent waiting for data", labels=TRIAL),
    "orchestrate_member_accuracy": Metric(help="Accuracy of a network that the run hands on so far", labels=MEMBER),
    "orchestrate_member_gmacs": Metric(help="Its cost, in GMACs per clip or image", labels=MEMBER),
    "orchestrate_member_on_front": Metric(help="Whether none of the others is better in both: 1 or 0", labels=MEMBER),
}
"""All metrics by name; those that Ray exports have `ray_` before it."""

EPOCH_VALUES = {
    "loss": "orchestrate_loss",
    "epoch": "orchestrate_epoch",
    "clips_per_second": "orchestrate_clips_per_second",
    "data_wait": "orchestrate_data_wait_share",
}
"""Values of an epoch (`trainers/loop.py`), and the metric that each becomes."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One value of one metric."""

    metric: str
    labels: Mapping[str, str]
    value: float


@dataclass(kw_only=True)
class _Trial:
    """How far one trial is."""

    row: TrialRow
    state: str = "pending"
    seconds: float = 0.0
    cause: str | None = None
    cached: bool = False
    values: dict[str, float] = field(default_factory=dict)
    """By the metric's name."""


class Progress:
    """All that a run has said of itself since it was started."""

    def __init__(
        self, run: str, *, algorithm: str, backbone: str, gpus_per_trial: float, cpus_per_trial: float
    ) -> None:
        self.labels = {"run": run, "algorithm": algorithm, "backbone": backbone}
        self.gpus_per_trial, self.cpus_per_trial = gpus_per_trial, cpus_per_trial
        self._trials: dict[str, _Trial] = {}
        self._changes: dict[str, str] = {}
        self._state: State | None = None

    def found(self, state: State) -> None:
        """Take note of the run's state: iterations, members, and what each trial changes."""
        self._state = state
        self.labels["backbone"] = state["backbone"]
        for row, _ in networks_of(state):
            if change := row.get("axis") or row.get("pruner"):
                self._changes[row["trial"]] = change

    def stage_started(self, trials: Sequence[TrialRow]) -> None:
        """Take note of trials to come; one that an earlier stage had stays what it became."""
        for row in trials:
            values = {
                "orchestrate_gmacs": row.gmacs,
                "orchestrate_params": float(row.params),
                "orchestrate_epochs": float(row.epochs),
                "orchestrate_epoch": 0.0,
            }
            self._trials.setdefault(row.digest, _Trial(row=row, values=values))

    def epoch_finished(self, digest: str, metrics: Mapping[str, Any]) -> None:
        """Take note of an epoch; one without evaluation leaves the last accuracy as it is."""
        trial = self._trials[digest]
        trial.state = "running"
        trial.seconds += metrics["seconds"]
        for key, name in {**EPOCH_VALUES, trial.row.metric: "orchestrate_accuracy"}.items():
            if metrics.get(key) is not None:
                trial.values[name] = float(metrics[key])

    def trial_finished(self, result: TrialResult) -> None:
        """Take note of a result; a second one of the same trial is what the store says of the first."""
        trial = self._trials[result.trial]
        if trial.state not in ("pending", "running"):
            return
        trial.state = "cached" if result.cached and result.status == "finished" else result.status
        trial.seconds, trial.cause, trial.cached = result.seconds, cause_of(result), result.cached
        trial.values |= {"orchestrate_epoch": float(result.epochs), "orchestrate_clips_per_second": 0.0}
        if result.accuracy is not None:
            trial.values["orchestrate_accuracy"] = result.accuracy

    def samples(self) -> list[Sample]:
        """All values now, those of one metric one after the other; of trials with one name, the last one's."""
        order = {metric: place for place, metric in enumerate(METRICS)}
        latest = {(sample.metric, *sample.labels.values()): sample for sample in self._samples()}
        return sorted(latest.values(), key=lambda sample: order[sample.metric])

    def _samples(self) -> Iterator[Sample]:
        trials = list(self._trials.values())
        states = Counter(trial.state for trial in trials)
        causes = Counter(trial.cause for trial in trials)
        yield from (self._sample("orchestrate_trials", states[name], state=name) for name in STATES)
        yield from (self._sample("orchestrate_failures", causes[name], cause=name) for name in CAUSE_NAMES)
        yield from self._effort(trials)
        for digest in list(self._trials)[-TRIALS_SHOWN:]:
            trial = self._trials[digest]
            labels = {"trial": trial.row.name, "change": self._changes.get(digest, "")}
            yield from (self._sample(name, value, **labels) for name, value in trial.values.items())
        if self._state is not None:
            yield from self._standing(self._state)

    def _effort(self, trials: Sequence[_Trial]) -> Iterator[Sample]:
        saved = sum(trial.seconds for trial in trials if trial.cached)
        used = sum(trial.seconds for trial in trials if not trial.cached)
        for unit, held in (("gpu", self.gpus_per_trial), ("core", self.cpus_per_trial)):
            yield self._sample(f"orchestrate_{unit}_seconds_used", used * held)
            yield self._sample(f"orchestrate_{unit}_seconds_saved", saved * held)

    def _standing(self, state: State) -> Iterator[Sample]:
        """What the search has found so far."""
        if state.get("iterations"):
            yield self._sample("orchestrate_iteration", len(state["iterations"]))
        metric = state.get("metric", "top1")
        members = [row for row in exported(state) if row.get("path") and row.get(metric) is not None]
        on_front = pareto.front([(row[metric], row["gmacs"]) for row in members], minimise=(False, True))
        for row, kept in zip(members, on_front, strict=True):
            member = PurePath(row["path"]).name  # what its folder is called
            yield self._sample("orchestrate_member_accuracy", row[metric], member=member)
            yield self._sample("orchestrate_member_gmacs", row["gmacs"], member=member)
            yield self._sample("orchestrate_member_on_front", kept, member=member)

    def _sample(self, metric: str, value: float, **labels: str) -> Sample:
        return Sample(metric=metric, labels={**self.labels, **labels}, value=float(value))


def cause_of(result: TrialResult) -> str | None:
    """Why a trial did not finish, as one of `CAUSE_NAMES`; none where it did."""
    if result.status == "finished":
        return None
    if result.status == "diverged":
        return "non_finite"
    for beginning, cause in CAUSES.items():
        if (result.reason or "").startswith(beginning):
            return cause
    return "outside" if result.transient else "error"
