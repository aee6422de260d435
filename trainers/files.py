"""Files that appear whole or not at all, and locks that die with their process."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UMASK = os.umask(0)
"""Rights that new files don't get; it can only be read by setting it."""
os.umask(UMASK)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    Readers see the old content or the new one. Whatever goes wrong, the temporary file is removed. Its rights are
    those of any new file, which safetensors would keep from everybody else.

    Raises:
        OSError: the folder can't be written to, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~UMASK)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A hidden name beside `path` that no other process on any machine uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; refuses NaN and infinities, which are no JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; the copy appears whole."""
    write_atomically(target, lambda temporary: _copy(source, temporary))


def read_json(path: Path) -> Any:
    """Read a JSON file, or return None when it is missing or not JSON (a reader trusts only whole files)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):  # the last: brackets without end
        return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive(path: Path, *, what: str, wait_seconds: float = math.inf) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; the system releases it when the process dies.

    Args:
        path: the lock file; created when missing, never removed.
        what: the thing that is locked, for the error.
        wait_seconds: how long to wait for another holder; as long as it lives when left out.

    Raises:
        TimeoutError: another process still holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{what} is in use by another process (lock file {path})") from None
                time.sleep(0.2)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file now."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
