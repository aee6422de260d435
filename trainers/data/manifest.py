"""What a data set consists of: every usable video with its label and length, and why the others are not usable.

The fingerprint names the content wherever it lies: it is taken over the class names and the videos' splits,
relative paths, labels, sizes and first and last 4 KiB, and enters the digest of every trial.
"""

import dataclasses
import hashlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.schema import DataSettings
from trainers.data.decode import DecodeError, VideoInfo
from trainers.data.probes import Probes
from trainers.data.quarantine import Quarantine
from trainers.data.sources import SOURCES, Labelled
from trainers.files import read_json, write_json

PROBE_THREADS = 8


@dataclass(frozen=True)
class Video:
    """One usable video."""

    path: str
    """Relative to the data set's folder, with forward slashes."""
    label: int
    """Index of its class."""
    frames: int
    """Length in frames, counted."""
    fps: float
    """Frames per second; 0 where the file does not say."""


@dataclass(frozen=True)
class Manifest:
    """A data set as a run uses it."""

    root: Path
    """Folder of the data set; the only field that depends on where it lies."""
    source: str
    """Key of `SOURCES`."""
    classes: tuple[str, ...]
    """Names of the classes, by label."""
    train: tuple[Video, ...]
    """Training videos, by path."""
    val: tuple[Video, ...]
    """Validation videos, by path."""
    quarantined: tuple[tuple[str, str], ...]
    """Unusable videos: path and reason."""
    fingerprint: str
    """SHA-256 of what is used of the data, in hexadecimal."""

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(path, {**dataclasses.asdict(self), "root": str(self.root)})

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read what `save` wrote.

        Raises:
            UserError: it is missing or something else.
        """
        try:
            fields = read_json(path)
            return cls(
                root=Path(fields["root"]),
                source=fields["source"],
                classes=tuple(fields["classes"]),
                train=tuple(Video(**video) for video in fields["train"]),
                val=tuple(Video(**video) for video in fields["val"]),
                quarantined=tuple((name, reason) for name, reason in fields["quarantined"]),
                fingerprint=fields["fingerprint"],
            )
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{path} is missing or no data manifest; list the data again") from error


@dataclass(frozen=True)
class _Found:
    """A listed video after a look at its file."""

    split: str
    listed: Labelled
    info: VideoInfo | None = None
    content: tuple[int, str] = (0, "")
    """Size in bytes, and hash of both ends."""
    reason: str | None = None
    """Why it can't be used."""


def build_manifest(data: DataSettings, *, min_frames: int, memory: Path | None = None) -> Manifest:
    """List a data set and look at every file.

    Args:
        data: where it is.
        min_frames: raw frames of a clip; shorter videos can't be used.
        memory: folder that remembers looks, so that unchanged files are not looked at again.

    Raises:
        UserError: the listing is wrong, too many videos are unusable, or none is left.
    """
    listing = SOURCES[data.source](data)
    everything = [("train", video) for video in listing.train] + [("val", video) for video in listing.val]
    probes = Probes(listing.root, memory)
    with ThreadPoolExecutor(PROBE_THREADS) as threads:
        found = list(threads.map(lambda item: _look_at(probes, listing.root, item[0], item[1], min_frames), everything))
    probes.save()
    _check_any_fits(found, min_frames)
    good = sorted((item for item in found if item.reason is None), key=lambda item: (item.split, item.listed.path))
    known = [(item.listed.path, item.reason) for item in found if item.reason is not None]
    quarantine = Quarantine(len(found), data.max_quarantined, known)
    quarantine.check()
    videos = {split: tuple(map(_video, group)) for split, group in itertools.groupby(good, lambda item: item.split)}
    for split in ("train", "val"):
        if split not in videos:
            raise UserError(f"{listing.root} has no usable {split} video; see that the listed files are whole")
    return Manifest(
        root=listing.root,
        source=data.source,
        classes=listing.classes,
        train=videos["train"],
        val=videos["val"],
        quarantined=tuple(quarantine.items()),
        fingerprint=_fingerprint(listing.classes, good),
    )


def _look_at(probes: Probes, root: Path, split: str, listed: Labelled, min_frames: int) -> _Found:
    try:
        stat = (root / listed.path).stat()
        if stat.st_size == 0:
            return _Found(split, listed, reason="is empty (0 bytes)")
        look = probes.look(listed.path, stat)
    except FileNotFoundError:
        return _Found(split, listed, reason="does not exist")
    except OSError as error:
        return _Found(split, listed, reason=error.strerror or str(error))
    except DecodeError as error:
        return _Found(split, listed, reason=error.reason)
    info = look.info
    reason = f"{info.frames} frames, but a clip needs {min_frames}" if info.frames < min_frames else None
    return _Found(split, listed, info, (stat.st_size, look.ends_sha256), reason)


def _check_any_fits(found: list[_Found], min_frames: int) -> None:
    readable = [(item.info.frames, item.listed.path) for item in found if item.info is not None]
    frames, path = max(readable, default=(min_frames, ""))
    if frames < min_frames:
        raise UserError(
            f"a clip of {min_frames} frames is longer than every video: the longest, {path}, has {frames}; "
            f"set network.clip_frames to {frames} or less, or use longer videos"
        )


def _video(item: _Found) -> Video:
    assert item.info is not None
    return Video(item.listed.path, item.listed.label, item.info.frames, item.info.fps)


def _fingerprint(classes: tuple[str, ...], good: list[_Found]) -> str:
    rows = sorted((item.split, item.listed.path, item.listed.label, *item.content) for item in good)
    return hashlib.sha256(json.dumps([classes, rows]).encode()).hexdigest()
