"""The observer behind the metrics: it keeps count, and a thread writes the values out every few seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from orchestrator.observer import TrialRow
from orchestrator.state import State
from orchestrator.telemetry.fan import Containment
from orchestrator.telemetry.metrics import Progress, Sample
from trainers.trial import TrialResult

PERIOD_SECONDS = 5.0
"""Time between two looks at whether something has changed; the ends of stages are written at once."""


class Sink(Protocol):
    """Where metrics go."""

    def write(self, samples: Sequence[Sample]) -> None:
        """Take all values; they replace those before."""


class Meter:
    """An `Observer`. What it hears costs the run no input or output, but at the ends of stages."""

    def __init__(
        self,
        progress: Progress,
        sinks: Sequence[tuple[str, Sink]],
        *,
        state: Callable[[], State | None],
        tell: Callable[[str], None],
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        """See the fields of `Progress`.

        Args:
            progress: keeps count.
            sinks: where the values go, each with what it is called when it fails.
            state: the run's state, as it is on disk.
            tell: says something to a person, once per sink that fails.
            period_seconds: see `PERIOD_SECONDS`.
        """
        self._progress, self._read_state, self._period = progress, state, period_seconds
        self._contained = Containment("metrics can't be gathered", tell)
        self._sinks = [(Containment(what, tell), sink) for what, sink in sinks]
        self._changed, self._over = False, threading.Event()
        self._counting, self._writing = threading.Lock(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="metrics", daemon=True)

    def stage_started(self, stage: str, trials: Sequence[TrialRow]) -> None:
        """Count the trials as pending; the first stage starts the writing."""
        with self._counting:
            self._progress.stage_started(trials)
        self.publish()
        if self._thread.ident is None:
            self._thread.start()

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        """Take note."""
        with self._counting:
            self._progress.epoch_finished(digest, metrics)
            self._changed = True

    def trial_finished(self, result: TrialResult) -> None:
        """Take note."""
        with self._counting:
            self._progress.trial_finished(result)
            self._changed = True

    def stage_finished(self, summary: str) -> None:
        """Write what there is now: Ray may be gone the next moment."""
        self.publish()

    def message(self, text: str) -> None:
        """See `Observer`; nothing to be counted."""

    def publish(self) -> None:
        """Write all values to all sinks; what fails is told once."""
        with self._contained(), self._writing:  # one at a time: the older values never replace the newer ones
            state = self._read_state()
            with self._counting:
                if state is not None:
                    self._progress.found(state)
                samples, self._changed = self._progress.samples(), False
            for contained, sink in self._sinks:
                with contained():
                    sink.write(samples)

    def close(self) -> None:
        """Write the last values, unless there never were any."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
            self.publish()

    def _watch(self) -> None:
        while not self._over.wait(self._period):
            if self._changed:
                self.publish()
