"""Features of a whole video, precomputed into arrays with time stamps: what detectors of actions in time are fed.

The video is decoded once, as a stream; memory does not grow with its length. Its frames are resampled to the rate of
the contract (`frames.resample`) and cut into windows (`frames.windows`), each an input of the network.

    <video>.<stage>.npy         features, a row per window
    <video>.<stage>.times.npy   float64 [window, 2]: where it starts and ends, in seconds since the first frame
    <video>.<stage>.json        what they are, of which video and package, and the hashes of both arrays

The JSON file is put into place last: where it is, all three are whole.

Axes: window, channel, frame, height, width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from configs.errors import RunError, UserError
from orchestrator.export.staging import workplace_beside
from orchestrator.handoff.arrays import GrowingArray
from orchestrator.handoff.frames import DecodedVideo, resample, windows
from orchestrator.handoff.manifest import ClipInput
from orchestrator.handoff.preprocessing import cut_frames, stack_clips
from orchestrator.handoff.reader import HandedModel
from trainers.files import read_json, sha256_of, write_json

if TYPE_CHECKING:
    import av

SCHEMA_VERSION = 1
OUTPUT = "output"
"""Stands for a stage where the model's outputs are stored."""
AXES = {
    "all": ("window", "channel"),
    "space": ("window", "frame", "channel"),
    "none": ("window", "channel", "frame", "height", "width"),
}
"""Of the array, by what is averaged."""

Pool = Literal["all", "space", "none"]
DType = Literal["float32", "float16"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is computed of a video."""

    stage: str | None = None
    """Feature map; none: the model's outputs (logits)."""
    every: int | None = None
    """Frames, at the contract's rate, from a window to the next; none: as many as a window has."""
    pool: Pool = "all"
    """Averaged over time and space, over space, or not at all; outputs have neither."""
    dtype: DType = "float32"
    """Of the features on disk."""
    batch: int = 8
    """Windows per forward pass."""


@dataclass(frozen=True, kw_only=True)
class Precomputed:
    """What was written of a video."""

    features: Path
    """Array of features."""
    times: Path
    """Array of the windows' start and end."""
    sidecar: Path
    """JSON file that describes them."""
    shape: tuple[int, ...]
    """Of the features; the first number is that of the windows."""
    seconds: float
    """Length of the video."""
    notes: tuple[str, ...]
    """What to know of the video."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, of `orchestrate features --json`."""
        paths = {key: str(getattr(self, key)) for key in ("features", "times", "sidecar")}
        return {**paths, "shape": list(self.shape), "seconds": self.seconds, "notes": list(self.notes)}


def precompute(model: HandedModel, video: Path, folder: Path, settings: Settings) -> Precomputed:
    """Write a video's features, times and description; all three or none, in place of earlier ones of this video.

    Args:
        model: in evaluation mode, fed with clips.
        video: any file that FFmpeg reads.
        folder: made if need be.
        settings: what is computed.

    Raises:
        UserError: settings that the model can't serve, a damaged video, or files of another video in the way.
        RunError: features that are no finite numbers.
    """
    contract = check_settings(model, settings)
    try:
        video_sha256 = sha256_of(video)
    except OSError as error:
        raise UserError(f"{video} can't be read: {error.strerror}; give a video file") from error
    stem = f"{video.stem}.{settings.stage or OUTPUT}"
    sidecar = folder / f"{stem}.json"
    require_same_video(sidecar, video_sha256)
    with workplace_beside(sidecar) as workplace:
        written = _write_arrays(model, contract, DecodedVideo(video), workplace / stem, settings)
        names = [f"{stem}.npy", f"{stem}.times.npy"]
        about = {
            "schema_version": SCHEMA_VERSION,
            "video": {"name": video.name, "sha256": video_sha256, "frames": written.decoded.frames},
            "model": describe(model),
            "settings": _described(model, contract, settings),
            "axes": list(AXES[settings.pool]),
            "shape": list(written.shape),
            "times": "start and end of each window in seconds since the video's first frame",
            "seconds": written.seconds,
            "repeated_frames": written.repeated,
            "notes": written.decoded.notes,
            "files": {name: sha256_of(workplace / name) for name in names},
        }
        write_json(workplace / sidecar.name, about)
        sidecar.unlink(missing_ok=True)  # from here on to the end there is none: nobody takes new arrays for old ones
        for name in (*names, sidecar.name):
            (workplace / name).replace(folder / name)
    return Precomputed(
        features=folder / names[0],
        times=folder / names[1],
        sidecar=sidecar,
        shape=written.shape,
        seconds=written.seconds,
        notes=tuple(written.decoded.notes),
    )


def check_settings(model: HandedModel, settings: Settings) -> ClipInput:
    """The contract of the model's clips, once it is clear that the model serves the settings.

    Raises:
        UserError: it doesn't.
    """
    contract = model.contract.input
    if not isinstance(contract, ClipInput):
        raise UserError(f"{model.contract.name} is fed single images and has no features of videos; take a classifier")
    if model.training:
        raise UserError("the model is in training mode, in which features depend on the batch; call its eval() first")
    if settings.stage is not None:
        model.stage(settings.stage)
    elif settings.pool != "all":
        raise UserError(f"pool is {settings.pool}, but outputs have no time or space; give a stage, or leave pool out")
    for name, value in (("every", settings.every), ("batch", settings.batch)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}, but must be a whole number from 1 upwards")
    return contract


def require_same_video(sidecar: Path, sha256: str) -> None:
    """Refuse to replace what was computed of another video.

    Raises:
        UserError: it was.
    """
    if not sidecar.exists():
        return
    known = read_json(sidecar)
    found = known.get("video") if isinstance(known, dict) else None
    if not isinstance(found, dict) or found.get("sha256") != sha256:
        raise UserError(f"{sidecar} is of another video of this name; move it, or write into another folder")


def describe(model: HandedModel) -> dict[str, str]:
    """Which model computed, for the sidecar."""
    contract = model.contract
    return {
        "name": contract.name,
        "digest": contract.digest,
        "handoff_sha256": model.manifest_sha256,
        "format": model.format,
        "torch": str(torch.__version__),
    }


@dataclass(frozen=True)
class _Written:
    """Arrays that are on disk."""

    decoded: DecodedVideo
    shape: tuple[int, ...]
    seconds: float
    repeated: int
    """Times that the last frame was repeated, in a video shorter than a window."""


def _write_arrays(
    model: HandedModel, contract: ClipInput, decoded: DecodedVideo, stem: Path, settings: Settings
) -> _Written:
    """Write features and times, window by window, beside one another."""
    ticks = _Counted(_squares(resample(decoded, contract.fps), contract))
    cut = windows(ticks, contract.span, settings.every or contract.span)
    with (
        GrowingArray(stem.with_name(f"{stem.name}.npy")) as features,
        GrowingArray(stem.with_name(f"{stem.name}.times.npy")) as times,
    ):
        for batch in _batches(cut, settings.batch):
            squares = [torch.stack([window[index] for index in contract.frame_indices]) for _, window in batch]
            features.append(_features(model, stack_clips(squares, contract), settings))
            starts = np.array([start for start, _ in batch])
            ends = np.minimum(starts + contract.span, ticks.count)
            times.append(np.stack([starts, ends], axis=1) / contract.fps)
    repeated = max(0, contract.span - ticks.count)
    return _Written(decoded, features.shape, ticks.count / contract.fps, repeated)


class _Counted(Iterator[T]):
    """An iterator that knows how many it has given."""

    def __init__(self, items: Iterator[T]) -> None:
        self.count = 0
        self._items = items

    def __next__(self) -> T:
        item = next(self._items)
        self.count += 1
        return item


def _squares(frames: Iterator[av.VideoFrame], contract: ClipInput) -> Iterator[Tensor]:
    """What a network sees of each frame, [3, side, side]; a frame that comes twice is cut once."""
    from av.video.reformatter import VideoReformatter

    to_rgb = VideoReformatter()
    for frame, repetitions in itertools.groupby(frames):
        rgb = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
        square = cut_frames(torch.from_numpy(rgb).permute(2, 0, 1)[None], contract)[0].clone()
        for _ in repetitions:
            yield square


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


@torch.inference_mode()
def _features(model: HandedModel, clips: Tensor, settings: Settings) -> np.ndarray[Any, Any]:
    """Features of a batch of clips, as they are stored.

    Raises:
        RunError: some are no finite numbers of the type.
    """
    inputs = clips.to(model.device)
    raw = model(inputs) if settings.stage is None else model.network.features(inputs)[settings.stage]
    pooled = raw if settings.stage is None else pool_features(raw, settings.pool)
    made: np.ndarray[Any, Any] = pooled.to(getattr(torch, settings.dtype)).cpu().numpy()
    if not np.isfinite(made).all():
        said = "; store them as float32" if settings.dtype == "float16" else ""
        raise RunError(f"some features of {model.contract.name} are no finite numbers in {settings.dtype}{said}")
    return made


def pool_features(features: Tensor, pool: Pool) -> Tensor:
    """Averages of maps [window, channel, frame, height, width]: [window, channel], [window, frame, channel], or all."""
    if pool == "all":
        return features.mean((2, 3, 4))
    return features if pool == "none" else features.mean((3, 4)).transpose(1, 2)


def _described(model: HandedModel, contract: ClipInput, settings: Settings) -> dict[str, Any]:
    """What was computed, for the sidecar."""
    stage = None if settings.stage is None else model.stage(settings.stage).model_dump(mode="json")
    return {
        "stage": stage,
        "pool": settings.pool,
        "dtype": settings.dtype,
        "batch": settings.batch,
        "fps": contract.fps,
        "span": contract.span,
        "every": settings.every or contract.span,
        "frame_indices": list(contract.frame_indices),
    }
