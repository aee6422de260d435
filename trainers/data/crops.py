"""The images that a re-identification network is trained and evaluated on.

Which images a training batch has, and what is drawn for each, is said by `crop_sampling.py`; this module decodes and
alters them. Teacher and student are given the same altered picture, each in its own size.

    decode → ball, other person, rectangle (as decoded) → resize, pad, crop, flip (per network)

Axes: image, 3 for red, green, blue, height, width. Units: pixels; settings speak of those of the unreduced network.

Sources:
    [1] E²TAD: resize (bicubic), pad, random crop, flip, random erasing (`specs/e2tad.md` section 8.3), occlusion (9).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compression.spec import NetworkSpec
from configs.schema import ReidSettings
from trainers.data.clips import run_ahead
from trainers.data.crop_sampling import CropSample, check_batch, epoch_order, sample_crop, steps_per_epoch
from trainers.data.decode import DecodeError
from trainers.data.identities import Crop, IdentityManifest
from trainers.data.occlusion import (
    BALL_RADIUS,
    DONOR_ASIDE,
    DONOR_DOWN,
    DONOR_SCALE,
    ERASED_AREA,
    ERASED_ASPECT,
    erase_rectangle,
    occlude_with_ball,
    occlude_with_person,
    within,
)
from trainers.data.quarantine import Quarantine
from trainers.framing import normalise_images, resize_pictures

__all__ = [
    "EvaluationImages",
    "IdentityBatch",
    "ImageCache",
    "decode_image",
    "decode_mask",
    "evaluation_batches",
    "normalise_images",
    "resized",
    "train_batches",
]

BALL_FILL = (0, 0, 0)
Read = TypeVar("Read")


@dataclass(frozen=True)
class IdentityBatch:
    """Training images as every network sees them; those of one identity follow one another."""

    views: tuple[UInt8[Tensor, "image 3 _height _width"], ...]
    """One tensor per network, in the order asked for."""
    identities: Int64[Tensor, " image"]
    """Indices into the manifest's classes."""
    cameras: Int64[Tensor, " image"]
    """Indices into the manifest's cameras."""
    step: int = 0
    """Which step of the epoch they are."""
    share: float = 1.0
    """Part of that step's images: all of them, since triplets are sought in the whole batch."""


class EvaluationImages(NamedTuple):
    """Evaluation images, and which of those asked for they are."""

    images: Tensor
    """uint8 [image, 3, height, width]."""
    indices: Tensor
    """int64 [image]."""


class ImageCache:
    """Decoded images kept in memory until it is full; the others are decoded each time.

    Nothing is forgotten for something else: an epoch asks for every image once, so what was used last is needed last.
    For one thread at a time.

    Args:
        max_bytes: memory for decoded images and masks.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._kept: dict[Path, Tensor] = {}

    def image(self, path: Path) -> UInt8[Tensor, "3 height width"]:
        """As `decode_image`, from memory where possible.

        Raises:
            DecodeError: as `decode_image`.
        """
        return self._kept[path] if path in self._kept else self._keep(path, decode_image(path))

    def mask(self, path: Path) -> Bool[Tensor, "height width"]:
        """As `decode_mask`, likewise."""
        return self._kept[path] if path in self._kept else self._keep(path, decode_mask(path))

    def _keep(self, path: Path, decoded: Tensor) -> Tensor:
        if decoded.nbytes <= self._left:
            self._kept[path] = decoded
            self._left -= decoded.nbytes
        return decoded


def decode_image(path: Path) -> UInt8[Tensor, "3 height width"]:
    """An image file as red, green and blue, whatever it is stored as.

    Raises:
        DecodeError: it is missing, no image, or damaged.
    """
    return torch.from_numpy(_decode(path, "RGB")).permute(2, 0, 1).contiguous()


def decode_mask(path: Path) -> Bool[Tensor, "height width"]:
    """A mask file: true above half brightness.

    Raises:
        DecodeError: as `decode_image`.
    """
    return torch.from_numpy(_decode(path, "L") > 127)


def _decode(path: Path, mode: str) -> UInt8[np.ndarray, "height width *colour"]:
    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DecodeError(path, getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def train_batches(
    manifest: IdentityManifest,
    reid: ReidSettings,
    views: Sequence[NetworkSpec],
    *,
    seed: int,
    epoch: int,
    batch: int,
    loader_workers: int = 0,
    cache: ImageCache | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[IdentityBatch]:
    """An epoch of training.

    An image that does not decode is noted, and another of its identity takes its place. An identity none of whose
    images decode is missing from its batches.

    Args:
        manifest: the data.
        reid: images per identity, and what is done to them.
        views: the networks to be fed, reduced from one unreduced input.
        seed: of the run.
        epoch: its number.
        batch: images per step.
        loader_workers: decoding processes; 0 decodes ahead in a thread.
        cache: serves the decoding thread; decoding processes do without.
        quarantine: takes the images that fail; none: the first failure is an error.

    Raises:
        UserError: the batch does not fit the data, or too many images failed.
    """
    inputs = {(spec.side, spec.aspect) for spec in views}
    if len(inputs) > 1:
        raise ValueError(f"the networks have different unreduced inputs (width, aspect): {sorted(inputs, key=str)}")
    check_batch(manifest, batch, reid.images)
    steps = steps_per_epoch(manifest, batch)
    order = epoch_order(manifest.train, steps=steps, batch=batch, images=reid.images, epoch=epoch, seed=seed)
    reader = _TrainReader(
        root=manifest.root,
        crops=manifest.train,
        reid=reid,
        networks=tuple(views),
        order=order,
        epoch=epoch,
        seed=seed,
        cache=None if loader_workers else cache or ImageCache(0),
    )
    camera_number = {camera: number for number, camera in enumerate(manifest.cameras)}
    for step, read in enumerate(_read_all(reader, len(order), loader_workers)):
        _note(read.failures, quarantine or Quarantine(manifest.listed, 0.0))
        if read.crops:
            identities = torch.tensor([crop.identity for crop in read.crops])
            cameras = torch.tensor([camera_number[crop.camera] for crop in read.crops])
            yield IdentityBatch(read.views, identities, cameras, step)


def evaluation_batches(
    root: Path,
    crops: Sequence[Crop],
    spec: NetworkSpec,
    *,
    batch: int,
    loader_workers: int = 0,
    cache: ImageCache | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[EvaluationImages]:
    """Images as they are, in the network's size; those that don't decode are left out.

    Args:
        root: what paths start from.
        crops: the images, of query or gallery.
        spec: the network to be fed.
        batch: images at a time; the last time it may be fewer.
        loader_workers: as for training.
        cache: as for training.
        quarantine: as for training.

    Raises:
        UserError: too many images failed.
    """
    parts = [range(start, min(start + batch, len(crops))) for start in range(0, len(crops), batch)]
    reader = _EvaluationReader(root, tuple(crops), spec, parts, None if loader_workers else cache or ImageCache(0))
    for read in _read_all(reader, len(parts), loader_workers):
        _note(read.failures, quarantine or Quarantine(len(crops), 0.0))
        if read.indices:
            yield EvaluationImages(read.images, torch.tensor(read.indices))


@dataclass(frozen=True)
class _Decoded:
    """A training image before anything is done to it."""

    crop: Crop
    sample: CropSample
    image: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class _TrainRead:
    """A batch that was read, and what could not be."""

    crops: tuple[Crop, ...]
    views: tuple[Tensor, ...]
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _TrainReader(Dataset[_TrainRead]):
    """Reads training batches; also what decoding processes are given."""

    root: Path
    crops: tuple[Crop, ...]
    reid: ReidSettings
    networks: tuple[NetworkSpec, ...]
    order: Sequence[Sequence[tuple[int, int]]]
    epoch: int
    seed: int
    cache: ImageCache | None

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> _TrainRead:
        failures: dict[str, str] = {}
        decoded = [self._decode(index, occurrence, failures) for index, occurrence in self.order[number]]
        good = [item for item in decoded if item is not None]
        views = [self._views(item, good) for item in good]
        return _TrainRead(
            tuple(item.crop for item in good),
            tuple(map(torch.stack, zip(*views, strict=True))),
            tuple(failures.items()),
        )

    def _decode(self, index: int, occurrence: int, failures: dict[str, str]) -> _Decoded | None:
        """The image of a place, or the next one of its identity that decodes."""
        cache = self.cache or ImageCache(0)
        sample = sample_crop(self.crops[index].path, occurrence, self.epoch, self.seed)
        for crop in self._of_same_identity(index):
            try:
                image = cache.image(self.root / crop.path)
            except DecodeError as error:
                failures[crop.path] = error.reason
                continue
            return _Decoded(crop, sample, image, self._mask(cache, crop, image, failures))
        return None

    def _of_same_identity(self, index: int) -> Iterator[Crop]:
        """An image, and then the others of its identity."""
        first = self.crops[index]
        yield first
        for other in itertools.chain(range(index + 1, len(self.crops)), range(index)):
            if self.crops[other].identity == first.identity:
                yield self.crops[other]

    def _mask(self, cache: ImageCache, crop: Crop, image: Tensor, failures: dict[str, str]) -> Tensor | None:
        if crop.mask is None or self.reid.person_occlusion == 0:
            return None
        try:
            mask = cache.mask(self.root / crop.mask)
        except DecodeError as error:
            failures[crop.mask] = error.reason
            return None
        if mask.shape != image.shape[1:]:
            failures[crop.mask] = f"has {tuple(mask.shape)} pixels, but its image {tuple(image.shape[1:])}"
            return None
        return mask

    def _views(self, item: _Decoded, batch: Sequence[_Decoded]) -> tuple[Tensor, ...]:
        picture = self._occluded(item, batch)
        sizes = {spec.input_shape[1:]: spec for spec in self.networks}
        made = {size: self._placed(picture, item.sample, spec) for size, spec in sizes.items()}
        return tuple(made[spec.input_shape[1:]] for spec in self.networks)

    def _occluded(self, item: _Decoded, batch: Sequence[_Decoded]) -> Tensor:
        reid, sample, picture = self.reid, item.sample, item.image
        height, width = picture.shape[1:]
        if sample.ball < reid.ball_occlusion:
            centre = sample.ball_y * height, sample.ball_x * width
            picture = occlude_with_ball(picture, centre, height * within(BALL_RADIUS, sample.ball_radius), BALL_FILL)
        if item.mask is not None and sample.person < reid.person_occlusion:
            picture = self._behind_somebody(picture, item.mask, item, batch)
        if sample.erase < reid.erase:
            picture = erase_rectangle(
                picture,
                area=within(ERASED_AREA, sample.erase_area),
                aspect=within(ERASED_ASPECT, sample.erase_aspect),
                place=(sample.erase_y, sample.erase_x),
                noise=np.random.default_rng(int(sample.noise * 2**53)),
            )
        return picture

    def _behind_somebody(self, picture: Tensor, mask: Tensor, item: _Decoded, batch: Sequence[_Decoded]) -> Tensor:
        sample = item.sample
        donors = [
            (other.image, other.mask)
            for other in batch
            if other.crop.identity != item.crop.identity and other.mask is not None
        ]
        if not donors:
            return picture
        donor, donor_mask = donors[int(sample.donor * len(donors))]
        aside = within(DONOR_ASIDE, sample.donor_aside) * (-1 if sample.donor_side < 0.5 else 1)
        occluded, _ = occlude_with_person(
            picture,
            mask,
            donor,
            donor_mask,
            scale=within(DONOR_SCALE, sample.donor_scale),
            shift=(within(DONOR_DOWN, sample.donor_down), aside),
        )
        return occluded

    def _placed(self, picture: Tensor, sample: CropSample, spec: NetworkSpec) -> Tensor:
        """In a network's size, moved within its padding, perhaps mirrored."""
        height, width = spec.input_shape[1:]
        pad = spec.scaled(self.reid.pad) if self.reid.pad else 0
        padded = F.pad(resized(picture, (height, width)), [pad] * 4)
        top, left = int(sample.crop_y * (2 * pad + 1)), int(sample.crop_x * (2 * pad + 1))
        view = padded[:, top : top + height, left : left + width]
        return view.flip(-1) if self.reid.flip and sample.flip < 0.5 else view


@dataclass(frozen=True)
class _EvaluationRead:
    """A batch that was read, and what could not be."""

    images: Tensor
    indices: list[int]
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _EvaluationReader(Dataset[_EvaluationRead]):
    """Reads evaluation batches; also what decoding processes are given."""

    root: Path
    crops: tuple[Crop, ...]
    spec: NetworkSpec
    parts: Sequence[range]
    cache: ImageCache | None

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> _EvaluationRead:
        cache = self.cache or ImageCache(0)
        height, width = self.spec.input_shape[1:]
        images, indices, failures = [], [], {}
        for index in self.parts[number]:
            path = self.crops[index].path
            try:
                images.append(resized(cache.image(self.root / path), (height, width)))
                indices.append(index)
            except DecodeError as error:
                failures[path] = error.reason
        stacked = torch.stack(images) if images else torch.empty(0)
        return _EvaluationRead(stacked, indices, tuple(failures.items()))


def resized(image: UInt8[Tensor, "3 height width"], size: tuple[int, int]) -> UInt8[Tensor, "3 new_height new_width"]:
    """Bicubic with antialiasing; the very same image where it has this size already."""
    return resize_pictures(image, size, "bicubic")


def _read_all(reader: Dataset[Read], batches: int, loader_workers: int) -> Iterable[Read]:
    """All batches in order, read ahead of their use."""
    if loader_workers:
        # fresh processes: a fork of one that runs Ray's and CUDA's threads may hang
        return DataLoader(reader, batch_size=None, num_workers=loader_workers, multiprocessing_context="spawn")
    return run_ahead(reader.__getitem__, range(batches))


def _note(failures: Iterable[tuple[str, str]], quarantine: Quarantine) -> None:
    for path, reason in failures:
        quarantine.add(path, reason)
