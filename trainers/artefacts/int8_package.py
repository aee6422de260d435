"""`int8`: a package whose network computes in integers, with PyTorch's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from configs.errors import UserError
from trainers.backbones import Network
from trainers.package import Description, save_package


def write(network: Network, description: Description, folder: Path, calibration: Sequence[Tensor]) -> list[str]:
    """Write a network that computes in integers as a package.

    Args:
        network: already quantised; its spec must be that of `description`.
        description: what `network.json` says besides.
        folder: receives `model.safetensors`, then `network.json`.
        calibration: not needed.

    Returns:
        Notes for the card.

    Raises:
        UserError: it computes in floating point.
    """
    rule = network.spec.quantisation
    if rule is None:
        raise UserError(
            f"--format is int8, but this {network.spec.backbone} computes in floating point; quantise it first "
            "(`orchestrate sweep qat`)"
        )
    save_package(folder, network, description)
    notes = [f"computed in integers by PyTorch's {rule.engine} kernels"]
    if rule.float_layers:
        notes.append(f"in floating point: {', '.join(rule.float_layers)}")
    return notes
