"""Where a model comes from and what was made from it, as trees: for terminals, and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from orchestrator.registry.changes import change
from orchestrator.registry.lineage import Relation, Step
from orchestrator.registry.model import StoredModel
from orchestrator.registry.registry import Registry
from orchestrator.registry.terminal import drop
from orchestrator.report import METRICS, gmacs, percent


def lineage_tree(registry: Registry, model: StoredModel) -> Tree:
    """A model, below it what it was made from, and so on back to its base network."""
    root = Tree(described(model), guide_style="dim")
    nodes, models = {model.digest: root}, {model.digest: model}
    for step in registry.ancestors(model):
        below = models[step.of]
        said = _made(below, step, alone=below.trial.teacher == step.digest and step.relation == "start")
        gone = Text.assemble((step.digest, "bold"), f" ({lost(registry, step)})")
        found = described(step.model) if step.model else gone
        nodes[step.digest] = nodes[step.of].add(Group(Text(said, "cyan"), found))
        if step.model:
            models[step.digest] = step.model
    return root


def offspring_tree(registry: Registry, model: StoredModel) -> Tree:
    """A model, below it what was made from it, and so on; each below what it started from, else what taught it."""
    root = Tree(described(model), guide_style="dim")
    _add_children(registry, root, model, {model.digest})
    return root


def lineage_json(registry: Registry, model: StoredModel, *, children: bool = False) -> dict[str, Any]:
    """The same as JSON: `ancestors` nearest first, `children` direct ones only."""
    found: dict[str, Any] = {
        "model": model.to_dict(),
        "ancestors": [
            {
                "digest": step.digest,
                "relation": step.relation,
                "of": step.of,
                "change": change(registry.by_digest[step.of], step.model),
                "model": step.model.to_dict() if step.model else None,
            }
            for step in registry.ancestors(model)
        ],
    }
    if children:
        found["children"] = [
            {"digest": child.digest, "relation": relation, "change": change(child, model), "model": child.to_dict()}
            for child, relation in registry.children(model)
        ]
    return found


def described(model: StoredModel) -> Text:
    """A model in two lines: what it is called, and what it reaches and costs."""
    facts = [model.kind, f"{percent(model.accuracy)} {METRICS[model.metric]}", f"{gmacs(model.gmacs)} GMACs"]
    if model.drop_points is not None:
        facts.append(f"drop {drop(model.drop_points)}")
    facts.append(f"seed {model.trial.seed}")
    text = Text.assemble((model.name, "bold"), (f" {model.digest}", "dim"))
    if model.tags:
        text.append(f" {' '.join(model.tags)}", "bold cyan")
    return text.append(f"\n{' · '.join(facts)}")


def lost(registry: Registry, step: Step) -> str:
    """Why an ancestor is not there."""
    reasons = (damage.reason for damage in registry.damaged if damage.digest == step.digest)
    return next((f"damaged: {reason}" for reason in reasons), "not in this store")


def _made(model: StoredModel, step: Step, *, alone: bool) -> str:
    """How a model was made from an ancestor; `alone`: it taught it as well."""
    if step.relation == "teacher":
        inherited = model.trial.start is not None
        return "taught by" if inherited else f"{change(model, step.model)}; from random weights, taught by"
    return f"{change(model, step.model)}; from, and taught by" if alone else f"{change(model, step.model)}; from"


def _add_children(registry: Registry, node: Tree, model: StoredModel, seen: set[str]) -> None:
    for child, relation in registry.children(model):
        if child.digest in seen or not _is_parent(relation, child):
            continue
        seen.add(child.digest)
        below = node.add(Group(Text(change(child, model), "cyan"), described(child)))
        _add_children(registry, below, child, seen)


def _is_parent(relation: Relation, child: StoredModel) -> bool:
    """Whether a child stands below this parent: a teacher only has those that started from nothing."""
    return relation == "start" or child.trial.start is None
