"""From a file to a network's outputs, as evaluation goes there: decode, make the clip (or image), run the network.

    decode   the file's frames that the network is given, as uint8
    clip     resize, crop, normalise, put into the order that convolutions like
    network  the forward pass; on a GPU also the copies there and back

One clip (or image) at a time: a video's clip is the one that the search's evaluation takes, from the middle. How many
frames the video has is found out beforehand, as for a data set.

Units: milliseconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from configs.errors import UserError
from orchestrator.measure.turns import Conditions, take_turns, thread_count, wall_clock
from trainers.backbones import BACKBONES, Network, fast_order, in_fast_order
from trainers.data.crops import decode_image, normalise_images, resized
from trainers.data.decode import DecodeError, decode_frames, probe_video
from trainers.data.sampling import test_starts
from trainers.data.transforms import centre_window, cut_views, normalise
from trainers.package import Description

PARTS = ("decode", "clip", "network")


class Source(Protocol):
    """A file, and how one network's input is made of it."""

    def decode(self) -> Tensor:
        """What the file holds, as uint8."""

    def cut(self, decoded: Tensor) -> Tensor:
        """The network's input, on the CPU."""


class ClipSource:
    """The middle clip of a video file.

    Args:
        path: the video.
        description: of the network.

    Raises:
        UserError: no video, or one that is too short.
    """

    def __init__(self, path: Path, description: Description) -> None:
        assert description.clips is not None
        self._path, self._clips, self._spec = path, description.clips, description.spec
        try:
            frames = probe_video(path).frames
            (start,) = test_starts(frames, self._spec.clip_frames, 1)
        except (DecodeError, OSError) as error:
            raise UserError(f"--video {path} can't be read as a video: {error}; give another file") from error
        except ValueError as error:
            raise UserError(f"--video {path}: {error}; give a longer one") from error
        self._indices = [start + offset for offset in self._spec.frame_indices()]

    def decode(self) -> Tensor:
        """Frames [frame, 3, height, width]."""
        return torch.from_numpy(decode_frames(self._path, self._indices)).permute(0, 3, 1, 2)

    def cut(self, decoded: Tensor) -> Tensor:
        """A normalised clip [1, 3, frame, side, side]."""
        window = centre_window((decoded.shape[-2], decoded.shape[-1]), self._clips, self._spec)
        (view,) = cut_views(decoded, [(range(len(decoded)), window)])
        row = BACKBONES[self._spec.backbone]
        return in_fast_order(normalise(view[None], row.mean, row.std))


class ImageSource:
    """An image file.

    Args:
        path: the image.
        description: of the network.

    Raises:
        UserError: no image.
    """

    def __init__(self, path: Path, description: Description) -> None:
        self._path, self._spec = path, description.spec
        try:
            self.decode()
        except DecodeError as error:
            raise UserError(
                f"--video {path} can't be read as an image, which a {self._spec.backbone} is fed: {error.reason}; "
                "give an image file"
            ) from error

    def decode(self) -> Tensor:
        """The image [3, height, width]."""
        return decode_image(self._path)

    def cut(self, decoded: Tensor) -> Tensor:
        """A normalised image [1, 3, height, width]."""
        _, height, width = self._spec.input_shape
        row = BACKBONES[self._spec.backbone]
        return normalise_images(resized(decoded, (height, width))[None], row.mean, row.std)


def source_of(path: Path, description: Description) -> Source:
    """How a network's input is made of a file.

    Raises:
        UserError: the file is not what the network is fed.
    """
    return ImageSource(path, description) if description.clips is None else ClipSource(path, description)


def time_end_to_end(
    networks: Sequence[Network], sources: Sequence[Source], conditions: Conditions
) -> list[dict[str, Any]]:
    """Median milliseconds of each part and of the whole, per network; they take turns.

    Returns:
        `decode_ms`, `clip_ms`, `network_ms`, `total_ms`.
    """
    laps: list[list[list[float]]] = [[] for _ in networks]

    def journey(number: int) -> None:
        laps[number].append(_travel(networks[number], sources[number]))

    for network in networks:
        fast_order(network.eval())
    with thread_count(conditions.threads), torch.inference_mode():
        take_turns([lambda number=number: journey(number) for number in range(len(networks))], conditions)  # type: ignore[misc]
    return [_medians(taken[conditions.warm_up :]) for taken in laps]


def _travel(network: Network, source: Source) -> list[float]:
    """Milliseconds of each of `PARTS`, once."""
    held: dict[str, Tensor] = {}
    steps = (
        lambda: held.update(decoded=source.decode()),
        lambda: held.update(inputs=source.cut(held["decoded"])),
        lambda: held.update(outputs=network(held["inputs"].to(network.device)).cpu()),
    )
    return [wall_clock(step) for step in steps]


def _medians(laps: Sequence[Sequence[float]]) -> dict[str, float]:
    parts = {f"{part}_ms": statistics.median(lap[i] for lap in laps) for i, part in enumerate(PARTS)}
    return {**parts, "total_ms": statistics.median(map(sum, laps))}
