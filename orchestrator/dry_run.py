"""`orchestrate pas --dry-run`: what would be trained, what it costs, and about how long it takes. Trains nothing.

Time is measured, not guessed from a table: one training step and one forward pass of the teacher on random clips,
scaled to every hypothesis by its multiply-adds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from compression.cost import Cost
from compression.spec import NetworkSpec
from configs.schema import RunSettings
from orchestrator.observer import TrialRow
from orchestrator.pas import Hypothesis, Model, PasSearch
from orchestrator.report import count, duration, gmacs
from orchestrator.session import Session
from orchestrator.terminal import plain_table
from trainers.backbones import build
from trainers.data.clips import steps_per_epoch
from trainers.trial import Trial, TrialResult

MEASURED_MACS = 0.5e9
"""Cost of the batch of the measured step: as many clips as make it, from 1 to `MEASURED_CLIPS`."""
MEASURED_CLIPS = 16


@dataclass(frozen=True)
class PlannedTrial:
    """A trial that would be trained, or is already in the store."""

    trial: Trial
    cost: Cost
    seconds: float
    """Estimated time to train it."""
    stored: bool


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    run: str
    teacher: PlannedTrial
    first_iteration: list[PlannedTrial]
    iterations: int
    controls: bool
    train_videos: int
    slots: int
    """Trials at a time."""

    @property
    def trial_epochs(self) -> int:
        """Epochs of all trials of all iterations, those in the store included; an upper bound, as axes exhaust."""
        per_trial = [planned.trial.train.epochs for planned in self.first_iteration if planned.trial.train]
        teacher = self.teacher.trial.train.epochs if self.teacher.trial.train else 0
        controls = self.iterations * per_trial[0] if self.controls else 0
        return teacher + self.iterations * sum(per_trial) + controls

    @property
    def seconds(self) -> float:
        """Estimated wall time of everything that is not in the store, an upper bound: later iterations cost less."""
        first = sum(planned.seconds for planned in self.first_iteration if not planned.stored)
        every = sum(planned.seconds for planned in self.first_iteration)
        controls = self.iterations * max(planned.seconds for planned in self.first_iteration) if self.controls else 0
        teacher = 0.0 if self.teacher.stored else self.teacher.seconds
        return teacher + (first + (self.iterations - 1) * every + controls) / self.slots


class Quiet:
    """An observer that says nothing: a plan has no progress."""

    def stage_started(self, stage: str, trials: Sequence[TrialRow]) -> None:
        """See `Observer`."""

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        """See `Observer`."""

    def trial_finished(self, result: TrialResult) -> None:
        """See `Observer`."""

    def stage_finished(self, summary: str) -> None:
        """See `Observer`."""

    def message(self, text: str) -> None:
        """See `Observer`."""


def make_plan(settings: RunSettings) -> Plan:
    """Check the input, and plan the run.

    Raises:
        UserError: as the run itself would.
    """
    session = Session(settings, Quiet())
    session.open()
    teacher = session.teacher
    base = Model(network=session.network, cost=session.cost(session.network), trial=teacher.digest, top1=1.0, top5=1.0)
    search = PasSearch(base, settings.search, session.cost)
    forward, step = measure_step(session.network, base.cost)

    def planned(trial: Trial) -> PlannedTrial:
        cost = session.cost(trial.network)
        share = cost.macs / base.cost.macs
        epochs = trial.train.epochs if trial.train else 0
        batch = trial.train.batch if trial.train else 1
        clips = epochs * steps_per_epoch(session.manifest, settings.clips, batch) * batch
        tests = len(session.manifest.val) * (settings.clips.test + epochs)
        seconds = clips * (step * share + (forward if trial.teacher else 0)) + tests * forward * share
        return PlannedTrial(trial, cost, seconds, session.store.result(trial.digest) is not None)

    def trial_of(hypothesis: Hypothesis) -> Trial:
        return session.planner.trial(hypothesis)

    return Plan(
        run=session.name,
        teacher=planned(teacher),
        first_iteration=[planned(trial_of(hypothesis)) for hypothesis in search.propose()],
        iterations=settings.search.iterations,
        controls=settings.search.control,
        train_videos=len(session.manifest.train),
        slots=slots(settings),
    )


def measure_step(network: NetworkSpec, cost: Cost) -> tuple[float, float]:
    """Seconds per clip of a forward pass and of a whole training step of a network here, with one thread."""
    torch.set_num_threads(1)
    batch = int(min(MEASURED_CLIPS, max(1, MEASURED_MACS // cost.macs)))
    module = build(network).eval().to(memory_format=torch.channels_last_3d)
    clips = torch.rand(batch, 3, network.frames, network.input_side, network.input_side)
    clips = clips.contiguous(memory_format=torch.channels_last_3d)

    def forward() -> None:
        with torch.no_grad():
            module(clips)

    def step() -> None:
        module(clips).square().mean().backward()

    return _median_seconds(forward) / batch, _median_seconds(step) / batch


def slots(settings: RunSettings) -> int:
    """Trials that this machine, or what the settings allow, trains at a time."""
    from orchestrator.ray_runner import machine_cpus

    runtime = settings.runtime
    if runtime.runner == "local":
        return 1
    fit = max(1, int(machine_cpus() // runtime.cpus_per_trial))
    return min(fit, runtime.max_concurrent or fit)


def print_plan(console: Console, plan: Plan) -> None:
    """The plan as a table and three lines."""
    console.print(f"Plan of run {plan.run}. Iteration 1 starts from the teacher, later ones from its winner.")
    table = plain_table("trial", "start", ">clip", ">GMACs", ">params", ">epochs", ">about")
    for planned in [plan.teacher, *plan.first_iteration]:
        network, train = planned.trial.network, planned.trial.train
        table.add_row(
            planned.trial.name,
            "parent" if planned.trial.start else ("given weights" if train is None else "random"),
            f"{network.frames}×{network.input_side}²",
            gmacs(planned.cost.gmacs),
            count(planned.cost.params),
            str(train.epochs if train else 0),
            "stored" if planned.stored else duration(planned.seconds),
        )
    console.print(table)
    trials = 1 + plan.iterations * (len(plan.first_iteration) + plan.controls)
    console.print(
        f"At most {plan.iterations} iterations: {trials} trials, {plan.trial_epochs} trial-epochs "
        f"over {plan.train_videos} training videos, {plan.slots} at a time."
    )
    console.print(
        f"About {duration(plan.seconds)} on this machine's CPUs at most, from a step measured here "
        "(decoding and start-up not included)."
    )


def _median_seconds(function: Callable[[], None], runs: int = 3) -> float:
    function()  # warm-up
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]
