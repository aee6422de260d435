"""What was found out about video files, remembered from one start to the next.

A look at a file reads it whole, to count its frames. With 240,000 videos on a network file system that takes hours, so
a file whose size and time of change are those of the last look is not looked at again.
"""

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from trainers.data.decode import VideoInfo, probe_video
from trainers.files import read_json, write_json

HASHED_BYTES = 4096


@dataclass(frozen=True)
class Look:
    """What a look at a file tells."""

    ends_sha256: str
    """Hash of the first and the last 4 KiB."""
    info: VideoInfo


class Probes:
    """Looks at the videos of one data set.

    Args:
        root: the data set's folder.
        memory: folder in which looks are remembered; none: every file is looked at.
    """

    def __init__(self, root: Path, memory: Path | None) -> None:
        self._root = root
        name = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:12]
        self._file = memory / f"probes-{name}.json" if memory else None
        self._known: dict[str, list[int | float | str]] = (read_json(self._file) or {}) if self._file else {}
        self._seen: dict[str, list[int | float | str]] = {}

    def look(self, path: str, stat: os.stat_result) -> Look:
        """Look at a video, or remember the last look. Safe to call from several threads.

        Args:
            path: relative to the root.
            stat: of the file, now.

        Raises:
            DecodeError: it is no video. That is not remembered, so that a mended file is seen.
            OSError: it can't be read.
        """
        entry = self._known.get(path)
        if entry is None or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            look = Look(hash_of_ends(self._root / path), probe_video(self._root / path))
            entry = [stat.st_size, stat.st_mtime_ns, look.ends_sha256, *dataclasses.astuple(look.info)]
        self._seen[path] = entry
        _, _, ends, frames, fps, height, width = entry
        return Look(str(ends), VideoInfo(int(frames), float(fps), int(height), int(width)))

    def save(self) -> None:
        """Remember the looks, where there is a place for them and anything is new."""
        if self._file and self._seen != self._known:
            write_json(self._file, self._seen)


def hash_of_ends(path: Path) -> str:
    """SHA-256 of a file's first and last 4 KiB, in hexadecimal."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        first = file.read(HASHED_BYTES)
        file.seek(max(0, size - HASHED_BYTES))
        return hashlib.sha256(first + file.read(HASHED_BYTES)).hexdigest()
