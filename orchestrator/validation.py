"""The data of a model, opened once: accuracy of networks on it, and inputs to calibrate with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError
from torch import Tensor

from configs.errors import RunError, UserError
from configs.schema import DataSettings
from orchestrator.state import data_path
from trainers.backbones import Network, fast_order
from trainers.files import read_json
from trainers.package import Description
from trainers.tasks import DataManifest, Scores, TaskKind, calibration_inputs, task_of


@dataclass(frozen=True)
class Validation:
    """Labelled data and what is measured on it, on the CPU."""

    kind: TaskKind
    """What its networks are trained for."""
    settings: DataSettings
    """Which data."""
    manifest: DataManifest
    """Its examples."""

    @classmethod
    def open(cls, folder: Path, description: Description, flags: Mapping[str, Any]) -> Self:
        """The data that is given, else what a model folder names.

        Args:
            folder: of the model.
            description: of the model.
            flags: `data.source`, `data.path`, `data.split` where they are given.

        Raises:
            UserError: there is none, or it is of another kind or has other classes.
        """
        settings, kind = data_of(folder, flags), task_of(description.spec)
        if settings.source not in kind.sources:
            raise UserError(
                f"--data is {settings.source}, but {folder} is a {description.spec.backbone}, which is evaluated on "
                f"one of {', '.join(kind.sources)}"
            )
        if settings.path is not None and not settings.path.exists():
            raise UserError(
                f"the data of {folder} is {settings.path}, but that is no folder here; give --data SOURCE:DIR"
            )
        manifest = kind.build_manifest(settings, description.spec, None)
        if description.clips is not None:
            require_same_classes(folder, description, manifest)
        return cls(kind, settings, manifest)

    def score(self, network: Network, description: Description, name: Path, device: torch.device) -> Scores:
        """Accuracy on the validation examples.

        Args:
            network: anywhere; it is moved.
            description: how its inputs are made.
            name: how to call it in an error.
            device: where it is to run.

        Raises:
            RunError: its outputs are not finite numbers.
        """
        fast_order(network.to(device))  # as in training
        scores = self.kind.score(network, description, self.manifest, self.settings.max_quarantined, device)
        if not scores.finite:
            raise RunError(f"the outputs of {name} are not finite numbers; its weights are damaged")
        return scores

    def scores(self, network: Network, description: Description, name: Path) -> dict[str, float]:
        """The same on the CPU, by name: fractions."""
        scores = self.score(network, description, name, torch.device("cpu"))
        found = {"top1": scores.top1, "top5": scores.top5}
        return found if scores.map is None else {"map": scores.map, **found}

    def calibration(self, description: Description, examples: int) -> list[Tensor]:
        """Normalised training inputs [input, *spec.input_shape], some at a time."""
        return calibration_inputs(description, self.manifest, examples)

    def record(self) -> dict[str, Any]:
        """What `metrics.json` says of it."""
        named = {**self.settings.model_dump(mode="json"), "path": str(data_path(self.settings, self.manifest))}
        return {**named, "fingerprint": self.manifest.fingerprint, "examples": len(self.manifest.val)}


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
