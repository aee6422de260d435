"""Models that compare with each other: of one data set and metric, by GMACs or by latency; and which no other beats.

Units: accuracies are fractions, costs are GMACs per clip or image, latencies are milliseconds per input.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.pareto import front, knee
from orchestrator.registry.groups import group_of
from orchestrator.registry.model import StoredModel
from orchestrator.report import WORDS, Words

LEAST_LATENCIES = 3
"""Latencies under the same conditions below which there is no picture of them."""
MINIMISE = (False, True)
"""Of accuracy and cost."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One model in a comparison."""

    model: StoredModel
    """The model."""
    cost: float
    """GMACs, or milliseconds."""
    label: str
    """A short name, unlike any other's in the comparison."""
    on_front: bool
    """Whether no other model is at least as accurate for less."""
    is_knee: bool
    """Whether the front bends most here."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All models of one data set and metric whose cost is known."""

    data: str
    """What the data set is called on the page."""
    words: Words
    """How its networks are spoken of."""
    marks: tuple[Mark, ...]
    """By cost, the most costly first."""
    conditions: Mapping[str, Any] | None = None
    """What latencies were measured under; none: the cost is GMACs."""

    @property
    def front(self) -> tuple[Mark, ...]:
        """Those that no other beats."""
        return tuple(mark for mark in self.marks if mark.on_front)


def compare_costs(models: Iterable[StoredModel]) -> tuple[Comparison, ...]:
    """A comparison over GMACs per data set and metric, in the order of their names."""
    everything = tuple(models)
    groups = _grouped(everything, group_of)
    names = data_names(everything)
    made = [_compare(group, names, {model.digest: model.gmacs for model in group}) for group in groups]
    return tuple(sorted(made, key=_place))


def compare_latencies(models: Iterable[StoredModel]) -> tuple[Comparison, ...]:
    """Likewise over latency, apart for every set of conditions under which there are `LEAST_LATENCIES`."""
    everything = tuple(models)
    timed = {model.digest: model.latency for model in everything if model.latency is not None}
    measured = [model for model in everything if model.digest in timed]
    keys = {digest: json.dumps(dict(latency.conditions), sort_keys=True) for digest, latency in timed.items()}
    groups = _grouped(measured, lambda model: (*group_of(model), keys[model.digest]))
    names = data_names(everything)
    made = [
        _compare(group, names, {model.digest: timed[model.digest].value for model in group}, json.loads(keys[digest]))
        for group in groups
        if len(without_copies(group)) >= LEAST_LATENCIES
        for digest in (group[0].digest,)
    ]
    return tuple(sorted(made, key=_place))


def data_names(models: Iterable[StoredModel]) -> dict[str, str]:
    """What data sets are called, by fingerprint: by their source, with the fingerprint where that is not enough."""
    sources = {model.trial.data: model.data_source or "unknown data" for model in models}
    shared = Counter(sources.values())
    return {
        fingerprint: source if shared[source] == 1 else f"{source} ({fingerprint[:8]})"
        for fingerprint, source in sources.items()
    }


def without_copies(models: Sequence[StoredModel]) -> list[StoredModel]:
    """Leave out what was imported and is equal to another model in every number: most likely a copy of it.

    A sweep of a model folder imports its weights, so that the store has such a model twice.
    """
    originals = {_numbers(model) for model in models if model.kind != "imported"}
    kept = {_numbers(model): model for model in reversed(models) if model.kind == "imported"}
    return [
        model
        for model in models
        if model.kind != "imported" or (_numbers(model) not in originals and kept[_numbers(model)] is model)
    ]


def short_names(models: Sequence[StoredModel]) -> dict[str, str]:
    """What models are called in a picture, by digest: as a run hands them on, without its name where that is enough."""
    several = len({model.backbone for model in models}) > 1
    short = {model.digest: _short(model, model.backbone if several else "") for model in models}
    shared = Counter(short.values())
    longer = {model.digest: short[model.digest] if shared[short[model.digest]] == 1 else model.name for model in models}
    shared = Counter(longer.values())
    return {
        digest: name if shared[name] == 1 else f"{name} ({digest[:6]})"
        for digest, name in longer.items()
    }  # fmt: skip


def _short(model: StoredModel, backbone: str) -> str:
    """`PAS-2`, or a label that people gave it; a number in front (a chain's `1-pas`) comes last."""
    if model.tags:
        return model.tags[0]
    if not model.aliases:
        return model.trial.name
    names = [alias.partition("/")[2] or alias for alias in model.aliases]
    name = min(names, key=lambda one: (one[:1].isdigit(), one))
    return f"{backbone} {name}".strip()


def _compare(
    group: Sequence[StoredModel],
    names: Mapping[str, str],
    costs: Mapping[str, float],
    conditions: Mapping[str, Any] | None = None,
) -> Comparison:
    models = without_copies(group)
    rivals = [model for model in models if model.kind != "control"]
    points = [(model.accuracy, costs[model.digest]) for model in rivals]
    on_front = {model.digest for model, kept in zip(rivals, front(points, minimise=MINIMISE), strict=True) if kept}
    bend = knee(points, minimise=MINIMISE)
    labels = short_names(models)
    marks = [
        Mark(
            model=model,
            cost=costs[model.digest],
            label=labels[model.digest],
            on_front=model.digest in on_front,
            is_knee=bend is not None and model is rivals[bend],
        )
        for model in models
    ]
    return Comparison(
        data=names[group[0].trial.data],
        words=WORDS[group[0].metric],
        marks=tuple(sorted(marks, key=lambda mark: (-mark.cost, -mark.model.accuracy, mark.model.digest))),
        conditions=conditions,
    )


def _grouped(models: Iterable[StoredModel], key: Callable[[StoredModel], Any]) -> list[list[StoredModel]]:
    groups: dict[Any, list[StoredModel]] = {}
    for model in models:
        groups.setdefault(key(model), []).append(model)
    return list(groups.values())


def _numbers(model: StoredModel) -> tuple[Any, ...]:
    network = model.trial.network
    return model.trial.data, model.precision, network.input_shape, model.gmacs, model.params, model.accuracy, model.top5


def _place(comparison: Comparison) -> tuple[str, str, str]:
    return comparison.data, comparison.words.metric, json.dumps(comparison.conditions, sort_keys=True, default=str)
