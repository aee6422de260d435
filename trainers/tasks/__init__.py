"""What networks are trained for, by the `task` of their backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from compression.spec import NetworkSpec
from configs.schema import DataSettings, DistillationSettings, ReidSettings, TrainSettings
from trainers.backbones import Network, backbone
from trainers.data.identities import build_identity_manifest
from trainers.data.manifest import build_manifest
from trainers.package import Description
from trainers.tasks.base import DataManifest, Loss, Scores, StepBatch, Task, Workplace
from trainers.tasks.calibration import calibration_clips, calibration_images
from trainers.tasks.classification import Classification, check_classification, score_classifier
from trainers.tasks.reid import ReidTask, check_reid, score_reid

__all__ = [
    "TASKS",
    "DataManifest",
    "Loss",
    "Scores",
    "StepBatch",
    "Task",
    "TaskKind",
    "Workplace",
    "calibration_inputs",
    "task_of",
]

Metric = Literal["top1", "map"]


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """One row of `TASKS`."""

    metric: Metric
    """Field of `TrialResult` by which networks are compared."""
    sources: tuple[str, ...]
    """Values of `data.source` that have what it needs."""
    build_manifest: Callable[[DataSettings, NetworkSpec, Path | None], DataManifest]
    """Lists a data set for a network; the last argument is a folder that remembers looks at files."""
    check: Callable[[Mapping[str, TrainSettings], DistillationSettings, ReidSettings, DataManifest], None]
    """Raises `UserError` where settings don't fit the task or its data, before anything is trained. The first argument
    has the run's recipes by the dotted names of their groups (`train`, `teacher.train`), for messages."""
    start: Callable[[Workplace, Network], Task]
    """Opens a trial's task."""
    score: Callable[[Network, Description, DataManifest, float, torch.device], Scores]
    """Accuracy of a network without a trial, on data of which a share at most may be unreadable."""
    calibration: Callable[[Description, DataManifest, int], Iterator[Tensor]]
    """So many training examples as in evaluation, for measuring ranges; see `calibration.py`."""


TASKS: dict[str, TaskKind] = {
    "classification": TaskKind(
        metric="top1",
        sources=("moving-digits", "csv", "ucf101", "hmdb51", "folders"),
        build_manifest=lambda data, spec, memory: build_manifest(data, min_frames=spec.clip_frames, memory=memory),
        check=check_classification,
        start=Classification,
        score=score_classifier,
        calibration=calibration_clips,
    ),
    "reid": TaskKind(
        metric="map",
        sources=("synthetic-people", "market1501"),
        build_manifest=lambda data, spec, memory: build_identity_manifest(data, memory=memory),
        check=check_reid,
        start=ReidTask,
        score=score_reid,
        calibration=calibration_images,
    ),
}


def task_of(spec: NetworkSpec) -> TaskKind:
    """What a network is trained for.

    Raises:
        ValueError: unknown backbone.
    """
    return TASKS[backbone(spec).task]


def calibration_inputs(description: Description, manifest: DataManifest, examples: int) -> list[Tensor]:
    """Normalised training inputs on the CPU, some at a time: [input, *spec.input_shape] each."""
    return list(task_of(description.spec).calibration(description, manifest, examples))
