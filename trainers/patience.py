"""Writes that wait for a disk to have room again, or for a file server to come back. Times are seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from trainers.incidents import cause_of

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Pauses double from the one to the other."""

Written = TypeVar("Written")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A write that failed because of the storage and will be tried again."""

    error: Exception
    """What the storage said."""
    seconds_left: float
    """How long it will be tried."""

    def __str__(self) -> str:
        return f"the storage is full or refuses ({self.error}): waiting, {written_time(self.seconds_left)} left"


def attempts(
    write: Callable[[], Written],
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[Refusal, None, Written]:
    """Write, and go on trying for some time while the storage refuses.

    Args:
        write: leaves nothing behind when it fails, so that it can be called again.
        seconds: how long to try; 0 tries once.
        clock: the time, from whenever.
        sleep: waits so long.

    Yields:
        The first refusal, before any waiting: one pause is one message.

    Returns:
        What `write` returns.

    Raises:
        Exception: as `write` for another reason, or when time is up.
    """
    deadline: float | None = None
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return write()
        except Exception as error:
            now = clock()
            if cause_of(error) != "storage" or seconds <= 0 or (deadline is not None and now >= deadline):
                raise
            first, refusal = deadline is None, Refusal(error=error, seconds_left=seconds)
            deadline = now + seconds if deadline is None else deadline
        if first:
            yield refusal
        sleep(max(0.0, min(pause, deadline - clock())))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def written_patiently(write: Callable[[], Written], *, seconds: float, tell: Callable[[str], None]) -> Written:
    """`attempts` for those who have nothing else to do: `tell` is given the refusal, as a sentence."""
    trying = attempts(write, seconds=seconds)
    while True:
        try:
            tell(str(next(trying)))
        except StopIteration as end:
            written: Written = end.value
            return written


def written_time(seconds: float) -> str:
    """A time to wait: minutes from two on, else seconds."""
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
