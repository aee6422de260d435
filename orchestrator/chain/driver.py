"""How a session drives a chain: each step is planned on the trained network that the one before left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compression.spec import NetworkSpec
from configs.schema import ChainStep, PasStep, PruneStep, QuantiseStep
from orchestrator.chain.check import check_chain
from orchestrator.chain.search import Chain, Link, Quantising, Shrinking
from orchestrator.chain.state import Progress, drop_points
from orchestrator.chain.steps import open_pruning, open_quantising
from orchestrator.driver import Search, TrainDriver, Workshop
from orchestrator.latency import conditions, remembered_trial_latencies
from orchestrator.pas import Hypothesis, Model, PasSearch
from orchestrator.pas_driver import PasDriver, teacher_model
from orchestrator.report import METRICS
from trainers.trial import Trial

Proposal = Hypothesis | Trial
"""Of the step `pas`, and of the others."""


class ChainDriver(TrainDriver):
    """`orchestrate chain`."""

    def __init__(self, session: Workshop) -> None:
        super().__init__(session)
        self.shrinking = PasDriver(session)
        self.chain: Chain | None = None
        self.trials: dict[str, Trial] = {}
        """Every trial asked for, by digest."""
        self.asked: list[list[str]] = [[] for _ in session.settings.chain.steps]
        """Digests of each step's trials."""
        self.latencies: dict[str, float] = {}
        """Of what steps left, by digest of the trial."""

    def check(self) -> None:
        """See `Driver`.

        Raises:
            UserError: a step that can't be done, or has no effect.
        """
        check_chain(self.session)

    def start(self) -> Search | None:
        """See `Driver`."""
        session = self.session
        self.trials[session.teacher.digest] = session.teacher
        self.chain = Chain(teacher_model(session), session.settings.chain.steps, self._open)
        self.search = self.chain
        return self.search

    def _open(self, number: int, step: ChainStep, model: Model) -> Link:
        """Begin a step, now that there is the network that it starts from."""
        match step:
            case PasStep():
                search = self.shrinking.start()
                assert isinstance(search, PasSearch)
                return Shrinking(search)
            case PruneStep():
                return open_pruning(self.session, step, number, model)
            case QuantiseStep():
                return open_quantising(self.session, step, number, model, self.trials[model.trial])

    @property
    def _current(self) -> tuple[Chain, Link]:
        """The chain, and the step under way."""
        assert self.chain is not None
        return self.chain, self.chain.links[-1]

    def trial(self, proposal: Proposal) -> Trial:
        """See `Driver`."""
        chain, _ = self._current
        trial = proposal if isinstance(proposal, Trial) else self.shrinking.trial(proposal)
        self.trials[trial.digest] = trial
        asked = self.asked[chain.number - 1]
        if trial.digest not in asked:
            asked.append(trial.digest)
        return trial

    def stage_name(self, proposed: Sequence[Proposal]) -> str:
        """See `Driver`: `step 1 iteration 2`, `step 2 AGP 0.5`, `step 3 INT8 by QAT again 1`."""
        chain, link = self._current
        if isinstance(link, Shrinking):
            return f"step {chain.number} {self.shrinking.stage_name(_hypotheses(proposed))}"
        again = len(link.search.attempts) - 1 if isinstance(link, Quantising) else 0
        return f"step {chain.number} {link.title}" + (f" again {again}" if again else "")

    def verdict(self, proposed: Sequence[Proposal]) -> str:
        """See `Driver`."""
        chain, link = self._current
        if isinstance(link, Shrinking):
            return self.shrinking.verdict(_hypotheses(proposed))
        if link.model is None:
            return f"{link.title}: nothing usable yet"
        accuracy, drop = link.model.accuracy, drop_points(chain.before(chain.number), link.model)
        self.session.run.log("step", number=chain.number, title=link.title, accuracy=accuracy, drop_points=drop)
        change = f"{abs(drop):.1f} points {'below' if drop > 0 else 'above'}" if abs(drop) >= 0.05 else "as good as"
        return f"{link.title}: {METRICS[self.session.metric]} {accuracy:.3f}, {change} the step before"

    def conclude(self) -> None:
        """Measure latencies, now that no trial runs beside them."""
        chain, _ = self._current
        digests = [self.session.teacher.digest, *(link.model.trial for link in chain.links if link.model)]
        folders = {digest: self.session.store.trial_folder(digest) for digest in digests}
        self.latencies = remembered_trial_latencies(folders, self.session.run.path / "latency.json")

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return Progress(
            session=self.session,
            chain=self.chain,
            trials=self.trials,
            asked=tuple(map(tuple, self.asked)),
            latencies=self.latencies,
        )

    def measured(self, network: NetworkSpec) -> dict[str, Any]:
        """See `Driver`; it is asked of the teacher."""
        return self.progress.measured(self.session.teacher.digest)

    def found(self) -> dict[str, Any]:
        """See `Driver`: the steps, and what the step `pas` found in particular."""
        found, progress = self.shrinking.found(), self.progress
        for member in found["family"]:  # only the last of them is handed on, as what its step left
            member["path"] = progress.path(1) if member is found["family"][-1] else None
        return {
            **found,
            "steps": progress.rows(),
            "latency": conditions() if self.latencies else None,
            "max_drop_points": self.session.settings.quantise.max_drop_points,
        }


def _hypotheses(proposed: Sequence[Proposal]) -> list[Hypothesis]:
    return [proposal for proposal in proposed if isinstance(proposal, Hypothesis)]
