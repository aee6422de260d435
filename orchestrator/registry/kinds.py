"""How a model was made, in a word: read off its trial, the trials that it came from, and what runs made it for."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.registry.model import Kind
from orchestrator.registry.runs import Role, RunRecord
from trainers.trial import Trial


def kind_of(trial: Trial, *, start: Trial | None, teacher: Trial | None, role: Role | None) -> Kind:
    """The kind of a trial's network.

    Args:
        trial: how it was made.
        start: the trial whose weights it inherited; none: there is none, or the store has lost it.
        teacher: the trial that taught it, likewise.
        role: what runs made it for, see `role_of`.
    """
    if role == "control":
        return "control"  # of whatever kind it would be: nobody is to take it for one
    if trial.quantise is not None:
        return "quantised"
    if trial.pruning is not None:
        return "pruned"
    if trial.weights_sha256 is not None:
        return "imported"
    if trial.new_classifier or (start is not None and start.data != trial.data):
        return "transferred"
    # Without distillation there is no teacher: hypotheses differ from where they started, or a run says what they are.
    came_from = teacher or start
    if role == "hypothesis" or (came_from is not None and came_from.network.factors != trial.network.factors):
        return "pas"
    return "trained"


def role_of(digest: str, runs: Iterable[RunRecord]) -> Role | None:
    """What runs made a trial for: a control is one only if no other run has it as anything else."""
    roles = {role for run in runs for role in run.roles.get(digest, ())}
    if roles == {"control"}:
        return "control"
    return "hypothesis" if "hypothesis" in roles else None
