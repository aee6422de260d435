"""What can go wrong around a training: causes, and what a training says of those that it gets over by itself.

A cause is read from the error's type and number where they tell, and from its text where libraries wrap what the
system said: safetensors reports a full disk as an error of its own, `torch.save` as a failed check of its writer.
"""

from __future__ import annotations

import errno
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from configs.errors import UserError
from trainers.finite import NonFiniteLossError

Cause = Literal["process", "node", "memory", "non-finite", "data", "storage", "driver", "other"]
"""`process`: a training's process died; `node`: its machine is gone; `memory`: it did not fit; `non-finite`: a loss was
no number; `data`: the input can't be used, beyond what is quarantined; `storage`: the store is full or refuses;
`driver`: the command itself died; `other`: none of these."""

GotOver = Literal["halved", "waited"]
"""`halved`: it goes on with half the micro-batch; `waited`: it tries to write until the storage takes it."""

STORAGE_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ECONNREFUSED,
    errno.EHOSTDOWN,
    errno.ETIMEDOUT,
}
"""Numbers of errors that a disk or a file server may get over; a missing file or a lack of rights is none of them."""

MEMORY_TEXTS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""In the text of a RuntimeError: CUDA's and cuBLAS's own errors, and that of PyTorch's CPU allocator."""

WRITER_TEXTS = ("PytorchStreamWriter failed", "inline_container.cc")
"""In the text of a RuntimeError of `torch.save` whose file could not be written."""


@dataclass(frozen=True, kw_only=True)
class Incident:
    """Something that a training got over, or is about to."""

    cause: Cause
    """What it was."""
    action: GotOver
    """What the training does about it."""
    at_epoch: int
    """Epochs done when it happened."""
    text: str
    """The same in a sentence, for a person."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, whose items are the fields."""
        return asdict(self)


def cause_of(error: BaseException) -> Cause:
    """Why something failed, as far as its error tells; Ray's errors are known to the orchestrator alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _says(error, MEMORY_TEXTS):
        return "memory"
    if isinstance(error, NonFiniteLossError):
        return "non-finite"
    if isinstance(error, UserError):
        return "data"  # settings were checked before anything was trained: it is a file that changed since
    if _error_number(error) in STORAGE_ERRORS or _says(error, WRITER_TEXTS):
        return "storage"
    return "other"


def _says(error: BaseException, texts: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


def _error_number(error: BaseException) -> int | None:
    """The system's number of an error, which safetensors leaves in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, SafetensorError) else None
    return int(found[1]) if found else None
