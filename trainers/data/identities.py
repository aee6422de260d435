"""What a data set for re-identification consists of: every usable image, who is on it and which camera took it.

The fingerprint names the content wherever it lies: it is taken over the images' splits, relative paths, identities,
cameras, sizes and first and last 4 KiB (and their masks'), and enters the digest of every trial.

A look at an image reads its header and not its pixels, so that a set of 240,000 is listed in minutes; pixels that do
not decode are found when they are needed (`trainers/data/crops.py`).
"""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from configs.errors import UserError
from configs.schema import DataSettings
from trainers.data.market1501 import IdentityListing, ListedImage, list_market1501, list_synthetic_people
from trainers.data.probes import hash_of_ends
from trainers.data.quarantine import Quarantine
from trainers.files import read_json, write_json

PROBE_THREADS = 8
SPLITS = ("train", "query", "gallery")

SOURCES: dict[str, Callable[[DataSettings], IdentityListing]] = {
    "market1501": list_market1501,
    "synthetic-people": list_synthetic_people,
}


@dataclass(frozen=True)
class Crop:
    """One usable image, cut to a person or a ball."""

    path: str
    """Relative to the data set's folder, with forward slashes."""
    identity: int
    """In training, index into the classes; in query and gallery, the number in its name: −1 junk, 0 distractor."""
    camera: int
    """Number of the camera."""
    mask: str | None = None
    """Path of the mask of who is seen, likewise; none: unknown."""


@dataclass(frozen=True)
class IdentityManifest:
    """A data set of identities as a run uses it."""

    root: Path
    """Folder of the data set; the only field that depends on where it lies."""
    source: str
    """Key of `SOURCES`."""
    classes: tuple[str, ...]
    """The training identities, as in the names of their images."""
    train: tuple[Crop, ...]
    """Training images, by path."""
    query: tuple[Crop, ...]
    """Images to look for, by path."""
    gallery: tuple[Crop, ...]
    """Images that are searched, by path."""
    quarantined: tuple[tuple[str, str], ...]
    """Unusable images: path and reason."""
    fingerprint: str
    """SHA-256 of what is used of the data, in hexadecimal."""

    @property
    def val(self) -> tuple[Crop, ...]:
        """What the accuracy is a mean of: the queries."""
        return self.query

    @property
    def cameras(self) -> tuple[int, ...]:
        """Cameras of the training images, ascending."""
        return tuple(sorted({crop.camera for crop in self.train}))

    @property
    def listed(self) -> int:
        """Images, good and bad."""
        return len(self.train) + len(self.query) + len(self.gallery) + len(self.quarantined)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(path, {**dataclasses.asdict(self), "root": str(self.root)})

    @classmethod
    def load(cls, path: Path) -> "IdentityManifest":
        """Read what `save` wrote.

        Raises:
            UserError: it is missing or something else.
        """
        try:
            fields = read_json(path)
            crops = {split: tuple(Crop(**crop) for crop in fields[split]) for split in SPLITS}
            return cls(
                root=Path(fields["root"]),
                source=fields["source"],
                classes=tuple(fields["classes"]),
                train=crops["train"],
                query=crops["query"],
                gallery=crops["gallery"],
                quarantined=tuple((name, reason) for name, reason in fields["quarantined"]),
                fingerprint=fields["fingerprint"],
            )
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{path} is missing or no manifest of identities; list the data again") from error


@dataclass(frozen=True)
class _Found:
    """A listed image after a look at its file."""

    split: str
    listed: ListedImage
    content: tuple[int, str] = (0, "")
    """Size in bytes, and hash of both ends."""
    mask_content: tuple[int, str] | None = None
    """Likewise of its mask."""
    reason: str | None = None
    """Why it can't be used."""


def build_identity_manifest(data: DataSettings, memory: Path | None = None) -> IdentityManifest:
    """List a data set and look at every file.

    Args:
        data: where it is.
        memory: folder that remembers looks, so that unchanged files are not looked at again.

    Raises:
        UserError: the listing is wrong, too many images are unusable, or those left can't be trained and measured on.
    """
    listing = SOURCES[data.source](data)
    everything = [(split, image) for split in SPLITS for image in getattr(listing, split)]
    looks = _Looks(listing.root, memory)
    with ThreadPoolExecutor(PROBE_THREADS) as threads:
        found = list(threads.map(lambda item: _look_at(looks, *item), everything))
    looks.save()
    good = [item for item in found if item.reason is None]
    known = [(item.listed.path, item.reason) for item in found if item.reason is not None]
    quarantine = Quarantine(len(found), data.max_quarantined, known)
    quarantine.check()
    split_images = {
        split: sorted((item.listed for item in good if item.split == split), key=lambda image: image.path)
        for split in SPLITS
    }
    _check_usable(listing.root, split_images)
    numbers = sorted({image.identity for image in split_images["train"]})
    labels = {number: label for label, number in enumerate(numbers)}
    return IdentityManifest(
        root=listing.root,
        source=data.source,
        classes=tuple(f"{number:04d}" for number in numbers),
        train=tuple(_crop(image, labels[image.identity]) for image in split_images["train"]),
        query=tuple(_crop(image, image.identity) for image in split_images["query"]),
        gallery=tuple(_crop(image, image.identity) for image in split_images["gallery"]),
        quarantined=tuple(quarantine.items()),
        fingerprint=_fingerprint(good),
    )


class _Looks:
    """What looks at images told, remembered from one start to the next; as `trainers.data.probes.Probes` for videos."""

    def __init__(self, root: Path, memory: Path | None) -> None:
        self._root = root
        name = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:12]
        self._file = memory / f"images-{name}.json" if memory else None
        self._known: dict[str, list[int | str]] = (read_json(self._file) or {}) if self._file else {}
        self._seen: dict[str, list[int | str]] = {}

    def look(self, path: str) -> tuple[int, str]:
        """Size in bytes and hash of both ends of an image. Safe to call from several threads.

        Raises:
            OSError: it can't be read, or is no image (`UnidentifiedImageError`).
        """
        file = self._root / path
        stat = file.stat()
        entry = self._known.get(path)
        if entry is None or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            check_header(file, stat.st_size)
            entry = [stat.st_size, stat.st_mtime_ns, hash_of_ends(file)]
        self._seen[path] = entry
        return stat.st_size, str(entry[2])

    def save(self) -> None:
        """Remember the looks, where there is a place for them and anything is new."""
        if self._file and self._seen != self._known:
            write_json(self._file, self._seen)


def check_header(path: Path, size: int) -> None:
    """See that a file of `size` bytes starts as an image does.

    Raises:
        UnidentifiedImageError: it does not.
    """
    if size == 0:
        raise UnidentifiedImageError("is empty (0 bytes)")
    try:
        with Image.open(path) as image:
            image.verify()
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError("is no image") from error
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:  # as Pillow's plugins say it
        raise UnidentifiedImageError(str(error) or type(error).__name__) from error


def _look_at(looks: _Looks, split: str, listed: ListedImage) -> _Found:
    path = listed.path
    try:
        content = looks.look(path)
        mask_content = None
        if listed.mask is not None:
            path = listed.mask
            mask_content = looks.look(path)
    except OSError as error:
        reason = error.strerror or str(error)
        return _Found(split, listed, reason=reason if path == listed.path else f"its mask {path}: {reason}")
    return _Found(split, listed, content, mask_content)


def _check_usable(root: Path, images: dict[str, list[ListedImage]]) -> None:
    """See that identities can be told apart in training, and that something can be found in evaluation.

    Raises:
        UserError: they can't.
    """
    for split in SPLITS:
        if not images[split]:
            raise UserError(f"{root} has no usable {split} image; see that the listed files are whole")
    if len({image.identity for image in images["train"]}) < 2:
        raise UserError(f"{root} has a single training identity, but at least 2 are needed to tell them apart")
    seen_by = defaultdict(set)
    for image in images["gallery"]:
        seen_by[image.identity].add(image.camera)
    if not any(seen_by[image.identity] - {image.camera} for image in images["query"]):
        raise UserError(
            f"{root}: no query has an image of its identity by another camera in the gallery, so nothing can be "
            "measured; see that names give identity and camera"
        )


def _crop(image: ListedImage, identity: int) -> Crop:
    return Crop(image.path, identity, image.camera, image.mask)


def _fingerprint(good: list[_Found]) -> str:
    rows = sorted(
        (item.split, item.listed.path, item.listed.identity, item.listed.camera, *item.content, item.mask_content or ())
        for item in good
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
