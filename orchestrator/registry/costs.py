"""Multiply-adds and parameters of a store's networks: as runs say, else as counted once and remembered.

Counting takes up to a second per network, and a store has many trials of one network: what was counted is kept in
`registry/costs.json` by network. Losing that file costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from compression.cost import Cost, measure_cost
from compression.spec import NetworkSpec
from orchestrator.store import Store
from trainers.backbones import build
from trainers.files import read_json, write_json


def costs_of(
    store: Store, networks: Mapping[str, NetworkSpec], said: Mapping[str, Cost]
) -> tuple[dict[str, Cost], dict[str, str]]:
    """Costs by digest, and why there are none of the others.

    Args:
        store: where counts are remembered; one that can't be written to is no error.
        networks: by digest.
        said: costs that runs state, by digest.
    """
    path = store.registry_folder / "costs.json"
    remembered = read_costs(path)
    known, faults, before = dict(said), {}, len(remembered)
    for digest, network in networks.items():
        if digest in known:
            continue
        key = key_of(network)
        try:
            cost = remembered.get(key) or measure_cost(network, build)
        except (RuntimeError, ValueError) as error:
            faults[digest] = f"its network can't be built here: {error}"
            continue
        known[digest] = remembered[key] = cost
    if len(remembered) > before:
        with contextlib.suppress(OSError):
            write_json(path, {key: {"macs": cost.macs, "params": cost.params} for key, cost in remembered.items()})
    return known, faults


def read_costs(path: Path) -> dict[str, Cost]:
    """What was counted so far, by network; nothing where the file is missing, damaged or not ours to read."""
    try:
        counted = (read_json(path) or {}).items()
        return {key: Cost(macs=int(row["macs"]), params=int(row["params"])) for key, row in counted}
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return {}


def key_of(network: NetworkSpec) -> str:
    """Name of a network as far as its cost goes, which is that of its floating-point form."""
    return hashlib.sha256(json.dumps(network.floating.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
