"""What `orchestrate export` made of the models that runs hand on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.registry.model import Exported
from orchestrator.store import Store
from trainers.files import read_json

METRICS_FILE = "metrics.json"
"""In a model folder it says which trial left the model; in an exported folder, what was measured of the file."""


def read_exports(store: Store, weights: Mapping[str, str]) -> dict[str, tuple[Exported, ...]]:
    """Exports by digest of the trial whose model they were made from; those of weights that have changed since are left
    out, and folders that say nothing.

    Args:
        store: whose runs are looked through.
        weights: SHA-256 of the weights file of every model, by digest.
    """
    found: dict[str, list[Exported]] = {}
    for path in sorted(store.root.glob(f"[!.]*/models/*/exports/[!.]*/{METRICS_FILE}")):
        numbers, model = read_json(path), read_json(path.parents[2] / METRICS_FILE)
        try:
            digest = model["trial"]
            if weights.get(digest) == numbers["model_sha256"]:
                found.setdefault(digest, []).append(_exported(path.parent, numbers))
        except (AttributeError, KeyError, TypeError):
            continue
    return {digest: tuple(sorted(all_, key=lambda one: (one.format, one.folder))) for digest, all_ in found.items()}


def _exported(folder: Path, numbers: dict[str, Any]) -> Exported:
    verdict = numbers["verdict"]
    judged = len(verdict["unjudged"]) < 2
    return Exported(
        format=numbers["format"],
        folder=str(folder),
        accepted=verdict["accepted"] if judged else None,
        accuracy=numbers.get(numbers["metric"]),
        size_mb=numbers.get("size_mb"),
        latency_ms=numbers.get("latency_ms"),
    )
