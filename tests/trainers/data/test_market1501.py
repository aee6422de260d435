import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.schema import DataSettings
from trainers.data.market1501 import FOLDERS, IdentityListing, ListedImage, list_market1501

NAMES = {
    "train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000001_00.jpg", "0007_c1s2_000001_01.jpg"],
    "query": ["0010_c1s1_000001_00.jpg"],
    "gallery": ["-1_c3s1_000001_00.jpg", "0000_c1s1_000001_00.jpg", "0010_c2s1_000001_00.jpg"],
}
"""As the original's; the listing never opens them."""


def make(root: Path, **names: Sequence[str]) -> Path:
    for split, files in {**NAMES, **names}.items():
        (root / FOLDERS[split]).mkdir(parents=True)
        for name in files:
            (root / FOLDERS[split] / name).touch()
    return root


def listed(root: Path) -> IdentityListing:
    return list_market1501(DataSettings(source="market1501", path=root))


def test_names_say_who_and_which_camera(tmp_path: Path) -> None:
    listing = listed(make(tmp_path))
    assert listing.root == tmp_path
    assert [(image.identity, image.camera) for image in listing.train] == [(2, 1), (2, 2), (7, 1)]
    assert listing.query == (ListedImage("query/0010_c1s1_000001_00.jpg", 10, 1, None),)
    assert [(image.identity, image.camera) for image in listing.gallery] == [(-1, 3), (0, 1), (10, 2)]


@pytest.mark.parametrize(
    ("name", "identity", "camera"),
    [("0001_c2_f0046182.jpg", 1, 2), ("12345_c12s1_000001_00.PNG", 12345, 12), ("0003_c6.jpeg", 3, 6)],
)
def test_other_sets_with_the_same_beginning_are_read(tmp_path: Path, name: str, identity: int, camera: int) -> None:
    """DukeMTMC's names, five digits, two-digit cameras."""
    [image, *_] = sorted(listed(make(tmp_path, gallery=[name])).gallery, key=lambda image: image.path)
    assert (image.identity, image.camera) == (identity, camera)


def test_what_is_no_image_is_ignored(tmp_path: Path) -> None:
    names = [*NAMES["train"], "Thumbs.db", ".0002_c1s1_000451_03.jpg", "readme.txt"]
    assert listed(make(tmp_path, train=names)).train == listed(make(tmp_path / "other")).train


@pytest.mark.parametrize("name", ["person.jpg", "002_c1s1_000001_00.jpg", "0002s1_000001_00.jpg", "-2_c1s1_1_0.jpg"])
def test_an_image_with_another_name_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"query/{name}: the name must start with identity .* 0002_c1s1_000451_03.jpg"):
        listed(make(tmp_path, query=[*NAMES["query"], name]))


def test_masks_are_found_beside_the_splits(tmp_path: Path) -> None:
    make(tmp_path)
    mask = tmp_path / "masks" / "bounding_box_train" / "0007_c1s2_000001_01.png"
    mask.parent.mkdir(parents=True)
    mask.touch()
    masks = [image.mask for image in listed(tmp_path).train]
    assert masks == [None, None, "masks/bounding_box_train/0007_c1s2_000001_01.png"]


def test_junk_teaches_nothing_and_asks_for_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(
        tmp_path,
        train=[*NAMES["train"], "-1_c1s1_000001_00.jpg", "0000_c1s1_000001_00.jpg"],
        query=[*NAMES["query"], "-1_c1s1_000001_00.jpg"],
    )
    with caplog.at_level(logging.WARNING):
        listing = listed(root)
    assert {image.identity for image in (*listing.train, *listing.query)} == {2, 7, 10}
    assert "bounding_box_train: 2 images without an identity are left out" in caplog.text


def test_identities_in_training_and_queries_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        listed(make(tmp_path, query=["0007_c1s1_000001_00.jpg"]))
    assert "1 of the identities asked for are in training too (0007, …)" in caplog.text


def test_separate_identities_are_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        listed(make(tmp_path))
    assert caplog.text == ""


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        listed(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data\.path is not set"):
        list_market1501(DataSettings(source="market1501"))
    (make(tmp_path) / "query" / NAMES["query"][0]).unlink()
    with pytest.raises(UserError, match=r"query has no image \(\.jpg"):
        listed(tmp_path)
    (tmp_path / "query").rmdir()
    with pytest.raises(UserError, match="has no folder query/; Market-1501's layout has bounding_box_train/, query/"):
        listed(tmp_path)


def test_a_split_of_junk_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="query has no image of a known identity"):
        listed(make(tmp_path, query=["-1_c1s1_000001_00.jpg"]))
