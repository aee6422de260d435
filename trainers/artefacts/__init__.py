"""Exported formats: how each is written, and any of them read back as a network that is scored and timed like the rest.

ONNX and ONNX Runtime are imported when a file needs them, and not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from configs.errors import UserError
from trainers.artefacts.base import ArtefactNetwork, read_artefact
from trainers.backbones import Network
from trainers.files import read_json
from trainers.package import NETWORK_FILE, WEIGHTS_FILE, Description, load_package, read_description

__all__ = ["FORMATS", "Format", "artefact_files", "format_of", "load_artefact", "size_bytes"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row of `FORMATS`."""

    module: str
    """Where its `write` is."""
    precision: Literal["fp32", "int8"]
    """In what most of the network computes."""
    from_float: bool
    """Whether `write` takes a network in floating point."""
    from_integers: bool
    """Whether `write` takes one that PyTorch computes in integers."""

    def write(
        self, network: Network, description: Description, folder: Path, calibration: Sequence[Tensor] = ()
    ) -> list[str]:
        """Write a network's file and `network.json` into a folder; each appears whole.

        Args:
            network: its spec is that of `description`.
            description: what `network.json` says besides.
            folder: made if need be.
            calibration: normalised inputs to measure ranges on, where a network in floating point becomes integers.

        Returns:
            Notes for the card.

        Raises:
            UserError: the format is not for such a network, or a library is missing.
            RunError: it can't be exported, or the file does not compute what the network does; nothing was written.
        """
        notes: list[str] = importlib.import_module(self.module).write(network, description, folder, calibration)
        return notes


FORMATS: dict[str, Format] = {
    "int8": Format(module="trainers.artefacts.int8_package", precision="int8", from_float=False, from_integers=True),
    "onnx": Format(module="trainers.artefacts.onnx_format", precision="fp32", from_float=True, from_integers=False),
    "onnx-int8": Format(module="trainers.artefacts.onnx_int8", precision="int8", from_float=True, from_integers=True),
    "torch-export": Format(
        module="trainers.artefacts.torch_export", precision="fp32", from_float=True, from_integers=False
    ),
}
"""What a model can be exported to."""


def load_artefact(path: Path, *, threads: int | None = None) -> tuple[Network, Description]:
    """The network of a package or of an exported folder, ready to run.

    Args:
        path: a folder with `network.json` and the model's file.
        threads: of ONNX Runtime, as many as PyTorch has if left out; the other formats run with PyTorch's.

    Raises:
        UserError: neither, a damaged or missing file, a format of another version, or a library is missing.
    """
    artefact = read_artefact(path)
    if artefact is None:
        return load_package(path)
    description = read_description(path)
    file = path / artefact.file
    if artefact.format in ("onnx", "onnx-int8"):
        from trainers.artefacts import onnx_session

        return ArtefactNetwork(description.spec, onnx_session.open_file(file, description.spec, threads)), description
    if artefact.format == "torch-export":
        from trainers.artefacts import torch_export

        return ArtefactNetwork(description.spec, torch_export.open_file(file)), description
    raise UserError(
        f"{path / NETWORK_FILE}: artefact.format is {artefact.format!r}, but this version reads "
        f"{', '.join(name for name in FORMATS if name != 'int8')}"
    )


def format_of(path: Path) -> str:
    """`package`, `int8` (a package in integers), or the format of an exported folder.

    Raises:
        UserError: neither.
    """
    if (artefact := read_artefact(path)) is not None:
        return artefact.format
    if read_json(path / NETWORK_FILE) is None:
        raise UserError(
            f"{path} is neither a model folder nor an exported one: it needs a readable {NETWORK_FILE}. "
            "`orchestrate show RUN` lists the models of a run"
        )
    return "package" if read_description(path).spec.quantisation is None else "int8"


def artefact_files(path: Path) -> tuple[Path, ...]:
    """The files, without `network.json`, that are needed to run a model.

    Raises:
        UserError: it is no model.
    """
    artefact = read_artefact(path)
    if artefact is None:
        format_of(path)
    return (path / (WEIGHTS_FILE if artefact is None else artefact.file),)


def size_bytes(path: Path) -> int:
    """Bytes of those files.

    Raises:
        UserError: it is no model, or one is missing.
    """
    try:
        return sum(file.stat().st_size for file in artefact_files(path))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: copy it beside {NETWORK_FILE}") from error
