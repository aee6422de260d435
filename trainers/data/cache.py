"""Decoded videos kept in memory, for data sets of small ones."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from trainers.data.decode import DecodeError, decode_frames, probe_video

SHARE = 64
"""A video is kept whole only if this many of its size fit: a few long ones would only drive each other out."""


class FrameCache:
    """The least recently used videos are forgotten first. For one thread at a time.

    Args:
        max_bytes: memory for decoded frames.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._videos: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._not_kept: set[Path] = set()

    def frames(self, path: Path, indices: Sequence[int]) -> UInt8[np.ndarray, "frame height width 3"]:
        """As `decode_frames`, from memory where possible.

        Raises:
            DecodeError: as `decode_frames`.
        """
        if path not in self._videos and path not in self._not_kept:
            self._read(path)
        if path in self._not_kept:
            return decode_frames(path, indices)
        self._videos.move_to_end(path)
        video = self._videos[path]
        if max(indices) >= len(video):
            raise DecodeError(path, f"frame {max(indices)} was asked for, but it has {len(video)}")
        return video[list(indices)]

    def _read(self, path: Path) -> None:
        """Keep a video, or note that it is too big or damaged somewhere: then only the frames asked for matter."""
        info = probe_video(path)
        if info.frames * info.height * info.width * 3 > self._max_bytes / SHARE:
            self._not_kept.add(path)
            return
        try:
            video = decode_frames(path, range(info.frames))
        except DecodeError:
            self._not_kept.add(path)
            return
        self._videos[path] = video
        self._bytes += video.nbytes
        while self._bytes > self._max_bytes:
            _, oldest = self._videos.popitem(last=False)
            self._bytes -= oldest.nbytes
