"""Which clip is cut where: pure functions of (video, epoch, clip, seed).

A clip's place comes from a hash of its name and not from a random generator's state, so that every hypothesis of an
iteration sees the same clips, a resumed training goes on with the ones it would have seen, and neither the number of
processes nor the order of reading matters. Places are in time on the unreduced raw clip, in space relative.

Units: frames are raw frames of the source video; places in space are in [0, 1), no unit.
"""

import hashlib
import random
from dataclasses import dataclass
from itertools import product

MANTISSA_BITS = 53  # of a float64: more would round up to 1.0


@dataclass(frozen=True)
class ClipSample:
    """Where one training clip is cut."""

    start: int
    """First raw frame."""
    scale: float
    """Place of the resized short side in its range, [0, 1)."""
    crop_y: float
    """Place of the crop between top and bottom, [0, 1)."""
    crop_x: float
    """Place of the crop between left and right, [0, 1)."""
    flip: float
    """Below 1/2: mirrored, where mirroring is allowed; [0, 1)."""


def sample_clip(video: str, epoch: int, clip: int, seed: int, *, video_frames: int, clip_frames: int) -> ClipSample:
    """The place of a training clip, uniform in time and space.

    Args:
        video: name of the video, the same on every machine.
        epoch: number of the epoch.
        clip: number of the clip within video and epoch.
        seed: seed of the run.
        video_frames: length of the video, in frames.
        clip_frames: length of the unreduced raw clip, in frames.

    Raises:
        ValueError: the clip is longer than the video.
    """
    digest = hashlib.blake2b(repr((video, epoch, clip, seed)).encode(), digest_size=40).digest()
    time, scale, crop_y, crop_x, flip = (_uniform(digest[i : i + 8]) for i in range(0, 40, 8))
    return ClipSample(int(time * (_last_start(video_frames, clip_frames) + 1)), scale, crop_y, crop_x, flip)


def test_starts(video_frames: int, clip_frames: int, clips: int) -> tuple[int, ...]:
    """First frames of the evaluation clips: from the video's start to its end, uniform in time; a single one: midway.

    Raises:
        ValueError: the clip is longer than the video.
    """
    last = _last_start(video_frames, clip_frames)
    if clips == 1:
        return (last // 2,)
    return tuple(last * i // (clips - 1) for i in range(clips))


def epoch_order(n_videos: int, clips_per_video: int, epoch: int, seed: int) -> list[tuple[int, int]]:
    """All (video index, clip) pairs of an epoch, shuffled."""
    pairs = list(product(range(n_videos), range(clips_per_video)))
    random.Random(f"order {epoch} {seed}").shuffle(pairs)
    return pairs


def _uniform(eight_bytes: bytes) -> float:
    return (int.from_bytes(eight_bytes, "big") >> (64 - MANTISSA_BITS)) / (1 << MANTISSA_BITS)


def _last_start(video_frames: int, clip_frames: int) -> int:
    if clip_frames > video_frames:
        raise ValueError(f"a clip of {clip_frames} frames does not fit into a video of {video_frames}")
    return video_frames - clip_frames
