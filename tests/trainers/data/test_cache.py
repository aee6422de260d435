from pathlib import Path

import numpy as np
import pytest

from tests.trainers.data.conftest import WriteVideo
from trainers.data import cache
from trainers.data.cache import SHARE, FrameCache
from trainers.data.decode import DecodeError, decode_frames

Decoded = list[tuple[str, int]]

BYTES = 8 * 24 * 32 * 3
"""Of a decoded video of these tests."""


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    """(file name, number of frames) of every decoding."""
    calls: Decoded = []

    def record(path: Path, indices: list[int]) -> np.ndarray:
        calls.append((path.name, len(indices)))
        return decode_frames(path, indices)

    monkeypatch.setattr(cache, "decode_frames", record)
    return calls


def test_small_videos_are_decoded_once_and_whole(tmp_path: Path, write_video: WriteVideo, decoded: Decoded) -> None:
    path = write_video(tmp_path / "v.mp4", frames=8)
    frames = FrameCache(SHARE * BYTES)
    for indices in ([1, 3], [0, 7], [5, 5]):
        np.testing.assert_array_equal(frames.frames(path, indices), decode_frames(path, indices))
    assert decoded == [("v.mp4", 8)]


def test_big_videos_are_decoded_in_parts(tmp_path: Path, write_video: WriteVideo, decoded: Decoded) -> None:
    path = write_video(tmp_path / "v.mp4", frames=8)
    frames = FrameCache(SHARE * BYTES - 1)
    for indices in ([1, 3], [0, 7]):
        np.testing.assert_array_equal(frames.frames(path, indices), decode_frames(path, indices))
    assert decoded == [("v.mp4", 2), ("v.mp4", 2)]


def test_the_least_recently_used_is_forgotten(
    tmp_path: Path, write_video: WriteVideo, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SHARE", 2)
    a, b, c = (write_video(tmp_path / f"{name}.mp4", frames=8) for name in "abc")
    frames = FrameCache(2 * BYTES)
    for path in (a, b, a, c, a, b):
        frames.frames(path, [0])
    assert [name for name, _ in decoded] == ["a.mp4", "b.mp4", "c.mp4", "b.mp4"]


def test_a_damaged_video_gives_the_same_frames_with_and_without_cache(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A video whose whole does not decode still gives the frames that do."""

    def damaged_at_the_end(path: Path, indices: list[int]) -> np.ndarray:
        if max(indices) > 5:
            raise DecodeError(path, "damaged")
        return decode_frames(path, indices)

    monkeypatch.setattr(cache, "decode_frames", damaged_at_the_end)
    path = write_video(tmp_path / "v.mp4", frames=8)
    frames = FrameCache(SHARE * BYTES)
    np.testing.assert_array_equal(frames.frames(path, [2]), decode_frames(path, [2]))
    with pytest.raises(DecodeError, match="damaged"):
        frames.frames(path, [6])


def test_frames_past_the_end(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "v.mp4", frames=8)
    with pytest.raises(DecodeError, match="frame 8 was asked for"):
        FrameCache(SHARE * BYTES).frames(path, [7, 8])
