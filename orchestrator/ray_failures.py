"""What Ray says when it loses a training, as a cause (`trainers/incidents.py`) and a place.

Seen in Ray 2.60: a process that dies and a node that is lost both arrive as `ActorDiedError`, told apart by the text of
the node manager; an error of the training itself as `RayTaskError` around it; the memory monitor's kill ends the whole
`Tuner.fit()` with a RuntimeError that has its text. A process that the kernel kills for want of memory looks like any
other that dies.
"""

from __future__ import annotations

import re

from ray import exceptions

from trainers.incidents import Cause, cause_of

MEMORY_MONITOR = re.compile(r"running low on memory|OutOfMemoryError|memory monitor", re.IGNORECASE)
NODE_LOST = re.compile(r"node (has died|is dead|was (terminated|drained|removed))|died with its node", re.IGNORECASE)
ADDRESS = re.compile(r"\bip: ?([0-9a-fA-F.:]+)", re.IGNORECASE)
PROCESS = re.compile(r"\bpid[=:] ?(\d+)")


def cause_of_loss(error: BaseException | str | None) -> Cause:
    """Why Ray lost a training.

    Args:
        error: as Tune keeps it: the error, or its text where it can't be kept.
    """
    if isinstance(error, exceptions.RayTaskError):
        return cause_of(error.cause) if error.cause is not None else _cause_by_text(str(error))
    if isinstance(error, exceptions.RayActorError):
        return "node" if error.preempted else _cause_by_text(str(error))
    for kinds, cause in BY_TYPE:
        if isinstance(error, kinds):
            return cause
    return _cause_by_text(str(error)) if isinstance(error, str | RuntimeError) else "other"


def address_in(error: BaseException | str | None) -> str | None:
    """The address of the node that an error names."""
    found = ADDRESS.search(str(error))
    return found[1] if found else None


def process_in(error: BaseException | str | None) -> int | None:
    """The number of the process that an error names."""
    found = PROCESS.search(str(error))
    return int(found[1]) if found else None


BY_TYPE: tuple[tuple[tuple[type[BaseException], ...], Cause], ...] = (
    ((exceptions.OutOfMemoryError,), "memory"),
    ((exceptions.NodeDiedError, exceptions.LocalRayletDiedError), "node"),
    ((exceptions.WorkerCrashedError,), "process"),
    ((exceptions.OutOfDiskError, exceptions.ObjectStoreFullError), "storage"),
)


def _cause_by_text(text: str) -> Cause:
    if MEMORY_MONITOR.search(text):
        return "memory"
    if "Traceback (most recent call last)" in text:
        return "other"  # of the training itself, whatever words its text has
    if NODE_LOST.search(text) or "unavailable" in text:
        return "node"
    return "process" if "died" in text or "crashed" in text else "other"
