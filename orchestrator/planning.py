"""From settings to trials: the teacher's, and each hypothesis' or cell's with its recipe.

This is where the recipes of the sources are applied: distillation from the teacher for every hypothesis and every
pruned network, a tenth of the learning rate for hypotheses that inherit weights, plain labels for controls. A network
that is quantised is taught by itself, as it was in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from compression.spec import NetworkSpec, Quantisation
from configs.errors import UserError
from configs.schema import ClipSettings, Pruning, QuantiseRecipe, RunSettings, TrainSettings
from orchestrator.pas import Hypothesis
from orchestrator.store import Store
from orchestrator.sweep.cells import RANDOM, SCRATCH, Cell
from trainers.backbones import BACKBONES, preset
from trainers.backbones.published import load_weights
from trainers.checkpoint import save_weights
from trainers.data.transforms import check_clips
from trainers.files import sha256_of, write_atomically
from trainers.package import NETWORK_FILE, WEIGHTS_FILE, build_with, read_description
from trainers.pruning import is_gradual
from trainers.tasks import DataManifest, task_of
from trainers.trial import Trial

PAPER_CLASSES = 400
"""Kinetics-400; stands in until the data is known."""


@dataclass(frozen=True)
class Planner:
    """Makes trials; equal settings and data give equal trials, and so equal digests."""

    settings: RunSettings
    manifest: DataManifest
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
            **self._task,
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
            **self._task,
            train=train,
            seed=self.settings.seed,
            teacher=self.teacher.digest if distilled else None,
            distillation=self.settings.distillation if distilled else None,
            start=hypothesis.start,
        )

    def cell_trial(self, cell: Cell) -> Trial:
        """The trial of a sweep's cell: pruned from the teacher and fine-tuned with it, or a control."""
        scratch = cell.control == SCRATCH
        distilled = cell.finetuned and not scratch and self.distils
        return Trial(
            name=cell.name,
            network=cell.network,
            **self._task,
            train=self.recipe(self.settings.train) if cell.finetuned else None,
            seed=cell.seed,
            teacher=self.teacher.digest if distilled else None,
            distillation=self.settings.distillation if distilled else None,
            start=None if scratch else self.teacher.digest,
            pruning=None if scratch else relevant(cell.pruning),
        )

    def quantised_trial(
        self,
        network: NetworkSpec,
        start: str,
        *,
        method: Literal["ptq", "qat"],
        rule: Quantisation,
        seed: int,
        name: str,
    ) -> Trial:
        """The trial that quantises a trained network: by measuring ranges, or by training with them.

        Args:
            network: the network in floating point.
            start: digest of the trial that trained it, whose network is also the teacher.
            method: `ptq` measures ranges only, so that nothing about training enters its digest; `qat` trains.
            rule: engine, and the layers that stay in floating point.
            seed: of its training; `ptq` always has the run's.
            name: for people.
        """
        trained = method == "qat"
        distilled = trained and self.distils
        return Trial(
            name=name,
            network=network.replace(quantisation=rule),
            **self._task,
            train=self._quantising_recipe() if trained else None,
            seed=seed if trained else self.settings.seed,
            teacher=start if distilled else None,
            distillation=self.settings.distillation if distilled else None,
            start=start,
            quantise=self._quantise_recipe(trained=trained),
        )

    def transferred_trial(
        self, network: NetworkSpec, start: str, *, clips: ClipSettings, seed: int, name: str
    ) -> Trial:
        """The trial that fine-tunes a trained network on this data, with a new classifier and from its labels alone.

        Args:
            network: the network, with the classes that it was trained for.
            start: digest of the trial that trained it.
            clips: how its clips are cut.
            seed: of the fine-tuning.
            name: for people.
        """
        train, transfer = self.recipe(self.settings.train), self.settings.transfer
        train = for_epochs(train, transfer.epochs or train.epochs)
        return Trial(
            name=name,
            network=network.replace(classes=len(self.manifest.classes)),
            data=self.manifest.fingerprint,
            clips=clips,
            train=train.model_copy(update={"lr": train.lr / transfer.lr_divisor}),
            seed=seed,
            start=start,
            new_classifier=True,
        )

    def _quantising_recipe(self) -> TrainSettings:
        """`train` for fewer epochs, with a small learning rate; in fp32, because values rounded to bf16 are no grid of
        8 bits."""
        train, quantise = self.settings.train, self.settings.quantise
        changes = {"lr": train.lr / quantise.lr_divisor, "precision": "fp32"}
        return for_epochs(train, quantise.epochs).model_copy(update=changes)

    def _quantise_recipe(self, *, trained: bool) -> QuantiseRecipe:
        """What of `quantise` the trial looks at."""
        fields = set(QuantiseRecipe.model_fields) if trained else {"calibration"}
        return QuantiseRecipe.model_validate(self.settings.quantise.model_dump(include=fields))

    @property
    def _task(self) -> dict[str, Any]:
        """The fields of every trial that say what is learnt, and from which data."""
        settings, data = self.settings, self.manifest.fingerprint
        if BACKBONES[self.teacher_network.backbone].task == "reid":
            return {"data": data, "reid": settings.reid}
        return {"data": data, "clips": settings.clips}

    @property
    def distils(self) -> bool:
        """Whether the teacher takes part in the loss at all."""
        distillation = self.settings.distillation
        return distillation.weight > 0 or distillation.source_alpha is not None or distillation.features != "none"


def for_epochs(train: TrainSettings, epochs: int) -> TrainSettings:
    """A recipe stretched or shortened; the warm-up takes the same share of the epochs."""
    return train.model_copy(update={"epochs": epochs, "warmup_epochs": train.warmup_epochs * epochs / train.epochs})


def relevant(pruning: Pruning) -> Pruning:
    """The same without what this pruner has no use for, so that sweeps that differ in it share the trial."""
    unused = set() if is_gradual(pruning) else {"initial_sparsity", "ramp"}
    if pruning.pruner == RANDOM:
        unused.add("engine")
    return Pruning.model_validate(pruning.model_dump(exclude=unused))


def teacher_network(settings: RunSettings) -> NetworkSpec:
    """The teacher's spec: that of the given model folder, else the preset's (whose classes are still the paper's).

    Raises:
        UserError: the settings make no network, or the model folder is of another backbone, or of integers.
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
    if spec.quantisation is not None:
        raise UserError(
            f"teacher.weights {weights} computes in integers already, which can be neither trained nor shrunk further; "
            "give the network in floating point that it was made from"
        )
    return spec


def read_data(settings: RunSettings, network: NetworkSpec, memory: Path) -> DataManifest:
    """The data of a run, for a network.

    Args:
        settings: which data, and how clips are cut.
        network: what is fed with it; videos shorter than its clips can't be used.
        memory: folder that remembers looks at files.

    Raises:
        UserError: data of another kind than the network needs, clips that can't be cut, files that can't be used.
    """
    kind = task_of(network)
    if settings.data.source not in kind.sources:
        raise UserError(
            f"data.source is {settings.data.source}, but {network.backbone} needs one of "
            f"{', '.join(kind.sources)}; say which with --data"
        )
    if network.aspect is None:
        check_clips(settings.clips, network.side)
    return kind.build_manifest(settings.data, network, memory)


def with_classes_of(spec: NetworkSpec, manifest: DataManifest, settings: RunSettings) -> NetworkSpec:
    """The teacher's spec for this data.

    Raises:
        UserError: the given model folder tells another number of classes apart.
    """
    weights, classes = settings.teacher.weights, len(manifest.classes)
    given = weights is not None and weights.is_dir()
    if given and BACKBONES[spec.backbone].task == "reid":
        return spec  # it embeds images of any identity
    if given and spec.classes != classes:
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
