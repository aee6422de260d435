"""One model of the store, as it is listed, filtered, chosen and handed over.

Units: accuracies are fractions, drops are percentage points, costs are GMACs per clip or image, sizes are megabytes
(1e6 bytes), latencies milliseconds per input, energies millijoules per input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainers.trial import Trial

Kind = Literal["trained", "imported", "pas", "pruned", "quantised", "transferred", "control"]
"""How a model was made: trained from random weights; given from outside; found by progressive shrinkage; filters
removed; made to compute in integers; fine-tuned on other data; trained for comparison only."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A latency or an energy with what it was measured under; numbers of different conditions don't compare."""

    value: float
    """Milliseconds or millijoules per input."""
    conditions: Mapping[str, Any]
    """Machine, instruction set, threads, batch, runs, torch: see `orchestrator.latency.conditions`."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that `orchestrate export` made of a model."""

    format: str
    """Key of `trainers.artefacts.FORMATS`."""
    folder: str
    """Absolute path of the exported folder."""
    accepted: bool | None
    """Whether the gate let it pass; none: it was not judged."""
    accuracy: float | None
    """Of the file itself; none: not measured."""
    size_mb: float | None
    """Of the file."""
    latency_ms: float | None
    """Of the file, where it was exported."""


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A finished trial whose network is there."""

    digest: str
    """Of the trial; names the model for ever."""
    trial: Trial
    """How it was made: network, recipe, data, teacher, start, seed."""
    kind: Kind
    """How it was made, in a word."""
    aliases: tuple[str, ...]
    """`RUN/NAME` of every run that hands it on (`slow-pas/PAS-2`), sorted."""
    tags: tuple[str, ...]
    """Labels that people gave it, sorted."""
    top1: float | None
    """Top-1 accuracy of a classifier; CMC at rank 1 of a network that re-identifies."""
    top5: float | None
    """Likewise."""
    map: float | None
    """Mean average precision; none of a classifier."""
    drop_points: float | None
    """Points below the base network of its search, on the same data; negative: above; none: there is no such network
    in the store, or it is one itself."""
    gmacs: float
    """Multiply-adds per clip or image, 1e9."""
    params: int
    """Parameters."""
    size_mb: float
    """Of its weights file."""
    weights_sha256: str
    """Likewise, as it was when the trial finished."""
    latency: Measured | None
    """As last measured; none: never."""
    energy: Measured | None
    """Likewise."""
    data_source: str | None
    """Key of the data's source (`moving-digits`); none: the store has lost the manifest."""
    exports: tuple[Exported, ...]
    """What was exported of it, by format."""

    @property
    def name(self) -> str:
        """What people call it: where a run hands it on, else the trial's name."""
        return self.aliases[0] if self.aliases else self.trial.name

    @property
    def backbone(self) -> str:
        """Key of `BACKBONES`."""
        return self.trial.network.backbone

    @property
    def metric(self) -> Literal["top1", "map"]:
        """What its accuracy is."""
        return "top1" if self.map is None else "map"

    @property
    def accuracy(self) -> float:
        """mAP of a network that re-identifies, top-1 of a classifier."""
        value = self.top1 if self.map is None else self.map
        assert value is not None  # a finished trial was evaluated
        return value

    @property
    def precision(self) -> Literal["fp32", "int8"]:
        """In what it computes."""
        return "fp32" if self.trial.network.quantisation is None else "int8"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, of `orchestrate models --json`."""
        network = self.trial.network
        _, *frames, height, width = network.input_shape
        measured = {"latency": self.latency, "energy": self.energy}
        return {
            "digest": self.digest,
            "name": self.name,
            "kind": self.kind,
            "backbone": self.backbone,
            "precision": self.precision,
            "metric": self.metric,
            "accuracy": self.accuracy,
            **{"top1": self.top1, "top5": self.top5, "map": self.map},
            "drop_points": self.drop_points,
            **{"gmacs": self.gmacs, "params": self.params, "size_mb": self.size_mb},
            "latency_ms": self.latency.value if self.latency else None,
            "energy_mj": self.energy.value if self.energy else None,
            "measured": {key: dict(value.conditions) for key, value in measured.items() if value is not None},
            **{"frames": frames[0] if frames else None, "height": height, "width": width},
            "sparsity": self.trial.pruning.sparsity if self.trial.pruning else None,
            "pruner": self.trial.pruning.pruner if self.trial.pruning else None,
            "seed": self.trial.seed,
            "data": self.data_source,
            "fingerprint": self.trial.data,
            "start": self.trial.start,
            "teacher": self.trial.teacher,
            "weights_sha256": self.weights_sha256,
            "aliases": list(self.aliases),
            "tags": list(self.tags),
            "exports": [
                {key: getattr(exported, key) for key in Exported.__dataclass_fields__} for exported in self.exports
            ],
        }
