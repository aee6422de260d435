"""What the states of a store's runs say about its trials: which are handed on, which are controls, cost and latency.

States are plain JSON of any kind of run, of this version or an older one; what they don't say is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compression.cost import Cost
from orchestrator.registry.model import Measured
from orchestrator.store import RunFolder, Store

Role = Literal["control", "hypothesis"]
"""What a run made a trial for, where the trial itself does not say."""

SETTINGS = ("config", "identity")
"""Parts of a state that hold no networks."""
ROLES: dict[str, Role] = {"control": "control", "hypotheses": "hypothesis", "family": "hypothesis"}
"""Role of the networks below a key of a state."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run."""

    name: str
    """Of its folder."""
    teacher: str | None
    """Digest of the network that its search began with."""
    source: tuple[str, str] | None
    """Fingerprint of its data, and key of the data's source."""
    handed_on: tuple[tuple[str, str], ...]
    """Name of the model folder, and digest, of each finished network that it hands on; in the run's order."""
    roles: Mapping[str, Set[Role | None]]
    """What it has every trial for that it made or took, by digest; none: neither role."""
    costs: Mapping[str, Cost]
    """Costs by digest."""
    latencies: Mapping[str, Measured]
    """Latencies by digest."""


def read_runs(store: Store) -> tuple[RunRecord, ...]:
    """All runs whose state can be read, newest first."""
    return tuple(run for folder in store.runs() if (run := read_run(folder)))


def read_run(folder: RunFolder) -> RunRecord | None:
    """One run; none where its state is nothing that a run writes."""
    try:
        state = folder.read_state()
        return None if state is None else record_of(folder.path.name, state)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def record_of(name: str, state: dict[str, Any]) -> RunRecord:
    """What a state says."""
    rows = list(networks_of(state))
    roles: dict[str, set[Role | None]] = defaultdict(set)
    for row, role in rows:
        roles[row["trial"]].add(role)
    data, conditions = state.get("data") or {}, state.get("latency")
    return RunRecord(
        name=name,
        teacher=state["teacher"]["trial"] if state.get("teacher") else None,
        source=(data["fingerprint"], data["source"]) if {"fingerprint", "source"} <= data.keys() else None,
        handed_on=handed_on(state) if state.get("teacher") else (),
        roles=dict(roles),
        costs={
            row["trial"]: Cost(macs=round(row["gmacs"] * 1e9), params=row["params"])
            for row, _ in rows
            if row.get("gmacs") and row.get("params")
        },
        latencies={
            row["trial"]: Measured(value=row["latency_ms"], conditions=conditions)
            for row, _ in rows
            if conditions and row.get("latency_ms")
        },
    )


def handed_on(state: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Folder name and digest of what a run hands on, as far as it is finished."""
    return tuple(
        (Path(row["path"]).name, row["trial"])
        for row in exported(state)
        if row.get("path") and row.get("status", "finished") == "finished"
    )


def exported(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The teacher, and what was found so far, each with its folder: the family, the cells on the Pareto front, the best
    network of each way to quantise, or what each step of a chain left; of a transfer, the networks it fine-tuned."""
    if "transfers" in state:  # its teacher is one of them
        return [row for row in state["transfers"] if row["path"]]
    teacher = {**state["teacher"], "name": "teacher", "axis": None, "sequence": "", "path": "models/teacher"}
    kinds = ("cells", "candidates", "steps")
    chosen = [model for found in kinds for model in state.get(found, []) if model.get("path")]
    family = [] if "steps" in state else state.get("family", [])  # of a chain, only the last of it, as a step's model
    return [teacher, *family, *chosen]


def networks_of(state: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Role | None]]:
    """Every network that a state tells of, with its role; those of kinds of runs that are yet to come, too."""
    yield from _networks({key: value for key, value in state.items() if key not in SETTINGS}, None)


def _networks(value: Any, role: Role | None) -> Iterator[tuple[dict[str, Any], Role | None]]:
    if isinstance(value, list):
        for item in value:
            yield from _networks(item, role)
    elif isinstance(value, dict):
        if isinstance(value.get("trial"), str):
            yield value, "control" if value.get("control") else role
        for key, item in value.items():
            yield from _networks(item, ROLES.get(key, role))
