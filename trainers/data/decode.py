"""Frames of a video file, and nothing but the frames asked for.

Frame i is the i-th frame in presentation order. A container's own frame count, its rate and its seeking are not
trusted: packets are counted, and a frame found after a seek is identified by its presentation time. Where the container
stores no such times (AVI), or a seek misses, the stream is decoded from its start and frames are counted.

PyAV is the only decoder. torchcodec 0.17 was tried in its place (FFmpeg 5.1, one thread): the same pixels in MP4, other
frames in AVI with B-frames, 0.96 of the speed on a 40-pixel clip and 0.11 on 64 frames of 340×256.

Axes: frame, height, width, and 3 for red, green, blue.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

CONTAINER_OPTIONS = {"fflags": "nofillin"}
"""FFmpeg would otherwise guess the presentation times that AVI lacks, and guesses wrong with B-frames."""

Frames = dict[int, np.ndarray]


class DecodeError(RuntimeError):
    """A video that can't be read, or not as far as it was asked for."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class VideoInfo:
    """What a probe finds out about a video."""

    frames: int
    """Packets that yield a frame, counted."""
    fps: float
    """Mean frames per second as the container says it; 0 where it does not."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""


def probe_video(path: Path) -> VideoInfo:
    """Read a whole file without decoding more than its first frame.

    Raises:
        DecodeError: no video, no frames, or the first one does not decode.
    """
    with open_video(path) as (container, stream):
        fps = float(stream.average_rate or 0)
        frames = len(_packet_times(container, stream))
    with open_video(path) as (container, stream):
        first = next(container.decode(stream), None)
    if frames == 0 or first is None:
        raise DecodeError(path, "has no frames")
    return VideoInfo(frames, fps, first.height, first.width)


def decode_frames(path: Path, indices: Sequence[int]) -> UInt8[np.ndarray, "frame height width 3"]:
    """Decode the frames asked for, from the keyframe before the first of them to the last.

    Args:
        path: video file; its first video stream is read, with one thread.
        indices: at least one frame number >= 0, in any order, repetitions allowed.

    Returns:
        RGB frames in the order of `indices`.

    Raises:
        DecodeError: the file is unreadable, ends before the last frame asked for, or changes its frame size.
    """
    wanted = set(indices)
    with open_video(path) as (container, stream):
        frames = _decode_from_keyframe(container, stream, wanted)
    if frames.keys() != wanted:
        with open_video(path) as (container, stream):
            frames = _decode_from_start(container, stream, wanted)
    if missing := wanted - frames.keys():
        raise DecodeError(path, f"frame {min(missing)} was asked for, but decoding ends before it")
    if len({frame.shape for frame in frames.values()}) > 1:
        raise DecodeError(path, "its frame size changes midway")
    return np.stack([frames[index] for index in indices])


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and its first video stream, to be decoded with one thread.

    Raises:
        DecodeError: no video, or FFmpeg can't go on, in this block too.
    """
    try:
        with av.open(str(path), options=CONTAINER_OPTIONS, metadata_errors="replace") as container:
            if not container.streams.video:
                raise DecodeError(path, "has no video stream")
            stream = container.streams.video[0]
            stream.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        raise DecodeError(path, error.strerror or str(error)) from error
    except (ValueError, OverflowError) as error:  # fields that PyAV can't represent
        raise DecodeError(path, str(error)) from error


def _packet_times(container: InputContainer, stream: VideoStream) -> list[tuple[int | None, bool]]:
    """Presentation time (in the stream's ticks) and keyframe flag of every packet with a frame."""
    return [
        (packet.pts, packet.is_keyframe)
        for packet in container.demux(stream)
        if packet.size > 0 and not packet.is_discard
    ]


def _decode_from_keyframe(container: InputContainer, stream: VideoStream, wanted: set[int]) -> Frames:
    """Frames by number; empty where presentation times can't tell which frame is which."""
    packets = _packet_times(container, stream)
    times = sorted(pts for pts, _ in packets if pts is not None)
    if len(set(times)) < len(packets) or max(wanted) >= len(times):
        return {}
    first = times[min(wanted)]
    keyframes = [pts for pts, is_keyframe in packets if is_keyframe and pts is not None and pts <= first]
    if not keyframes:
        return {}
    container.seek(max(keyframes), stream=stream)
    number: dict[int | None, int] = {time: index for index, time in enumerate(times)}
    return _collect(((number.get(frame.pts), frame) for frame in container.decode(stream)), wanted)


def _decode_from_start(container: InputContainer, stream: VideoStream, wanted: set[int]) -> Frames:
    return _collect(enumerate(container.decode(stream)), wanted)


def _collect(numbered: Iterator[tuple[int | None, av.VideoFrame]], wanted: set[int]) -> Frames:
    to_rgb = VideoReformatter()  # one for all frames: setting it up costs more than converting a small frame
    frames: Frames = {}
    for index, frame in numbered:
        if index in wanted:
            frames[index] = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
            if len(frames) == len(wanted):
                break
    return frames
