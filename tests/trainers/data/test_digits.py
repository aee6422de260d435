import dataclasses
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from configs.schema import DataSettings
from trainers.data import digits
from trainers.data.digits import MOTIONS, DigitsSettings, draw_video, make_moving_digits, motion_path
from trainers.data.manifest import build_manifest

FEW = DigitsSettings(train_per_class=2, val_per_class=1)
CLIP = 16
"""Frames of the embedded network's raw clip."""


def paths(motion: str) -> np.ndarray:
    """Steps of many digits of one motion, [video, frame - 1, 2]."""
    drawn = [motion_path(motion, DigitsSettings(), np.random.default_rng(seed)) for seed in range(50)]
    return np.diff(np.stack(drawn), axis=1)


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)])
def test_straight_motions_keep_their_direction_and_speed(motion: str, axis: int, sign: int) -> None:
    steps = paths(motion)
    slowest, fastest = DigitsSettings().speed
    assert (sign * steps[..., axis] >= slowest - 1e-9).all()
    assert (sign * steps[..., axis] <= fastest + 1e-9).all()
    assert (steps[..., 1 - axis] == 0).all()


@pytest.mark.parametrize(("motion", "sign"), [("clockwise", 1), ("counter-clockwise", -1)])
def test_circles_turn_one_way(motion: str, sign: int) -> None:
    """The cross product of consecutive steps, columns to the right and rows downwards, is positive clockwise."""
    steps = paths(motion)
    before, after = steps[:, :-1], steps[:, 1:]
    assert (sign * (before[..., 1] * after[..., 0] - before[..., 0] * after[..., 1]) > 0).all()


@pytest.mark.parametrize(("motion", "axis"), [("horizontal-shuttle", 1), ("vertical-shuttle", 0)])
def test_every_clip_shows_a_shuttle_go_and_return_but_half_a_clip_need_not(motion: str, axis: int) -> None:
    steps = paths(motion)
    assert (steps[..., 1 - axis] == 0).all()
    for start in range(DigitsSettings().frames - CLIP + 1):
        window = steps[:, start : start + CLIP - 1, axis]
        assert (window.max(1) > 0.4).all()
        assert (window.min(1) < -0.4).all()
    quarter = steps[:, : CLIP // 4 - 1, axis]
    assert (np.sign(quarter.max(1)) == np.sign(quarter.min(1))).mean() > 0.3


def test_a_picture_is_moved_by_whole_pixels_exactly() -> None:
    picture = np.random.default_rng(0).random((6, 6))
    moved = digits._shifted(np.fft.fft2(picture), np.array([[0.0, 0.0], [1.0, -2.0]]))
    np.testing.assert_allclose(moved, [picture, np.roll(picture, (1, -2), axis=(0, 1))], atol=1e-12)


def test_without_nuisance_the_digit_moves_over_even_ground() -> None:
    calm = dataclasses.replace(DigitsSettings(), texture=(0.0, 0.0), noise=(0.0, 0.0), speed=(1.0, 1.0))
    frames = draw_video("down", np.ones((8, 8)), calm, np.random.default_rng(3)).astype(int)
    assert np.abs(frames[5] - np.roll(frames[0], 5, axis=0)).max() <= 1  # rounding to 8 bits


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (make_moving_digits(tmp_path / name, FEW) for name in ("one", "other"))
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert len(files) == 3 + 8 * 3
    assert all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


def test_it_is_a_csv_data_set(tmp_path: Path) -> None:
    manifest = build_manifest(
        DataSettings(source="moving-digits", path=make_moving_digits(tmp_path / "set", FEW)), min_frames=CLIP
    )
    assert manifest.classes == MOTIONS
    assert (len(manifest.train), len(manifest.val), manifest.quarantined) == (16, 8, ())
    assert {(video.frames, video.fps) for video in manifest.train + manifest.val} == {(24, 30.0)}
    assert {video.path.split("-", 1)[1][:-8]: MOTIONS[video.label] for video in manifest.val} == {m: m for m in MOTIONS}


def test_it_is_made_once_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    progress: list[tuple[int, int]] = []
    folder = make_moving_digits(settings=FEW, on_progress=lambda done, total: progress.append((done, total)))
    assert folder == tmp_path / "orchestrate" / f"moving-digits-{FEW.digest}"
    assert progress == [(i, 24) for i in range(1, 25)]
    assert make_moving_digits(settings=FEW, on_progress=lambda *_: pytest.fail("made twice")) == folder
    assert FEW.digest != dataclasses.replace(FEW, noise=(0.1, 0.2)).digest


class Killed(BaseException):
    pass


def test_stopped_midway_it_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        make_moving_digits(tmp_path / "set", FEW, stop)
    assert list(tmp_path.iterdir()) == []


def test_of_two_at_once_the_second_finds_the_first_ones(tmp_path: Path) -> None:
    """The other process finishes while this one is at its last video."""

    def other_process(done: int, total: int) -> None:
        if done == total:
            make_moving_digits(tmp_path / "set", FEW)

    assert make_moving_digits(tmp_path / "set", FEW, other_process) == tmp_path / "set"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty and holds no moving digits"):
        make_moving_digits(tmp_path, FEW)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
