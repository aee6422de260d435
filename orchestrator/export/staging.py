"""A folder that appears whole or not at all."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import UserError
from trainers.files import temporary_beside


@contextmanager
def whole_folder(target: Path, *, files: Collection[str]) -> Iterator[Path]:
    """Give a hidden folder beside `target` to be filled; it becomes `target` when the block is left without an error.

    An earlier `target` is there, untouched, until the new one is complete. After an error nothing is left; what a kill
    leaves behind has a hidden name and is removed by the next call for the same target.

    Args:
        target: the folder to be made or replaced.
        files: names that an earlier one may hold: with anything else in it, it is not ours to remove.

    Raises:
        UserError: `target` is a file, or a folder with something else in it.
    """
    target = target.absolute()
    require_replaceable(target, files)
    with workplace_beside(target) as temporary:
        yield temporary
        _put_into_place(temporary, target)


@contextmanager
def workplace_beside(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside `target`, whose folder is made if need be; it is removed when the block is left.

    What a kill leaves behind is removed by the next call for the same target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    temporary = temporary_beside(target)
    temporary.mkdir()
    holder = _hold(temporary)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if holder is not None:
            os.close(holder)


def require_replaceable(target: Path, files: Collection[str]) -> None:
    """Refuse to replace what `whole_folder` did not make.

    Raises:
        UserError: naming what is in the way.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target} is a file, but a folder is to be written there; move it, or give another folder")
    if others := sorted(path.name for path in target.iterdir() if path.name not in files):
        raise UserError(
            f"{target} holds {others[0]!r}, which was not written by this command, and would be lost; move it, or give "
            "another folder"
        )


def _put_into_place(temporary: Path, target: Path) -> None:
    """Rename a complete folder to where it belongs; the folder that was there comes back if that fails."""
    earlier = temporary_beside(target)
    try:
        target.rename(earlier)
    except FileNotFoundError:
        temporary.rename(target)
        return
    try:
        temporary.rename(target)
    except BaseException:
        earlier.rename(target)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    """Remove temporary folders of this target that no process holds."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        holder = _hold(path)
        if holder is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(holder)


def _hold(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; none where another has it. Returns the descriptor to close."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # gone meanwhile
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
