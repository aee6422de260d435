"""How long a network takes for one input: one thread, batch 1, here.

Random weights do: the time of a convolution does not depend on their values.
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from compression.spec import NetworkSpec
from orchestrator.measure.turns import Conditions, time_in_turns
from trainers.backbones import build
from trainers.files import read_json, write_json

RUNS = 30
"""Forward passes whose median is the latency."""
WARM_UP = 5
"""Forward passes before them."""


def measure_latencies(networks: Collection[NetworkSpec]) -> dict[NetworkSpec, float]:
    """Median time of a forward pass of each network, in milliseconds.

    The networks take turns, so that a machine that is slower for a while is slower for all of them.
    """
    specs = list(dict.fromkeys(networks))
    times = time_in_turns([build(spec) for spec in specs], Conditions(runs=RUNS, warm_up=WARM_UP))
    return {spec: statistics.median(taken) for spec, taken in zip(specs, times, strict=True)}


def remembered_latencies(networks: Collection[NetworkSpec], memory: Path) -> dict[NetworkSpec, float]:
    """As `measure_latencies`, unless all were measured here before; if one is missing all are, so that they compare.

    Args:
        networks: what is measured.
        memory: file with earlier measurements; forgotten where they were made under other conditions.
    """
    record = read_json(memory) or {}
    known: dict[str, float] = record["ms"] if record.get("conditions") == conditions() else {}
    if any(_key(spec) not in known for spec in networks):
        known = {_key(spec): ms for spec, ms in measure_latencies(networks).items()}
        write_json(memory, {"conditions": conditions(), "ms": known})
    return {spec: known[_key(spec)] for spec in networks}


def _key(spec: NetworkSpec) -> str:
    return hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def conditions() -> dict[str, Any]:
    """What the latencies were measured under."""
    return {"machine": processor(), "threads": 1, "batch": 1, "runs": RUNS, "torch": torch.__version__}


def processor() -> str:
    """Model of the CPU, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
