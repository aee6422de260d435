"""What a network is trained for: a task makes batches, turns a batch into loss terms, and measures accuracy.

The training loop (`trainers/loop.py`) knows epochs, optimiser, checkpoints and pruning, and nothing of videos or
identities; a task knows those, and nothing of the former.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from trainers.backbones import Network
from trainers.data.quarantine import Quarantine
from trainers.distributed import World
from trainers.package import Description
from trainers.site import Site
from trainers.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where a trial's task is done."""

    trial: Trial
    """What is trained."""
    site: Site
    """Folders, threads, caches."""
    world: World
    """Processes that share the work."""
    device: torch.device
    """Where the networks are."""


@runtime_checkable
class DataManifest(Protocol):
    """What every kind of data says of itself; see `trainers/data/manifest.py` and `trainers/data/identities.py`."""

    @property
    def root(self) -> Path:
        """Folder of the data set."""
        ...

    @property
    def source(self) -> str:
        """Key of `DataSettings.source`."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels that training tells apart."""
        ...

    @property
    def train(self) -> tuple[Any, ...]:
        """Training examples."""
        ...

    @property
    def val(self) -> tuple[Any, ...]:
        """Validation examples, of which the accuracy is a mean."""
        ...

    @property
    def quarantined(self) -> tuple[tuple[str, str], ...]:
        """Unusable files: path and reason."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is used of the data."""
        ...

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        ...


@runtime_checkable
class StepBatch(Protocol):
    """What one forward pass takes; several may make up a step of the optimiser."""

    @property
    def step(self) -> int:
        """Which step of the epoch it belongs to, counted from 0."""
        ...

    @property
    def share(self) -> float:
        """Its part of that step's loss."""
        ...


@dataclass(frozen=True)
class Loss:
    """What a batch amounts to."""

    terms: dict[str, Tensor]
    """Scalars by name, weighted: their sum is what is minimised."""
    correct: Tensor
    """Examples of the batch that were labelled rightly, a scalar."""
    items: int
    """Examples in the batch."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Accuracy on the validation examples, as fractions."""

    top1: float
    """Top-1, or CMC at rank 1."""
    top5: float
    """Top-5, or CMC at rank 5."""
    examples: int
    """Validation examples that were scored: videos, or queries."""
    map: float | None = None
    """Mean average precision, where the task has one."""
    finite: bool = True
    """Whether every output was a finite number; if not, the rest means nothing."""


@runtime_checkable
class Task(Protocol):
    """One trial's task. Built from a `Workplace` and the student, which is on the device already."""

    learnt: nn.ModuleDict
    """Modules trained along with the student, on the device: in checkpoints, never in packages. May be empty."""
    heads: tuple[str, ...]
    """Those of `learnt` with which a training that starts from this one goes on."""
    quarantine: Quarantine
    """What could not be read."""
    steps: int
    """Optimiser steps per epoch."""

    @property
    def manifest(self) -> DataManifest:
        """The data."""
        ...

    def batches(self, epoch: int) -> Iterator[StepBatch]:
        """An epoch's batches, a function of (seed, epoch) alone; those of one step follow one another."""
        ...

    def loss(self, student: nn.Module, batch: Any, progress: float) -> Loss:
        """Loss of a batch.

        Args:
            student: the network, perhaps wrapped for several processes.
            batch: one of `batches`.
            progress: share of the training done, in [0, 1).
        """
        ...

    def settle(self) -> None:
        """From now on the student's batch norms use their stored statistics: a teacher's do as well, or the student
        would be taught to undo the difference."""
        ...

    def evaluate(self, student: Network, *, quick: bool) -> Scores:
        """Accuracy on the validation examples; leaves the student in evaluation mode.

        Args:
            student: the network.
            quick: less thorough, for a look between two epochs; the result of a trial is always the thorough one.
        """
        ...

    def joined(self, student: Network) -> nn.Module:
        """A module that feeds the student's output to everything learnt on top of it, the student being its submodule
        `student`: what loses input channels when the student's last layers lose filters."""
        ...

    def description(self, student: Network) -> Description:
        """What `network.json` is to say of the trained student."""
        ...
