"""A trial: one training (or one evaluation of given weights), and what came out of it.

A trial says *what* is trained; where it runs, with how many threads and under which name is not part of it. So its
digest, taken over `Trial.identity`, names its result for ever: equal digests, equal results.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from compression.spec import NetworkSpec
from configs.schema import (
    ClipSettings,
    DistillationSettings,
    Pruning,
    QuantiseRecipe,
    ReidSettings,
    Settings,
    TrainSettings,
)
from trainers.incidents import Cause

RECIPE_VERSION = 1
"""Raise it when a change of code changes what a trial's training computes: old results are then not reused."""

SETTINGS: dict[str, type[Settings]] = {
    "clips": ClipSettings,
    "train": TrainSettings,
    "distillation": DistillationSettings,
    "reid": ReidSettings,
    "pruning": Pruning,
    "quantise": QuantiseRecipe,
}
"""Fields of a trial that are groups of settings."""

Status = Literal["finished", "diverged", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is trained: hypothesis, recipe, data and teacher."""

    name: str
    """For people (`slowfast-pas2-channels`); not part of the identity."""
    network: NetworkSpec
    """The network to train."""
    data: str
    """Fingerprint of the data manifest."""
    clips: ClipSettings | None = None
    """How clips are cut, of a network that classifies videos."""
    train: TrainSettings | None
    """The recipe, precision resolved; none: the starting weights are only evaluated."""
    seed: int
    """Seed of weights, sampling, order and dropout."""
    teacher: str | None = None
    """Digest of the trial whose network is distilled; none: the labels alone teach."""
    distillation: DistillationSettings | None = None
    """The distillation loss, where there is a teacher."""
    start: str | None = None
    """Digest of the trial whose weights are inherited; none: random weights."""
    weights_sha256: str | None = None
    """Hash of a weights file from outside, for an imported teacher."""
    reid: ReidSettings | None = None
    """Losses, augmentation and metric, of a network that re-identifies."""
    pruning: Pruning | None = None
    """What is removed from the network of `start`; `network` is what is then left of it."""
    quantise: QuantiseRecipe | None = None
    """How the network of `start` is quantised; `network.quantisation` says what comes of it."""
    new_classifier: bool = False
    """Whether the classifier starts from random weights, and only the rest from those of `start`: for other classes,
    which may be as many."""

    def __post_init__(self) -> None:
        if (self.clips is None) == (self.reid is None):
            raise ValueError("a trial either classifies clips or re-identifies: give `clips` or `reid`")
        if self.pruning is not None and self.start is None:
            raise ValueError("pruning needs the trial whose network it starts from: give `start`")
        if (self.quantise is None) != (self.network.quantisation is None):
            raise ValueError("a trial that quantises says how (`quantise`) and what comes of it (network.quantisation)")
        if self.quantise is not None:
            self._check_quantising()
        if self.new_classifier and (self.start is None or self.clips is None or self.pruning or self.quantise):
            raise ValueError("new_classifier replaces that of a floating-point classifier: give `clips`, `start` alone")

    def _check_quantising(self) -> None:
        if self.start is None or self.pruning is not None:
            raise ValueError("a trial quantises the network of `start` and does not prune it: give `start` alone")
        if self.train is not None and self.train.precision != "fp32":
            raise ValueError(f"train.precision is {self.train.precision}, but rounding to 8 bits is simulated in fp32")
        if self.distillation is not None and self.distillation.features != "none":
            raise ValueError("distillation.features needs maps, which a quantised network has none of: set it to none")

    def identity(self) -> dict[str, Any]:
        """Everything that determines the result, and nothing else; JSON-ready.

        What trials could not say at first is left out where it is not said, so that digests stay what they were.
        """
        added = {"reid": self.reid, "pruning": self.pruning, "quantise": self.quantise}
        return {
            "recipe_version": RECIPE_VERSION,
            "network": self.network.to_dict(),
            "data": self.data,
            "clips": self.clips.model_dump(mode="json") if self.clips else None,
            "train": self.train.model_dump(mode="json") if self.train else None,
            "seed": self.seed,
            "teacher": self.teacher,
            "distillation": self.distillation.model_dump(mode="json") if self.distillation else None,
            "start": self.start,
            "weights_sha256": self.weights_sha256,
            **{key: value.model_dump(mode="json") for key, value in added.items() if value is not None},
            **({"new_classifier": True} if self.new_classifier else {}),
        }

    @property
    def keeps_network(self) -> bool:
        """Whether its network is worth keeping: one that is pruned and only looked at is quickly cut again, and a
        sensitivity analysis makes hundreds."""
        return self.pruning is None or self.train is not None

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON of `identity`."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        return {"name": self.name, **self.identity()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Trial:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: written by a version with another recipe.
        """
        fields = dict(data)
        if (version := fields.pop("recipe_version")) != RECIPE_VERSION:
            raise ValueError(f"trial has recipe version {version}, but this code trains version {RECIPE_VERSION}")
        fields["network"] = NetworkSpec.from_dict(fields["network"])
        for key, settings in SETTINGS.items():
            if fields.get(key) is not None:
                fields[key] = settings.model_validate(fields[key])
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What came out of a trial."""

    trial: str
    """The trial's digest."""
    name: str
    """The trial's name, for people."""
    status: Status
    """`finished`; `diverged`: a loss was not finite; `failed`: it can't be trained, see `reason`."""
    top1: float | None = None
    """Multi-clip top-1 accuracy on the validation videos, a fraction; of re-identification, CMC at rank 1."""
    top5: float | None = None
    """Top-5 likewise (top-k with k = classes when there are fewer than 5); CMC at rank 5."""
    map: float | None = None
    """Mean average precision of re-identification, a fraction; none for classifiers."""
    seconds: float = 0.0
    """Time spent training and evaluating, summed over all resumptions."""
    epochs: int = 0
    """Epochs trained."""
    reason: str | None = None
    """Why it did not finish."""
    transient: bool = False
    """Whether it failed for a reason outside itself (storage, input, lost processes): it may succeed another time."""
    cached: bool = False
    """Answered from the store without any training in this run."""
    cause: Cause | None = None
    """What kind of reason it is."""
    micro_batch: int | None = None
    """Clips at a time, where memory allowed fewer than the recipe says (`memory.py`)."""

    @property
    def accuracy(self) -> float | None:
        """What networks are compared by: mAP of those that re-identify, top-1 of those that classify."""
        return self.top1 if self.map is None else self.map
