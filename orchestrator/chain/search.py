"""A chain of reductions as a pure state machine: shrink, then prune what was left, then quantise what was left of that.

No clock, no files, no Ray, no tensors. What a step tries is known only once the one before it is trained, so a step is
opened by a function that is given its network; that function may read it. The chain itself only knows the order.

Sources:
    [1] Deep video understanding … (PhD thesis), Algorithm 1 (the step `pas`); `specs/pas.md`.
    [2] Hu, Wu et al. E²TAD: an energy-efficient tracking-based action detector; prune, then quantise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from compression.cost import Cost
from configs.errors import RunError
from configs.schema import ChainStep
from orchestrator.pas import Hypothesis, Model, PasSearch
from orchestrator.quantise.search import METHODS, Attempt, QuantiseSearch
from trainers.trial import Trial, TrialResult


class Link(Protocol):
    """One step under way: a search of its own, which ends with the network that is handed on."""

    @property
    def title(self) -> str:
        """What people call what is done, e.g. `AGP 0.5`."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What is to be said about it, in sentences."""
        ...

    @property
    def model(self) -> Model | None:
        """The network it has come to so far; none where it has none of its own."""
        ...

    def propose(self) -> Sequence[Hypothesis | Trial]:
        """What is to be tried now; nothing when the step is over."""
        ...

    def tell(self, results: Sequence[TrialResult]) -> None:
        """Take the results of the last proposal, in its order.

        Raises:
            RunError: the step comes to nothing, and why.
        """
        ...


class Shrinking:
    """The step `pas`: a whole search by progressive architecture shrinkage."""

    def __init__(self, search: PasSearch) -> None:
        self.search = search

    @property
    def title(self) -> str:
        """See `Link`: `PAS-2 (s, c)`."""
        family = self.search.family
        axes = ", ".join(i.hypotheses[i.winner].axis for i in family if i.winner is not None)
        return f"PAS-{family[-1].number} ({axes})" if family else "PAS"

    @property
    def notes(self) -> list[str]:
        """See `Link`: why the search stopped, and whether it found anything."""
        if self.search.stop_reason is None:
            return []
        nothing = [] if self.search.family else ["no smaller network was accepted: the chain goes on with the teacher"]
        return [f"the search ended: {self.search.stop_reason}", *nothing]

    @property
    def model(self) -> Model | None:
        """See `Link`: the last network of the family."""
        return self.search.current if self.search.family else None

    def propose(self) -> list[Hypothesis]:
        """See `Link`."""
        return self.search.propose()

    def tell(self, results: Sequence[TrialResult]) -> None:
        """See `Link`."""
        self.search.tell(results)


class Single:
    """A step that is one trial: what comes of it is handed on, good or bad."""

    def __init__(self, trial: Trial, cost: Cost, title: str, notes: Sequence[str] = ()) -> None:
        self.trial = trial
        self.cost = cost
        self.title = title
        self.notes: Sequence[str] = notes
        self.model: Model | None = None

    def propose(self) -> list[Trial]:
        """See `Link`."""
        return [] if self.model else [self.trial]

    def tell(self, results: Sequence[TrialResult]) -> None:
        """See `Link`."""
        (result,) = results
        self.model = trained_model(self.trial, self.cost, result)


class Quantising:
    """The step `quantise`: one way, again with more layers in floating point while it loses too much."""

    def __init__(self, search: QuantiseSearch, trial_of: Callable[[Attempt], Trial], cost: Cost) -> None:
        """Begin a search.

        Args:
            search: with one way and one seed.
            trial_of: the trial of one of its attempts.
            cost: of the network, which quantising does not change.
        """
        self.search = search
        self.trial_of = trial_of
        self.cost = cost
        (method,) = search.quantise.methods
        self.title = f"INT8 by {METHODS[method]}"

    @property
    def notes(self) -> list[str]:
        """See `Link`: what the search says of its end."""
        return [self.search.stop_reason] if self.search.stop_reason else []

    @property
    def attempt(self) -> Attempt | None:
        """The most accurate attempt so far; of equals the one with fewer layers in floating point."""
        drops = [(drop, attempt) for attempt in self.search.attempts if (drop := self.search.drop(attempt)) is not None]
        return min(drops, key=lambda item: item[0])[1] if drops else None

    @property
    def model(self) -> Model | None:
        """See `Link`."""
        best = self.attempt
        return trained_model(self.trial_of(best), self.cost, self.search.results[best.name]) if best else None

    def propose(self) -> list[Trial]:
        """See `Link`."""
        return [self.trial_of(attempt) for attempt in self.search.propose()]

    def tell(self, results: Sequence[TrialResult]) -> None:
        """See `Link`."""
        self.search.tell(results)


def trained_model(trial: Trial, cost: Cost, result: TrialResult) -> Model:
    """The network that a trial made.

    Raises:
        RunError: it made none.
    """
    if result.accuracy is None or result.top5 is None:
        raise RunError(f"{result.name} {result.status}: {result.reason}")
    return Model(network=trial.network, cost=cost, trial=result.trial, accuracy=result.accuracy, top5=result.top5)


Open = Callable[[int, ChainStep, Model], Link]
"""Opens a step: its number, counted from 1, what it is, and the network that the step before handed on."""


class Chain:
    """Steps in a row. Call `propose` and `tell` in turn until `propose` returns nothing."""

    def __init__(self, teacher: Model, steps: Sequence[ChainStep], open_step: Open) -> None:
        """Start from a trained teacher.

        Args:
            teacher: the network that the first step is given.
            steps: in order.
            open_step: begins each, once the one before is over.
        """
        self.teacher = teacher
        self.steps = tuple(steps)
        self.links: list[Link] = []
        """The steps begun so far; all but the last are over."""
        self.stop_reason: str | None = None
        self.failed: int | None = None
        """The step, counted from 1, that came to nothing; none did."""
        self._open = open_step

    @property
    def number(self) -> int:
        """The step under way, counted from 1; 0 before the first."""
        return len(self.links)

    def before(self, number: int) -> Model:
        """The network that a step, counted from 1, was given: that of the last step before it that made one."""
        models = [link.model for link in self.links[: number - 1] if link.model]
        return models[-1] if models else self.teacher

    def is_over(self, number: int) -> bool:
        """Whether a step, counted from 1, has come to its end and handed a network on."""
        ended = number < self.number or (number == self.number and self.stop_reason is not None)
        return ended and number != self.failed

    def propose(self) -> Sequence[Hypothesis | Trial]:
        """What the step under way wants tried; begins the next where it is over; empty when all are.

        Proposing again without an answer gives the same again.

        Raises:
            RunError: a step can't begin with the network that it is given; the chain ends there.
        """
        while self.stop_reason is None:
            if self.links and (proposed := self.links[-1].propose()):
                return proposed
            if self.number == len(self.steps):
                self.stop_reason = f"{self.number} of {len(self.steps)} steps done"
                break
            self._begin(self.number + 1)
        return []

    def _begin(self, number: int) -> None:
        step = self.steps[number - 1]
        try:
            self.links.append(self._open(number, step, self.before(number)))
        except RunError as error:
            raise self._failure(number, step.step, error) from error

    def tell(self, results: Sequence[TrialResult]) -> None:
        """Take the results of the last proposal, in its order.

        Raises:
            RunError: the step comes to nothing; the chain ends there, and what came before it stands.
        """
        link = self.links[-1]
        try:
            link.tell(results)
        except RunError as error:
            raise self._failure(self.number, link.title, error) from error

    def _failure(self, number: int, title: str, error: RunError) -> RunError:
        """End the chain at a step."""
        self.failed = number
        self.stop_reason = f"step {number} of {len(self.steps)}, {title}: {error}"
        return RunError(self.stop_reason)
