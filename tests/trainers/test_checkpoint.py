"""Checkpoints: whole or passed over."""

import errno
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainers import checkpoint
from trainers.checkpoint import (
    MANIFEST,
    OPTIMISER,
    WEIGHTS,
    Progress,
    load_weights_file,
    newest_checkpoint,
    save_checkpoint,
)
from trainers.files import sha256_of


def make(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A module with parameters, buffers and strided weights, and an optimiser that has taken a step."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4)).to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1 * (seed + 1), momentum=0.9)
    module(torch.randn(2, 3, 3, 3, 3)).square().sum().backward()
    optimizer.step()
    return module, optimizer


def progress(epoch: int) -> Progress:
    return Progress(epoch, [{"epoch": i + 1, "loss": 0.1 * i, "top1": None} for i in range(epoch)], 1.5 * epoch)


def write(folder: Path, *epochs: int) -> dict[int, Path]:
    """A checkpoint per epoch, each of another module."""
    return {epoch: save_checkpoint(folder, progress(epoch), *make(epoch)) for epoch in epochs}


def assert_restores(folder: Path, epoch: int) -> None:
    """The newest whole checkpoint is the one that `write` made of this epoch."""
    module, optimizer = make(99)
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None
    assert checkpoint.progress == progress(epoch)
    checkpoint.restore(module, optimizer)
    wanted_module, wanted_optimizer = make(epoch)
    torch.testing.assert_close(module.state_dict(), wanted_module.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict(), wanted_optimizer.state_dict(), rtol=0, atol=0)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    write(tmp_path, 1)
    assert_restores(tmp_path, 1)


def test_restored_tensors_keep_the_module_s_memory_order(tmp_path: Path) -> None:
    """Another order would sum convolutions differently, and a resumed training would drift."""
    write(tmp_path, 1)
    module, optimizer = make(99)
    strides = [p.stride() for p in module.parameters()]
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    checkpoint.restore(module, optimizer)
    assert [p.stride() for p in module.parameters()] == strides
    assert [optimizer.state[p]["momentum_buffer"].stride() for p in module.parameters()] == strides


def test_nothing_there(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "checkpoints") is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0002", "epoch-0003"]


def test_the_manifest_has_the_hash_of_every_file_and_nothing_needs_pickle(tmp_path: Path) -> None:
    [folder] = write(tmp_path, 4).values()
    manifest = json.loads((folder / MANIFEST).read_text())
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, OPTIMISER, MANIFEST}
    assert manifest["sha256"] == {name: sha256_of(folder / name) for name in (WEIGHTS, OPTIMISER)}
    state = torch.load(folder / OPTIMISER, weights_only=True)
    assert state["param_groups"][0]["lr"] == 0.5


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMISER, MANIFEST])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, name: str, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    damage(write(tmp_path, 1, 2)[2] / name)
    with caplog.at_level(logging.WARNING):
        assert_restores(tmp_path, 1)
    assert "epoch-0002 is damaged" in caplog.text


@pytest.mark.parametrize("hashes", [{}, [], None, "", {WEIGHTS: "0"}, {WEIGHTS: None, OPTIMISER: None}])
def test_a_manifest_without_every_hash_vouches_for_nothing(tmp_path: Path, hashes: Any) -> None:
    manifest = write(tmp_path, 1, 2)[2] / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "sha256": hashes}))
    assert_restores(tmp_path, 1)


@pytest.mark.parametrize("text", ["[]", "3", '{"sha256": {}}', '"whole"'])
def test_a_manifest_that_says_something_else_is_passed_over(tmp_path: Path, text: str) -> None:
    (write(tmp_path, 1, 2)[2] / MANIFEST).write_text(text)
    assert_restores(tmp_path, 1)


def test_a_full_disk_leaves_older_checkpoints_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0001"]
    assert_restores(tmp_path, 1)


def test_what_is_no_safetensors_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match=r"weights\.safetensors is no safetensors file"):
        load_weights_file(path)
