"""Which models compare: accuracies on different data, or by different metrics, don't."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from configs.errors import UserError
from orchestrator.registry.constraints import models_of
from orchestrator.registry.model import StoredModel
from orchestrator.report import METRICS

Group = tuple[str, str]
"""Fingerprint of the data, and metric."""

CONDITIONS: dict[str, Callable[[StoredModel], str | None]] = {
    "data": lambda model: model.data_source,
    "backbone": lambda model: model.backbone,
    "metric": lambda model: model.metric,
}
"""What `--where` can tell groups apart by, in the order in which people think of it."""


def group_of(model: StoredModel) -> Group:
    """What a model's accuracy is of."""
    return model.trial.data, model.metric


def grouped(models: Sequence[StoredModel]) -> dict[Group, list[StoredModel]]:
    """Models that compare together, the largest group first."""
    groups: dict[Group, list[StoredModel]] = {}
    for model in models:
        groups.setdefault(group_of(model), []).append(model)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def require_one_group(models: Sequence[StoredModel]) -> None:
    """Refuse to compare what does not compare.

    Raises:
        UserError: names each group, how many models it has, and how to choose it.
    """
    groups = grouped(models)
    if len(groups) == 1:
        return
    lines = [f"{models_of(len(models))} fit, but accuracies on different data don't compare; choose with"]
    for group, members in groups.items():
        others = [model for model in models if group_of(model) != group]
        source, metric = members[0].data_source or "data unknown here", METRICS[members[0].metric]
        lines.append(f"  --where {condition_of(members, others)}: {models_of(len(members))} on {source}, {metric}")
    raise UserError("\n".join(lines))


def condition_of(members: Sequence[StoredModel], others: Sequence[StoredModel]) -> str:
    """A condition that all members of a group satisfy and no other model: `data=moving-digits`."""
    for key, value in CONDITIONS.items():
        values = {value(model) for model in members}
        if len(values) == 1 and None not in values and not values & {value(model) for model in others}:
            return f"{key}={values.pop()}"
    return f"fingerprint={members[0].trial.data[:12]}"  # so much is told apart
