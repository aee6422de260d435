"""From frames or pictures to a network's input, as its contract asks for it and as evaluation made it.

    span of frames → those that the network is given → resized → square in the middle → normalised

Axes: frame, clip, image, 3 for red, green, blue, height, width. Units: pixels; boxes are x1, y1, x2, y2 with the origin
at the outer corner of the first pixel, so that a frame's whole area is 0, 0, width, height.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from orchestrator.handoff.manifest import ClipInput, ImageInput, Resize
from trainers.framing import Size, centre_corner, normalise, normalise_images, resize_pictures, short_side_size

Pictures = np.ndarray[Any, Any] | Tensor
"""uint8, red, green and blue in the last axis or in the one before height and width."""


def preprocess(pictures: Pictures, contract: ClipInput | ImageInput) -> Tensor:
    """What a network is given for frames of a video, or for pictures.

    Args:
        pictures: uint8. Of a clip [frame, height, width, 3] or [frame, 3, height, width]: `span` frames, of which those
            that the contract names are taken, or exactly those `frames`. Of images [height, width, 3],
            [3, height, width], or a batch of such.
        contract: how the input is made.

    Returns:
        [1, 3, frame, side, side] of a clip, [image, 3, height, width] of images; float32 on the pictures' device.

    Raises:
        UserError: another number of frames, another type, or axes that can't be told apart.
    """
    if isinstance(contract, ImageInput):
        return prepare_images(colours_first(pictures, "image"), contract)
    return prepare_clip(colours_first(pictures, "frame"), contract)


def prepare_clip(frames: Tensor, contract: ClipInput) -> Tensor:
    """A normalised clip [1, 3, frame, side, side] of uint8 frames [frame, 3, height, width].

    Raises:
        UserError: neither as many frames as a clip covers, nor as many as the network is given.
    """
    if len(frames) == contract.span:
        chosen = contract.frame_indices
    elif len(frames) == contract.frames:
        chosen = tuple(range(contract.frames))
    else:
        raise UserError(
            f"{len(frames)} frames were given, but a clip is made of {contract.span} consecutive frames at "
            f"{contract.fps:g} per second, or of the {contract.frames} that the network is given of them "
            "(input.frame_indices of the package)"
        )
    return stack_clips([cut_frames(frames[list(chosen)], contract)], contract)


def cut_frames(frames: Tensor, contract: ClipInput) -> Tensor:
    """The squares that a network sees of uint8 frames [frame, 3, height, width], each frame by itself."""
    height, width = frames.shape[-2:]
    size = resized_size((height, width), contract.resize)
    top, left = centre_corner(size, contract.side)
    if top < 0 or left < 0:
        raise UserError(f"input.resize of the package gives {size[0]} × {size[1]} pixels, but side is {contract.side}")
    resized = resize_pictures(frames, size, contract.resize.interpolation)
    return resized[..., top : top + contract.side, left : left + contract.side]


def stack_clips(cuts: list[Tensor], contract: ClipInput) -> Tensor:
    """Normalised clips [clip, 3, frame, side, side] of squares [frame, 3, side, side]."""
    clips = torch.stack([cut.transpose(0, 1).contiguous() for cut in cuts])
    return normalise(clips, contract.mean, contract.std)


def prepare_images(images: Tensor, contract: ImageInput) -> Tensor:
    """Normalised images [image, 3, height, width] of uint8 images of any size."""
    size = (contract.height, contract.width)
    resized = resize_pictures(images.contiguous(), size, contract.resize.interpolation)
    return normalise_images(resized, contract.mean, contract.std)


def colours_first(pictures: Pictures, what: str) -> Tensor:
    """uint8 pictures [picture, 3, height, width], whichever axis has the colours; a single image becomes a batch.

    Args:
        pictures: NumPy array or tensor.
        what: `frame` or `image`.

    Raises:
        UserError: they are no such thing.
    """
    if isinstance(pictures, np.ndarray):
        if pictures.dtype != np.uint8:
            raise UserError(_not_bytes(str(pictures.dtype), what))
        pictures = torch.from_numpy(np.require(pictures, requirements=["C", "W"]))  # also of views run backwards
    if pictures.dtype != torch.uint8:
        raise UserError(_not_bytes(str(pictures.dtype).removeprefix("torch."), what))
    if pictures.dim() == 3 and what == "image":
        pictures = pictures[None]
    shape = list(pictures.shape)
    if len(shape) != 4 or 0 in shape or (shape[1] == 3) == (shape[-1] == 3):
        raise UserError(
            f"the {what}s have the axes {shape}, but must be [{what}, height, width, 3] or [{what}, 3, height, width]"
        )
    return pictures if shape[1] == 3 else pictures.permute(0, 3, 1, 2)


def resized_size(frame: Size, rule: Resize) -> Size:
    """What a frame of this size is resized to."""
    if rule.size is not None:
        return rule.size
    assert rule.short_side is not None  # the contract checks that it has one of the two
    return short_side_size(frame, rule.short_side)


def to_input_boxes(boxes: Tensor, frame_size: Size, contract: ClipInput | ImageInput) -> Tensor:
    """Boxes of an original frame, in pixels of the network's input; what lies outside of the cut is clipped away.

    A box that is not in the cut at all becomes one without area on its edge.

    Args:
        boxes: [N, 4], x1, y1, x2, y2 in pixels of the original frame.
        frame_size: height and width of that frame.
        contract: how the input is made of it.

    Returns:
        [N, 4], likewise, in pixels of the input.
    """
    if isinstance(contract, ImageInput):
        resized = cut = (contract.height, contract.width)
        top = left = 0
    else:
        resized, cut = resized_size(frame_size, contract.resize), (contract.side, contract.side)
        top, left = centre_corner(resized, contract.side)
    boxes = boxes.float()
    scale = boxes.new_tensor([resized[1] / frame_size[1], resized[0] / frame_size[0]] * 2)
    moved = boxes * scale - boxes.new_tensor([left, top] * 2)
    return moved.clamp(min=0).minimum(boxes.new_tensor([cut[1], cut[0]] * 2))


def _not_bytes(found: str, what: str) -> str:
    return f"the {what}s are {found}, but must be uint8: red, green and blue from 0 to 255, as they were decoded"
