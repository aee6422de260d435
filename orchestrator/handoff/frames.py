"""A video as a stream of frames at the rate that a network was measured at, and the windows that clips are made of.

    file → frames with their times → the nearest frame to each tick of the rate → windows of consecutive ticks

Nothing is held but the frames of one window, however long the video is.

Units: times are seconds since the video's first frame, exact.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from configs.errors import UserError

if TYPE_CHECKING:
    import av

T = TypeVar("T")

SHORTFALL_SECONDS = 1
"""If frames end by more than this before the container says, it is remarked upon."""


@dataclass
class DecodedVideo:
    """A video that is decoded once, from its start, and how far that has come."""

    path: Path
    """The file."""
    frames: int = 0
    """Decoded so far."""
    seconds: Fraction = Fraction(0)
    """Time of the last of them."""
    notes: list[str] = field(default_factory=list)
    """What to know of it once it has been decoded."""

    def __iter__(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """Time and picture of every frame, as they are presented.

        Where a container stores no times (AVI), frames follow one another at its mean rate.

        Raises:
            UserError: it is no video, or damaged: says where.
        """
        from trainers.data.decode import DecodeError, open_video  # imports PyAV

        try:
            with open_video(self.path) as (container, stream):
                origin: Fraction | None = None
                for frame in container.decode(stream):
                    if frame.is_corrupt:
                        raise DecodeError(self.path, "the next frame is damaged")
                    if frame.pts is not None and frame.time_base is not None:
                        time = frame.pts * frame.time_base
                    elif stream.average_rate:
                        time = self.frames / stream.average_rate
                    else:
                        raise DecodeError(self.path, "it has neither times nor a frame rate")
                    origin = time if origin is None else origin
                    self.frames, self.seconds = self.frames + 1, max(time - origin, self.seconds)
                    yield self.seconds, frame
                if stream.duration is not None and stream.time_base is not None:
                    self._compare(stream.duration * stream.time_base)
        except DecodeError as error:
            where = f" past {self.frames} frames, {float(self.seconds):.2f} s" if self.frames else ""
            raise UserError(
                f"{self.path} can't be decoded{where}: {error.reason}; give a whole file, or convert it again"
            ) from error
        if self.frames == 0:
            raise UserError(f"{self.path} has no frames; give another file")

    def _compare(self, promised: Fraction) -> None:
        """Note a length that the container promises and its frames don't reach."""
        if promised - self.seconds > SHORTFALL_SECONDS:
            self.notes.append(
                f"the file says that it lasts {float(promised):.2f} s, but its frames end at "
                f"{float(self.seconds):.2f} s: it may be truncated"
            )


def resample(timed: Iterable[tuple[Fraction, T]], fps: float) -> Iterator[T]:
    """The nearest frame to each tick k / fps, of two as near the earlier one; the last lasts as long as the one before.

    A video of that rate gives every frame once, however its times were rounded.

    Args:
        timed: times, from 0 upwards, and frames.
        fps: ticks per second.
    """
    rate = Fraction(fps).limit_denominator(1_000_000)  # 30000/1001 for 29.97002997…
    ticks = 0
    before: tuple[Fraction, T] | None = None
    lasts = 1 / rate
    for time, frame in timed:
        if before is not None:
            lasts = time - before[0]
            while ticks / rate <= (before[0] + time) / 2:
                yield before[1]
                ticks += 1
        before = time, frame
    while before is not None and ticks / rate <= before[0] + lasts / 2:
        yield before[1]
        ticks += 1


def windows(frames: Iterable[T], span: int, every: int) -> Iterator[tuple[int, list[T]]]:
    """First tick and frames of every window: one each `every` frames, and one that ends with the video.

    The last full window is aligned to the video's end, where none ends there anyway, so that nothing of it is lost and
    no window has made-up frames. Only a video shorter than a window has its last frame repeated.

    Args:
        frames: at the contract's rate.
        span: length of a window.
        every: from the start of a window to that of the next.
    """
    held: deque[T] = deque(maxlen=span)
    count, last = 0, -1
    for count, frame in enumerate(frames, start=1):
        held.append(frame)
        start = count - span
        if start >= 0 and start % every == 0:
            last = start
            yield start, list(held)
    if 0 < count < span:
        yield 0, [*held, *[held[-1]] * (span - count)]
    elif count - span > last:
        yield count - span, list(held)
