"""What went wrong in a run and what was done about it: kept in its ledger, counted in its report.

A failure is an entry of `failures` in the run's state, which has none where nothing went wrong. The ledger has them
all from the first start on, so that a run that was cut off and goes on counts what it counted before.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from orchestrator.store import RunFolder
from trainers.incidents import Cause, GotOver, Incident
from trainers.trial import Trial, TrialResult

log = logging.getLogger(__name__)

Action = Literal["retried", "resumed", "given up"] | GotOver
"""`retried`: the training was started again from its last checkpoint; `resumed`: so was the command; `given up`: there
is no result, for now or for good; for the others see `GotOver`."""

EVENT = "failure"
"""What the ledger calls them."""

CAUSES: dict[Cause, str] = {
    "node": "node loss",
    "process": "process loss",
    "memory": "out of memory",
    "storage": "storage full or refusing",
    "driver": "loss of the driver",
    "data": "unusable data",
    "non-finite": "loss not finite",
    "other": "other",
}
"""What each cause is called, in the order in which they are counted."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something that went wrong once."""

    trial: str | None
    """Digest of the trial; none: it was the driver."""
    name: str | None
    """Name of the trial, for people."""
    cause: Cause
    """Why."""
    node: str | None
    """Address of the node; none: this process, or not known."""
    at_epoch: int | None
    """Epochs that the trial had reported; none for the driver."""
    action: Action
    """What was done."""
    text: str | None = None
    """What there is to say beyond this, in a sentence."""

    @classmethod
    def got_over(cls, trial: Trial, incident: Incident, node: str | None = None) -> Failure:
        """What a training told of itself."""
        return cls(trial=trial.digest, name=trial.name, node=node, **incident.to_dict())

    @classmethod
    def of_result(cls, result: TrialResult, node: str | None = None) -> Failure:
        """What ended a trial for which there is no network."""
        return cls(
            trial=result.trial,
            name=result.name,
            cause=result.cause or "other",
            node=node,
            at_epoch=result.epochs,
            action="given up",
            text=result.reason,
        )

    def __str__(self) -> str:
        if self.cause == "driver":
            return "the command was lost and is run again"
        if self.action != "retried":
            return f"{self.name}: {self.text}"
        place = f" on {self.node}" if self.node else ""
        after = f" after epoch {self.at_epoch}" if self.at_epoch else ""
        name = self.name or "a training"
        return f"{name}: {CAUSES[self.cause]}{place}{after}, starting again from the last checkpoint"


Record = Callable[[Failure], None]
"""Told of every failure."""


class FailureLog:
    """The failures of a run, over all its starts."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._unwritten: list[Failure] = []
        self.failures = [_read(event) for event in run.events(EVENT)]

    def add(self, failure: Failure) -> None:
        """Take note; a ledger that can't be written to now, perhaps for the same reason, is written to later."""
        self.failures.append(failure)
        self._unwritten.append(failure)
        self.flush()

    def flush(self) -> None:
        """Write what the ledger lacks, if it takes it."""
        while self._unwritten:
            try:
                self._run.log(EVENT, **asdict(self._unwritten[0]))
            except OSError as error:
                log.debug("the ledger of %s can't be written: %s", self._run.path.name, error)
                return
            del self._unwritten[0]

    def state(self) -> dict[str, list[dict[str, Any]]]:
        """The entry of a run's state; none where nothing went wrong."""
        return {"failures": [asdict(failure) for failure in self.failures]} if self.failures else {}


def _read(event: Mapping[str, Any]) -> Failure:
    return Failure(**{name: event.get(name) for name in Failure.__dataclass_fields__})  # type: ignore[arg-type]


def retries(state: Mapping[str, Any]) -> str:
    """How often something was tried again, by cause: `3 retries: 2 node loss, 1 out of memory`; empty for never."""
    causes = [row["cause"] for row in state.get("failures", ()) if row["action"] != "given up"]
    if not causes:
        return ""
    return f"{len(causes)} {'retry' if len(causes) == 1 else 'retries'}: {_counted(causes)}"


def _counted(causes: Iterable[Cause]) -> str:
    counts = Counter(causes)
    return ", ".join(f"{counts[cause]} {words}" for cause, words in CAUSES.items() if counts[cause])
