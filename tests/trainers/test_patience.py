"""Writes that wait for room, on a clock of their own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from trainers.patience import LONGEST_PAUSE_SECONDS, Refusal, attempts, written_patiently


class Clock:
    """Time passes in sleep alone."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def full(times: int, number: int = errno.ENOSPC) -> Callable[[], str]:
    """A write that the storage refuses so many times."""
    left = [None] * times

    def write() -> str:
        if left:
            left.pop()
            raise OSError(number, os.strerror(number))
        return "written"

    return write


def outcome(write: Callable[[], str], seconds: float, clock: Clock) -> tuple[list[Refusal], str]:
    """What is told on the way, and what comes of it."""
    trying = attempts(write, seconds=seconds, clock=clock, sleep=clock.sleep)
    told = []
    while True:
        try:
            told.append(next(trying))
        except StopIteration as end:
            return told, end.value


def test_a_write_that_succeeds_says_nothing() -> None:
    clock = Clock()
    assert outcome(full(0), 300.0, clock) == ([], "written")
    assert clock.pauses == []


def test_pauses_double_up_to_the_longest_and_are_told_of_once() -> None:
    clock = Clock()
    [refusal], written = outcome(full(8), 300.0, clock)
    assert written == "written"
    assert clock.pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert max(clock.pauses) == LONGEST_PAUSE_SECONDS
    assert str(refusal) == "the storage is full or refuses ([Errno 28] No space left on device): waiting, 5 min left"


def test_when_time_is_up_the_storage_s_own_error_is_raised() -> None:
    clock = Clock()
    with pytest.raises(OSError, match="No space left"):
        outcome(full(99), 10.0, clock)
    assert clock.pauses == [1, 2, 4, 3]
    assert clock.now == 110


@pytest.mark.parametrize(("number", "seconds"), [(errno.EACCES, 300.0), (errno.ENOSPC, 0.0)])
def test_what_waiting_does_not_help_is_raised_at_once(number: int, seconds: float) -> None:
    clock = Clock()
    with pytest.raises(OSError, match=r"Errno"):
        outcome(full(1, number), seconds, clock)
    assert clock.pauses == []


def test_patiently_tells_and_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.patience.FIRST_PAUSE_SECONDS", 0.0)
    told: list[str] = []
    assert written_patiently(full(3), seconds=60.0, tell=told.append) == "written"
    [text] = told
    assert text.endswith("waiting, 60 s left")
