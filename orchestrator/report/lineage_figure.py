"""Where models come from, drawn as trees: what was changed at every step from a base network on.

A tree is nested lists in a page (`lineage.html.j2`), so that it wraps on a telephone and can be read aloud; this module
says what is in them. Here are the models of a whole store; those of one run are in `run_lineage.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.registry.changes import change
from orchestrator.registry.lineage import start_of
from orchestrator.registry.model import Kind, StoredModel
from orchestrator.report import METRICS, State, gmacs, percent

KINDS: dict[Kind, str] = {
    "trained": "base network",
    "imported": "imported",
    "pas": "shrunk",
    "pruned": "pruned",
    "quantised": "INT8",
    "transferred": "transferred",
    "control": "control",
}
"""How a model was made, in a word for people."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A model in a tree."""

    name: str
    """What people call it."""
    kind: Kind | None
    """How it was made; none: it is not in this store."""
    change: str
    """What was done to its parent; of a root, how it came to be."""
    numbers: str
    """Accuracy and cost; empty: not known."""
    others: tuple[str, ...] = ()
    """What else it is called."""
    tags: tuple[str, ...] = ()
    """Labels that people gave it."""
    children: tuple[Node, ...] = ()
    """What was made of it."""

    @property
    def word(self) -> str:
        """Its kind, for people."""
        return "not in this store" if self.kind is None else KINDS[self.kind]


@dataclass(frozen=True, kw_only=True)
class Ancestry:
    """Which model each was made of. Copies of a model, imported again, count as that model."""

    models: Mapping[str, StoredModel]
    """Everything in the store, by digest."""
    originals: Mapping[str, str]
    """What each is a copy of, by digest; most are their own."""
    parents: Mapping[str, str]
    """What each original was made of; it need not be in the store."""

    def path(self, digest: str) -> list[str]:
        """An original, what it was made of, and so on up to the root."""
        steps: list[str] = []
        step: str | None = self.originals.get(digest, digest)
        while step is not None and step not in steps:
            steps.append(step)
            step = self.parents.get(step)
        return steps

    def node(self, digest: str) -> Node:
        """A model without children."""
        model = self.models.get(digest)
        if model is None:
            return Node(name=digest, kind=None, change="", numbers="")
        copies = [self.models[copy] for copy, of in sorted(self.originals.items()) if of == digest and copy != digest]
        names = dict.fromkeys([*model.aliases, *(alias for copy in copies for alias in copy.aliases)])
        name = next(iter(names), model.trial.name)
        above = self.parents.get(digest)
        return Node(
            name=name,
            kind=model.kind,
            change=_change(model, self.models.get(above or ""), is_root=above is None),
            numbers=f"{percent(model.accuracy)} {METRICS[model.metric]} · {gmacs(model.gmacs)} GMACs",
            others=tuple(other for other in names if other != name),
            tags=tuple(sorted({*model.tags, *(tag for copy in copies for tag in copy.tags)})),
        )


def trace(models: Iterable[StoredModel], states: Iterable[State]) -> Ancestry:
    """Which model of a store each was made of.

    Args:
        models: all of the store.
        states: its runs, which know what a shrunk network with random weights was made of.
    """
    known, families = {model.digest: model for model in models}, family_parents(states)
    starts = {digest: start_of(model, known) for digest, model in known.items()}
    originals = {
        digest: (starts[digest] if model.kind == "imported" else None) or digest for digest, model in known.items()
    }
    parents: dict[str, str] = {}
    for digest, model in known.items():
        parent = starts[digest] or families.get(digest) or model.trial.teacher
        if originals[digest] == digest and parent is not None:
            parents[digest] = originals.get(parent, parent)
    return Ancestry(models=known, originals=originals, parents=parents)


def family_parents(states: Iterable[State]) -> dict[str, str]:
    """What each member of a family was shrunk from: digest by digest."""
    parents: dict[str, str] = {}
    for state in states:
        digests = [row["trial"] for row in (state["teacher"], *state.get("family", []))]
        parents.update(zip(digests[1:], digests, strict=False))
    return parents


def store_forest(ancestry: Ancestry, wanted: Iterable[StoredModel]) -> tuple[Node, ...]:
    """Trees from the base networks to those of some models that were handed on or tagged, and what lies between."""
    kept = [model.digest for model in wanted if model.aliases or model.tags]
    shown = {step for digest in kept for step in ancestry.path(digest)}
    below: dict[str | None, list[str]] = {}
    for digest in sorted(shown, key=lambda digest: _place(ancestry.models.get(digest), digest)):
        path = ancestry.path(digest)
        below.setdefault(path[1] if len(path) > 1 else None, []).append(digest)

    def grow(digest: str) -> Node:
        return replace(ancestry.node(digest), children=tuple(map(grow, below.get(digest, ()))))

    return tuple(map(grow, below.get(None, ())))


def _change(model: StoredModel, parent: StoredModel | None, *, is_root: bool) -> str:
    """What was done to get a model; of a root, how it came to be."""
    trial = model.trial
    if is_root and trial.weights_sha256 is not None:
        return "weights from a file"
    if is_root:
        epochs = trial.train.epochs if trial.train else 0
        return f"trained, {epochs} {'epoch' if epochs == 1 else 'epochs'}"
    inherited = trial.start is not None or trial.weights_sha256 is not None
    return change(model, parent) + ("" if inherited else ", from random weights")


def _place(model: StoredModel | None, digest: str) -> tuple[str, float, str]:
    """Order among sisters: by backbone, the most costly first."""
    return (model.backbone, -model.gmacs, digest) if model else ("", 0.0, digest)
