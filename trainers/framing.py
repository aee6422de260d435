"""How a picture becomes what a network sees: resized, cut and normalised, by functions of tensors alone.

Training, evaluation and the reader of handed-over models share these, so that a detector in another program feeds a
network exactly what it was measured on. Nothing but torch is imported: no torchvision, whose import brings Pillow.

Axes: frame, clip, image, 3 for red, green, blue, height, width. Units: pixels; values are uint8 until normalised.

Sources:
    [1] torchvision.transforms.v2.functional.resize: which arithmetic it picks for 8-bit values.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from compression.spec import nearest

Size = tuple[int, int]
"""Height and width."""
Interpolation = Literal["bilinear", "bicubic"]


def short_side_size(frame: Size, short: int) -> Size:
    """The size of a frame whose shorter side becomes `short` pixels, the other in proportion."""
    height, width = (nearest(side * short / min(frame)) for side in frame)
    return height, width


def centre_corner(size: Size, side: int) -> tuple[int, int]:
    """First row and column of the square of this side in the middle."""
    height, width = size
    return (height - side) // 2, (width - side) // 2


def resize_pictures(
    pictures: UInt8[Tensor, "*picture 3 height width"], size: Size, interpolation: Interpolation
) -> UInt8[Tensor, "*picture 3 new_height new_width"]:
    """Resize with antialiasing; the very same pictures where they have this size already.

    Where PyTorch has arithmetic for 8-bit values it is used; elsewhere values go through float32, are rounded and kept
    in [0, 255]. Which of the two is [1]'s choice, so that the bits are too.

    Args:
        pictures: frames or images, on any device.
        size: what they become.
        interpolation: between pixels.
    """
    if pictures.shape[-2:] == size:
        return pictures
    batch = pictures.reshape(-1, *pictures.shape[-3:])
    if pictures.device.type == "cpu" and has_integer_kernels(interpolation):
        out = F.interpolate(batch, size, mode=interpolation, antialias=True)
    else:
        out = F.interpolate(batch.float(), size, mode=interpolation, antialias=True)
        out = out.clamp(0, 255).round().to(torch.uint8)  # bicubic overshoots
    return out.reshape(*pictures.shape[:-2], *size)


def has_integer_kernels(interpolation: Interpolation) -> bool:
    """Whether [1] resizes 8-bit values on this CPU as they are."""
    if interpolation == "bicubic":
        return True
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")


def normalise(
    clips: UInt8[Tensor, "clip 3 frame height width"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "clip 3 frame height width"]:
    """(x/255 − mean) / std per colour, in float32 on the clips' own device."""
    shift, scale = (torch.tensor(c, dtype=torch.float32, device=clips.device).view(3, 1, 1, 1) for c in (mean, std))
    return (clips.float() / 255 - shift) / scale


def normalise_images(
    images: UInt8[Tensor, "image 3 height width"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "image 3 height width"]:
    """(x/255 − mean) / std per colour, in float32 on the images' own device, channels last."""
    shift = torch.tensor(mean, device=images.device).view(3, 1, 1)
    scale = torch.tensor(std, device=images.device).view(3, 1, 1)
    return ((images.float() / 255 - shift) / scale).contiguous(memory_format=torch.channels_last)
