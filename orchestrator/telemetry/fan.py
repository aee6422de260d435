"""Several observers in the place of one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.observer import Observer, TrialRow
from trainers.trial import TrialResult

log = logging.getLogger(__name__)


class Containment:
    """Keeps the errors of one watcher from the run: the first is told, the others go to the log."""

    def __init__(self, what: str, tell: Callable[[str], None]) -> None:
        self.what, self._tell = what, tell
        self._told = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Whatever the block raises ends here, but for a wish to stop."""
        try:
            yield
        except Exception as error:
            log.debug("%s failed", self.what, exc_info=True)
            if not self._told:
                self._told = True
                self._tell(f"{self.what}: {_first_line(error)}. The run goes on without.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


class Fan:
    """Passes every call to an observer, and then to others, none of which can stop the run or the rest."""

    def __init__(self, first: Observer, others: Sequence[tuple[str, Observer]]) -> None:
        """Args are the one that a person watches, and the others, each with what it is called in its warning."""
        self._first = first
        self._others = [(Containment(what, first.message), other) for what, other in others]

    def stage_started(self, stage: str, trials: Sequence[TrialRow]) -> None:
        """See `Observer`."""
        self._first.stage_started(stage, trials)
        for contained, other in self._others:
            with contained():
                other.stage_started(stage, trials)

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        """See `Observer`."""
        self._first.epoch_finished(digest, metrics)
        for contained, other in self._others:
            with contained():
                other.epoch_finished(digest, metrics)

    def trial_finished(self, result: TrialResult) -> None:
        """See `Observer`."""
        self._first.trial_finished(result)
        for contained, other in self._others:
            with contained():
                other.trial_finished(result)

    def stage_finished(self, summary: str) -> None:
        """See `Observer`."""
        self._first.stage_finished(summary)
        for contained, other in self._others:
            with contained():
                other.stage_finished(summary)

    def message(self, text: str) -> None:
        """See `Observer`."""
        self._first.message(text)
        for contained, other in self._others:
            with contained():
                other.message(text)
