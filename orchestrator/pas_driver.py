"""How a session drives progressive architecture shrinkage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator import state as states
from orchestrator.driver import Search, TrainDriver, Workshop
from orchestrator.pas import Hypothesis, Model, PasSearch
from orchestrator.report import METRICS
from orchestrator.selection import Selection
from trainers.trial import Trial


class PasDriver(TrainDriver):
    """`orchestrate pas`."""

    def start(self) -> Search | None:
        """See `Driver`."""
        session = self.session
        self.pas = PasSearch(teacher_model(session), session.settings.search, session.cost)
        self.search = self.pas
        return self.search

    def trial(self, proposal: Hypothesis) -> Trial:
        """See `Driver`."""
        return self.session.planner.trial(proposal)

    def stage_name(self, proposed: Sequence[Hypothesis]) -> str:
        """`iteration 2`, or `control of PAS-2` where that is all that is left."""
        first = proposed[0]
        return f"control of PAS-{first.iteration}" if first.kind == "control" else f"iteration {first.iteration}"

    def verdict(self, proposed: Sequence[Hypothesis]) -> str:
        """See `Driver`."""
        number = proposed[0].iteration
        iteration = self.pas.iterations[number - 1]
        selection = iteration.selection
        if proposed[0].kind == "control" or not isinstance(selection, Selection):
            return "done"
        winner, label = selection.winner, METRICS[self.session.metric]
        self.session.run.log("selected", iteration=number, axis=winner.axis, rule=selection.rule, why=selection.why)
        verdict = "" if iteration.accepted else " (not accepted)"
        return (
            f"PAS-{number}: axis {winner.axis}{verdict}, {label} {winner.accuracy:.3f}, "
            f"rule {selection.rule}: {selection.why}"
        )

    def found(self) -> dict[str, Any]:
        """See `Driver`."""
        session = self.session
        if self.search is None:
            return super().found()
        return {
            "iterations": [
                states.iteration_state(iteration, self.trial, session.results) for iteration in self.pas.iterations
            ],
            "family": states.family_state(self.pas),
        }


def teacher_model(session: Workshop) -> Model:
    """The trained teacher, as searches know networks."""
    result = session.teacher_result
    assert result.accuracy is not None
    assert result.top5 is not None
    return Model(
        network=session.network,
        cost=session.cost(session.network),
        trial=result.trial,
        accuracy=result.accuracy,
        top5=result.top5,
    )
