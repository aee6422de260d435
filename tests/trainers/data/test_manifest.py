import shutil
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.schema import DataSettings
from tests.trainers.data.conftest import WriteVideo
from trainers.data import probes
from trainers.data.decode import VideoInfo, probe_video
from trainers.data.manifest import Manifest, Video, build_manifest


def build(root: Path, *, min_frames: int = 16, max_quarantined: float = 0.9) -> Manifest:
    return build_manifest(DataSettings(source="csv", path=root, max_quarantined=max_quarantined), min_frames=min_frames)


def test_videos_are_listed_by_path_with_their_lengths(csv_folder: Path) -> None:
    manifest = build(csv_folder)
    assert manifest.classes == ("0", "1")
    assert manifest.train == tuple(Video(f"train{i}.mp4", i % 2, 20, 30.0) for i in range(6))
    assert manifest.val == tuple(Video(f"val{i}.mp4", i % 2, 20, 30.0) for i in range(3))
    assert manifest.quarantined == ()


def test_bad_files_are_quarantined_with_their_reasons(csv_folder: Path, write_video: WriteVideo) -> None:
    (csv_folder / "train0.mp4").write_bytes(b"")
    (csv_folder / "train1.mp4").write_bytes(b"no video\n" * 100)
    half = (csv_folder / "train2.mp4").read_bytes()[:2000]
    (csv_folder / "train2.mp4").write_bytes(half)
    write_video(csv_folder / "train3.mp4", frames=8)
    (csv_folder / "val0.mp4").unlink()
    manifest = build(csv_folder)
    reasons = dict(manifest.quarantined)
    assert reasons["train0.mp4"] == "is empty (0 bytes)"
    assert "Invalid data" in reasons["train1.mp4"]
    assert "Invalid data" in reasons["train2.mp4"]
    assert reasons["train3.mp4"] == "8 frames, but a clip needs 16"
    assert reasons["val0.mp4"] == "does not exist"
    assert [video.path for video in manifest.train + manifest.val] == [
        "train4.mp4", "train5.mp4", "val1.mp4", "val2.mp4"
    ]  # fmt: skip


def test_too_many_bad_files_are_one_error_with_ten_of_them(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video(tmp_path / "good.mp4")
    (tmp_path / "train.csv").write_text("good.mp4 0\n" + "".join(f"gone{i:02d}.mp4 0\n" for i in range(12)))
    (tmp_path / "val.csv").write_text("good.mp4 0\n")
    with pytest.raises(UserError, match=r"12 of 14 files can't be used.* allows a share of 0\.8") as caught:
        build(tmp_path, max_quarantined=0.8)
    message = str(caught.value)
    assert "gone09.mp4: does not exist" in message
    assert "gone10.mp4" not in message
    assert "… and 2 more" in message
    assert len(build(tmp_path, max_quarantined=0.9).quarantined) == 12


def test_a_clip_longer_than_every_video(csv_folder: Path, write_video: WriteVideo) -> None:
    write_video(csv_folder / "train3.mp4", frames=30)
    with pytest.raises(UserError, match=r"a clip of 64 frames .* every video: the longest, train3\.mp4, has 30; set"):
        build(csv_folder, min_frames=64)


def test_a_split_without_usable_videos(csv_folder: Path) -> None:
    for file in csv_folder.glob("val*.mp4"):
        file.unlink()
    with pytest.raises(UserError, match="no usable val video"):
        build(csv_folder)


def test_the_fingerprint_does_not_depend_on_the_place(
    csv_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(csv_folder, elsewhere)
    lines = (elsewhere / "train.csv").read_text().splitlines()
    (elsewhere / "train.csv").write_text("\n".join(reversed(lines)))
    here, there = build(csv_folder), build(elsewhere)
    assert here.fingerprint == there.fingerprint
    assert here.train == there.train
    assert here.root != there.root


def swap_label(root: Path, write_video: WriteVideo) -> None:
    (root / "train.csv").write_text((root / "train.csv").read_text().replace("train0.mp4 0", "train0.mp4 1"))


def rename_video(root: Path, write_video: WriteVideo) -> None:
    (root / "train0.mp4").rename(root / "other.mp4")
    (root / "train.csv").write_text((root / "train.csv").read_text().replace("train0.mp4", "other.mp4"))


def change_content(root: Path, write_video: WriteVideo) -> None:
    content = bytearray((root / "train0.mp4").read_bytes())
    content[100] ^= 1  # a bit of x264's note about itself: the size and the pictures stay
    (root / "train0.mp4").write_bytes(content)


def lose_video(root: Path, write_video: WriteVideo) -> None:
    (root / "train0.mp4").unlink()


@pytest.mark.parametrize("change", [swap_label, rename_video, change_content, lose_video])
def test_the_fingerprint_depends_on_the_content(csv_folder: Path, write_video: WriteVideo, change: WriteVideo) -> None:
    before = build(csv_folder).fingerprint
    change(csv_folder, write_video)
    assert build(csv_folder).fingerprint != before


def test_saved_and_loaded(csv_folder: Path) -> None:
    (csv_folder / "val0.mp4").unlink()
    manifest = build(csv_folder)
    manifest.save(csv_folder / "manifest.json")
    assert Manifest.load(csv_folder / "manifest.json") == manifest


@pytest.mark.parametrize("content", [None, "", "[]", '{"root": "."}'])
def test_loading_something_else(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="missing or no data manifest"):
        Manifest.load(tmp_path / "manifest.json")


def test_real_clips(real_clips: Path, tmp_path: Path) -> None:
    """The 32-frame clip is too short for 64 frames; the others are used."""
    (tmp_path / "train.csv").write_text(
        f"{real_clips}/arm_wrestling.mp4 0\n{real_clips}/clean_pool.mp4 1\n{real_clips}/clean_pool_short.mp4 1\n"
    )
    (tmp_path / "val.csv").write_text(f"{real_clips}/apply_eye_makeup.avi 0\n")
    manifest = build(tmp_path, min_frames=64)
    assert [video.frames for video in manifest.train + manifest.val] == [280, 300, 164]
    [(path, reason)] = manifest.quarantined
    assert path.endswith("clean_pool_short.mp4")
    assert reason == "32 frames, but a clip needs 64"


def test_an_unchanged_file_is_not_looked_at_again(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val"):
        write_video(tmp_path / "set" / split / "one" / "a.mp4", frames=8)
    data, memory = DataSettings(source="folders", path=tmp_path / "set"), tmp_path / "memory"
    first = build_manifest(data, min_frames=8, memory=memory)
    looked: list[Path] = []

    def look(path: Path) -> VideoInfo:
        looked.append(path)
        return probe_video(path)

    monkeypatch.setattr(probes, "probe_video", look)
    assert build_manifest(data, min_frames=8, memory=memory) == first
    assert looked == []
    changed = tmp_path / "set" / "val" / "one" / "a.mp4"
    write_video(changed, frames=9)
    second = build_manifest(data, min_frames=8, memory=memory)
    assert looked == [changed]
    assert (second.val[0].frames, second.train) == (9, first.train)
    assert second.fingerprint != first.fingerprint
