"""What a card is written of: contracts of packages, and the models around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.handoff.card import CARD_FILE
from orchestrator.handoff.manifest import Handoff
from orchestrator.registry.model import Measured, StoredModel
from tests.orchestrator.handoff.sample_package import clip_input, write_contract
from tests.orchestrator.sample_registry import CONDITIONS, CONTROL, FINGERPRINT, LOSER, PAS1, PRUNED, TEACHER, stored
from tests.trainers.tiny import CLASSES, CLIPS, SPEC

CONTENT = {
    "model.safetensors": b"weights",
    "network.json": b"{}\n",
    "reference.safetensors": b"reference",
    "family.png": b"picture",
    "exports/onnx/model.onnx": b"graph",
}
"""Files of a package that nobody computes with, by path; the card is written beside them."""
EXPORT = {"format": "onnx", "folder": "exports/onnx", "precision": "fp32", "accuracy": 0.9125, "accepted": True}

IMAGES: dict[str, Any] = {
    "name": "tiny-reid/agp-0.5",
    "backbone": "reid",
    "stages": [{"name": "layer4", "channels": 32, "temporal_stride": 1, "spatial_stride": 16, "shape": (32, 4, 2)}],
    "input": {
        **{"kind": "image", "resize": {"size": (64, 32), "interpolation": "bicubic"}, "height": 64, "width": 32},
        **{"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "mirrored": True},
    },
    "output": {"kind": "embedding", "dimension": 32, "distance": "cosine"},
    "accuracy": {
        **{"metric": "map", "top1": 0.875, "top5": 0.9583333134651184, "map": 0.793737, "drop_points": 5.2},
        **{"how": "Queries in a gallery.", "data_source": "synthetic-people", "fingerprint": FINGERPRINT},
        "examples": 120,
    },
}
"""What a contract says of a network that re-identifies, where that differs."""


def sample_handoff(**changes: Any) -> Handoff:
    """The contract of PAS-1 of `sample_registry`, with some fields changed."""
    empty = {"sha256": "0" * 64, "bytes": 0}
    fields: dict[str, Any] = {
        "name": "tiny-pas/PAS-1",
        "digest": PAS1.digest,
        "backbone": "r2plus1d",
        "precision": "fp32",
        "network": PAS1.network.to_dict(),
        "stages": [
            {"name": "layer4", "channels": 16, "temporal_stride": 8, "spatial_stride": 16, "shape": (16, 1, 1, 1)}
        ],
        "input": clip_input(SPEC, CLIPS),
        "output": {"kind": "logits", "dimension": len(CLASSES)},
        "classes": CLASSES,
        "accuracy": {
            **{"metric": "top1", "top1": 0.925, "top5": 1.0, "map": None, "drop_points": -2.5},
            **{"how": "The softmax of 2 clips.", "data_source": "moving-digits", "fingerprint": FINGERPRINT},
            "examples": 320,
        },
        "cost": {
            **{"gmacs": 0.00125, "params": 12_345, "size_mb": 0.0625, "how": "Counted once.", "energy": None},
            "latency": {"ms": 1.5, "conditions": CONDITIONS},
        },
        "licence": {"spdx": "Apache-2.0", "note": "Weights and card."},
        "lineage": [
            {
                **{"digest": TEACHER.digest, "name": TEACHER.name, "kind": "trained", "relation": "start"},
                **{"accuracy": 0.9, "gmacs": 0.0025, "weights_sha256": None},
            }
        ],
        "provenance": {},
        "reference": {"file": "reference.safetensors", "tolerance": 1e-4},
        "requires": {"python": "3.11"},
        "files": dict.fromkeys(CONTENT, empty),
        **changes,
    }
    return Handoff.model_validate(fields)


def sample_family() -> tuple[StoredModel, ...]:
    """The models of `sample_registry` but one: the base network, PAS-1, a loser, a control, a pruned network."""
    base = Measured(value=3.0, conditions=CONDITIONS)
    return (
        stored(
            **{"trial": TEACHER, "kind": "trained", "aliases": ("tiny-pas/teacher",), "drop_points": None},
            **{"top1": 0.9, "gmacs": 0.0025, "params": 23_456, "size_mb": 0.125, "latency": base},
        ),
        stored(),
        stored(trial=LOSER, aliases=(), top1=0.8, drop_points=10.0),
        stored(trial=CONTROL, kind="control", aliases=(), top1=0.7, drop_points=20.0),
        stored(trial=PRUNED, kind="pruned", aliases=("tiny-sweep/l1-0.5",), top1=0.875, gmacs=0.0006, drop_points=2.5),
    )


def write_pushable(folder: Path, *, card: str = "# A card\n", without: str | None = None) -> Path:
    """A package that is whole, of files that nobody computes with.

    Args:
        folder: to be made.
        card: text of its card.
        without: a file of `CONTENT` that it lacks.
    """
    for path, content in {**CONTENT, CARD_FILE: card.encode()}.items():
        if path != without:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    write_contract(folder, SPEC, CLASSES, clip_input(SPEC, CLIPS))
    return folder
