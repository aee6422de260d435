"""A trial's folder as a record: metrics per epoch, and the result that is written last.

runs/trials/<digest>/  lock, checkpoints/, metrics.jsonl, network.json, model.safetensors, result.json
"""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trainers.data.quarantine import Quarantine
from trainers.files import read_json, sha256_of, write_json, write_text
from trainers.package import NETWORK_FILE, WEIGHTS_FILE
from trainers.trial import Trial, TrialResult

log = logging.getLogger(__name__)

PACKAGES = {"orchestrate": "video-compression-orchestrator"} | {
    name: name for name in ("torch", "torchvision", "ray", "numpy", "av")
}
"""Distribution that each version is of."""

RESULT_FILE, METRICS_FILE = "result.json", "metrics.jsonl"

HASHED = {"weights_sha256": WEIGHTS_FILE, "network_sha256": NETWORK_FILE}
"""Keys of `result.json` with the hash of a file; the second is absent in results written before it was known."""


def write_metrics(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write the metrics of all epochs done, a JSON object per line."""
    write_text(folder / METRICS_FILE, "".join(json.dumps(row, allow_nan=False) + "\n" for row in history))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Metrics of the epochs done; empty when there are none yet."""
    path = folder / METRICS_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def write_result(folder: Path, trial: Trial, result: TrialResult, quarantine: Quarantine) -> None:
    """Write `result.json`: result, trial, versions and the hashes of the network's files."""
    kept = trial.keeps_network and result.status == "finished"
    record = {
        "result": dataclasses.asdict(result),
        "trial": trial.to_dict(),
        "versions": versions(),
        "quarantined": [{"path": path, "reason": reason} for path, reason in quarantine.items()],
        **{key: sha256_of(folder / name) if kept else None for key, name in HASHED.items()},
    }
    write_json(folder / RESULT_FILE, record)


def read_result(folder: Path) -> TrialResult | None:
    """The result of a trial; None when it has none, or when its network is missing or not that of the result."""
    record = read_json(folder / RESULT_FILE)
    if record is None:
        return None
    try:
        result = TrialResult(**record["result"])
        hashes = {name: record[key] if name == WEIGHTS_FILE else record.get(key) for key, name in HASHED.items()}
    except (AttributeError, KeyError, TypeError):
        log.warning("%s is no result: the trial is trained again", folder / RESULT_FILE)
        return None
    for name, wanted in hashes.items():
        file = folder / name
        if wanted is not None and not (file.is_file() and sha256_of(file) == wanted):
            log.warning("%s does not match its result: the trial is trained again", file)
            return None
    return result


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": sys.version.split()[0], "platform": platform.platform()}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:  # a machine that only trains may lack Ray
            found[name] = "not installed"
    return found
