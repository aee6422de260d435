"""Market-1501's layout on disk: folders of images whose names say who is seen, and by which camera.

`bounding_box_train/` trains, `query/` asks, `bounding_box_test/` is the gallery that is searched. A name such as
`0002_c1s1_000451_03.jpg` says: identity 2, camera 1, its sequence 1, frame 451, third box. Identity −1 is junk (a poor
box of somebody), which the metric leaves out; 0000 is a distractor, which is never right.

`masks/<folder>/<name>.png` may say which pixels are the person (above half brightness). The original has none; where
they are missing, nobody is put in front of anybody in training.

Sources:
    [1] Zheng et al. Scalable Person Re-identification: A Benchmark. ICCV 2015.
"""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.schema import DataSettings
from trainers.data.people import make_synthetic_people

log = logging.getLogger(__name__)

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
"""Folder of each split."""
MASKS = "masks"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
JUNK, DISTRACTOR = -1, 0
"""What identities below 1 mean."""

NAME = re.compile(r"(?P<identity>-1|\d{4,})_c(?P<camera>\d+)(?=\D)")


@dataclass(frozen=True)
class ListedImage:
    """One listed image."""

    path: str
    """Relative to the data set's folder, with forward slashes."""
    identity: int
    """As in its name."""
    camera: int
    """As in its name."""
    mask: str | None
    """Path of the person's mask, likewise."""


@dataclass(frozen=True)
class IdentityListing:
    """What a data set of identities says about itself."""

    root: Path
    """Folder that the paths start from."""
    train: tuple[ListedImage, ...]
    """Training images, all of known identities."""
    query: tuple[ListedImage, ...]
    """Images to look for, all of known identities."""
    gallery: tuple[ListedImage, ...]
    """Images that are searched, with junk and distractors."""


def list_market1501(data: DataSettings) -> IdentityListing:
    """A folder in this layout.

    Junk and distractors are left out of training and queries, with a warning: they say nothing there.

    Raises:
        UserError: no such folder, a split is missing or empty, or an image's name is of another form.
    """
    if data.path is None:
        raise UserError("data.path is not set, but data.source market1501 needs the folder of the data set")
    if not data.path.is_dir():
        raise UserError(f"data.path is {data.path}, but there is no such folder")
    root = data.path.absolute()
    listing = IdentityListing(
        root,
        train=_known(root, "train"),
        query=_known(root, "query"),
        gallery=_images(root, "gallery"),
    )
    if shared := {image.identity for image in listing.train} & {image.identity for image in listing.query}:
        log.warning(
            "%s: %d of the identities asked for are in training too (%04d, …); the accuracy will flatter the network",
            root,
            len(shared),
            min(shared),
        )
    return listing


def list_synthetic_people(data: DataSettings) -> IdentityListing:
    """The embedded data set; made first where it is not there yet."""
    return list_market1501(data.model_copy(update={"path": make_synthetic_people(data.path)}))


def _known(root: Path, split: str) -> tuple[ListedImage, ...]:
    images = _images(root, split)
    known = tuple(image for image in images if image.identity > DISTRACTOR)
    if len(known) < len(images):
        log.warning("%s: %d images without an identity are left out", root / FOLDERS[split], len(images) - len(known))
    if not known:
        raise UserError(f"{root / FOLDERS[split]} has no image of a known identity; names start with its number")
    return known


def _images(root: Path, split: str) -> tuple[ListedImage, ...]:
    folder = root / FOLDERS[split]
    if not folder.is_dir():
        raise UserError(
            f"data.path is {root}, but has no folder {FOLDERS[split]}/; Market-1501's layout has "
            f"{', '.join(f'{name}/' for name in FOLDERS.values())}"
        )
    masks = _names(root / MASKS / FOLDERS[split])
    images = tuple(
        _read_name(folder, name, masks) for name in sorted(_names(folder)) if name.lower().endswith(SUFFIXES)
    )
    if not images:
        raise UserError(f"{folder} has no image ({', '.join(SUFFIXES)}); unpack the data set there")
    return images


def _names(folder: Path) -> set[str]:
    """Names of the files in a folder that is perhaps not there; one listing, not a look per file."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if not entry.name.startswith(".")}


def _read_name(folder: Path, name: str, masks: set[str]) -> ListedImage:
    match = NAME.match(name)
    if match is None:
        raise UserError(
            f"{folder / name}: the name must start with identity (-1 or at least 4 digits) and camera, as "
            "0002_c1s1_000451_03.jpg does; rename or remove the file"
        )
    mask = f"{Path(name).stem}.png"
    return ListedImage(
        path=f"{folder.name}/{name}",
        identity=int(match["identity"]),
        camera=int(match["camera"]),
        mask=f"{MASKS}/{folder.name}/{mask}" if mask in masks else None,
    )
