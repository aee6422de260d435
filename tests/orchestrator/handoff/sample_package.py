"""Packages of tiny networks, written by hand from the contract alone: what the reader is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compression.spec import NetworkSpec
from configs.schema import ClipSettings, ReidSettings
from orchestrator.handoff.manifest import MANIFEST_FILE, Handoff
from tests.trainers import tiny
from trainers.backbones import backbone, describe
from trainers.files import sha256_of
from trainers.package import Description, save_package

REFERENCE = "reference.safetensors"
FLOATING = "f" * 64
"""Digest of the network that an INT8 package says it was quantised from."""


def write_package(
    folder: Path,
    spec: NetworkSpec = tiny.SPEC,
    *,
    clips: ClipSettings = tiny.CLIPS,
    classes: tuple[str, ...] = tiny.CLASSES,
    **changes: Any,
) -> Path:
    """A package of a network with random weights.

    Args:
        folder: to be made.
        spec: of the network.
        clips: how its clips are cut, where it is fed any.
        classes: its labels.
        changes: other values of the contract, by field.
    """
    images = spec.aspect is not None
    given: dict[str, Any] = {"reid": ReidSettings()} if images else {"clips": clips}
    save_package(folder, tiny.random_network(spec), Description(spec=spec, classes=classes, **given))
    (folder / REFERENCE).write_bytes(b"of no interest here")
    write_contract(folder, spec, classes, image_input(spec) if images else clip_input(spec, clips), **changes)
    return folder


def write_contract(
    folder: Path, spec: NetworkSpec, classes: tuple[str, ...], fed: dict[str, Any], **changes: Any
) -> None:
    """`handoff.json` for whatever files the folder has."""
    images = spec.aspect is not None
    fields = {
        "name": "tiny-pas/PAS-1",
        "digest": "a" * 64,
        "backbone": spec.backbone,
        "precision": "fp32",
        "network": spec.to_dict(),
        "stages": stages_of(spec),
        "input": fed,
        "output": {"kind": "embedding" if images else "logits", "dimension": 32 if images else len(classes)},
        "classes": classes,
        "accuracy": {
            **{"metric": "top1", "top1": 0.75, "top5": 1.0, "map": None, "drop_points": None},
            **{"how": "not at all", "data_source": None, "fingerprint": "d" * 64, "examples": None},
        },
        "cost": {"gmacs": 0.001, "params": 1000, "size_mb": 0.01, "how": "not at all", "latency": None, "energy": None},
        "licence": {"spdx": "NOASSERTION", "note": "Nobody said."},
        "lineage": (),
        "provenance": {},
        "reference": {"file": REFERENCE, "tolerance": 1e-4},
        "requires": {"python": "3.11"},
        "files": {
            path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST_FILE
        },
        **changes,
    }
    (folder / MANIFEST_FILE).write_text(Handoff.model_validate(fields).model_dump_json())


def clip_input(spec: NetworkSpec, clips: ClipSettings) -> dict[str, Any]:
    """How a clip is made, in pixels of the network itself."""
    row, resize = backbone(spec), clips.resize or spec.side
    rule = {"short_side": spec.scaled(resize)} if isinstance(resize, int) else {"size": tuple(map(spec.scaled, resize))}
    return {
        "kind": "clip",
        "fps": 30.0,
        "span": spec.clip_span,
        "evaluation_span": spec.clip_frames,
        "frame_indices": spec.frame_indices(),
        "frames": spec.frames,
        "resize": {**rule, "interpolation": "bilinear"},
        "side": spec.input_side,
        "mean": row.mean,
        "std": row.std,
        "clips_per_video": clips.test,
    }


def image_input(spec: NetworkSpec) -> dict[str, Any]:
    """How an image is made."""
    row, (_, height, width) = backbone(spec), spec.input_shape
    resize = {"size": (height, width), "interpolation": "bicubic"}
    return {
        **{"kind": "image", "resize": resize, "height": height, "width": width},
        **{"mean": row.mean, "std": row.std, "mirrored": True},
    }


def stages_of(spec: NetworkSpec) -> list[dict[str, Any]]:
    """Stages as measured; none of a network in integers."""
    if spec.quantisation is not None:
        return []
    maps = tiny.random_network(spec).eval().features(torch.zeros(1, *spec.input_shape))
    return [
        {
            **{"name": stage.name, "channels": stage.channels},
            **{"temporal_stride": stage.temporal_stride, "spatial_stride": stage.spatial_stride},
            "shape": tuple(maps[stage.name].shape[1:]),
        }
        for stage in describe(spec)
    ]
