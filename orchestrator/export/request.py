"""What `orchestrate export` is asked for, and the networks that it is about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from configs.errors import UserError
from configs.schema import QuantiseSettings
from orchestrator.export.staging import require_replaceable
from orchestrator.measure.turns import Conditions
from orchestrator.models import EXPORTS, METRICS_FILE
from trainers.artefacts import FORMATS, format_of
from trainers.backbones import Network
from trainers.files import read_json
from trainers.package import NETWORK_FILE, WEIGHTS_FILE, Description, load_package
from trainers.quantisation import LAYERS_FILE

FormatName = Literal["int8", "onnx", "onnx-int8", "torch-export"]
PACKAGES = ("package", "int8")
"""Formats that can be exported once more; the others are ends."""
CARD_FILE = "card.md"
FILES = (NETWORK_FILE, METRICS_FILE, CARD_FILE, LAYERS_FILE, WEIGHTS_FILE, "model.onnx", "model.pt2")
"""All that an export can consist of."""
DEFAULTS = QuantiseSettings()


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is to be exported, and what is asked of it."""

    model: Path
    """Model folder."""
    format: FormatName
    """Key of `trainers.artefacts.FORMATS`."""
    to: Path | None = None
    """Folder to be written; none: `exports/FORMAT` in the model's."""
    original: Path | None = None
    """Model folder of the floating-point original; none: as the model's `metrics.json` says, or the model itself."""
    max_drop_points: float = DEFAULTS.max_drop_points
    """Points of accuracy that may be lost against the original."""
    max_fallbacks: int = DEFAULTS.max_fallbacks
    """Layers that may go back to floating point for that, where the network is quantised here."""
    calibration: int = DEFAULTS.calibration
    """Training examples on which ranges are measured, where the network is quantised here."""
    conditions: Conditions = field(default_factory=Conditions)
    """How latency is measured."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """`data.source`, `data.path`, `data.split` where they are not those the model was made with."""
    accuracy: bool = True
    """Whether accuracy is measured."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_drop_points) and self.max_drop_points >= 0):
            raise UserError(
                f"--max-drop-points is {self.max_drop_points:g}, but must be a number >= 0; 1 allows a point of loss"
            )
        if self.calibration < 1:
            raise UserError(f"--calibration is {self.calibration}, but ranges are measured on at least 1 example")

    @property
    def target(self) -> Path:
        """The folder to be written; what an export is exported to once more lies beside it, for it may be replaced."""
        if self.to is not None:
            return self.to
        if is_export(self.model):
            return self.model.absolute().parent / f"{self.model.absolute().name}-as-{self.format}"
        return self.model / EXPORTS / self.format


@dataclass(frozen=True, kw_only=True)
class Original:
    """The network in floating point that an export must not fall behind."""

    folder: Path
    """Where it is."""
    network: Network
    """The network, on the CPU."""
    description: Description
    """What its folder says of it."""
    scores: dict[str, float] = field(default_factory=dict)
    """Its accuracies by name, fractions; empty where they are not measured."""


def require_target(request: ExportRequest) -> None:
    """Refuse to write where something other than an earlier export would be lost.

    Raises:
        UserError: naming what is in the way.
    """
    target = request.target
    require_replaceable(target, FILES)
    for name, folder in (("the model", request.model), ("its original", request.original)):
        if folder is not None and target.resolve() == folder.resolve():
            raise UserError(f"--to is {target}, but that is {name}, which would be lost; give another folder")
    if target.exists() and any(target.iterdir()) and not is_export(target):
        raise UserError(f"{target} is no earlier export, and would be lost; move it, or give another folder with --to")


def is_export(folder: Path) -> bool:
    """Whether a folder was written by `orchestrate export`."""
    return "verdict" in (read_json(folder / METRICS_FILE) or {})


def load_model(request: ExportRequest) -> tuple[Network, Description]:
    """The model to be exported.

    Raises:
        UserError: no model folder, or one in integers that is to be written in a floating-point format.
    """
    if (kind := format_of(request.model)) not in PACKAGES:
        raise UserError(f"{request.model} is an export in format {kind}; give the model folder that it was made from")
    network, description = load_package(request.model)
    if description.spec.quantisation is not None and not FORMATS[request.format].from_integers:
        raise UserError(
            f"--format is {request.format}, which is for floating point, but {request.model} computes in INT8; export "
            "the network that it was quantised from, or take --format int8 or onnx-int8"
        )
    return network, description


def original_of(request: ExportRequest, network: Network, description: Description) -> Original:
    """The floating-point original: the one given, the one that `metrics.json` names, or the model itself.

    Raises:
        UserError: there is none, or it is another network.
    """
    if request.original is None and description.spec.quantisation is None:
        return Original(folder=request.model, network=network, description=description)
    recorded = (read_json(request.model / METRICS_FILE) or {}).get("original")
    folder = request.original or (request.model / recorded if recorded else None)
    if folder is None:
        raise UserError(
            f"{request.model} computes in INT8 and its {METRICS_FILE} names no original; say with --original MODEL "
            "which network in floating point it must not fall behind"
        )
    if request.original is None and not folder.is_dir():
        raise UserError(
            f"{request.model / METRICS_FILE} names {recorded} as the original, but {folder} is no folder; say with "
            "--original MODEL where it is now"
        )
    network, found = load_package(folder)
    if found.spec != description.spec.floating or found.classes != description.classes:
        raise UserError(
            f"{folder} is no original of {request.model}: {_difference(found, description)}; give the network in "
            "floating point that it was made from with --original"
        )
    return Original(folder=folder, network=network, description=found)


def _difference(original: Description, model: Description) -> str:
    """In what an original that is none differs from a model."""
    if original.spec.quantisation is not None:
        return "it computes in INT8 itself"
    if original.classes != model.classes:
        return "its classes are others"
    ours, theirs = model.spec.floating.to_dict(), original.spec.to_dict()
    key = next(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
    return f"its {key} is {theirs.get(key)}, the model's {ours.get(key)}"


def needs_calibration(request: ExportRequest, description: Description) -> bool:
    """Whether ranges have to be measured: a network in floating point becomes one in integers."""
    return FORMATS[request.format].precision == "int8" and description.spec.quantisation is None
