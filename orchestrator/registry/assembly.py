"""From trials, runs, tags and measurements to models: what a store says of each, put together."""

from __future__ import annotations

import dataclasses
from collections import ChainMap, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from compression.cost import Cost
from orchestrator.registry.costs import costs_of
from orchestrator.registry.exports import read_exports
from orchestrator.registry.kinds import kind_of, role_of
from orchestrator.registry.lineage import base_of
from orchestrator.registry.measurements import read_measurements
from orchestrator.registry.model import Exported, Measured, StoredModel
from orchestrator.registry.records import Damage, Record, read_trials
from orchestrator.registry.runs import RunRecord, read_runs
from orchestrator.registry.tags import Tags, read_tags
from orchestrator.store import Store
from trainers.files import read_json
from trainers.trial import Trial

DIGITS = 6
"""Decimals of a drop in points: more would be those of binary fractions."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a store holds."""

    models: Sequence[StoredModel]
    damaged: Sequence[Damage]
    """Trials that should be models and can't be used."""
    runs: tuple[RunRecord, ...]
    """Newest first."""
    tags: Tags


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where what is said of a model is read, each by digest unless it says otherwise."""

    records: Mapping[str, Record]
    costs: Mapping[str, Cost]
    aliases: Mapping[str, Collection[str]]
    tags: Tags
    exports: Mapping[str, tuple[Exported, ...]]
    measured: Mapping[str, tuple[Measured | None, Measured | None]]
    """Latency and energy as people had them measured."""
    stated: Mapping[str, Measured]
    """Latency as the newest run that measured it has it."""
    data: Mapping[str, str]
    """Key of the data's source, by fingerprint."""
    runs: Sequence[RunRecord]

    def trial(self, digest: str | None) -> Trial | None:
        """A trial of the store."""
        record = self.records.get(digest or "")
        return record.trial if record else None

    def model(self, digest: str) -> StoredModel:
        """A model, not yet compared with its base network."""
        record, cost = self.records[digest], self.costs[digest]
        trial, result = record.trial, record.result
        start, teacher, role = self.trial(trial.start), self.trial(trial.teacher), role_of(digest, self.runs)
        latency, energy = self.measured.get(digest, (None, None))
        return StoredModel(
            digest=digest,
            trial=trial,
            kind=kind_of(trial, start=start, teacher=teacher, role=role),
            aliases=tuple(sorted(self.aliases.get(digest, ()))),
            tags=self.tags.of(digest),
            top1=result.top1,
            top5=result.top5,
            map=result.map,
            drop_points=None,
            gmacs=cost.gmacs,
            params=cost.params,
            size_mb=record.weights_bytes / 1e6,
            weights_sha256=record.weights_sha256,
            latency=latency or self.stated.get(digest),
            energy=energy,
            data_source=self.data.get(trial.data),
            exports=self.exports.get(digest, ()),
        )


def assemble(store: Store) -> Contents:
    """Read a store."""
    runs = read_runs(store)  # before the trials: what a run at work finishes meanwhile is not missed among them
    records, damaged = read_trials(store)
    said = ChainMap({}, *(dict(run.costs) for run in runs))
    costs, faults = costs_of(store, {digest: record.trial.network for digest, record in records.items()}, said)
    damaged += [Damage(digest, fault) for digest, fault in faults.items()]
    damaged += missing(runs, {*records, *(damage.digest for damage in damaged)})
    records = {digest: record for digest, record in records.items() if digest not in faults}
    tags = read_tags(store, records)
    sources = Sources(
        records=records,
        costs=costs,
        aliases=aliases_of(runs),
        tags=tags,
        exports=read_exports(store, {digest: record.weights_sha256 for digest, record in records.items()}),
        measured=read_measurements(store),
        stated=ChainMap({}, *(dict(run.latencies) for run in runs)),
        data=data_sources(store, {record.trial.data for record in records.values()}, runs),
        runs=runs,
    )
    alone = {digest: sources.model(digest) for digest in records}
    models = [dataclasses.replace(model, drop_points=drop_points(model, alone, runs)) for model in alone.values()]
    return Contents(models=models, damaged=damaged, runs=runs, tags=tags)


def aliases_of(runs: Iterable[RunRecord]) -> Mapping[str, Collection[str]]:
    """`RUN/NAME` of everything that runs hand on, by digest."""
    aliases: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for folder, digest in run.handed_on:
            aliases[digest].add(f"{run.name}/{folder}")
    return aliases


def missing(runs: Iterable[RunRecord], known: Collection[str]) -> list[Damage]:
    """What runs hand on though its trial is not in the store, or not finished."""
    handed_on = {digest: f"{run.name}/{folder}" for run in runs for folder, digest in run.handed_on}
    return [
        Damage(digest, f"its result or its weights are missing, though it is handed on as {alias}")
        for digest, alias in handed_on.items()
        if digest not in known
    ]


def data_sources(store: Store, fingerprints: Iterable[str], runs: Iterable[RunRecord]) -> dict[str, str]:
    """Key of the source of each data set: as a run has it, else as its manifest has it, which may be large."""
    found = dict(run.source for run in runs if run.source is not None)
    for fingerprint in set(fingerprints) - found.keys():
        manifest = read_json(store.manifest_file(fingerprint))
        if isinstance(manifest, dict) and isinstance(source := manifest.get("source"), str):
            found[fingerprint] = source
    return found


def drop_points(model: StoredModel, models: Mapping[str, StoredModel], runs: Iterable[RunRecord]) -> float | None:
    """Points that a model is below its base network; negative where it is above."""
    base = base_of(model, models) or _searched_from(model, models, runs)
    if base is None and _is_fine_tuned_base(model, models):
        return 0.0
    return None if base is None else round(100 * (base.accuracy - model.accuracy), DIGITS)


def _is_fine_tuned_base(model: StoredModel, models: Mapping[str, StoredModel]) -> bool:
    """Whether a model is a base network on other data: what its search's models are compared with there."""
    start = models.get(model.trial.start or "")
    return model.kind == "transferred" and start is not None and base_of(start, models) is None


def _searched_from(
    model: StoredModel, models: Mapping[str, StoredModel], runs: Iterable[RunRecord]
) -> StoredModel | None:
    """The base network of a run that made a model which does not come from it: a control, or what is not distilled."""
    for run in runs:
        base = models.get(run.teacher or "")
        if model.digest in run.roles and base and base is not model and base.trial.data == model.trial.data:
            return base
    return None
