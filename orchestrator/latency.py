"""How long a network takes for one input: one thread, batch 1, here.

In floating point random weights do: the time of a convolution does not depend on their values. In integers they do
not: those whose zero is not 0 take longer to compute with, so that what is judged is the trained network itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from compression.spec import NetworkSpec
from orchestrator.measure.turns import Conditions, time_in_turns
from trainers.backbones import Network, build
from trainers.files import read_json, write_json
from trainers.package import load_package

RUNS = 30
"""Forward passes whose median is the latency."""
WARM_UP = 5
"""Forward passes before them."""
ISA_CAP = "ONEDNN_MAX_CPU_ISA"
"""Environment variable by which oneDNN is held to an older instruction set."""


def measure_latencies(networks: Collection[NetworkSpec]) -> dict[NetworkSpec, float]:
    """Median time of a forward pass of each network, in milliseconds.

    The networks take turns, so that a machine that is slower for a while is slower for all of them. Their weights are
    random, and all zero points of a quantised one are 0: only networks in floating point take as long once trained.
    """
    specs = list(dict.fromkeys(networks))
    return dict(zip(specs, _medians([build(spec) for spec in specs]), strict=True))


def measure_trial_latencies(folders: Mapping[str, Path]) -> dict[str, float]:
    """Median time of a forward pass of each trained network, in milliseconds, as it is handed on; they take turns.

    Args:
        folders: model packages by digest of the trial that left them.

    Raises:
        UserError: a folder is no package.
    """
    return dict(zip(folders, _medians([load_package(folder)[0] for folder in folders.values()]), strict=True))


def _medians(networks: Sequence[Network]) -> list[float]:
    return [statistics.median(taken) for taken in time_in_turns(networks, Conditions(runs=RUNS, warm_up=WARM_UP))]


def remembered_latencies(networks: Collection[NetworkSpec], memory: Path) -> dict[NetworkSpec, float]:
    """As `measure_latencies`, unless all were measured here before; if one is missing all are, so that they compare.

    Args:
        networks: what is measured.
        memory: file with earlier measurements; forgotten where they were made under other conditions.
    """
    keys = {spec: _key(spec) for spec in networks}
    known = _remembered(
        keys.values(), memory, lambda: {keys[spec]: ms for spec, ms in measure_latencies(networks).items()}
    )
    return {spec: known[key] for spec, key in keys.items()}


def remembered_trial_latencies(folders: Mapping[str, Path], memory: Path) -> dict[str, float]:
    """As `measure_trial_latencies`, unless all were measured here before; if one is missing all are.

    Args:
        folders: model packages by digest of the trial that left them.
        memory: as of `remembered_latencies`; a digest stands for a network for ever.

    Raises:
        UserError: a folder is no package.
    """
    known = _remembered(folders, memory, lambda: measure_trial_latencies(folders))
    return {digest: known[digest] for digest in folders}


def _remembered(keys: Collection[str], memory: Path, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Latencies by key from a file, into which they are measured first where it lacks one."""
    record = read_json(memory) or {}
    known: dict[str, float] = record["ms"] if record.get("conditions") == conditions() else {}
    if any(key not in known for key in keys):
        known = measure()
        write_json(memory, {"conditions": conditions(), "ms": known})
    return known


def _key(spec: NetworkSpec) -> str:
    return hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def conditions() -> dict[str, Any]:
    """What the latencies were measured under."""
    return {
        **{"machine": processor(), "isa": instruction_set(), "threads": 1, "batch": 1, "runs": RUNS},
        "torch": torch.__version__,
    }


def instruction_set() -> str:
    """What PyTorch's kernels use of the processor, and what oneDNN's are held to where somebody says so."""
    used = torch.backends.cpu.get_cpu_capability()
    cap = os.environ.get(ISA_CAP)
    return f"{used}, oneDNN at most {cap}" if cap else used


def processor() -> str:
    """Model of the CPU, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
