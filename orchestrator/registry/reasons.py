"""Why a model was not chosen although it satisfies the constraints: clauses for people, about two models each."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.registry.model import StoredModel
from orchestrator.registry.quantities import OBJECTIVES, Here, ObjectiveName, fine

Objectives = Sequence[ObjectiveName]


def called(model: StoredModel) -> str:
    """A model's name; where no run hands it on, names repeat, and the digest is added."""
    return model.name if model.aliases else f"{model.name} ({model.digest})"


def handle(model: StoredModel) -> str:
    """What a command finds it by: `RUN/NAME`, else the digest."""
    return model.aliases[0] if model.aliases else model.digest


def why_beaten(model: StoredModel, rival: StoredModel, objectives: Objectives, here: Here) -> str:
    """By whom a model is beaten, and by how much: `beaten by run/PAS-2: 1.2 points better at 0.3 of the GMACs`."""
    return f"beaten by {called(rival)}: {compared(rival, model, objectives, here)}"


def why_off_the_knee(model: StoredModel, winner: StoredModel, objectives: Objectives, here: Here) -> str:
    """Why a model on the front is not its knee."""
    return f"on the front, but not at its knee: {compared(model, winner, objectives, here)}"


def why_second(model: StoredModel, winner: StoredModel, objectives: Objectives, here: Here) -> str:
    """Why a model on the front comes after the most accurate one: by the first number in which it is behind."""
    behind = winner.accuracy - model.accuracy
    if behind > 0:
        return f"on the front, but {fine(100 * behind)} points less accurate than the winner"
    ties: list[ObjectiveName] = [name for name in objectives if name != "accuracy"]
    for name in dict.fromkeys([*ties, "gmacs", "params"]):
        quantity = OBJECTIVES[name]
        mine, best = quantity.value(model, here), quantity.value(winner, here)
        if mine is not None and best is not None and mine > best:
            return f"on the front and as accurate as the winner, which has {times(best / mine)} of its {quantity.name}"
    return "equal to the winner in all that counts; the smaller digest was taken"


def compared(rival: StoredModel, model: StoredModel, objectives: Objectives, here: Here) -> str:
    """How a model compares with another, objective by objective: `1.2 points better at 0.3 of the GMACs`."""
    difference = 100 * (rival.accuracy - model.accuracy)
    side = "better" if difference > 0 else "worse"
    words = f"{fine(abs(difference))} points {side}" if difference else "as accurate"
    shares = []
    for name in objectives:
        mine, theirs = OBJECTIVES[name].value(model, here), OBJECTIVES[name].value(rival, here)
        if name != "accuracy" and mine and theirs is not None:
            share = "the same" if theirs == mine else f"{times(theirs / mine)} {'of' if theirs < mine else 'times'} the"
            shares.append(f"{share} {OBJECTIVES[name].name}")
    return f"{words} at {' and '.join(shares)}" if shares else words


def times(share: float) -> str:
    """A ratio with two digits, or as many as it takes not to be called 1: `0.3`, `12`, `0.998`."""
    for digits in (2, 3, 4):
        if (text := f"{share:.{digits}g}") != "1":
            return f"{share:.0f}" if share >= 10 else text
    return f"{share:.6g}"
