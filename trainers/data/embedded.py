"""Data sets that are made on the spot: written once to a folder, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from configs.errors import UserError


def made_once(
    folder: Path | None, name: str, *, what: str, is_complete: Callable[[Path], bool], write: Callable[[Path], None]
) -> Path:
    """The folder of a data set, which is written first where it is not there yet.

    It is written beside its place and moved there when complete: a kill leaves no half of it, and of two processes the
    second finds the first one's.

    Args:
        folder: where; none: the user's cache folder, under `name`.
        name: tells data sets and their settings apart in the cache folder.
        what: the data set, for the error.
        is_complete: whether a folder holds it.
        write: writes it into a folder that does not exist yet.

    Raises:
        UserError: the folder holds something else.
    """
    folder = folder or cache_folder() / name
    if is_complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        write(made)
        try:
            made.rename(folder)
        except OSError as error:
            if not is_complete(folder):
                raise UserError(
                    f"{folder} is not empty and holds no {what}; name another folder in data.path"
                ) from error
    return folder


def cache_folder() -> Path:
    """Where data sets are made that nobody gave a place."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "orchestrate"
