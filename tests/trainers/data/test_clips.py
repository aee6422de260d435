import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compression.spec import Factors, NetworkSpec
from configs.errors import RunError, UserError
from configs.schema import ClipSettings, DataSettings
from trainers.data import clips as data
from trainers.data.cache import FrameCache
from trainers.data.clips import Batch, Quarantine, steps_per_epoch, train_batches
from trainers.data.decode import decode_frames
from trainers.data.manifest import Manifest, build_manifest
from trainers.data.sampling import epoch_order, sample_clip

CLIPS = ClipSettings(per_video=2, resize=20, test=3)
FULL = NetworkSpec(backbone="any", classes=2, clip_frames=8, side=16, blocks=(1,))
SMALL = FULL.replace(factors=Factors(s=2.0, t=2.0, f=2.0))
"""8 × 8 pixels; frames 0 and 2 of the raw clip's 8."""


@pytest.fixture
def manifest(csv_folder: Path) -> Manifest:
    return build_manifest(DataSettings(source="csv", path=csv_folder), min_frames=8)


def epoch(manifest: Manifest, **options: Any) -> list[Batch]:
    return list(train_batches(manifest, CLIPS, [FULL, SMALL], **{"seed": 0, "epoch": 0, "batch": 5, **options}))


def assert_same(some: list[Batch], other: list[Batch]) -> None:
    assert len(some) == len(other)
    for a, b in zip(some, other, strict=True):
        torch.testing.assert_close((a.views, a.labels), (b.views, b.labels), rtol=0, atol=0)


def test_the_last_batch_counts_only_if_it_is_full(manifest: Manifest) -> None:
    """6 videos x 2 clips."""
    for batch, sizes in ((5, [5, 5]), (6, [6, 6]), (7, [7]), (100, [12])):
        assert [len(b.labels) for b in epoch(manifest, batch=batch)] == sizes
        assert steps_per_epoch(manifest, CLIPS, batch) == len(sizes)


def test_views_are_the_frames_and_windows_of_the_same_clip(csv_folder: Path, manifest: Manifest) -> None:
    """Frames of 24 x 32 are left as they are by resize 24; the crops are checked against plain slicing."""
    settings = CLIPS.model_copy(update={"resize": 24})
    quarter = FULL.replace(factors=Factors(t=2.0, f=2.0))
    [first, *_] = train_batches(manifest, settings, [FULL, quarter], seed=1, epoch=2, batch=4)
    for i, (index, number) in enumerate(epoch_order(6, 2, 2, 1)[:4]):
        video = manifest.train[index]
        sample = sample_clip(video.path, 2, number, 1, video_frames=20, clip_frames=8)
        top, left = int(sample.crop_y * 9), int(sample.crop_x * 17)
        raw = decode_frames(csv_folder / video.path, range(sample.start, sample.start + 8))
        crop = torch.from_numpy(raw[:, top : top + 16, left : left + 16]).permute(3, 0, 1, 2)
        assert torch.equal(first.views[0][i], crop)
        assert torch.equal(first.views[1][i], crop[:, [0, 2]])
        assert first.labels[i] == video.label


def test_a_reduced_view_is_smaller_in_time_and_space(manifest: Manifest) -> None:
    [batch, *_] = epoch(manifest)
    assert [tuple(view.shape) for view in batch.views] == [(5, 3, 8, 16, 16), (5, 3, 2, 8, 8)]


def test_processes_share_each_batch_in_order(manifest: Manifest) -> None:
    """A global batch of 5 over 2 processes: 2 and 3 clips."""
    parts = [epoch(manifest, rank=rank, world=2) for rank in range(2)]
    joined = [
        Batch(tuple(map(torch.cat, zip(a.views, b.views, strict=True))), torch.cat([a.labels, b.labels]))
        for a, b in zip(*parts, strict=True)
    ]
    assert [len(part.labels) for part in (parts[0][0], parts[1][0])] == [2, 3]
    assert_same(joined, epoch(manifest))


def test_the_cache_does_not_change_a_batch(manifest: Manifest) -> None:
    assert_same(epoch(manifest, cache=FrameCache(2**24)), epoch(manifest))


def test_decoding_processes_do_not_change_a_batch(csv_folder: Path, manifest: Manifest) -> None:
    (csv_folder / "train3.mp4").write_bytes(b"no video")
    here, there = Quarantine(9, 0.2), Quarantine(9, 0.2)
    assert_same(epoch(manifest, quarantine=there, loader_workers=1), epoch(manifest, quarantine=here))
    assert here.items() == there.items() != []


def test_epochs_and_seeds_differ(manifest: Manifest) -> None:
    first, *others = (epoch(manifest, **options)[0] for options in ({}, {"epoch": 1}, {"seed": 1}))
    assert not any(torch.equal(first.views[0], other.views[0]) for other in others)


def test_a_video_that_fails_on_the_way_is_left_out(csv_folder: Path, manifest: Manifest) -> None:
    (csv_folder / "train3.mp4").write_bytes(b"no video")
    quarantine = Quarantine(9, 0.2)
    batches = epoch(manifest, batch=12, quarantine=quarantine)
    kept = [manifest.train[index].label for index, _ in epoch_order(6, 2, 0, 0) if index != 3]
    assert torch.cat([batch.labels for batch in batches]).tolist() == kept
    [(path, reason)] = quarantine.items()
    assert path == "train3.mp4"
    assert "Invalid data" in reason


def test_too_many_failures_stop_the_training(csv_folder: Path, manifest: Manifest) -> None:
    for i in range(2):
        (csv_folder / f"train{i}.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="2 of 9 files can't be used"):
        epoch(manifest, quarantine=Quarantine(9, 0.2))
    with pytest.raises(UserError, match="1 of 9 files can't be used"):
        epoch(manifest)


def test_a_step_without_any_clip(csv_folder: Path, manifest: Manifest) -> None:
    """Alone it is skipped; among several processes, which all take every step, it is an error."""
    for video in csv_folder.glob("train*.mp4"):
        video.write_bytes(b"no video")
    assert epoch(manifest, quarantine=Quarantine(9, 0.9)) == []
    with pytest.raises(RunError, match="no clip of process 1"):
        epoch(manifest, rank=1, world=2, quarantine=Quarantine(9, 0.9))


def test_settings_that_do_not_fit(manifest: Manifest) -> None:
    with pytest.raises(UserError, match=r"3 processes share 2 clips per step.* raise train\.batch"):
        epoch(manifest, batch=2, world=3)
    with pytest.raises(UserError, match=r"train0\.mp4 has 20 frames, but a clip needs 64"):
        list(train_batches(manifest, CLIPS, [FULL.replace(clip_frames=64)], seed=0, epoch=0, batch=2))
    with pytest.raises(UserError, match=r"clips\.resize"):
        list(train_batches(manifest, CLIPS, [FULL.replace(side=24)], seed=0, epoch=0, batch=2))


def test_evaluation_clips_are_uniform_in_time_and_central(csv_folder: Path, manifest: Manifest) -> None:
    """3 videos x 3 clips from frames 0, 6 and 12, in batches of 4, 4 and 1."""
    settings = CLIPS.model_copy(update={"resize": 24})
    batches = list(data.test_batches(manifest, settings, FULL, batch=4))
    assert [len(batch.videos) for batch in batches] == [4, 4, 1]
    clips, videos, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert videos.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    raw = decode_frames(csv_folder / "val1.mp4", range(6, 14))
    assert torch.equal(clips[4], torch.from_numpy(raw[:, 4:20, 8:24]).permute(3, 0, 1, 2))


def test_evaluation_is_shared_by_video(manifest: Manifest) -> None:
    seen = [
        torch.cat([batch.videos for batch in data.test_batches(manifest, CLIPS, FULL, batch=2, rank=rank, world=2)])
        for rank in range(2)
    ]
    assert [videos.tolist() for videos in seen] == [[0, 0, 0, 2, 2, 2], [1, 1, 1]]


def test_fewer_evaluation_clips_on_request(manifest: Manifest) -> None:
    [batch] = data.test_batches(manifest, CLIPS, FULL, batch=8, clips_per_video=1)
    assert batch.videos.tolist() == [0, 1, 2]


def decoding_threads() -> Iterator[threading.Thread]:
    return (thread for thread in threading.enumerate() if thread.name.startswith("decode"))


def test_running_ahead_is_bounded_and_ends_with_the_consumer() -> None:
    called = []

    def call(item: int) -> int:
        called.append(item)
        return item

    results = data.run_ahead(call, range(1000))
    assert next(results) == 0
    while len(called) <= data.BATCHES_AHEAD:
        time.sleep(0.01)
    time.sleep(0.05)
    assert called == list(range(data.BATCHES_AHEAD + 1))
    results.close()
    assert not list(decoding_threads())


def test_an_exception_of_the_thread_reaches_the_consumer_in_its_turn() -> None:
    results = data.run_ahead(lambda item: 1 // (2 - item), range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not list(decoding_threads())


def test_real_clips(real_clips: Path, tmp_path: Path) -> None:
    """A SlowFast-sized batch: 64 frames at 224 pixels for the teacher, a reduced student beside it."""
    rows = f"{real_clips}/arm_wrestling.mp4 0\n{real_clips}/apply_eye_makeup.avi 1\n"
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text(rows)
    manifest = build_manifest(DataSettings(source="csv", path=tmp_path), min_frames=64)
    teacher = NetworkSpec(backbone="any", classes=2, clip_frames=64, side=256, blocks=(1,))
    student = teacher.replace(factors=Factors(s=1.4, t=2.0, f=2.0))
    settings = ClipSettings(per_video=1, train_short_side=(256, 320), train_crop=224)
    [batch] = train_batches(manifest, settings, [teacher, student], seed=0, epoch=0, batch=2)
    assert [tuple(view.shape) for view in batch.views] == [(2, 3, 64, 224, 224), (2, 3, 16, 160, 160)]
    same_frames = batch.views[0][:, :, 0:32:2].float().flatten(0, 2)
    shrunk = torch.nn.functional.interpolate(same_frames[:, None], (160, 160), mode="bilinear", antialias=True)
    # the two windows differ by a fraction of a pixel
    difference = (shrunk[:, 0] - batch.views[1].float().flatten(0, 2)).abs().mean()
    mirrored = (shrunk[:, 0].flip(-1) - batch.views[1].float().flatten(0, 2)).abs().mean()
    assert mirrored > 5 * difference
