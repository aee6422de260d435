"""Progressive architecture shrinkage as a pure state machine: propose → results → select → propose …

No clock, no files, no Ray: given the same results it takes the same decisions, which is what lets a search be
replayed from its first step to resume or to extend it.

Sources:
    [1] Deep video understanding … (PhD thesis), Algorithm 1, Eq. 6.1 and 6.3; `specs/pas.md` sections 1-4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from compression.cost import Cost
from compression.reduction import AXES, ReductionError, reduce
from compression.spec import NetworkSpec
from configs.errors import RunError
from configs.schema import SearchSettings
from orchestrator.selection import Candidate, Selection, SelectionError, select
from trainers.trial import TrialResult


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained network the search builds on: the teacher B, or R_τ."""

    network: NetworkSpec
    cost: Cost
    trial: str
    """Digest of the trial that trained it."""
    accuracy: float
    """Acc(·), a fraction: top-1 of a network that classifies, mAP of one that re-identifies."""
    top5: float
    """Top-5 accuracy, or CMC at rank 5."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One network to try: ε_axis(R_{τ-1}), or the control of a winner's architecture."""

    kind: Literal["hypothesis", "control"]
    iteration: int
    """τ, counted from 1."""
    axis: str
    """Axis of this step."""
    network: NetworkSpec
    cost: Cost
    start: str | None
    """Digest of the trial whose weights are inherited; none: random weights."""

    @property
    def name(self) -> str:
        """What an operator reads, e.g. `slowfast-pas2-channels`."""
        step = "control" if self.kind == "control" else AXES[self.axis].name
        return f"{self.network.backbone}-pas{self.iteration}-{step}"


@dataclass
class Iteration:
    """What happened in iteration τ."""

    number: int
    hypotheses: list[Hypothesis]
    skipped: dict[str, str]
    """Axes that could not be tried, with the reason."""
    results: list[TrialResult] = field(default_factory=list)
    """In the order of `hypotheses`, once they are known."""
    selection: Selection | None = None
    accepted: bool = False
    """Whether the winner stayed within `max_drop` and became R_τ."""
    control: Hypothesis | None = None
    control_result: TrialResult | None = None

    @property
    def winner(self) -> int | None:
        """Index of the chosen hypothesis."""
        if self.selection is None:
            return None
        return [hypothesis.axis for hypothesis in self.hypotheses].index(self.selection.winner.axis)


class PasSearch:
    """Algorithm 1 of [1]. Call `propose` and `tell` in turn until `propose` returns nothing."""

    def __init__(self, teacher: Model, settings: SearchSettings, cost: Callable[[NetworkSpec], Cost]) -> None:
        """Start from a trained teacher.

        Args:
            teacher: the base network B.
            settings: axes, factors and stop rules.
            cost: C(·) of a network.
        """
        self.teacher = teacher
        self.current = teacher
        self.settings = settings
        self.iterations: list[Iteration] = []
        self.stop_reason: str | None = None
        self._cost = cost
        self._proposed: list[Hypothesis] = []

    @property
    def family(self) -> list[Iteration]:
        """Iterations whose winner was accepted: PAS-1 … PAS-T."""
        return [iteration for iteration in self.iterations if iteration.accepted]

    def propose(self) -> list[Hypothesis]:
        """The hypotheses of the next iteration, with the control of the last one; empty when the search is over.

        Proposing again without an answer gives the same again.
        """
        if not self._proposed:
            controls = self._due_controls()
            if self.stop_reason is None:
                self._open_iteration()
            hypotheses = [] if self.stop_reason else self.iterations[-1].hypotheses
            self._proposed = [*hypotheses, *controls]
        return list(self._proposed)

    def tell(self, results: Sequence[TrialResult]) -> None:
        """Take the results of the last proposal, in its order, and choose.

        Raises:
            RunError: no hypothesis of the iteration came out usable; lists what happened to each.
        """
        if len(results) != len(self._proposed):
            raise ValueError(f"{len(results)} results for {len(self._proposed)} proposals")
        iteration_results = []
        for hypothesis, result in zip(self._proposed, results, strict=True):
            if hypothesis.kind == "control":
                self.iterations[hypothesis.iteration - 1].control_result = result
            else:
                iteration_results.append(result)
        self._proposed = []
        if iteration_results:
            self.iterations[-1].results = iteration_results
            self._select(self.iterations[-1])

    def _open_iteration(self) -> None:
        """Apply every operator to R_{τ-1}; stops the search where none changes anything any more."""
        number = len(self.iterations) + 1
        hypotheses: list[Hypothesis] = []
        skipped: dict[str, str] = {}
        for axis in AXES:
            if axis not in self.settings.axes:
                continue
            try:
                network = reduce(self.current.network, axis, self.settings.factors.get(axis))
            except ReductionError as error:
                skipped[axis] = str(error)
                continue
            hypotheses.append(
                Hypothesis(
                    kind="hypothesis",
                    iteration=number,
                    axis=axis,
                    network=network,
                    cost=self._cost(network),
                    start=self.current.trial if AXES[axis].keeps_weights else None,
                )
            )
        if hypotheses:
            self.iterations.append(Iteration(number, hypotheses, skipped))
        else:
            self.stop_reason = f"every axis is exhausted after {number - 1} iterations"

    def _select(self, iteration: Iteration) -> None:
        candidates = [
            Candidate(axis=hypothesis.axis, macs=hypothesis.cost.macs, accuracy=result.accuracy, top5=result.top5)
            for hypothesis, result in zip(iteration.hypotheses, iteration.results, strict=True)
        ]
        try:
            iteration.selection = select(
                candidates,
                teacher_macs=self.teacher.cost.macs,
                teacher_accuracy=self.teacher.accuracy,
                parent_macs=self.current.cost.macs,
                tolerance=self.settings.ratio_tolerance,
                axis_order=tuple(AXES),
            )
        except SelectionError as error:
            self.stop_reason = f"no hypothesis of iteration {iteration.number} came out usable"
            reasons = "\n".join(f"  {r.name:<28} {r.status:<9} {r.reason or ''}" for r in iteration.results)
            raise RunError(f"{self.stop_reason}:\n{reasons}") from error
        self._accept(iteration)

    def _accept(self, iteration: Iteration) -> None:
        """Make the winner R_τ, unless it falls too far below the teacher; apply the stop rules."""
        assert iteration.winner is not None
        hypothesis, result = iteration.hypotheses[iteration.winner], iteration.results[iteration.winner]
        assert result.accuracy is not None
        assert result.top5 is not None
        drop = round(100 * (self.teacher.accuracy - result.accuracy), 6)  # 100 * (0.8 - 0.75) is a little more than 5
        settings = self.settings
        if settings.max_drop is not None and drop > settings.max_drop:
            self.stop_reason = (
                f"the best of iteration {iteration.number} is {drop:.1f} points below the teacher, "
                f"max_drop is {settings.max_drop:g}"
            )
            return
        iteration.accepted = True
        self.current = Model(
            network=hypothesis.network,
            cost=hypothesis.cost,
            trial=result.trial,
            accuracy=result.accuracy,
            top5=result.top5,
        )
        if settings.target_gmacs is not None and hypothesis.cost.gmacs <= settings.target_gmacs:
            self.stop_reason = (
                f"PAS-{iteration.number} costs {hypothesis.cost.gmacs:.4g} GMACs, target is {settings.target_gmacs:g}"
            )
        elif iteration.number >= settings.iterations:
            self.stop_reason = f"{settings.iterations} iterations done"

    def _due_controls(self) -> list[Hypothesis]:
        """The control of the last winner, once: its architecture from random weights."""
        if not (self.settings.control and self.iterations):
            return []
        last = self.iterations[-1]
        if not last.accepted or last.control is not None or last.winner is None:
            return []
        winner = last.hypotheses[last.winner]
        last.control = Hypothesis(
            kind="control",
            iteration=last.number,
            axis=winner.axis,
            network=winner.network,
            cost=winner.cost,
            start=None,
        )
        return [last.control]
