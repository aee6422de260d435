"""`orchestrate evaluate`: the accuracy of a model or export folder, measured as the search measured it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from configs.errors import UserError
from orchestrator.validation import Validation
from trainers.artefacts import load_artefact
from trainers.backbones import Network


def evaluate_model(folder: Path, flags: Mapping[str, Any], *, device: str = "auto") -> dict[str, Any]:
    """Accuracy on validation data: multi-clip top-1 of videos, mAP and CMC of identities.

    Args:
        folder: a model folder, or an exported one.
        flags: `data.source`, `data.path`, `data.split` where they are not those the model was searched on.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        UserError: no model, no data, data of another kind, or other classes than the model's.
    """
    network, description = load_artefact(folder)
    validation = Validation.open(folder, description, flags)
    scores = validation.score(network, description, folder, torch.device(device_for(network, folder, device)))
    counted = "queries" if description.clips is None else "videos"
    return {
        "model": str(folder),
        **({"map": scores.map} if scores.map is not None else {}),
        "top1": scores.top1,
        "top5": scores.top5,
        counted: scores.examples,
        **({"clips_per_video": description.clips.test} if description.clips else {}),
        "data": str(validation.manifest.root),
        "fingerprint": validation.manifest.fingerprint,
    }


def device_for(network: Network, folder: Path, asked: str) -> str:
    """Where to run a network: integers and exported files run on CPUs.

    Raises:
        UserError: it can't run where it is asked to.
    """
    movable = any(True for _ in network.parameters()) and network.spec.quantisation is None
    if asked == "cuda" and not movable:
        raise UserError(f"--device is cuda, but {folder} runs on CPUs only; leave it out")
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but PyTorch finds no CUDA device here; leave it out")
    return "cuda" if asked != "cpu" and movable and torch.cuda.is_available() else "cpu"


def describe(report: Mapping[str, Any]) -> str:
    """What `evaluate_model` measured, in one line."""
    if "map" in report:
        numbers = f"mAP {report['map']:.4f}, rank-1 {report['top1']:.4f}, rank-5 {report['top5']:.4f}"
        return f"{report['model']}: {numbers} on {report['queries']} queries of {report['data']}"
    numbers = f"top-1 {report['top1']:.4f}, top-5 {report['top5']:.4f}"
    return f"{report['model']}: {numbers} on {report['videos']} videos of {report['data']}"
