"""Checkpoints from which a training goes on as if it had never stopped.

A checkpoint is a folder `checkpoints/epoch-0007/` with the weights (safetensors), the optimiser's state (a file that
`torch.load(weights_only=True)` reads) and `manifest.json`. The folder is written under a temporary name and renamed
when whole; the manifest, written last, has the hash of every file, and a reader trusts nothing without it.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainers.files import read_json, sha256_of, temporary_beside, write_atomically, write_json

log = logging.getLogger(__name__)

WEIGHTS, OPTIMISER, MANIFEST = "model.safetensors", "optimizer.pt", "manifest.json"


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    epoch: int
    """Epochs done."""
    history: list[dict[str, Any]]
    """Metrics of each epoch done."""
    seconds: float
    """Time spent on them."""
    network: dict[str, Any] | None = None
    """Spec of the network as it is now, where it changes during the training (gradual pruning)."""


def save_checkpoint(
    folder: Path, progress: Progress, module: nn.Module, optimizer: torch.optim.Optimizer, *, keep: int = 2
) -> Path:
    """Write `folder/epoch-NNNN/` and remove all but the newest `keep` checkpoints.

    Raises:
        OSError: the disk is full or can't be written to; older checkpoints are untouched.
    """
    final = folder / f"epoch-{progress.epoch:04d}"
    temporary = temporary_beside(final)
    temporary.mkdir(parents=True)
    try:
        write_atomically(temporary / WEIGHTS, lambda path: save_weights(path, module))
        torch.save(optimizer.state_dict(), temporary / OPTIMISER)
        manifest = {
            "epoch": progress.epoch,
            "seconds": progress.seconds,
            "history": progress.history,
            "network": progress.network,
            "sha256": {name: sha256_of(temporary / name) for name in (WEIGHTS, OPTIMISER)},
        }
        write_json(temporary / MANIFEST, manifest)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for stale in [*_newest_first(folder)[keep:], *folder.glob(".*.tmp")]:  # the latter are left by a kill
        shutil.rmtree(stale, ignore_errors=True)
    return final


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    progress: Progress

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Load weights and optimiser; the module has the shapes that `progress.network` says."""
        module.load_state_dict(load_file(self.path / WEIGHTS))
        optimizer.load_state_dict(torch.load(self.path / OPTIMISER, weights_only=True, map_location="cpu"))


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint below `folder`; None when there is none.

    A checkpoint whose manifest or hashes don't hold is passed over with a warning, and the one before it is used.
    """
    for path in _newest_first(folder):
        if (progress := _progress(path)) is not None:
            return Checkpoint(path, progress)
        log.warning("checkpoint %s is damaged and is passed over", path)
    return None


def save_weights(path: Path, module: nn.Module) -> None:
    """Write a module's parameters and buffers as safetensors (not atomic by itself)."""
    save_file(tensors_of(module), path)


def load_weights_file(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: it is no safetensors file.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, as safetensors accepts them: no strided views, no memory under two names."""
    tensors: dict[str, Tensor] = {}
    places = set()
    for name, tensor in module.state_dict().items():
        tensor = tensor.detach().contiguous().cpu()
        tensors[name] = tensor.clone() if tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    return tensors


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"), reverse=True)


def _progress(checkpoint: Path) -> Progress | None:
    """What the manifest says; none where it is none, or not of these files."""
    manifest = read_json(checkpoint / MANIFEST)
    try:
        hashes = {name: manifest["sha256"][name] for name in (WEIGHTS, OPTIMISER)}
        network = manifest.get("network")  # absent in those written before networks could change
        progress = Progress(manifest["epoch"], manifest["history"], manifest["seconds"], network)
    except (AttributeError, KeyError, TypeError):
        return None
    whole = all((checkpoint / name).is_file() and sha256_of(checkpoint / name) == sha for name, sha in hashes.items())
    return progress if whole else None
