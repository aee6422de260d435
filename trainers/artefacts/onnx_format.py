"""`onnx`: the network in floating point as an ONNX file, for ONNX Runtime and whatever else reads ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from trainers.artefacts.base import (
    Artefact,
    folded,
    library,
    on_cpu,
    probes,
    require_agreement,
    require_float,
    write_artefact,
)
from trainers.artefacts.onnx_graph import from_float
from trainers.artefacts.onnx_session import runner, session
from trainers.backbones import Network
from trainers.package import Description

FORMAT, FILE = "onnx", "model.onnx"
TOLERANCE = 1e-4
"""Largest difference of ONNX Runtime's outputs from PyTorch's, relative to max(1, |output|)."""


def write(network: Network, description: Description, folder: Path, calibration: Sequence[Tensor]) -> list[str]:
    """Export a floating-point network, check the file, and put it into a folder.

    Args:
        network: its spec must be that of `description`.
        description: what `network.json` says besides.
        folder: receives `model.onnx`, then `network.json`.
        calibration: not needed.

    Returns:
        Notes for the card.

    Raises:
        UserError: the network computes in integers, or ONNX is not installed.
        RunError: it can't be exported, or ONNX Runtime computes something else.
    """
    require_float(network, FORMAT)
    onnx = library("onnx", f"--format {FORMAT}")
    inputs = probes(network.spec)
    model = from_float(folded(network), inputs[-1])
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    difference = require_agreement(on_cpu(network), runner(session(content, 1)), inputs, TOLERANCE)
    write_artefact(folder, description, Artefact(format=FORMAT, file=FILE), content)
    return [
        f"ONNX Runtime's outputs differ from PyTorch's by at most {difference:.1e} (relative to max(1, |output|))",
        "batch norms are folded into the convolutions; the batch may have any size",
    ]
