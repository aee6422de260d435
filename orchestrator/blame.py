"""Whose fault is it: a training that fails wherever it runs, or a node on which everything fails?

Pure decisions from what happened so far. What is nobody's fault decides nothing: a node that is lost did not fail its
trainings, and a training that has got further since it was last lost has shown that it can run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from trainers.incidents import Cause

TRIALS_TO_BLAME_A_NODE = 2
"""Different trainings that failed on a node, with none that got on there since, before the node is avoided."""
NODES_TO_BLAME_A_TRIAL = 2
"""Different nodes on which a training failed at the same epoch, before it is not tried again."""

TELLING: Collection[Cause] = ("process", "memory", "storage", "other")
"""Causes that say something of a node or of a training."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A training failed, or got on by an epoch, somewhere."""

    trial: str
    """Its digest."""
    node: str | None
    """Address of the node; none: not known, which is nobody's fault."""
    cause: Cause | None = None
    """Why it failed; none: it got on."""
    at_epoch: int = 0
    """Epochs it had done."""


def nodes_at_fault(
    events: Sequence[Event], alive: Collection[str], *, trials: int = TRIALS_TO_BLAME_A_NODE
) -> frozenset[str]:
    """Nodes on which so many different trainings have failed since one last got on there.

    Never all that are alive: a search that runs nowhere is worse than one on bad nodes.

    Args:
        events: in the order in which they happened.
        alive: addresses of the nodes there are.
        trials: how many it takes.
    """
    failed: dict[str, set[str]] = {}
    for event in events:
        if event.node is None:
            continue
        if event.cause is None:
            failed.pop(event.node, None)
        elif event.cause in TELLING:
            failed.setdefault(event.node, set()).add(event.trial)
    at_fault = frozenset(node for node, those in failed.items() if len(those) >= trials and node in alive)
    return at_fault if at_fault < frozenset(alive) else frozenset()


def trials_at_fault(events: Sequence[Event], *, nodes: int = NODES_TO_BLAME_A_TRIAL) -> frozenset[str]:
    """Trainings that have failed on so many different nodes without getting on in between.

    A want of memory is not counted: it is answered by a smaller micro-batch.
    """
    failed: dict[str, set[str]] = {}
    for event in events:
        if event.cause is None:
            failed.pop(event.trial, None)
        elif event.cause in ("process", "other") and event.node is not None:
            failed.setdefault(event.trial, set()).add(event.node)
    return frozenset(trial for trial, places in failed.items() if len(places) >= nodes)
