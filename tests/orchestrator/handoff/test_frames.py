"""Ticks of a rate and windows of a video, by arithmetic."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.handoff.frames import resample, windows

FPS, SPAN = 30, 8


def starts(frames: int, every: int, span: int = SPAN) -> list[int]:
    return [start for start, _ in windows(range(frames), span, every)]


class TestWindows:
    @pytest.mark.parametrize(
        ("frames", "every", "expected"),
        [
            (24, 8, [0, 8, 16]),
            (25, 8, [0, 8, 16, 17]),
            (8, 8, [0]),
            (9, 3, [0, 1]),
            (14, 3, [0, 3, 6]),
            (30, 20, [0, 20, 22]),
            (20, 100, [0, 12]),
            (5, 8, [0]),
            (0, 8, []),
        ],
    )
    def test_by_hand(self, frames: int, every: int, expected: list[int]) -> None:
        assert starts(frames, every) == expected

    @given(frames=st.integers(0, 200), span=st.integers(1, 40), every=st.integers(1, 60))
    def test_they_are_consecutive_and_the_last_ends_with_the_video(self, frames: int, span: int, every: int) -> None:
        found = list(windows(range(frames), span, every))
        expected = list(range(0, frames - span + 1, every))
        if frames >= span and (frames - span) % every:
            expected.append(frames - span)
        if 0 < frames < span:
            expected = [0]
        assert [start for start, _ in found] == expected
        for start, window in found:
            assert window == [min(start + offset, frames - 1) for offset in range(span)]


class TestResampling:
    @staticmethod
    def numbers(times: list[Fraction], fps: float) -> list[int]:
        return list(resample(zip(times, range(len(times)), strict=True), fps))

    @pytest.mark.parametrize(
        ("rate", "fps", "expected"),
        [
            (30, 30, [0, 1, 2, 3, 4, 5]),
            (60, 30, [0, 2, 4]),
            (15, 30, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
            (30, 20, [0, 1, 3, 4]),
            (24, 30, [0, 1, 2, 2, 3, 4, 5]),
        ],
    )
    def test_six_frames_by_hand(self, rate: int, fps: float, expected: list[int]) -> None:
        """20 per second: ticks at frames 0, 1.5, 3 and 4.5, of which halves go to the earlier frame. 24 to 30: every
        0.8 frames, and of 2.4 and 1.6 the nearest are both 2."""
        assert self.numbers([Fraction(number, rate) for number in range(6)], fps) == expected

    @pytest.mark.parametrize("fps", [30.0, 29.97, 30000 / 1001, 25.0, 23.976])
    def test_rounded_times_of_the_same_rate_give_every_frame_once(self, fps: float) -> None:
        """A container that counts milliseconds."""
        times = [Fraction(round(1000 * number / fps), 1000) for number in range(500)]
        assert self.numbers(times, fps) == list(range(500))

    def test_a_gap_is_filled_with_the_nearest(self) -> None:
        """Frames 0 and 1, then nothing until frame 6 of the clock."""
        assert self.numbers([Fraction(0), Fraction(1, 30), Fraction(6, 30)], 30) == [0, 1, 1, 1, 2, 2, 2, 2, 2]

    def test_a_single_frame(self) -> None:
        assert self.numbers([Fraction(0)], 30) == [0]

    def test_the_number_is_the_duration_times_the_rate(self) -> None:
        for rate, frames in ((25, 164), (60, 1000), (50, 75), (120, 361)):
            times = [Fraction(number, rate) for number in range(frames)]
            assert abs(len(self.numbers(times, 30)) - 30 * frames / rate) <= 1


class TestMemory:
    def test_no_more_frames_live_than_a_window_has(self) -> None:
        """However long the stream is."""

        class Frame:
            pass

        alive: weakref.WeakSet[Frame] = weakref.WeakSet()

        def stream(frames: int) -> Iterator[tuple[Fraction, Frame]]:
            for number in range(frames):
                frame = Frame()
                alive.add(frame)
                yield Fraction(number, FPS), frame

        def most(seconds: int) -> int:
            counts = []
            for _, window in windows(resample(stream(seconds * FPS), FPS), SPAN, SPAN):
                del window
                counts.append(len(alive))
            return max(counts)

        assert most(60) == most(10) <= SPAN + 3
