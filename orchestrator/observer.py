"""Who is told how a run gets on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trainers.trial import TrialResult


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial of the stage that begins, for display."""

    name: str
    digest: str
    epochs: int
    gmacs: float
    params: int
    metric: str = "top1"
    """Key of what networks are compared by; see `orchestrator.report.METRICS`."""


class Observer(Protocol):
    """Told of everything a person may want to see; decides nothing."""

    def stage_started(self, stage: str, trials: Sequence[TrialRow]) -> None:
        """A batch of trials begins."""

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        """A trial has done one more epoch."""

    def trial_finished(self, result: TrialResult) -> None:
        """A trial is done, or was answered from the store."""

    def stage_finished(self, summary: str) -> None:
        """The batch is done; one line about what came of it."""

    def message(self, text: str) -> None:
        """Something else that a person should read."""
