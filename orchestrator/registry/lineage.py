"""The way back from a model to what it was made from, and the network that its accuracy is compared with.

Pure functions of models by digest. A model has up to two parents: the one whose weights it started from, and the one
whose outputs it learnt from. One whose weights were given as a file starts from the model of the store that has the
same weights, where there is one: so a search that was given `runs/NAME/models/PAS-2` goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.registry.model import StoredModel

Relation = Literal["start", "teacher"]
Models = Mapping[str, StoredModel]
"""Models by digest."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One ancestor."""

    digest: str
    """Of its trial."""
    model: StoredModel | None
    """The ancestor; none: not in this store."""
    relation: Relation
    """What it is to the model `of`."""
    of: str
    """Digest of the model that it is the start or teacher of."""


def ancestors(model: StoredModel, by_digest: Models) -> tuple[Step, ...]:
    """All that a model came from, each once.

    First the line of those whose weights were inherited, nearest first, back to the base network; then the teachers
    that are not on it, nearest first, each followed by its own ancestors. So one that is both is a start.
    """
    steps: dict[str, Step] = {}
    _walk(model, by_digest, steps)
    steps.pop(model.digest, None)
    return tuple(steps.values())


def children(model: StoredModel, by_digest: Models) -> tuple[tuple[StoredModel, Relation], ...]:
    """What was made from a model directly, by digest: `start` where its weights were, also if it taught as well."""
    found: list[tuple[StoredModel, Relation]] = []
    for other in by_digest.values():
        if start_of(other, by_digest) == model.digest:
            found.append((other, "start"))
        elif other.trial.teacher == model.digest:
            found.append((other, "teacher"))
    return tuple(sorted(found, key=lambda child: child[0].digest))


def base_of(model: StoredModel, by_digest: Models) -> StoredModel | None:
    """The network at the beginning of a model's search, on the same data: what its teachers, else its starts, lead to.

    The base of a network that was fine-tuned on other data is the base of its search, fine-tuned alike.

    Returns:
        None for a model that has no parent, and where the store has lost one on the way.
    """
    base, current, seen = None, model, {model.digest}
    while (digest := current.trial.teacher or start_of(current, by_digest)) is not None and digest not in seen:
        parent = by_digest.get(digest)
        if parent is None:
            return None
        if parent.trial.data != model.trial.data:
            return _transferred_base(current, parent, by_digest) or base
        base = current = parent
        seen.add(digest)
    return base


def start_of(model: StoredModel, by_digest: Models) -> str | None:
    """Digest of the trial whose weights a model inherited, or was given as a file; none: its weights were random, or
    come from elsewhere."""
    given = model.trial.weights_sha256
    if given is None:
        return model.trial.start
    same = (other for other in by_digest.values() if other.weights_sha256 == given)
    return next((other.digest for other in same if other.trial.weights_sha256 is None), None)


def _walk(model: StoredModel, by_digest: Models, steps: dict[str, Step]) -> None:
    line = [model]
    for current in line:  # grows meanwhile
        line += _add(start_of(current, by_digest), "start", current, by_digest, steps)
    for current in line:
        for teacher in _add(current.trial.teacher, "teacher", current, by_digest, steps):
            _walk(teacher, by_digest, steps)


def _add(
    digest: str | None, relation: Relation, of: StoredModel, by_digest: Models, steps: dict[str, Step]
) -> list[StoredModel]:
    """Take an ancestor down, unless it is known; returns it if there is more to be found behind it."""
    if digest is None or digest in steps:
        return []
    found = by_digest.get(digest)
    steps[digest] = Step(digest=digest, model=found, relation=relation, of=of.digest)
    return [found] if found else []


def _transferred_base(model: StoredModel, source: StoredModel, by_digest: Models) -> StoredModel | None:
    """The base of the search that `source` is from, fine-tuned as `model` was; none: it was not, or is the model."""
    base = base_of(source, by_digest)
    wanted = (model.trial.data, model.trial.seed, model.trial.train)
    for other in by_digest.values():
        made = other.trial
        if base is not None and made.start == base.digest and (made.data, made.seed, made.train) == wanted:
            return other
    return None
