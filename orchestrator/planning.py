"""From settings to trials: the teacher's, and each hypothesis' with its recipe.

This is where the recipe of the source is applied: distillation from the teacher for every hypothesis, a tenth of the
learning rate for those that inherit weights, plain cross-entropy for controls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import RunSettings, TrainSettings
from orchestrator.pas import Hypothesis
from orchestrator.store import Store
from trainers.backbones import preset
from trainers.backbones.published import load_weights
from trainers.checkpoint import save_weights
from trainers.data.manifest import Manifest
from trainers.files import sha256_of, write_atomically
from trainers.package import NETWORK_FILE, WEIGHTS_FILE, build_with, read_description
from trainers.trial import Trial

PAPER_CLASSES = 400
"""Kinetics-400; stands in until the data is known."""


@dataclass(frozen=True)
class Planner:
    """Makes trials; equal settings and data give equal trials, and so equal digests."""

    settings: RunSettings
    manifest: Manifest
    teacher_network: NetworkSpec

    def recipe(self, train: TrainSettings) -> TrainSettings:
        """The recipe with its precision resolved: bf16 on GPUs, fp32 on CPUs."""
        if train.precision != "auto":
            return train
        on_gpu = self.settings.runtime.gpus_per_trial > 0
        return train.model_copy(update={"precision": "bf16" if on_gpu else "fp32"})

    @cached_property
    def teacher(self) -> Trial:
        """The trial that trains the base network, or evaluates given weights (hashed once, they may be large)."""
        weights = self.settings.teacher.weights
        return Trial(
            name=f"{self.teacher_network.backbone}-teacher",
            network=self.teacher_network,
            data=self.manifest.fingerprint,
            clips=self.settings.clips,
            train=None if weights else self.recipe(self.settings.teacher.train),
            seed=self.settings.seed,
            weights_sha256=sha256_of(weights_file(weights)) if weights else None,
        )

    def trial(self, hypothesis: Hypothesis) -> Trial:
        """The trial of a hypothesis, or of a winner's control."""
        train = self.recipe(self.settings.train)
        if hypothesis.start is not None:
            train = train.model_copy(update={"lr": train.lr / self.settings.search.warm_start_lr_divisor})
        distilled = hypothesis.kind == "hypothesis" and self.distils
        return Trial(
            name=hypothesis.name,
            network=hypothesis.network,
            data=self.manifest.fingerprint,
            clips=self.settings.clips,
            train=train,
            seed=self.settings.seed,
            teacher=self.teacher.digest if distilled else None,
            distillation=self.settings.distillation if distilled else None,
            start=hypothesis.start,
        )

    @property
    def distils(self) -> bool:
        """Whether the teacher takes part in the loss at all."""
        distillation = self.settings.distillation
        return distillation.weight > 0 or distillation.source_alpha is not None or distillation.features != "none"


def teacher_network(settings: RunSettings) -> NetworkSpec:
    """The teacher's spec: that of the given model folder, else the preset's (whose classes are still the paper's).

    Raises:
        UserError: the settings make no network, or the model folder is of another backbone.
    """
    weights = settings.teacher.weights
    if weights is None or not weights.is_dir():
        try:
            return preset(settings.network, classes=PAPER_CLASSES)
        except ValueError as error:
            raise UserError(f"network: {error}") from error
    spec = read_description(weights).spec
    if spec.backbone != settings.network.backbone:
        raise UserError(
            f"teacher.weights {weights} is a {spec.backbone}, but network.backbone is {settings.network.backbone}; "
            "give the one that belongs to it"
        )
    return spec


def with_classes_of(spec: NetworkSpec, manifest: Manifest, settings: RunSettings) -> NetworkSpec:
    """The teacher's spec for this data.

    Raises:
        UserError: the given model folder tells another number of classes apart.
    """
    weights, classes = settings.teacher.weights, len(manifest.classes)
    if weights is not None and weights.is_dir() and spec.classes != classes:
        raise UserError(
            f"teacher.weights {weights} tells {spec.classes} classes apart, but the data has {classes}; "
            "use the data it was trained on, or train a teacher by leaving teacher.weights out"
        )
    return spec.replace(classes=classes)


def weights_file(weights: Path) -> Path:
    """The file behind `teacher.weights`.

    Raises:
        UserError: it doesn't exist.
    """
    path = weights / WEIGHTS_FILE if weights.is_dir() else weights
    if not path.is_file():
        raise UserError(
            f"teacher.weights is {weights}, but {path} does not exist; give a model folder "
            f"({NETWORK_FILE} and {WEIGHTS_FILE}) or a file of weights"
        )
    return path


def place_teacher_weights(store: Store, trial: Trial, weights: Path) -> None:
    """Copy given weights, renamed to our keys, to where the trial expects them.

    Raises:
        UserError: they don't fit the network.
    """
    if store.result(trial.digest):
        return  # they were evaluated, and the result vouches for the file
    target = store.trial_folder(trial.digest) / WEIGHTS_FILE
    network = build_with(trial.network, load_weights(weights_file(weights), trial.network))
    write_atomically(target, lambda path: save_weights(path, network))
