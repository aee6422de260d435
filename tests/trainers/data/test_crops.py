import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compression.spec import Factors, NetworkSpec
from configs.errors import UserError
from configs.schema import ReidSettings
from trainers.data import crops
from trainers.data.crop_sampling import CropSample, epoch_order, sample_crop, steps_per_epoch
from trainers.data.crops import (
    IdentityBatch,
    ImageCache,
    decode_image,
    decode_mask,
    evaluation_batches,
    normalise_images,
    resized,
    train_batches,
)
from trainers.data.decode import DecodeError
from trainers.data.identities import Crop, IdentityManifest
from trainers.data.quarantine import Quarantine

FULL = NetworkSpec(backbone="any", classes=4, clip_frames=1, side=8, aspect=2.0, blocks=(1,))
SMALL = FULL.replace(factors=Factors(s=2.0))
PLAIN = ReidSettings(images=2, pad=0, flip=False, ball_occlusion=0.0, person_occlusion=0.0)
"""Images as they are."""
EVERYTHING = ReidSettings(images=2, pad=2, flip=True, ball_occlusion=0.99, person_occlusion=0.99, erase=0.99)
IDENTITIES, IMAGES = 4, 3


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def manifest(tmp_path: Path) -> IdentityManifest:
    """Four identities of three images each, by two cameras: noise of 16 × 8 pixels, the person is the middle."""
    rng = np.random.default_rng(0)
    mask = np.zeros((16, 8), np.uint8)
    mask[2:14, 2:6] = 255
    train = []
    for identity in range(IDENTITIES):
        for number in range(IMAGES):
            path = f"train/{identity}-{number}.png"
            write(tmp_path / path, rng.integers(0, 256, (16, 8, 3), dtype=np.uint8))
            write(tmp_path / "masks" / path, mask)
            train.append(Crop(path, identity, camera=(3, 5)[number % 2], mask=f"masks/{path}"))
    return IdentityManifest(
        root=tmp_path,
        source="market1501",
        classes=("0001", "0002", "0003", "0004"),
        train=tuple(train),
        query=(train[0],),
        gallery=tuple(train[1:]),
        quarantined=(),
        fingerprint="any",
    )


def epoch(manifest: IdentityManifest, reid: ReidSettings = EVERYTHING, **options: Any) -> list[IdentityBatch]:
    given = {"views": [FULL], "seed": 0, "epoch": 0, "batch": 4, **options}
    return list(train_batches(manifest, reid, **given))


def assert_same(some: list[IdentityBatch], other: list[IdentityBatch]) -> None:
    assert len(some) == len(other) > 0
    for a, b in zip(some, other, strict=True):
        torch.testing.assert_close(
            (a.views, a.identities, a.cameras, a.step), (b.views, b.identities, b.cameras, b.step), rtol=0, atol=0
        )


@pytest.mark.parametrize(("batch", "steps"), [(4, 3), (6, 2), (8, 1), (12, 1), (16, 1)])
def test_an_epoch_has_as_many_steps_as_its_images_fill(manifest: IdentityManifest, batch: int, steps: int) -> None:
    assert steps_per_epoch(manifest, batch) == steps
    for images in (2, 4):
        if batch % images == 0 and 2 <= batch // images <= IDENTITIES:
            made = epoch(manifest, PLAIN.model_copy(update={"images": images}), batch=batch)
            assert [(len(b.identities), b.step) for b in made] == [(batch, step) for step in range(steps)]


def test_a_batch_has_p_identities_with_k_images_one_after_the_other(manifest: IdentityManifest) -> None:
    for batch in epoch(manifest, batch=6):
        pairs = batch.identities.view(3, 2)
        assert (pairs[:, 0] == pairs[:, 1]).all()
        assert len(set(pairs[:, 0].tolist())) == 3


def test_plain_images_are_the_files_with_their_labels(manifest: IdentityManifest) -> None:
    order = epoch_order(manifest.train, steps=3, batch=4, images=2, epoch=0, seed=0)
    for batch, indices in zip(epoch(manifest, PLAIN), order, strict=True):
        wanted = [manifest.train[index] for index, _ in indices]
        assert torch.equal(batch.views[0], torch.stack([decode_image(manifest.root / crop.path) for crop in wanted]))
        assert batch.identities.tolist() == [crop.identity for crop in wanted]
        assert [manifest.cameras[camera] for camera in batch.cameras.tolist()] == [crop.camera for crop in wanted]


def test_the_same_epoch_is_the_same_again_and_another_is_not(manifest: IdentityManifest) -> None:
    assert_same(epoch(manifest, epoch=3), epoch(manifest, epoch=3))
    first, other = epoch(manifest, epoch=3), epoch(manifest, epoch=4)
    assert not torch.equal(first[0].views[0], other[0].views[0])


@pytest.mark.parametrize("max_bytes", [0, 1000, 2**20])
def test_the_cache_does_not_change_a_batch(manifest: IdentityManifest, max_bytes: int) -> None:
    cache = ImageCache(max_bytes)
    assert_same(epoch(manifest), epoch(manifest, cache=cache))
    assert_same(epoch(manifest), epoch(manifest, cache=cache))


def test_the_cache_reads_each_file_once_while_it_has_room(
    manifest: IdentityManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image of 16 × 8 takes 384 bytes: five fit into 2000."""
    read: list[Path] = []

    def decode(path: Path) -> torch.Tensor:
        read.append(path)
        return decode_image(path)

    monkeypatch.setattr(crops, "decode_image", decode)
    for max_bytes, reads in ((2**20, 6), (2000, 6 + 1)):
        read.clear()
        cache = ImageCache(max_bytes)
        for crop in manifest.train[:6] * 2:
            cache.image(manifest.root / crop.path)
        assert len(read) == reads


def test_decoding_processes_make_the_same_batches(manifest: IdentityManifest) -> None:
    assert_same(epoch(manifest), epoch(manifest, loader_workers=1))


def test_views_are_of_the_same_picture_in_each_network_s_size(manifest: IdentityManifest) -> None:
    both = epoch(manifest, views=[SMALL, FULL])
    for batch in both:
        assert [tuple(view.shape[1:]) for view in batch.views] == [(3, 8, 4), (3, 16, 8)]
    for number, spec in enumerate((SMALL, FULL)):
        alone = epoch(manifest, views=[spec])
        assert all(torch.equal(a.views[0], b.views[number]) for a, b in zip(alone, both, strict=True))


def test_a_reduced_view_is_the_resized_image(manifest: IdentityManifest) -> None:
    [full, small] = epoch(manifest, PLAIN, views=[FULL, SMALL], batch=8)[0].views
    assert torch.equal(small, torch.stack([resized(image, (8, 4)) for image in full]))


def test_networks_of_different_inputs_are_an_error(manifest: IdentityManifest) -> None:
    with pytest.raises(ValueError, match="different unreduced inputs"):
        epoch(manifest, views=[FULL, FULL.replace(side=16)])


def by_hand(image: torch.Tensor, sample: CropSample, pad: int) -> torch.Tensor:
    """Pad with black, crop, mirror."""
    height, width = image.shape[1:]
    canvas = torch.zeros(3, height + 2 * pad, width + 2 * pad, dtype=torch.uint8)
    canvas[:, pad : pad + height, pad : pad + width] = image
    top, left = int(sample.crop_y * (2 * pad + 1)), int(sample.crop_x * (2 * pad + 1))
    view = canvas[:, top : top + height, left : left + width]
    return view.flip(-1) if sample.flip < 0.5 else view


def test_images_are_moved_and_mirrored_as_their_samples_say(manifest: IdentityManifest) -> None:
    """Padding is in pixels of the unreduced network: 2 of them, 1 at half the size."""
    reid = PLAIN.model_copy(update={"pad": 2, "flip": True})
    order = epoch_order(manifest.train, steps=3, batch=4, images=2, epoch=7, seed=5)
    for batch, step in zip(epoch(manifest, reid, views=[FULL, SMALL], epoch=7, seed=5), order, strict=True):
        for place, (index, occurrence) in enumerate(step):
            path = manifest.train[index].path
            image, sample = decode_image(manifest.root / path), sample_crop(path, occurrence, 7, 5)
            assert torch.equal(batch.views[0][place], by_hand(image, sample, 2))
            assert torch.equal(batch.views[1][place], by_hand(resized(image, (8, 4)), sample, 1))


@pytest.mark.parametrize(("field", "share"), [("ball_occlusion", 0.3), ("person_occlusion", 0.3), ("erase", 0.3)])
def test_probabilities_are_shares_of_the_images(manifest: IdentityManifest, field: str, share: float) -> None:
    """360 images: the standard deviation of the share is 0.024. Somebody placed beside the person stays unseen."""
    reid = PLAIN.model_copy(update={field: share})
    cache = ImageCache(2**20)
    changed = []
    for number in range(30):
        plain, altered = (epoch(manifest, r, epoch=number, cache=cache) for r in (PLAIN, reid))
        for a, b in zip(plain, altered, strict=True):
            changed += (a.views[0] != b.views[0]).flatten(1).any(1).tolist()
            assert torch.equal(a.identities, b.identities)
            assert torch.equal(a.cameras, b.cameras)
    assert np.mean(changed) == pytest.approx(share, abs=0.1)


def test_without_masks_nobody_stands_in_front(manifest: IdentityManifest) -> None:
    reid = PLAIN.model_copy(update={"person_occlusion": 0.99})
    train = tuple(dataclasses.replace(crop, mask=None) for crop in manifest.train)
    assert_same(epoch(dataclasses.replace(manifest, train=train), reid), epoch(manifest, PLAIN))


def test_an_image_that_does_not_decode_is_replaced_by_another_of_its_identity(manifest: IdentityManifest) -> None:
    bad = manifest.root / manifest.train[4].path
    bad.write_bytes(bad.read_bytes()[:-100])
    quarantine = Quarantine(12, 0.1)
    before = epoch(manifest, PLAIN, batch=6, epoch=1)
    for number in range(3):
        for batch in epoch(manifest, PLAIN, batch=6, epoch=number, quarantine=quarantine):
            counts = Counter(batch.identities.tolist())
            assert sorted(counts.values()) == [2, 2, 2]
    assert [path for path, _ in quarantine.items()] == [manifest.train[4].path]
    after = epoch(manifest, PLAIN, batch=6, epoch=1, quarantine=quarantine)
    assert all(torch.equal(a.identities, b.identities) for a, b in zip(before, after, strict=True))


def test_an_identity_without_images_is_missing_from_its_batches(manifest: IdentityManifest) -> None:
    for number in range(3, 6):
        (manifest.root / manifest.train[number].path).write_text("no image")
    quarantine = Quarantine(12, 0.3)
    sizes = {len(batch.identities) for batch in epoch(manifest, batch=6, quarantine=quarantine)}
    assert sizes <= {4, 6}
    assert len(quarantine.items()) == 3


def test_too_many_bad_images_are_an_error(manifest: IdentityManifest) -> None:
    (manifest.root / manifest.train[4].path).write_text("no image")
    with pytest.raises(UserError, match=r"train/1-1\.png: cannot identify image file"):
        [epoch(manifest, epoch=number) for number in range(3)]


def test_a_mask_of_another_size_is_noted_and_not_used(manifest: IdentityManifest) -> None:
    for crop in manifest.train:
        write(manifest.root / str(crop.mask), np.full((8, 8), 255, np.uint8))
    reid = PLAIN.model_copy(update={"person_occlusion": 0.99})
    quarantine = Quarantine(12, 0.999)
    assert_same(epoch(manifest, reid, quarantine=quarantine), epoch(manifest, PLAIN))
    assert {reason for _, reason in quarantine.items()} == {"has (8, 8) pixels, but its image (16, 8)"}


def test_evaluation_images_are_resized_in_order(manifest: IdentityManifest) -> None:
    batches = list(evaluation_batches(manifest.root, manifest.gallery, SMALL, batch=4))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    wanted = [resized(decode_image(manifest.root / crop.path), (8, 4)) for crop in manifest.gallery]
    assert torch.equal(torch.cat([batch.images for batch in batches]), torch.stack(wanted))


def test_evaluation_leaves_out_what_does_not_decode(manifest: IdentityManifest) -> None:
    (manifest.root / manifest.gallery[1].path).unlink()
    quarantine = Quarantine(11, 0.5)
    batches = list(evaluation_batches(manifest.root, manifest.gallery, SMALL, batch=2, quarantine=quarantine))
    assert torch.cat([batch.indices for batch in batches]).tolist() == [0, *range(2, 11)]
    assert quarantine.items() == [(manifest.gallery[1].path, "No such file or directory")]
    for path in (manifest.gallery[2].path, manifest.gallery[3].path):
        (manifest.root / path).unlink()
    quarantine = Quarantine(11, 0.5)
    first = next(iter(evaluation_batches(manifest.root, manifest.gallery[1:], SMALL, batch=3, quarantine=quarantine)))
    assert first.indices.tolist() == [3, 4, 5]  # the first three are missing, and so is their batch


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_images_are_rgb_however_they_are_stored(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (4, 6), (200, 200, 200)).convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path)
    decoded = decode_image(path)
    assert decoded.shape == (3, 6, 4)
    assert (decoded.int() - 200).abs().max() <= 4  # a palette's nearest colour


def test_masks_are_true_above_half(tmp_path: Path) -> None:
    write(tmp_path / "mask.png", np.array([[0, 127, 128, 255]], np.uint8))
    assert decode_mask(tmp_path / "mask.png").tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_a_damaged_file_is_a_decode_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    write(path, np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DecodeError, match="truncated"):
        decode_image(path)


def test_normalised_images_have_the_backbone_s_mean_and_deviation() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 2)
    out = normalise_images(images, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    assert out[:, :, 0, 0].tolist() == [[-1.0, -1.0, 0.0], [1.0, 3.0, 1.0]]
    assert out.is_contiguous(memory_format=torch.channels_last)
