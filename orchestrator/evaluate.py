"""`orchestrate evaluate`: the accuracy of a model folder, measured as the search measured it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from configs.errors import RunError, UserError
from configs.schema import DataSettings
from trainers.backbones import fast_order
from trainers.files import read_json
from trainers.package import Description, load_package
from trainers.tasks import task_of
from trainers.tasks.base import DataManifest


def evaluate_model(folder: Path, flags: Mapping[str, Any], *, device: str = "auto") -> dict[str, Any]:
    """Accuracy on validation data: multi-clip top-1 of videos, mAP and CMC of identities.

    Args:
        folder: a model folder.
        flags: `data.source`, `data.path`, `data.split` where they are not those the model was searched on.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        UserError: no model, no data, data of another kind, or other classes than the model's.
    """
    network, description = load_package(folder)
    data = data_of(folder, flags)
    kind = task_of(description.spec)
    if data.source not in kind.sources:
        raise UserError(
            f"--data is {data.source}, but {folder} is a {description.spec.backbone}, which is evaluated on one of "
            f"{', '.join(kind.sources)}"
        )
    manifest = kind.build_manifest(data, description.spec, None)
    if description.clips is not None:
        require_same_classes(folder, description, manifest)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but PyTorch finds no CUDA device here; leave it out")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    fast_order(network.to(device))  # as in training
    scores = kind.score(network, description, manifest, data.max_quarantined, torch.device(device))
    if not scores.finite:
        raise RunError(f"the outputs of {folder} are not finite numbers; its weights are damaged")
    measured = {"map": scores.map} if scores.map is not None else {}
    counted = "queries" if description.clips is None else "videos"
    return {
        "model": str(folder),
        **measured,
        "top1": scores.top1,
        "top5": scores.top5,
        counted: scores.examples,
        **({"clips_per_video": description.clips.test} if description.clips else {}),
        "data": str(manifest.root),
        "fingerprint": manifest.fingerprint,
    }


def describe(report: Mapping[str, Any]) -> str:
    """What `evaluate_model` measured, in one line."""
    if "map" in report:
        numbers = f"mAP {report['map']:.4f}, rank-1 {report['top1']:.4f}, rank-5 {report['top5']:.4f}"
        return f"{report['model']}: {numbers} on {report['queries']} queries of {report['data']}"
    numbers = f"top-1 {report['top1']:.4f}, top-5 {report['top5']:.4f}"
    return f"{report['model']}: {numbers} on {report['videos']} videos of {report['data']}"


def require_same_classes(folder: Path, description: Description, manifest: DataManifest) -> None:
    """Refuse data with other labels than a classifier's.

    Raises:
        UserError: naming some of both.
    """
    if manifest.classes != description.classes:
        raise UserError(
            f"{folder} tells {len(description.classes)} classes apart ({_few(description.classes)}), but "
            f"{manifest.root} has {len(manifest.classes)} ({_few(manifest.classes)}); give data with the same classes"
        )


def data_of(folder: Path, flags: Mapping[str, Any]) -> DataSettings:
    """The data to evaluate on: what is given, else what the model's `metrics.json` names.

    Raises:
        UserError: an unknown source or split, or nothing given and nothing recorded.
    """
    given = {key.removeprefix("data."): value for key, value in flags.items() if value is not None}
    if "source" not in given:
        given = recorded_data(folder) | given
    try:
        return DataSettings.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(f"--data: {problem['loc'][0]} is {problem['input']!r}, but: {problem['msg']}") from error


def recorded_data(folder: Path) -> dict[str, Any]:
    """The data settings under which a model folder was made.

    Raises:
        UserError: it does not say, or not all of it.
    """
    recorded = read_json(folder / "metrics.json")
    try:
        return {key: recorded["data"][key] for key in ("source", "path", "split", "max_quarantined")}
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder} has no metrics.json to name its data; say which with --data SOURCE:DIR") from error


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
