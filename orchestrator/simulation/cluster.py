"""A cluster that exists on paper: nodes with GPUs, jobs that need many of them at once, and nodes that are lost.

A discrete-event simulation with its own clock. A job is one training: it takes all its GPUs or waits, writes a
checkpoint every few epochs, and, when a node under it is lost, waits for GPUs again and goes on from the last one.

Units: seconds.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """What there is, and how often a part of it is lost.

    Raises:
        ValueError: a number out of range.
    """

    gpus: int
    """In all."""
    gpus_per_node: int = 4
    """A lost node takes so many with it."""
    seconds_between_losses: float | None = None
    """Mean time from one loss of any node to the next (losses are a Poisson process); none: nodes are never lost."""
    repair_seconds: float = 600.0
    """Until a lost node, or its replacement, is there again."""
    detect_seconds: float = 13.0
    """Until a lost node's training starts again elsewhere; 13 s were measured for a killed raylet of Ray 2.60."""

    def __post_init__(self) -> None:
        if self.gpus < 1 or not 1 <= self.gpus_per_node <= self.gpus:
            raise ValueError(
                f"gpus is {self.gpus} and gpus_per_node {self.gpus_per_node}, but there must be at least 1 GPU, and a "
                "node can't have more than all"
            )
        given = {"seconds_between_losses": self.seconds_between_losses or 1.0, "repair_seconds": self.repair_seconds}
        for name, value in (given | {"detect_seconds": self.detect_seconds}).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}, but must be a finite number >= 0")
        if self.seconds_between_losses is not None and self.seconds_between_losses <= 0:
            raise ValueError(f"seconds_between_losses is {self.seconds_between_losses}, but must be > 0")

    @property
    def node_gpus(self) -> tuple[int, ...]:
        """GPUs of each node; the last one may have fewer."""
        whole, rest = divmod(self.gpus, self.gpus_per_node)
        return (self.gpus_per_node,) * whole + ((rest,) if rest else ())


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training."""

    name: str
    gpus: int
    """All at once."""
    epochs: int
    epoch_seconds: float
    """On those GPUs."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints."""
    checkpoint_seconds: float = 0.0
    """What writing one takes."""
    start_seconds: float = 0.0
    """From having the GPUs to the first step, each time it is started."""

    @property
    def round_seconds(self) -> float:
        """From one checkpoint to the next."""
        return self.checkpoint_every * self.epoch_seconds + self.checkpoint_seconds

    def seconds_left(self, epochs_done: int) -> float:
        """Time to the end from a checkpoint, undisturbed; the last checkpoint comes with the last epoch."""
        epochs = self.epochs - epochs_done
        checkpoints = math.ceil(epochs / self.checkpoint_every)
        return self.start_seconds + epochs * self.epoch_seconds + checkpoints * self.checkpoint_seconds

    def epochs_after(self, seconds: float, epochs_done: int) -> int:
        """Epochs that a checkpoint holds so long after a start at `epochs_done`."""
        rounds = max(0, math.floor((seconds - self.start_seconds) / self.round_seconds + 1e-9))
        return min(self.epochs, epochs_done + rounds * self.checkpoint_every)


@dataclass
class Tally:
    """What was spent so far."""

    gpu_seconds: float = 0.0
    """Held by trainings, from start to end or loss."""
    redone_gpu_seconds: float = 0.0
    """Of these: work that no checkpoint had when a node was lost, starts included."""
    losses: int = 0
    """Nodes lost."""
    restarts: int = 0
    """Trainings that started again because of it."""


@dataclass
class _Attempt:
    """A job that has its GPUs."""

    epochs_done: int
    started: float
    taken: dict[int, int]
    """GPUs by node."""


@dataclass
class _Stage:
    """The jobs under way, by their number."""

    jobs: Sequence[Job]
    waiting: list[tuple[int, int]]
    """Number and epochs that its checkpoint has, the most urgent first."""
    running: dict[int, _Attempt] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)
    """Epochs that the checkpoint has, of jobs whose loss was not noticed yet."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.waiting or self.running or self.lost)


@dataclass
class Cluster:
    """Nodes, and the time."""

    plan: ClusterPlan
    rng: random.Random
    now: float = 0.0
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._free = list(self.plan.node_gpus)
        self._gone: set[int] = set()
        self._events: list[tuple[float, int, str, int]] = []
        self._pushed = 0
        self._schedule_loss()

    def run(self, jobs: Sequence[Job], *, at_once: int | None = None) -> None:
        """Do jobs, first come first served, until all are done.

        Args:
            jobs: the most urgent first.
            at_once: jobs at a time at most.

        Raises:
            ValueError: a job needs more GPUs than there are.
        """
        if greedy := next((job for job in jobs if job.gpus > self.plan.gpus), None):
            raise ValueError(f"{greedy.name} needs {greedy.gpus} GPUs, but the cluster has {self.plan.gpus}")
        stage = _Stage(jobs, [(number, 0) for number in range(len(jobs))])
        while not stage.done:
            self._start_what_fits(stage, len(jobs) if at_once is None else at_once)
            self._next_event(stage)

    def wait(self, seconds: float) -> None:
        """Let time pass with nothing to do; nodes come and go meanwhile."""
        until, nothing = self.now + seconds, _Stage([], [])
        while self._events and self._events[0][0] <= until:
            self._next_event(nothing)
        self.now = until

    def _start_what_fits(self, stage: _Stage, at_once: int) -> None:
        while stage.waiting and len(stage.running) < at_once:
            number, done = stage.waiting[0]
            job = stage.jobs[number]
            if (taken := self._take(job.gpus)) is None:
                return  # nobody overtakes: small jobs would starve large ones
            stage.waiting.pop(0)
            stage.running[number] = _Attempt(done, self.now, taken)
            self._push(job.seconds_left(done), "end", number)

    def _next_event(self, stage: _Stage) -> None:
        self.now, _, kind, number = heapq.heappop(self._events)
        match kind:
            case "loss":
                self._schedule_loss()
                self._lose_a_node(stage)
            case "repair":
                self._gone.discard(number)
                self._free[number] = self.plan.node_gpus[number]
            case "noticed":
                stage.waiting.insert(0, (number, stage.lost.pop(number)))
            case "end":
                attempt = stage.running.pop(number)
                self._release(attempt)
                self.tally.gpu_seconds += stage.jobs[number].gpus * (self.now - attempt.started)

    def _lose_a_node(self, stage: _Stage) -> None:
        """One node goes, and every job that used it falls back to its last checkpoint."""
        if not (here := [node for node in range(len(self._free)) if node not in self._gone]):
            return
        node = self.rng.choice(here)
        hit = {number: attempt for number, attempt in stage.running.items() if node in attempt.taken}
        for number, attempt in hit.items():
            job, spent = stage.jobs[number], self.now - attempt.started
            del stage.running[number]
            self._events = [event for event in self._events if event[2:] != ("end", number)]
            self._release(attempt)
            kept = job.epochs_after(spent, attempt.epochs_done)
            rounds = math.ceil((kept - attempt.epochs_done) / job.checkpoint_every)
            self.tally.gpu_seconds += job.gpus * spent
            self.tally.redone_gpu_seconds += job.gpus * (spent - rounds * job.round_seconds)
            stage.lost[number] = kept
            self._push(self.plan.detect_seconds, "noticed", number)
        heapq.heapify(self._events)
        self.tally.losses += 1
        self.tally.restarts += len(hit)
        self._gone.add(node)
        self._free[node] = 0
        self._push(self.plan.repair_seconds, "repair", node)

    def _schedule_loss(self) -> None:
        if self.plan.seconds_between_losses is not None:
            self._push(self.rng.expovariate(1 / self.plan.seconds_between_losses), "loss", 0)

    def _push(self, delay: float, kind: str, number: int) -> None:
        self._pushed += 1  # events of one moment come in the order in which they were made
        heapq.heappush(self._events, (self.now + delay, self._pushed, kind, number))

    def _take(self, gpus: int) -> dict[int, int] | None:
        """GPUs of as few nodes as possible; none where too few are free."""
        if sum(self._free) < gpus:
            return None
        taken: dict[int, int] = {}
        for node in sorted(range(len(self._free)), key=lambda node: -self._free[node]):
            if share := min(self._free[node], gpus - sum(taken.values())):
                taken[node] = share
                self._free[node] -= share
        return taken

    def _release(self, attempt: _Attempt) -> None:
        for node, gpus in attempt.taken.items():
            if node not in self._gone:
                self._free[node] += gpus
