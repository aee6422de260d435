"""Models where they are to be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from configs.errors import UserError
from trainers.artefacts import format_of, load_artefact
from trainers.backbones import Network
from trainers.package import Description

Device = Literal["cpu", "cuda"]

ON_GPUS = ("package",)
"""Formats that run on a GPU; the others are made for CPUs."""


def require_device(device: Device) -> None:
    """See that there is such a device.

    Raises:
        UserError: there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but PyTorch finds no CUDA device here; leave it out")


def load_on(path: Path, device: Device, threads: int) -> tuple[Network, Description]:
    """A model in evaluation mode on a device, and its description.

    Args:
        path: a model folder, or one that a model was exported to.
        device: where to.
        threads: of runtimes that are told when a model is loaded.

    Raises:
        UserError: no model, or one that does not run there.
    """
    kind = format_of(path)
    if device == "cuda" and kind not in ON_GPUS:
        raise UserError(
            f"--device is cuda, but {path} is in the format {kind}, which runs on CPUs only; "
            "leave out --device, or measure models in floating point"
        )
    network, description = load_artefact(path, threads=threads)
    return network.to(device).eval(), description
