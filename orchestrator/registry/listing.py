"""Which models are listed, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from configs.errors import UserError
from orchestrator.registry.model import StoredModel
from orchestrator.registry.registry import Registry
from orchestrator.registry.where import Condition

DESCENDING = ("top1", "map", "accuracy")
"""Keys of which the largest value is listed first."""
KEYS = {
    "top1": "top1",
    "map": "map",
    "accuracy": "accuracy",
    "gmacs": "gmacs",
    "params": "params",
    "size": "size_mb",
    "latency": "latency",
    "drop": "drop_points",
    "name": "name",
}
"""What models are sorted by: key, and property of a model."""

Group = tuple[str, str]
"""Fingerprint of the data, and metric: accuracies of different ones don't compare."""


def listed(
    registry: Registry, *, everything: bool = False, tag: str | None = None, where: Condition | None = None
) -> list[StoredModel]:
    """The models that are asked for, by name.

    Args:
        registry: of the store.
        everything: also those that no run hands on and nobody tagged.
        tag: only the model with this tag.
        where: only those of which this holds.

    Raises:
        UserError: nothing has the tag, or its file is damaged.
    """
    models = [model for model in registry.models if everything or model.aliases or model.tags]
    if tag is not None:
        require_tag(registry, tag)
        models = [model for model in models if tag in model.tags]
    return [model for model in models if where is None or where.holds(model)]


def require_tag(registry: Registry, tag: str) -> None:
    """Refuse a tag that no model has.

    Raises:
        UserError: says which there are.
    """
    if tag in registry.tag_problems:
        raise UserError(registry.tag_problems[tag])
    known = sorted({name for model in registry.models for name in model.tags})
    if tag not in known:
        there = f"tags there: {', '.join(known)}" if known else "`orchestrate tag MODEL TAG` gives one"
        raise UserError(f"no model in {registry.store.root} has the tag {tag!r}; {there}")


def sorted_by(models: Iterable[StoredModel], key: str) -> list[StoredModel]:
    """Models in an order: best accuracy or least cost first, those without a value last, equals by name."""

    def place(model: StoredModel) -> tuple[bool, float | str, str, str]:
        value = getattr(model, KEYS[key])
        if key == "latency" and value is not None:
            value = value.value
        unknown = value is None
        if key in DESCENDING and not unknown:
            value = -value
        return unknown, 0.0 if unknown else value, model.name, model.digest

    return sorted(models, key=place)


def grouped(models: Sequence[StoredModel]) -> dict[Group, list[StoredModel]]:
    """Models by data and metric, in their order; the group of the first model first."""
    groups: dict[Group, list[StoredModel]] = {}
    for model in models:
        groups.setdefault((model.trial.data, model.metric), []).append(model)
    return groups
