"""The states of all runs of a store, as far as they can be read; and what all of them together took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.registry.runs import networks_of
from orchestrator.report import State
from orchestrator.store import STATE_FILE, Store

REQUIRED = ("run", "algorithm", "backbone", "status", "teacher", "data", "config", "stats")
"""What every state has, of whatever kind of run."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What the trials of several runs took; each is trained once, however many runs ask for it."""

    trainings: int
    """Networks trained."""
    epochs: int
    """Epochs of them."""
    core_seconds: float
    """Time of CPU cores."""
    answered: int
    """Times that a run asked for a trial that another one has as well."""
    saved_core_seconds: float
    """What these would have taken."""


def read_states(store: Store) -> tuple[dict[str, State], dict[str, str]]:
    """States by the name of the run's folder, and why the others can't be read; both in the order of names."""
    states, unreadable = {}, {}
    for folder in sorted(store.runs(), key=lambda run: run.path.name):
        name = folder.path.name
        try:
            state = folder.read_state()
            missing = [key for key in REQUIRED if key not in (state or {})]
            trial = None if missing or state is None else state["teacher"]["trial"]
        except OSError as error:
            unreadable[name] = f"{STATE_FILE} can't be read: {error.strerror}"
        except (AttributeError, KeyError, TypeError):
            unreadable[name] = f"{STATE_FILE} is not that of a run"
        else:
            if state is None:
                unreadable[name] = f"{STATE_FILE} is no JSON"
            elif missing or not isinstance(trial, str):
                unreadable[name] = f"{STATE_FILE} lacks {', '.join(missing) or 'the trial of its teacher'}"
            else:
                states[name] = state
    return states, unreadable


def effort_of(states: Iterable[State]) -> Effort:
    """What runs took, and what they were spared.

    Time is that of the trials. A run's own statistics are of its last start alone, when most was known already.
    """
    first: dict[str, tuple[float, int]] = {}
    answered, saved = 0, 0.0
    for state in states:
        cpus = state["config"].get("runtime", {}).get("cpus_per_trial", 1.0)
        rows = {row["trial"]: row for row, _ in networks_of(state) if row.get("seconds") is not None}
        for digest, row in rows.items():
            core_seconds = row["seconds"] * cpus
            if digest in first:
                answered, saved = answered + 1, saved + core_seconds
            else:
                first[digest] = core_seconds, row.get("epochs", 0)
    return Effort(
        trainings=sum(epochs > 0 for _, epochs in first.values()),
        epochs=sum(epochs for _, epochs in first.values()),
        core_seconds=sum(seconds for seconds, _ in first.values()),
        answered=answered,
        saved_core_seconds=saved,
    )
