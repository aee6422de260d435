"""`orchestrate pas --dry-run`: what would be trained, what it costs, and about how long it takes. Trains nothing.

Time is measured, not guessed from a table: one training step and one forward pass of the teacher on random inputs,
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
from configs.schema import RunSettings, TrainSettings
from orchestrator.observer import TrialRow
from orchestrator.pas import Hypothesis, Model, PasSearch
from orchestrator.report import WORDS, count, duration, gmacs
from orchestrator.session import Session
from orchestrator.terminal import plain_table
from trainers.backbones import build
from trainers.data.clips import steps_per_epoch
from trainers.data.identities import IdentityManifest
from trainers.data.manifest import Manifest
from trainers.tasks import DataManifest, task_of
from trainers.trial import Trial, TrialResult

MEASURED_MACS = 0.5e9
"""Cost of the batch of the measured step: as many clips or images as make it, from 1 to `MEASURED_CLIPS`."""
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
    examples: int
    """Training videos or images."""
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
    base = Model(
        network=session.network, cost=session.cost(session.network), trial=teacher.digest, accuracy=1.0, top5=1.0
    )
    search = PasSearch(base, settings.search, session.cost)
    forward, step = measure_step(session.network, base.cost)

    def planned(trial: Trial) -> PlannedTrial:
        cost = session.cost(trial.network)
        share = cost.macs / base.cost.macs
        trained, tested = workload(trial.train, session.manifest, settings)
        seconds = trained * (step * share + (forward if trial.teacher else 0)) + tested * forward * share
        return PlannedTrial(trial, cost, seconds, session.store.result(trial.digest) is not None)

    def trial_of(hypothesis: Hypothesis) -> Trial:
        return session.planner.trial(hypothesis)

    return Plan(
        run=session.name,
        teacher=planned(teacher),
        first_iteration=[planned(trial_of(hypothesis)) for hypothesis in search.propose()],
        iterations=settings.search.iterations,
        controls=settings.search.control,
        examples=len(session.manifest.train),
        slots=slots(settings),
    )


def workload(train: TrainSettings | None, manifest: DataManifest, settings: RunSettings) -> tuple[int, int]:
    """Clips or images that a trial trains on, and those that it is evaluated on, over all epochs."""
    epochs, batch = (train.epochs, train.batch) if train else (0, 1)
    if isinstance(manifest, IdentityManifest):
        steps = max(1, len(manifest.train) // batch)
        images = (len(manifest.query) + len(manifest.gallery)) * (2 if settings.reid.flip else 1)
        return epochs * steps * batch, images * (epochs + 1)
    assert isinstance(manifest, Manifest)
    steps = steps_per_epoch(manifest, settings.clips, batch)
    return epochs * steps * batch, len(manifest.val) * (settings.clips.test + epochs)


def measure_step(network: NetworkSpec, cost: Cost) -> tuple[float, float]:
    """Seconds per clip or image of a forward pass and of a whole training step of a network here, with one thread."""
    torch.set_num_threads(1)
    batch = int(min(MEASURED_CLIPS, max(1, MEASURED_MACS // cost.macs)))
    layout = torch.channels_last_3d if network.aspect is None else torch.channels_last
    module = build(network).eval().to(memory_format=layout)
    inputs = torch.rand(batch, *network.input_shape).contiguous(memory_format=layout)

    def forward() -> None:
        with torch.no_grad():
            module(inputs)

    def step() -> None:
        module(inputs).square().mean().backward()

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
    spoken = WORDS[task_of(plan.teacher.trial.network).metric]
    table = plain_table("trial", "start", f">{spoken.item}", ">GMACs", ">params", ">epochs", ">about")
    for planned in [plan.teacher, *plan.first_iteration]:
        network, train = planned.trial.network, planned.trial.train
        table.add_row(
            planned.trial.name,
            "parent" if planned.trial.start else ("given weights" if train is None else "random"),
            _size(network),
            gmacs(planned.cost.gmacs),
            count(planned.cost.params),
            str(train.epochs if train else 0),
            "stored" if planned.stored else duration(planned.seconds),
        )
    console.print(table)
    trials = 1 + plan.iterations * (len(plan.first_iteration) + plan.controls)
    console.print(
        f"At most {plan.iterations} iterations: {trials} trials, {plan.trial_epochs} trial-epochs "
        f"over {plan.examples} training {spoken.example}s, {plan.slots} at a time."
    )
    console.print(
        f"About {duration(plan.seconds)} on this machine's CPUs at most, from a step measured here "
        "(decoding and start-up not included)."
    )


def _size(network: NetworkSpec) -> str:
    """Frames × side² of a clip, height×width of an image."""
    if network.aspect is None:
        return f"{network.frames}×{network.input_side}²"
    _, height, width = network.input_shape
    return f"{height}×{width}"


def _median_seconds(function: Callable[[], None], runs: int = 3) -> float:
    function()  # warm-up
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]
