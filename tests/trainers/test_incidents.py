"""Causes of failures, read from the errors that libraries really raise."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from configs.errors import UserError
from trainers.finite import NonFiniteLossError
from trainers.incidents import Cause, cause_of

FULL = "Error while serializing: I/O error: No space left on device (os error 28)"
"""What safetensors says of a full disk."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (RuntimeError("CUDA error: out of memory"), "memory"),
        (NonFiniteLossError("the loss was nan"), "non-finite"),
        (UserError("2 of 48 files can't be used"), "data"),
        (SafetensorError(FULL), "storage"),
        (SafetensorError(FULL.replace("28", "2")), "other"),
        (SafetensorError("invalid header"), "other"),
        (RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"), "storage"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "other"),
        (ZeroDivisionError(), "other"),
        (KeyError("no space left on device (os error 28)"), "other"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_cause(error: BaseException, cause: Cause) -> None:
    assert cause_of(error) == cause


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS])
def test_a_storage_may_get_over_it(number: int) -> None:
    assert cause_of(OSError(number, os.strerror(number))) == "storage"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR])
def test_waiting_does_not_help(number: int) -> None:
    assert cause_of(OSError(number, os.strerror(number))) == "other"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")
def test_a_full_device() -> None:
    """`torch.save` opens the device itself; safetensors would put a file in its place, so its text is given above."""
    with pytest.raises(RuntimeError) as failed:
        torch.save(torch.zeros(10_000), "/dev/full")
    assert cause_of(failed.value) == "storage"
    with pytest.raises(OSError, match="No space left") as full, open("/dev/full", "w") as file:
        file.write("x" * 10_000)
    assert cause_of(full.value) == "storage"
