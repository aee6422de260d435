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
from configs.schema import ClipSettings, DistillationSettings, TrainSettings

RECIPE_VERSION = 1
"""Raise it when a change of code changes what a trial's training computes: old results are then not reused."""

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
    clips: ClipSettings
    """How clips are cut."""
    train: TrainSettings | None
    """The recipe, precision resolved; none: the starting weights are only evaluated."""
    seed: int
    """Seed of weights, sampling, order and dropout."""
    teacher: str | None = None
    """Digest of the trial whose network is distilled; none: plain cross-entropy."""
    distillation: DistillationSettings | None = None
    """The distillation loss, where there is a teacher."""
    start: str | None = None
    """Digest of the trial whose weights are inherited; none: random weights."""
    weights_sha256: str | None = None
    """Hash of a weights file from outside, for an imported teacher."""

    def identity(self) -> dict[str, Any]:
        """Everything that determines the result, and nothing else; JSON-ready."""
        return {
            "recipe_version": RECIPE_VERSION,
            "network": self.network.to_dict(),
            "data": self.data,
            "clips": self.clips.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json") if self.train else None,
            "seed": self.seed,
            "teacher": self.teacher,
            "distillation": self.distillation.model_dump(mode="json") if self.distillation else None,
            "start": self.start,
            "weights_sha256": self.weights_sha256,
        }

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
        fields["clips"] = ClipSettings.model_validate(fields["clips"])
        fields["train"] = TrainSettings.model_validate(fields["train"]) if fields["train"] else None
        if fields["distillation"]:
            fields["distillation"] = DistillationSettings.model_validate(fields["distillation"])
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
    """Multi-clip top-1 accuracy on the validation videos, a fraction."""
    top5: float | None = None
    """Top-5 likewise (top-k with k = classes when there are fewer than 5)."""
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
