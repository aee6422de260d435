"""`torch-export`: the network as a graph of ATen operators, for PyTorch without this program's code.

Batch norms are folded, and the batch may have any size. The file has raw tensors and JSON but no pickle: example inputs
and the exporting machine's stack traces are left out, and `pt2_archive.require_harmless` refuses files that have more.
It runs with as many threads as PyTorch has in this process.

Sources:
    [1] torch.export.save; torch/export/pt2_archive/_package.py of PyTorch 2.15 (what an archive holds).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from configs.errors import RunError, UserError
from trainers.artefacts.base import (
    Artefact,
    folded,
    on_cpu,
    probes,
    quiet,
    require_agreement,
    require_float,
    write_artefact,
)
from trainers.artefacts.pt2_archive import require_harmless
from trainers.backbones import Network, in_fast_order
from trainers.package import Description

FORMAT, FILE = "torch-export", "model.pt2"
TOLERANCE, RELOAD_TOLERANCE = 1e-4, 1e-6
"""Largest difference of outputs, relative to max(1, |output|): from the network, whose batch norms are not folded, and
from what was saved."""


def write(network: Network, description: Description, folder: Path, calibration: Sequence[Tensor]) -> list[str]:
    """Export a floating-point network, check what comes back from the file, and put it into a folder.

    Args:
        network: its spec must be that of `description`.
        description: what `network.json` says besides.
        folder: receives `model.pt2`, then `network.json`.
        calibration: not needed.

    Returns:
        Notes for the card.

    Raises:
        UserError: it computes in integers.
        RunError: it can't be exported, or computes something else after it.
    """
    require_float(network, FORMAT)
    inputs = probes(network.spec)
    graph = folded(network)
    content = export(graph, inputs[-1])
    loaded = load(content)
    require_agreement(graph, loaded, inputs, RELOAD_TOLERANCE)
    difference = require_agreement(on_cpu(network), loaded, inputs, TOLERANCE)
    write_artefact(folder, description, Artefact(format=FORMAT, file=FILE), content)
    return [f"outputs differ from PyTorch's by at most {difference:.1e} (relative to max(1, |output|))"]


def export(graph: torch.nn.Module, example: Tensor) -> bytes:
    """The archive of a module.

    Args:
        graph: in evaluation mode, on the CPU.
        example: a batch of at least 2 inputs; the exported batch may have any size.

    Raises:
        RunError: it can't be exported.
    """
    buffer = io.BytesIO()
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)
            program.example_inputs = None
            torch.export.save(program, buffer)
    except (RuntimeError, ValueError, TypeError) as error:
        raise RunError(f"torch.export can't export this network: {str(error).splitlines()[0]}") from error
    return buffer.getvalue()


def load(content: bytes) -> Callable[[Tensor], Tensor]:
    """What an archive computes.

    Raises:
        ValueError: it is damaged, or has more in it than a network needs.
    """
    require_harmless(content)
    try:
        with quiet():
            module = torch.export.load(io.BytesIO(content)).module(check_guards=False)
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(f"torch.export can't load it: {error}") from error
    return lambda inputs: module(in_fast_order(inputs))


def open_file(path: Path) -> Callable[[Tensor], Tensor]:
    """What a `.pt2` file computes.

    Args:
        path: the file.

    Raises:
        UserError: it can't be read, is damaged, or has more in it than a network needs.
    """
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}. Copy it beside network.json") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} can't be used: {str(error).splitlines()[0]}. Export it again") from error
