"""`orchestrate evaluate`: the accuracy of a model folder, measured as the search measured it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from configs.errors import RunError, UserError
from configs.schema import DataSettings
from trainers.data.cache import FrameCache
from trainers.data.manifest import build_manifest
from trainers.data.quarantine import Quarantine
from trainers.evaluation import accuracy_of, video_probabilities
from trainers.files import read_json
from trainers.package import load_package

CACHE_BYTES = 512 * 2**20


def evaluate_model(folder: Path, flags: Mapping[str, Any], *, device: str = "auto") -> dict[str, Any]:
    """Multi-clip accuracy on validation videos.

    Args:
        folder: a model folder.
        flags: `data.source`, `data.path`, `data.split` where they are not those the model was searched on.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        UserError: no model, no data, or other classes than the model's.
    """
    network, description = load_package(folder)
    data = data_of(folder, flags)
    manifest = build_manifest(data, min_frames=description.spec.clip_frames)
    if manifest.classes != description.classes:
        raise UserError(
            f"{folder} tells {len(description.classes)} classes apart ({_few(description.classes)}), but "
            f"{manifest.root} has {len(manifest.classes)} ({_few(manifest.classes)}); give data with the same classes"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but PyTorch finds no CUDA device here; leave it out")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    quarantine = Quarantine(len(manifest.train) + len(manifest.val), data.max_quarantined)
    probabilities, labels = video_probabilities(
        network.to(device).to(memory_format=torch.channels_last_3d),  # as in training
        manifest,
        description.clips,
        device=device,
        cache=FrameCache(CACHE_BYTES),
        quarantine=quarantine,
    )
    accuracy = accuracy_of(probabilities, labels)
    if not accuracy.finite:
        raise RunError(f"the outputs of {folder} are not finite numbers; its weights are damaged")
    return {
        "model": str(folder),
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "videos": len(labels),
        "clips_per_video": description.clips.test,
        "data": str(manifest.root),
        "fingerprint": manifest.fingerprint,
    }


def data_of(folder: Path, flags: Mapping[str, Any]) -> DataSettings:
    """The data to evaluate on: what is given, else what the model's `metrics.json` names.

    Raises:
        UserError: an unknown source or split, or nothing given and nothing recorded.
    """
    given = {key.removeprefix("data."): value for key, value in flags.items() if value is not None}
    if "source" not in given:
        recorded = read_json(folder / "metrics.json")
        if recorded is None:
            raise UserError(f"{folder} has no metrics.json to name its data; say which with --data SOURCE:DIR")
        given = {key: recorded["data"][key] for key in ("source", "path", "split", "max_quarantined")} | given
    try:
        return DataSettings.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(f"--data: {problem['loc'][0]} is {problem['input']!r}, but: {problem['msg']}") from error


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
