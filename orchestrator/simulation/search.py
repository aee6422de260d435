"""Progressive shrinkage on a simulated cluster: the real state machine, trainings of which only the length is known.

How long a training takes follows from multiply-adds: every clip goes through the student three times (forward, and
backward for inputs and for weights) and through the teacher once.

Sources:
    [1] Deep video understanding … (PhD thesis), sec. 6.2.2: 25 hypotheses of R(2+1)D-18 on 64 V100 each took about
        25,000 GPU-hours.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from compression.cost import Cost
from compression.spec import NetworkSpec
from configs.schema import SearchSettings, TrainSettings
from orchestrator.pas import Hypothesis, Model, PasSearch
from orchestrator.simulation.cluster import Cluster, ClusterPlan, Job
from trainers.trial import TrialResult

GMACS_PER_SECOND = 600.0
"""Multiply-adds that a GPU gets through, in 1e9 per second, decoding and waiting included: with it the source's 25
hypotheses (sequence c,f,t,t,t) come to its 25,000 GPU-hours of V100."""
TRAINED_BEST, TRAINED_OTHER = 0.7, 0.6
"""Made-up accuracies: of the axis that is to win an iteration, and of the others."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is trained, and how fast.

    Raises:
        ValueError: a number out of range.
    """

    teacher: NetworkSpec
    search: SearchSettings
    recipe: TrainSettings
    """Of every hypothesis."""
    videos: int = 240_000
    """Training videos."""
    clips_per_video: int = 3
    """Of each, in every epoch."""
    gpus_per_trial: int = 64
    gmacs_per_second: float = GMACS_PER_SECOND
    """Of one GPU; assumed to add up over the GPUs of a training."""
    checkpoint_every: int = 1
    """Epochs."""
    checkpoint_seconds: float = 10.0
    """What writing one takes."""
    start_seconds: float = 120.0
    """From having the GPUs to the first step: processes, data, first batches."""
    stage_seconds: float = 2.0
    """Between two iterations; 1.3 to 1.8 s were measured with Ray 2.60."""
    sequence: str = ""
    """Axes that win, iteration by iteration (`c,f,t,t,t`); past its end, the cheapest hypothesis."""

    def __post_init__(self) -> None:
        for name in ("videos", "clips_per_video", "gpus_per_trial", "gmacs_per_second", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be > 0")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one simulated search took."""

    seconds: float
    """Wall time."""
    trainings: int
    """Hypotheses trained."""
    gpu_hours: float
    """Held by trainings."""
    redone_gpu_hours: float
    """Of these: lost with nodes, and done again."""
    idle_gpu_hours: float
    """GPUs that waited for the slowest training of an iteration, or for a node to come back."""
    losses: int
    """Nodes lost."""
    restarts: int
    """Trainings that went on from a checkpoint."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def simulate(
    workload: Workload, plan: ClusterPlan, cost: Callable[[NetworkSpec], Cost], *, seed: int, at_once: int | None = None
) -> Outcome:
    """One search, the teacher given, from the first iteration to the last.

    Args:
        workload: what is trained.
        plan: the cluster.
        cost: C(·) of a network; asked often, so it should remember.
        seed: of the losses.
        at_once: trainings at a time at most; none: as many as fit.

    Raises:
        ValueError: a training needs more GPUs than there are, or the sequence names an axis that was not tried.
    """
    cluster = Cluster(plan, random.Random(seed))
    base = Model(
        network=workload.teacher, cost=cost(workload.teacher), trial="teacher", accuracy=TRAINED_BEST, top5=TRAINED_BEST
    )
    search = PasSearch(base, workload.search, cost)
    axes, trainings = [axis for axis in workload.sequence.split(",") if axis], 0
    while proposed := search.propose():
        cluster.run([_job(workload, base.cost, hypothesis) for hypothesis in proposed], at_once=at_once)
        cluster.wait(workload.stage_seconds)
        trainings += len(proposed)
        search.tell(_results(proposed, axes[len(search.iterations) - 1 :]))
    tally = cluster.tally
    return Outcome(
        seconds=cluster.now,
        trainings=trainings,
        gpu_hours=tally.gpu_seconds / 3600,
        redone_gpu_hours=tally.redone_gpu_seconds / 3600,
        idle_gpu_hours=(plan.gpus * cluster.now - tally.gpu_seconds) / 3600,
        losses=tally.losses,
        restarts=tally.restarts,
    )


def middle(outcomes: Sequence[Outcome]) -> Outcome:
    """The median of every figure over seeds."""
    fields = {name: statistics.median(getattr(one, name) for one in outcomes) for name in outcomes[0].to_dict()}
    whole = {name: round(fields[name]) for name in ("trainings", "losses", "restarts")}
    return replace(outcomes[0], **{**fields, **whole})


def _job(workload: Workload, teacher: Cost, hypothesis: Hypothesis) -> Job:
    """A training of one hypothesis; a control has no teacher."""
    taught = teacher.gmacs if hypothesis.kind == "hypothesis" else 0.0
    per_clip = 3 * hypothesis.cost.gmacs + taught
    clips = workload.videos * workload.clips_per_video
    return Job(
        name=hypothesis.name,
        gpus=workload.gpus_per_trial,
        epochs=workload.recipe.epochs,
        epoch_seconds=clips * per_clip / (workload.gmacs_per_second * workload.gpus_per_trial),
        checkpoint_every=workload.checkpoint_every,
        checkpoint_seconds=workload.checkpoint_seconds,
        start_seconds=workload.start_seconds,
    )


def _results(proposed: Sequence[Hypothesis], axes: Sequence[str]) -> list[TrialResult]:
    """Made-up results in which the axis that is to win is the most accurate."""
    hypotheses = [hypothesis for hypothesis in proposed if hypothesis.kind == "hypothesis"]
    tried = [hypothesis.axis for hypothesis in hypotheses]
    if axes and tried and axes[0] not in tried:
        raise ValueError(
            f"axis {axes[0]!r} is to win, but iteration {hypotheses[0].iteration} tries {', '.join(tried)}"
        )
    cheapest = min(hypotheses, key=lambda hypothesis: hypothesis.cost.macs).axis if hypotheses else ""
    wanted = axes[0] if axes else cheapest
    accuracies = [TRAINED_BEST if hypothesis.axis == wanted else TRAINED_OTHER for hypothesis in proposed]
    return [
        TrialResult(trial=hypothesis.name, name=hypothesis.name, status="finished", top1=accuracy, top5=accuracy)
        for hypothesis, accuracy in zip(proposed, accuracies, strict=True)
    ]
