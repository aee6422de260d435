import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from configs.schema import DataSettings
from trainers.data.identities import build_identity_manifest
from trainers.data.people import MARKS, Figure, PeopleSettings, draw_cameras, draw_figures, draw_person
from trainers.data.people import make_synthetic_people as make

FEW = PeopleSettings(
    train_identities=4, test_identities=4, train_images=2, test_images=3, cameras=2, distractors=3, junk=2, family=4
)
IMAGES = 4 * 2 * 2 + 4 * 2 * 3 + 3 + 2
CALM = dataclasses.replace(FEW, noise=(0.0, 0.0), tint=0.0, tilt=0.0, scale=(1.0, 1.0), shift=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("people") / "set", FEW)


def test_it_is_a_market1501_data_set(folder: Path) -> None:
    manifest = build_identity_manifest(DataSettings(source="synthetic-people", path=folder))
    assert manifest.classes == ("0001", "0002", "0003", "0004")
    assert (len(manifest.train), len(manifest.query), len(manifest.gallery)) == (16, 8, 16 + 3 + 2)
    assert {(crop.identity, crop.camera) for crop in manifest.query} == set(itertools.product(range(5, 9), (1, 2)))
    assert sorted(crop.identity for crop in manifest.gallery) == [-1] * 2 + [0] * 3 + [
        i for i in range(5, 9) for _ in range(4)
    ]
    assert manifest.quarantined == ()


def test_every_image_has_a_mask_of_its_size_with_somebody(folder: Path) -> None:
    manifest = build_identity_manifest(DataSettings(source="synthetic-people", path=folder))
    for crop in manifest.train + manifest.query + manifest.gallery:
        assert crop.mask is not None
        with Image.open(folder / crop.path) as image, Image.open(folder / crop.mask) as mask:
            assert image.size == mask.size == (40, 40 if crop.identity < 0 else 80)
            assert 0.05 < (np.asarray(mask) > 127).mean() < 0.6


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", FEW)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 2 * IMAGES + 1
    assert all((folder / file).read_bytes() == (other / file).read_bytes() for file in files)


def test_families_share_all_colours_and_differ_in_marks() -> None:
    settings = PeopleSettings(family=3, marks=2)
    figures = draw_figures(settings, 30, np.random.default_rng(0))
    families = [figures[i : i + 3] for i in range(0, 30, 3)]
    for family in families:
        assert len({(f.top, f.bottom, f.stripe, f.skin, f.hair, f.build) for f in family}) == 1
        for one, other in itertools.combinations(family, 2):
            assert sum(getattr(one, mark) != getattr(other, mark) for mark in MARKS) >= 2
    assert len({(family[0].top, family[0].bottom) for family in families}) == 10
    assert len({family[0].top for family in families}) < 10  # tops are shared between families


def test_more_families_than_colours_is_an_error() -> None:
    with pytest.raises(ValueError, match="114 people in families of 2 need 57 pairs of colours, but there are 56"):
        draw_figures(PeopleSettings(family=2), 114, np.random.default_rng(0))


def drawn(figure: Figure, settings: PeopleSettings = CALM, seed: int = 0) -> np.ndarray:
    camera = draw_cameras(settings, np.random.default_rng(1))[0]
    return draw_person(figure, camera, settings, np.random.default_rng(seed)).pixels.astype(int)


FIGURE = Figure(
    top=(196, 58, 52), bottom=(58, 92, 178), stripe=(206, 206, 200), skin=(198, 150, 112), hair=(40, 30, 26)
)


@pytest.mark.parametrize(
    "change",
    [
        {"stripes": ("across", 0.13)},
        {"stripes": ("along", 0.05)},
        {"bag": "satchel"},
        {"bag": "backpack"},
        {"hat": True},
        {"sleeves": False},
        {"shorts": True},
    ],
)
def test_every_mark_can_be_seen(change: dict[str, object]) -> None:
    """Same pose, camera and noise: at least 30 of the 3200 pixels change by more than 20 levels."""
    changed = np.abs(drawn(dataclasses.replace(FIGURE, **change)) - drawn(FIGURE)).max(-1)  # type: ignore[arg-type]
    assert (changed > 20).sum() >= 30


def test_cameras_disagree_more_about_colours_than_families_do() -> None:
    """The mean colour says which camera it is, rather than who."""
    settings = PeopleSettings()
    rng = np.random.default_rng(0)
    figures, cameras = draw_figures(settings, 12, rng), draw_cameras(settings, rng)
    means = np.array([[draw_person(f, c, settings, rng).pixels.mean((0, 1)) for c in cameras] for f in figures])
    assert means.mean(0).std(0).mean() > means.mean(1).std(0).mean()


@pytest.mark.parametrize("seed", range(6))
def test_what_stands_in_front_is_taken_out_of_the_mask(seed: int) -> None:
    camera = draw_cameras(CALM, np.random.default_rng(1))[0]
    free = draw_person(FIGURE, camera, CALM, np.random.default_rng(seed))
    hidden = draw_person(FIGURE, camera, CALM, np.random.default_rng(seed), occluders=[FIGURE])
    assert not (hidden.mask & ~free.mask).any()
    assert 0 < hidden.mask.sum() < free.mask.sum()
    assert (hidden.pixels != free.pixels).any()


def test_it_is_made_once_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    progress: list[tuple[int, int]] = []
    folder = make(settings=FEW, on_progress=lambda done, total: progress.append((done, total)))
    assert folder == tmp_path / "orchestrate" / f"synthetic-people-{FEW.digest}"
    assert progress == [(i, IMAGES) for i in range(1, IMAGES + 1)]
    assert make(settings=FEW, on_progress=lambda *_: pytest.fail("made twice")) == folder
    assert FEW.digest != dataclasses.replace(FEW, tint=0.1).digest


class Killed(BaseException):
    pass


def test_stopped_midway_it_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        make(tmp_path / "set", FEW, stop)
    assert list(tmp_path.iterdir()) == []


def test_of_two_at_once_the_second_finds_the_first_ones(tmp_path: Path) -> None:
    """The other process finishes while this one is at its last image."""

    def other_process(done: int, total: int) -> None:
        if done == total:
            make(tmp_path / "set", FEW)

    assert make(tmp_path / "set", FEW, other_process) == tmp_path / "set"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty and holds no synthetic people"):
        make(tmp_path, FEW)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
