import functools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.data import sampling
from trainers.data.sampling import epoch_order, sample_clip


def test_a_sample_is_this_one_for_ever() -> None:
    """Recorded: a change here changes what finished trials were trained on (raise RECIPE_VERSION then)."""
    sample = sample_clip("a/b.mp4", 3, 1, 7, video_frames=300, clip_frames=64)
    assert sample.start == 77
    assert sample.flip == pytest.approx(0.686303188322421, abs=1e-12)


def test_global_random_state_does_not_matter() -> None:
    def draw(seed: int) -> object:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return sample_clip("v", 0, 0, 0, video_frames=90, clip_frames=16), epoch_order(5, 3, 0, 0)

    assert draw(1) == draw(2)


@pytest.mark.parametrize("other", [("w", 0, 0, 0), ("v", 1, 0, 0), ("v", 0, 1, 0), ("v", 0, 0, 1)])
def test_every_part_of_the_name_matters(other: tuple[str, int, int, int]) -> None:
    sample = functools.partial(sample_clip, video_frames=300, clip_frames=16)
    assert sample("v", 0, 0, 0) != sample(*other)


@given(st.integers(1, 100), st.integers(0, 300), st.integers(0, 2**40))
def test_clips_lie_within_their_video(clip_frames: int, spare: int, seed: int) -> None:
    sample = sample_clip("v", 0, 0, seed, video_frames=clip_frames + spare, clip_frames=clip_frames)
    assert 0 <= sample.start <= spare
    assert all(0 <= x < 1 for x in (sample.scale, sample.crop_y, sample.crop_x, sample.flip))


def test_places_are_uniform() -> None:
    """4000 draws: each of 5 starts within 4 standard deviations (25) of 800, means within 4 (0.018) of 1/2."""
    samples = [sample_clip(f"v{i}", 0, 0, 0, video_frames=20, clip_frames=16) for i in range(4000)]
    counts = Counter(sample.start for sample in samples)
    assert set(counts) == set(range(5))
    assert all(abs(count - 800) < 101 for count in counts.values())
    for name in ("scale", "crop_y", "crop_x", "flip"):
        assert abs(np.mean([getattr(sample, name) for sample in samples]) - 0.5) < 0.0183


def test_a_clip_longer_than_its_video() -> None:
    with pytest.raises(ValueError, match="a clip of 64 frames does not fit into a video of 32"):
        sample_clip("v", 0, 0, 0, video_frames=32, clip_frames=64)
    with pytest.raises(ValueError, match="a clip of 64 frames does not fit into a video of 32"):
        sampling.test_starts(32, 64, 10)


@pytest.mark.parametrize(
    ("video_frames", "clips", "starts"),
    [(25, 4, (0, 3, 6, 9)), (16, 3, (0, 0, 0)), (24, 1, (4,)), (17, 3, (0, 0, 1))],
)
def test_evaluation_starts_by_hand(video_frames: int, clips: int, starts: tuple[int, ...]) -> None:
    assert sampling.test_starts(video_frames, 16, clips) == starts


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_has_every_clip_once(videos: int, clips: int, epoch: int, seed: int) -> None:
    order = epoch_order(videos, clips, epoch, seed)
    assert sorted(order) == [(video, clip) for video in range(videos) for clip in range(clips)]


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    orders = {tuple(epoch_order(20, 3, epoch, seed)) for epoch in range(3) for seed in range(3)}
    assert len(orders) == 9
