import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from configs.schema import DataSettings
from trainers.data import identities
from trainers.data.identities import Crop, IdentityManifest, build_identity_manifest

NAMES = (
    "bounding_box_train/0002_c1s1_000001_00.jpg",
    "bounding_box_train/0002_c3s1_000001_00.jpg",
    "bounding_box_train/0007_c1s1_000001_00.jpg",
    "query/0010_c1s1_000001_00.jpg",
    "bounding_box_test/0000_c1s1_000001_00.jpg",
    "bounding_box_test/0010_c2s1_000001_00.jpg",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny set, every image of its own noise."""
    root = tmp_path / "set"
    for number, name in enumerate(NAMES):
        write(root / name, seed=number)
    return root


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 16, 3), dtype=np.uint8)).save(path)


def build(root: Path, *, max_quarantined: float = 0.02, memory: Path | None = None) -> IdentityManifest:
    data = DataSettings(source="market1501", path=root, max_quarantined=max_quarantined)
    return build_identity_manifest(data, memory)


def test_training_identities_are_numbered_from_zero_and_others_keep_theirs(folder: Path) -> None:
    manifest = build(folder)
    assert manifest.classes == ("0002", "0007")
    assert [(crop.identity, crop.camera) for crop in manifest.train] == [(0, 1), (0, 3), (1, 1)]
    assert [(crop.identity, crop.camera) for crop in manifest.gallery] == [(0, 1), (10, 2)]
    assert manifest.val == manifest.query == (Crop("query/0010_c1s1_000001_00.jpg", 10, 1),)
    assert manifest.cameras == (1, 3)
    assert (manifest.root, manifest.source, manifest.listed) == (folder, "market1501", 6)


def test_it_is_read_back_as_it_was_saved(folder: Path, tmp_path: Path) -> None:
    manifest = build(folder)
    manifest.save(tmp_path / "manifest.json")
    assert IdentityManifest.load(tmp_path / "manifest.json") == manifest


@pytest.mark.parametrize("content", [None, "{}", "[1]", '{"root": "/", "train": [{"path": "a"}]}'])
def test_something_else_is_no_manifest(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="missing or no manifest of identities"):
        IdentityManifest.load(tmp_path / "manifest.json")


def test_the_fingerprint_is_of_the_content_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    first = build(folder)
    moved = folder.rename(tmp_path / "moved")
    assert build(moved) == dataclasses.replace(first, root=moved)


@pytest.mark.parametrize("change", ["pixels", "camera", "identity", "mask", "fewer"])
def test_the_fingerprint_sees_every_change(folder: Path, change: str) -> None:
    before = build(folder).fingerprint
    image = folder / NAMES[0]
    if change == "pixels":
        write(image, seed=99)
    elif change == "camera":
        image.rename(image.with_name(image.name.replace("c1", "c2")))
    elif change == "identity":
        image.rename(image.with_name(image.name.replace("0002", "0003")))
    elif change == "mask":
        write(folder / "masks" / NAMES[0].replace(".jpg", ".png"), seed=0)
    else:
        image.unlink()
    assert build(folder).fingerprint != before


def test_unusable_images_are_quarantined_with_a_reason(folder: Path) -> None:
    (folder / "bounding_box_train" / "0007_c2s1_000001_00.jpg").touch()
    (folder / "bounding_box_test" / "0010_c3s1_000001_00.jpg").write_text("no image")
    (folder / "bounding_box_test" / "0010_c4s1_000001_00.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    manifest = build(folder, max_quarantined=0.5)
    assert [crop.path for crop in manifest.gallery + manifest.train + manifest.query] == sorted(
        NAMES, key=lambda name: ("bounding_box_test", "bounding_box_train", "query").index(name.split("/")[0])
    )
    assert manifest.quarantined == (
        ("bounding_box_test/0010_c3s1_000001_00.jpg", "is no image"),
        ("bounding_box_test/0010_c4s1_000001_00.png", "is no image"),
        ("bounding_box_train/0007_c2s1_000001_00.jpg", "is empty (0 bytes)"),
    )
    with pytest.raises(UserError, match="3 of 9"):
        build(folder, max_quarantined=0.3)


def test_an_image_whose_mask_is_unusable_is_quarantined(folder: Path) -> None:
    mask = folder / "masks" / NAMES[0].replace(".jpg", ".png")
    mask.parent.mkdir(parents=True)
    mask.touch()
    [(path, reason)] = build(folder, max_quarantined=0.5).quarantined
    assert path == NAMES[0]
    assert reason == f"its mask masks/{NAMES[0].replace('.jpg', '.png')}: is empty (0 bytes)"


def test_a_damaged_end_is_found_when_pixels_are_needed_and_not_before(folder: Path) -> None:
    """A look reads headers only, so that large sets are listed fast."""
    image = folder / NAMES[0]
    image.write_bytes(image.read_bytes()[:-200])
    assert build(folder).quarantined == ()


def test_a_split_without_usable_images_is_an_error(folder: Path) -> None:
    (folder / NAMES[3]).write_text("no image")
    with pytest.raises(UserError, match="has no usable query image"):
        build(folder, max_quarantined=0.9)


def test_one_training_identity_is_an_error(folder: Path) -> None:
    (folder / NAMES[2]).unlink()
    with pytest.raises(UserError, match="a single training identity"):
        build(folder)


def test_nothing_to_be_found_is_an_error(folder: Path) -> None:
    """The only image of the query's identity is by the query's own camera."""
    found = folder / NAMES[5]
    found.rename(found.with_name("0010_c1s1_000001_00.jpg"))
    with pytest.raises(UserError, match="no query has an image of its identity by another camera"):
        build(folder)


def test_an_unchanged_file_is_not_looked_at_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(folder, memory=tmp_path / "memory")
    looked: list[Path] = []
    monkeypatch.setattr(identities, "check_header", lambda path, size: looked.append(path))
    assert build(folder, memory=tmp_path / "memory") == first
    assert looked == []
    (folder / NAMES[3]).write_bytes((folder / NAMES[4]).read_bytes())
    assert build(folder, memory=tmp_path / "memory").fingerprint != first.fingerprint
    assert looked == [folder / NAMES[3]]


def test_the_embedded_set_is_listed_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    made: list[Path | None] = []

    def make(path: Path | None) -> Path:
        made.append(path)
        return folder

    monkeypatch.setattr("trainers.data.market1501.make_synthetic_people", make)
    manifest = build_identity_manifest(DataSettings(source="synthetic-people"))
    assert (made, manifest.root, manifest.source) == ([None], folder, "synthetic-people")
