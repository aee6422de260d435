"""Features of a video are those of clips cut by hand, whole or not there, in bounded memory; damage is found."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import torch
import typer
from av.video.stream import VideoStream
from typer.testing import CliRunner

from configs.errors import RunError, UserError
from orchestrator.commands.features import features as features_command
from orchestrator.handoff import HandedModel, load
from orchestrator.handoff import video as video_module
from orchestrator.handoff.frames import DecodedVideo
from orchestrator.handoff.manifest import MANIFEST_FILE
from orchestrator.handoff.video import Pool, Precomputed, Settings, precompute
from tests.orchestrator.handoff.sample_package import write_package
from tests.trainers import tiny
from trainers.data.decode import decode_frames
from trainers.files import sha256_of

FPS, SPAN = 30, 8


def write_video(path: Path, frames: int, *, fps: int = FPS, codec: str = "libx264", side: int = 24) -> Path:
    """Noise, other in every frame; the same for the same number of frames."""
    rng = np.random.default_rng(frames)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        options = {"preset": "ultrafast", "threads": "1"} if codec == "libx264" else {}
        stream = cast(VideoStream, container.add_stream(codec, rate=fps, options=options))
        stream.height, stream.width, stream.pix_fmt = side, side + 8, "yuv420p"
        for _ in range(frames):
            picture = rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("package") / "model")


@pytest.fixture(scope="module")
def model(package: Path) -> HandedModel:
    return load(package)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 frames at 30 per second."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 21)


def hand_cut(model: HandedModel, path: Path, start: int, stage: str) -> torch.Tensor:
    """The map of a window, from frames picked by number and the reader's own preprocessing."""
    frames = decode_frames(path, range(start, start + SPAN))
    with torch.no_grad():
        return model.features(model.preprocess(frames))[stage][0]


@pytest.mark.parametrize("pool", ["all", "space", "none"])
def test_features_are_those_of_clips_cut_by_hand(model: HandedModel, clip: Path, tmp_path: Path, pool: Pool) -> None:
    made = precompute(model, clip, tmp_path, Settings(stage="layer3", every=5, pool=pool, batch=1))
    array = torch.from_numpy(np.load(made.features))
    maps = torch.stack([hand_cut(model, clip, start, "layer3") for start in (0, 5, 10, 13)])
    expected = {
        "all": maps.mean((2, 3, 4)),
        "space": maps.mean((3, 4)).transpose(1, 2),
        "none": maps,
    }[pool]
    assert torch.equal(array, expected)
    assert made.shape == tuple(array.shape)


def test_outputs_where_no_stage_is_asked_for(model: HandedModel, clip: Path, tmp_path: Path) -> None:
    made = precompute(model, clip, tmp_path, Settings(batch=2))
    with torch.no_grad():
        clips = [model.preprocess(decode_frames(clip, range(start, start + SPAN))) for start in (0, 8, 13)]
        expected = model(torch.cat(clips))
    torch.testing.assert_close(torch.from_numpy(np.load(made.features)), expected)
    assert made.features.name == "clip.output.npy"


def test_another_frame_rate_is_resampled(model: HandedModel, tmp_path: Path) -> None:
    """40 frames at 60 per second are 20 at 30: every other one."""
    path = write_video(tmp_path / "fast.mp4", 40, fps=60)
    made = precompute(model, path, tmp_path, Settings(stage="layer4", batch=1))
    chosen = decode_frames(path, range(0, 2 * SPAN, 2))
    with torch.no_grad():
        expected = model.features(model.preprocess(chosen))["layer4"][0].mean((1, 2, 3))
    assert torch.equal(torch.from_numpy(np.load(made.features))[0], expected)
    assert np.load(made.times).tolist() == [[0, 8 / 30], [8 / 30, 16 / 30], [12 / 30, 20 / 30]]


def test_a_container_without_times(model: HandedModel, tmp_path: Path) -> None:
    """AVI: frames follow one another at its rate."""
    path = write_video(tmp_path / "old.avi", 17, codec="mpeg4")
    made = precompute(model, path, tmp_path, Settings(stage="layer4"))
    assert made.seconds == pytest.approx(17 / 30)
    assert np.load(made.times)[:, 0].tolist() == pytest.approx([0, 8 / 30, 9 / 30])


def test_a_video_shorter_than_a_clip_repeats_its_last_frame(model: HandedModel, tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", 5)
    made = precompute(model, path, tmp_path, Settings(stage="layer4", batch=1))
    frames = decode_frames(path, [0, 1, 2, 3, 4, 4, 4, 4])
    with torch.no_grad():
        expected = model.features(model.preprocess(frames))["layer4"].mean((2, 3, 4))
    assert torch.equal(torch.from_numpy(np.load(made.features)), expected)
    assert np.load(made.times).tolist() == [[0, 5 / 30]]
    assert json.loads(made.sidecar.read_text())["repeated_frames"] == 3


def test_half_precision(model: HandedModel, clip: Path, tmp_path: Path) -> None:
    full = np.load(precompute(model, clip, tmp_path / "full", Settings(stage="layer4")).features)
    half = np.load(precompute(model, clip, tmp_path / "half", Settings(stage="layer4", dtype="float16")).features)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))


def test_the_sidecar_says_what_of_which(model: HandedModel, package: Path, clip: Path, tmp_path: Path) -> None:
    made = precompute(model, clip, tmp_path, Settings(stage="layer2", every=4))
    about = json.loads(made.sidecar.read_text())
    assert about["video"] == {"name": "clip.mp4", "sha256": sha256_of(clip), "frames": 21}
    assert about["model"]["handoff_sha256"] == sha256_of(package / MANIFEST_FILE)
    assert about["files"] == {path.name: sha256_of(path) for path in (made.features, made.times)}
    assert (about["settings"]["every"], about["settings"]["span"], about["settings"]["fps"]) == (4, SPAN, 30.0)
    assert about["settings"]["stage"]["name"] == "layer2"
    assert (about["axes"], about["shape"]) == (["window", "channel"], list(np.load(made.features).shape))
    assert str(tmp_path) not in made.sidecar.read_text()


def test_the_same_again_gives_the_same_bytes(model: HandedModel, clip: Path, tmp_path: Path) -> None:
    def contents() -> dict[str, bytes]:
        precompute(model, clip, tmp_path, Settings(stage="layer4"))
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    assert contents() == contents()
    assert len(contents()) == 3


def test_stages_lie_beside_one_another(model: HandedModel, clip: Path, tmp_path: Path) -> None:
    for stage, every in (("layer3", 4), ("layer4", 8)):
        precompute(model, clip, tmp_path, Settings(stage=stage, every=every))
    assert len(np.load(tmp_path / "clip.layer3.times.npy")) == 5
    assert len(np.load(tmp_path / "clip.layer4.times.npy")) == 3


class TestMemory:
    def test_a_minute_takes_what_ten_seconds_take(
        self, model: HandedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Cut frames that are alive whenever a batch is computed: those of its windows, however long the video is."""
        made: list[weakref.ref[torch.Tensor]] = []
        alive: list[int] = []

        def squares(*given: Any) -> Iterator[torch.Tensor]:
            for square in honest(*given):
                made.append(weakref.ref(square))
                yield square

        def compute(*given: Any) -> np.ndarray[Any, Any]:
            alive.append(sum(reference() is not None for reference in made))
            return np.zeros((1, 2))

        def peak(seconds: int) -> int:
            alive.clear()
            path = tmp_path / f"{seconds}.mp4"
            path.write_bytes(b"decoded by nobody")
            monkeypatch.setattr(DecodedVideo, "__iter__", lambda self: pictures(seconds))
            precompute(model, path, tmp_path, Settings(batch=4, every=20))
            return max(alive)

        honest = video_module._squares
        monkeypatch.setattr(video_module, "_squares", squares)
        monkeypatch.setattr(video_module, "_features", compute)
        assert 4 * SPAN <= peak(60) == peak(10) <= 5 * SPAN


def pictures(seconds: int) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Grey frames, without a file."""
    picture = np.full((24, 32, 3), 128, np.uint8)
    for number in range(seconds * FPS):
        yield Fraction(number, FPS), av.VideoFrame.from_ndarray(picture, format="rgb24")


def cut_off(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def hole(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_off, hole])
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".avi", "mpeg4")])
def test_damage_is_found_and_nothing_is_written(
    model: HandedModel, tmp_path: Path, suffix: str, codec: str, damage: Callable[[Path], None]
) -> None:
    path = write_video(tmp_path / f"clip{suffix}", 60, codec=codec, side=48)
    damage(path)
    with pytest.raises(UserError, match=r"can't be decoded past \d+ frames, \d\.\d\d s: .*; give a whole file"):
        precompute(model, path, tmp_path / "to", Settings())
    assert list((tmp_path / "to").iterdir()) == []


def test_a_video_that_ends_early_without_an_error_is_remarked_upon(model: HandedModel, tmp_path: Path) -> None:
    """Matroska: the packets before the cut are whole, and only the header knows how long it was."""
    path = write_video(tmp_path / "clip.mkv", 100)
    cut_off(path)
    made = precompute(model, path, tmp_path, Settings())
    assert len(made.notes) == 1
    assert "lasts 3.33 s, but its frames end at 1." in made.notes[0]


def test_an_interrupted_computation_leaves_what_was_there(
    model: HandedModel, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precompute(model, clip, tmp_path, Settings(stage="layer4"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = iter([None, KeyboardInterrupt()])

    def interrupted(*given: Any) -> Any:
        if error := next(calls):
            raise error
        return honest(*given)

    honest = video_module._features
    monkeypatch.setattr(video_module, "_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        precompute(model, clip, tmp_path, Settings(stage="layer4", every=1, batch=1))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_kill_left_behind_is_removed(model: HandedModel, clip: Path, tmp_path: Path) -> None:
    """Arrays of hours, under a hidden name."""
    left = tmp_path / ".clip.layer4.json.0123456789ab.tmp"
    left.mkdir()
    (left / "clip.layer4.npy").write_bytes(b"half")
    precompute(model, clip, tmp_path, Settings(stage="layer4"))
    assert not left.exists()


def test_another_video_of_the_same_name_is_refused(model: HandedModel, clip: Path, tmp_path: Path) -> None:
    made = precompute(model, clip, tmp_path, Settings())
    other = write_video(tmp_path / "clip.mp4", 9)
    with pytest.raises(UserError, match=r"clip\.output\.json is of another video of this name"):
        precompute(model, other, tmp_path, Settings())
    assert json.loads(made.sidecar.read_text())["video"]["sha256"] == sha256_of(clip)


def test_numbers_that_are_not_finite_are_refused(clip: Path, package: Path, tmp_path: Path) -> None:
    model = load(package)
    model.network.get_submodule("fc").bias.data.fill_(1e6)  # type: ignore[operator]
    with pytest.raises(RunError, match="no finite numbers in float16; store them as float32"):
        precompute(model, clip, tmp_path, Settings(dtype="float16"))
    assert list(tmp_path.iterdir()) == []
    assert np.load(precompute(model, clip, tmp_path, Settings()).features).max() > 9e5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(stage="layer9"), "stage 'layer9' is not one of this model: it has stem, layer1"),
        (Settings(pool="space"), "pool is space, but outputs have no time or space"),
        (Settings(every=0), "every is 0, but must be a whole number from 1"),
        (Settings(batch=0), "batch is 0, but must be a whole number from 1"),
    ],
)
def test_settings_that_make_no_sense(
    model: HandedModel, clip: Path, tmp_path: Path, settings: Settings, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        precompute(model, clip, tmp_path / "to", settings)
    assert not (tmp_path / "to").exists()


def test_a_model_in_training_and_one_of_images_are_refused(package: Path, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in training mode"):
        precompute(load(package).train(), clip, tmp_path, Settings())
    images = load(write_package(tmp_path / "reid", tiny.REID_SPEC))
    with pytest.raises(UserError, match="fed single images"):
        precompute(images, clip, tmp_path, Settings())


class TestCommand:
    """Through an application of its own; `orchestrate` turns a `UserError` into exit code 2."""

    @staticmethod
    def run(*arguments: str | Path) -> Any:
        app = typer.Typer()
        app.command()(features_command)
        return CliRunner().invoke(app, list(map(str, arguments)))

    def test_a_damaged_video_stops_no_other(self, package: Path, clip: Path, tmp_path: Path) -> None:
        bad = tmp_path / "bad.mp4"
        bad.write_bytes(b"no video")
        other = write_video(tmp_path / "other.mp4", 9)
        done = self.run(package, bad, clip, other, "--to", tmp_path / "to", "--stage", "layer4")
        assert done.exit_code == 2
        assert "bad.mp4 can't be decoded: Invalid data" in done.output.replace("\n", " ")
        assert sorted(path.name for path in (tmp_path / "to").glob("*.json")) == [
            "clip.layer4.json",
            "other.layer4.json",
        ]

    def test_numbers_that_are_not_finite_stop_no_other(
        self, package: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The run failed, its input is not at fault: exit code 1."""
        calls = iter([RunError("some features are no finite numbers")])

        def once(*given: Any) -> Any:
            if error := next(calls, None):
                raise error
            return honest(*given)

        honest = video_module._features
        monkeypatch.setattr(video_module, "_features", once)
        other = write_video(tmp_path / "other.mp4", 9)
        done = self.run(package, clip, other, "--to", tmp_path / "to", "--json")
        assert done.exit_code == 1
        assert "no finite numbers" in done.stderr
        assert [row["features"] for row in json.loads(done.stdout)] == [str(tmp_path / "to" / "other.output.npy")]

    def test_json_is_json(self, package: Path, clip: Path, tmp_path: Path) -> None:
        done = self.run(package, clip, "--to", tmp_path, "--stage", "layer4", "--pool", "space", "--half", "--json")
        assert done.exit_code == 0, done.output
        (row,) = json.loads(done.stdout)
        assert row["shape"] == list(np.load(row["features"]).shape)
        assert Precomputed.__dataclass_fields__.keys() == row.keys()

    def test_two_of_one_name_are_refused_before_anything_is_done(self, clip: Path, tmp_path: Path) -> None:
        done = self.run(tmp_path / "no package", clip, tmp_path / "clip.avi", "--to", tmp_path / "to")
        assert isinstance(done.exception, UserError)
        assert "would both be written as clip" in str(done.exception)
        assert not (tmp_path / "to").exists()
