"""The schema of everything a run may say.

Defaults live here and nowhere else. What determines a result (network, data, clips, train, distillation, search,
seed) is kept apart from where and how it runs (`runtime`), because only the former enters a trial's digest.

Sources:
    [1] Deep video understanding … (PhD thesis), chapter 6; decisions in `specs/pas.md`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

AxisLetter = Literal["s", "t", "f", "c", "l"]
PrunerName = Literal["l1", "l2", "fpgm", "agp", "l1-iterative", "l2-iterative", "fpgm-iterative", "random"]
Probability = Annotated[float, Field(ge=0, lt=1)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
"""Share of filters removed."""
FOLDER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Settings(BaseModel):
    """Base of every settings group: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


class NetworkSettings(Settings):
    """Which network is the teacher; each field left out keeps the preset's value."""

    backbone: Literal["slowfast", "r2plus1d", "reid"] = "slowfast"
    """Backbone: SlowFast-4×16-R50, R(2+1)D-18, or ResNet-18 that embeds images for re-identification."""
    preset: Literal["tiny", "full"] = "tiny"
    """`full` is the paper's network, `tiny` the same topology for CPUs."""
    clip_frames: PositiveInt | None = None
    """Raw frames per clip."""
    side: PositiveInt | None = None
    """Side of the evaluation crop, in pixels; of an image, its width."""
    aspect: PositiveFloat | None = None
    """Height of an image over its width: 2 for persons, 1 for balls; only for networks that are fed images."""
    width: PositiveFloat | None = None
    """Multiplies every channel count of the paper's table."""
    dropout: Probability | None = None
    """Dropout before the classifier."""
    round_to: PositiveInt = 1
    """Channel counts are multiples of it; 8 suits tensor cores."""


class DataSettings(Settings):
    """Where the labelled videos or images are."""

    source: Literal["moving-digits", "csv", "ucf101", "hmdb51", "folders", "synthetic-people", "market1501"] = (
        "moving-digits"
    )
    """Videos: Kinetics-style CSV, official UCF101 or HMDB51 splits, a folder per class, or the embedded
    `moving-digits`. Images of identities: a folder as Market-1501's, or the embedded `synthetic-people`."""
    path: Path | None = None
    """Folder of the data set; of `csv` also a file of lines `path label split`. The embedded sets are made in the cache
    folder when this is left out."""
    split: Literal[1, 2, 3] = 1
    """Official split of UCF101 and HMDB51."""
    max_quarantined: Probability = 0.02
    """Largest share of videos that are unreadable or too short, or of unreadable images, before the run stops."""


class ClipSettings(Settings):
    """How clips are cut from videos. Pixels are those of the unreduced network; axis s scales them all."""

    per_video: PositiveInt = 3
    """Training clips per video and epoch, at random times."""
    train_short_side: tuple[PositiveInt, PositiveInt] | None = None
    """The short side is resized to a random value of this range before the training crop; none: as evaluation."""
    train_crop: PositiveInt | None = None
    """Side of the random training crop; none: as evaluation."""
    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Evaluation resize: short side, or [height, width]; none: the network's side. The crop has the network's side."""
    flip: bool = False
    """Mirror half of the training clips left to right; never where the label is a direction."""
    test: PositiveInt = 10
    """Clips per video in evaluation, uniform in time, softmax averaged."""


class ReidSettings(Settings):
    """How a network learns to tell identities apart, and how that is measured. Pixels are of the unreduced network."""

    images: Annotated[int, Field(ge=2)] = 4
    """Images per identity in a batch (K); the batch has train.batch / K identities (P)."""
    identity_weight: NonNegativeFloat = 1.0
    """Weight of the cross-entropy over training identities."""
    triplet_weight: NonNegativeFloat = 1.0
    """Weight of the batch-hard triplet loss."""
    margin: PositiveFloat = 0.3
    """Its margin, a distance between vectors of length 1."""
    circle_weight: NonNegativeFloat = 0.0
    """Weight of the circle loss, divided by the batch size as in the source's code."""
    circle_margin: Probability = 0.25
    """Its relaxation m."""
    circle_gamma: PositiveFloat = 32.0
    """Its scale γ."""
    head_width: PositiveInt = 512
    """Width of the bottleneck before the identity classifier, which is discarded after training."""
    head_dropout: Probability = 0.5
    """Dropout in it."""
    pad: NonNegativeInt = 10
    """Pixels added around a training image before it is cropped back to size at a random place."""
    flip: bool = True
    """Mirror half of the training images left to right, and add an image's and its mirror's vectors in evaluation."""
    erase: Probability = 0.0
    """Probability of erasing a random rectangle."""
    ball_occlusion: Probability = 0.5
    """Probability of a ball (a disc) in front of the person."""
    person_occlusion: Probability = 0.5
    """Probability of another identity's person in front; needs data with person masks, else nobody is."""
    adversary: Literal["none", "reversal", "alternating"] = "none"
    """Unlearn the camera: by gradient reversal, or by training classifier and network in turn."""
    adversary_weight: NonNegativeFloat = 0.1
    """Largest λ of the adversary."""
    adversary_steps: PositiveInt = 1
    """Steps of the camera classifier per step of the network (`alternating`)."""
    average_precision: Literal["trapezoid", "standard"] = "trapezoid"
    """Area under the precision-recall curve by trapezoids (the source's), or the mean precision at the hits."""
    count_unmatched: bool = False
    """Count queries without any valid match as 0 instead of leaving them out."""

    @model_validator(mode="after")
    def _learns_something(self) -> ReidSettings:
        if self.identity_weight + self.triplet_weight + self.circle_weight == 0:
            raise ValueError("identity_weight, triplet_weight and circle_weight are all 0; raise one of them")
        return self


class TrainSettings(Settings):
    """How one network is trained: synchronous SGD with warm-up."""

    epochs: PositiveInt = 45
    """Passes over the training examples: videos or images."""
    batch: PositiveInt = 24
    """Clips or images per step, over all processes together."""
    micro_batch: PositiveInt | None = None
    """Clips per forward and backward pass; gradients add up to the batch. Batch norm sees this many at a time.
    Not for images, among all of which triplets are sought."""
    lr: PositiveFloat = 0.015
    """Base learning rate, for this batch size (scale it linearly with the batch)."""
    schedule: Literal["step", "cosine"] = "cosine"
    """After the warm-up: /10 every `step_epochs`, or a cosine to zero."""
    step_epochs: PositiveInt = 10
    """Epochs between two drops of the `step` schedule."""
    warmup_epochs: NonNegativeFloat = 5
    """Epochs of linear warm-up; fractions allowed."""
    momentum: Probability = 0.9
    """Momentum of SGD."""
    weight_decay: NonNegativeFloat = 1e-4
    """L2 penalty on all weights."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on GPUs, fp32 on CPUs; say fp32 for GPUs before Ampere. Resolved before the digest."""
    evaluate_every: NonNegativeInt = 1
    """Epochs between two quick evaluations (one clip per video, images without mirrors); 0: only the full one at the
    end."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainSettings:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs:g}, but must be below epochs ({self.epochs}); lower it"
            )
        return self


class TeacherSettings(Settings):
    """Where the teacher comes from: a file, or a training of its own."""

    weights: Path | None = None
    """A model folder made by this program, or a .safetensors/.pth file of published weights; none: train one."""
    train: TrainSettings = TrainSettings()
    """Recipe when it is trained here."""


class DistillationSettings(Settings):
    """The loss L = CE + weight · t² · KL(teacher ‖ student) ([1], Eq. 6.5-6.7)."""

    weight: NonNegativeFloat = 1.25
    """Weight of t²·KL, summed over classes and averaged over clips. 0 switches distillation off."""
    source_alpha: PositiveFloat | None = None
    """The source's α (500) on the element-wise mean of KL instead; equals 1.25 at 400 classes, ruinous at few."""
    temperature: PositiveFloat = 5.0
    """t, softens both label distributions."""
    teacher_mode: Literal["train", "eval"] = "train"
    """Batch norm of the teacher: statistics of the batch (Table 6.8: better), or the stored ones."""
    features: Literal["none", "l2", "margin_relu"] = "none"
    """Extra loss on the feature maps after each stage (Table 6.7: no gain)."""
    feature_weight: PositiveFloat = 1.0
    """Weight of that extra loss."""


class SearchSettings(Settings):
    """Progressive architecture shrinkage ([1], Algorithm 1)."""

    axes: tuple[AxisLetter, ...] = ("s", "t", "f", "c", "l")
    """Reduction axes tried in every iteration."""
    factors: dict[AxisLetter, Annotated[float, Field(gt=1)]] = {}
    """Steps γ that differ from the source's (s 1.4, t 2, f 2, c 1.4, l 2)."""
    iterations: PositiveInt = 5
    """Iterations τ at most."""
    target_gmacs: PositiveFloat | None = None
    """Stop once the chosen network costs no more than this per clip, in GMACs."""
    max_drop: NonNegativeFloat | None = None
    """Stop before the chosen network falls more than this many points of accuracy (top-1 or mAP) below the teacher."""
    warm_start_lr_divisor: PositiveFloat = 10.0
    """The base learning rate of warm-started hypotheses is divided by it."""
    ratio_tolerance: PositiveFloat = 0.15
    """Eq. 6.3 applies when every cost ratio lies within this share of the median; else Eq. 6.1."""
    control: bool = False
    """Also train every winner's architecture from random weights without distillation, at equal budget."""

    @model_validator(mode="after")
    def _axes_once(self) -> SearchSettings:
        if not self.axes or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes is {list(self.axes)}, but must name each axis once; it needs at least one")
        return self


class PruneSettings(Settings):
    """What a pruner may take away. Layers are named as in the network (`orchestrate profile --layers`), or by a
    pattern with `*`; coupled ones, which lose the same filters, by any of their names."""

    scope: Literal["local", "global"] = "local"
    """`local`: the same share of every layer; `global`: the least important filters of the whole network."""
    layers: dict[str, Sparsity] = {}
    """Sparsity of some layers, whatever the others'."""
    max_sparsity: dict[str, Sparsity] = {}
    """Largest sparsity of some layers, as `sweep sensitivity` measures it."""
    exclude: tuple[str, ...] = ()
    """Layers that keep all their filters."""
    round_to: PositiveInt = 1
    """Filters left are multiples of it (8 suits tensor cores), as far as a layer has that many."""
    engine: Literal["own", "nni"] = "own"
    """Who chooses the filters; the cutting is always ours."""
    initial_sparsity: Sparsity = 0.0
    """s_i of gradual pruners: the sparsity with which they start."""
    ramp: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the fine-tuning epochs over which gradual pruners raise the sparsity."""


class Pruning(PruneSettings):
    """One cell of a sweep: a pruner at a sparsity."""

    pruner: PrunerName
    """Key of `compression.pruning.pruners.PRUNERS`."""
    sparsity: Sparsity
    """Share of filters removed per layer (`local`) or in all (`global`); s_f of gradual pruners."""


class SweepSettings(Settings):
    """Which cells a pruner sweep has; each is fine-tuned by the recipe `train`."""

    pruners: tuple[PrunerName, ...] = ("l1", "l2", "fpgm", "agp")
    """Pruners."""
    sparsity: tuple[Sparsity, ...] = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Sparsities at which each is tried."""
    seeds: tuple[NonNegativeInt, ...] | None = None
    """Seeds of fine-tuning; none: the run's own. The teacher always has the run's own."""
    controls: tuple[Literal["scratch", "random"], ...] = ()
    """`scratch`: each sparsity's architecture from random weights, for as many epochs; `random`: filters by lot."""
    max_drop: NonNegativeFloat = 2.0
    """Points that one layer alone may cost: `sweep sensitivity` writes the largest sparsity per layer that keeps to
    it."""

    @model_validator(mode="after")
    def _each_once(self) -> SweepSettings:
        for name in ("pruners", "sparsity", "seeds", "controls"):
            values = getattr(self, name)
            if values is not None and len(set(values)) != len(values):
                raise ValueError(f"{name} is {list(values)}, but must name each once")
        for name in ("pruners", "sparsity"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        if self.seeds == ():
            raise ValueError("seeds is empty; leave it out for the run's own seed")
        return self


class QuantiseRecipe(Settings):
    """How a network is quantised: what its ranges are measured on, and when training stops moving them."""

    calibration: PositiveInt = 64
    """Training clips or images on which the ranges of activations are measured first."""
    freeze_norms_after: PositiveInt = 2
    """Epochs of quantisation-aware training after which batch norms keep their statistics."""
    freeze_ranges_after: PositiveInt = 3
    """Epochs after which the ranges stay as they are."""


class QuantiseSettings(QuantiseRecipe):
    """Quantising to INT8: which ways are tried, and what may be lost."""

    engine: Literal["auto", "onednn", "x86", "qnnpack"] = "auto"
    """Integer kernels; `auto`: onednn where the processor has VNNI, else x86, whose activations have 7 bits lest sums
    overflow; qnnpack on ARM."""
    exclude: tuple[str, ...] = ()
    """Layers that stay in floating point, by name or by a pattern with `*`."""
    methods: tuple[Literal["ptq", "qat"], ...] = ("ptq", "qat")
    """`ptq`: ranges are measured, nothing is trained; `qat`: quantisation-aware training."""
    seeds: tuple[NonNegativeInt, ...] | None = None
    """Seeds; none: the run's own."""
    max_drop_points: NonNegativeFloat = 1.0
    """Points of accuracy that may be lost against the floating-point network: beyond, layers go back one by one."""
    max_fallbacks: NonNegativeInt = 3
    """Layers that may go back to floating point for the sake of accuracy."""
    epochs: PositiveInt = 6
    """Epochs of quantisation-aware training; the rest of its recipe is `train`'s."""
    lr_divisor: PositiveFloat = 100.0
    """`train.lr` is divided by it for quantisation-aware training, which starts from trained weights. At a tenth, small
    networks fell apart as soon as their batch norms were frozen."""
    keep_slow: bool = False
    """Quantise also layers that were measured to be slower in integers on this machine."""

    @model_validator(mode="after")
    def _each_once(self) -> QuantiseSettings:
        for name in ("methods", "seeds"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) != len(values)):
                raise ValueError(f"{name} is {list(values)}, but must name at least one, and each once")
        return self


class PasStep(Settings):
    """Shrink by progressive architecture shrinkage, as `search` says; goes on with the last network chosen."""

    step: Literal["pas"] = "pas"
    """Which step this is."""


class PruneStep(Settings):
    """Prune and fine-tune, as `prune` and `train` say."""

    step: Literal["prune"] = "prune"
    """Which step this is."""
    pruner: PrunerName = "agp"
    """Key of `PRUNERS`."""
    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of filters removed."""
    epochs: PositiveInt | None = None
    """Epochs of fine-tuning; none: `train.epochs`."""


class QuantiseStep(Settings):
    """Quantise to INT8, as `quantise` says."""

    step: Literal["quantise"] = "quantise"
    """Which step this is."""
    method: Literal["ptq", "qat"] = "qat"
    """Measure ranges only, or train with them."""


ChainStep = Annotated[PasStep | PruneStep | QuantiseStep, Field(discriminator="step")]


class ChainSettings(Settings):
    """The steps of `chain`, each of which starts from the network that the one before left."""

    steps: tuple[ChainStep, ...] = (PasStep(), PruneStep(), QuantiseStep())
    """Steps, in order. Nothing can follow `quantise`; `pas` can only be first."""

    @model_validator(mode="after")
    def _in_order(self) -> ChainSettings:
        if not self.steps:
            raise ValueError("steps is empty; give at least one")
        kinds = [step.step for step in self.steps]
        if "pas" in kinds[1:]:
            raise ValueError(f"steps is {kinds}, but pas shrinks a base network: it can only come first, once")
        if "quantise" in kinds[:-1]:
            raise ValueError(f"steps is {kinds}, but nothing can follow quantise: integers are not trained further")
        return self


class TransferSettings(Settings):
    """Fine-tuning networks on another set of videos, as `train` says but for what is said here."""

    models: dict[str, str] = {}
    """Networks, by what they are called in this run: a tag, a digest, RUN/NAME or a model folder each. The first is
    what the others are compared with."""
    splits: tuple[Literal[1, 2, 3], ...] | None = None
    """Official splits of UCF101 and HMDB51, over which the accuracy is averaged; none: all three."""
    seeds: tuple[NonNegativeInt, ...] | None = None
    """Seeds of fine-tuning; none: the run's own."""
    epochs: PositiveInt | None = None
    """Epochs of fine-tuning; none: `train.epochs`."""
    lr_divisor: PositiveFloat = 10.0
    """`train.lr` is divided by it ([1], sec. 6.2.4)."""

    @model_validator(mode="after")
    def _each_once(self) -> TransferSettings:
        for name in ("splits", "seeds"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) != len(values)):
                raise ValueError(f"{name} is {list(values)}, but must name at least one, and each once")
        if unfit := [name for name in self.models if not re.fullmatch(FOLDER_NAME, name)]:
            raise ValueError(f"models has the name {unfit[0]!r}, but it must do as a folder's: letters, digits, ._-")
        return self


class RuntimeSettings(Settings):
    """Where and how it runs. Nothing here changes a result (but see `halve_on_oom`, where there would be none), so
    nothing here enters a digest."""

    name: str | None = Field(default=None, pattern=FOLDER_NAME)
    """Name of the run's folder; made from backbone and settings when left out."""
    runs: Path = Path("runs")
    """Folder of all runs and of the trial store."""
    runner: Literal["ray", "local"] = "ray"
    """Ray Tune, or one trial after the other in this process."""
    address: str | None = None
    """Address of a running Ray cluster (`auto`, host:port); none: Ray is started in this process."""
    allow_unauthenticated: bool = False
    """Join a cluster that obeys whoever reaches it, without a token: only on a network closed by other means."""
    cpus_per_trial: PositiveFloat = 1
    """CPUs that a trial asks of Ray; also its number of threads."""
    gpus_per_trial: Annotated[float, Field(ge=0, le=1)] = 0
    """GPUs per trial, at most 1; fractions share one."""
    max_concurrent: PositiveInt | None = None
    """Trials at a time at most; none: as many as fit."""
    checkpoint_every: PositiveInt = 1
    """Epochs between two checkpoints."""
    max_failures: NonNegativeInt = 3
    """Times a trial is restarted after its process or node was lost."""
    halve_on_oom: bool = True
    """Whether a training that does not fit into memory goes on with half the micro-batch and as many clips per step;
    batch norm then sees fewer clips than the recipe says, which result and report tell."""
    storage_patience_seconds: Annotated[float, Field(ge=0)] = 300.0
    """How long a training waits, and tries again, while the store is full or refuses to be written to."""
    loader_workers: NonNegativeInt = 0
    """Decoding processes per trial; 0 decodes ahead in a thread of the trial."""
    cache_mb: NonNegativeInt = 512
    """Memory per trial for decoded frames or images, in MiB."""
    dashboard: bool = False
    """Start Ray's dashboard (in-process Ray only)."""
    dashboard_port: Annotated[int, Field(ge=1024, le=65535)] = 8265
    """Its port, on loopback."""
    log: tuple[str, ...] = ()
    """Logs beside the run's own: `tensorboard`, `mlflow` or `mlflow:URI`."""


class RunSettings(Settings):
    """Everything a run may say."""

    seed: NonNegativeInt = 0
    """Seed of initial weights, clip sampling, batch order and dropout."""
    network: NetworkSettings = NetworkSettings()
    """The network to shrink."""
    data: DataSettings = DataSettings()
    """Labelled videos or images."""
    clips: ClipSettings = ClipSettings()
    """Clips cut from them."""
    reid: ReidSettings = ReidSettings()
    """Losses, augmentation and metric of re-identification; unused by networks for videos."""
    teacher: TeacherSettings = TeacherSettings()
    """The teacher."""
    train: TrainSettings = TrainSettings()
    """Recipe of every hypothesis, and of the fine-tuning after pruning."""
    distillation: DistillationSettings = DistillationSettings()
    """Distillation from the teacher."""
    search: SearchSettings = SearchSettings()
    """The search of `pas`."""
    prune: PruneSettings = PruneSettings()
    """Pruning, in `sweep`."""
    sweep: SweepSettings = SweepSettings()
    """The cells of `sweep`."""
    quantise: QuantiseSettings = QuantiseSettings()
    """Quantising to INT8, in `sweep qat`, `chain` and `export`."""
    chain: ChainSettings = ChainSettings()
    """The steps of `chain`."""
    transfer: TransferSettings = TransferSettings()
    """What `transfer` fine-tunes, on which splits."""
    runtime: RuntimeSettings = RuntimeSettings()
    """Where and how it runs."""
