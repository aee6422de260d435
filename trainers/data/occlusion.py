"""What is put in front of people in training, so that a network learns to recognise them by what is left.

Pure functions of images and of numbers drawn elsewhere (`trainers/data/crop_sampling.py`): a ball (a disc), another
person cut out by a mask, and a rectangle of noise. Who is on the image, and by which camera, stays what it was.

Axes: 3 for red, green, blue, height, width. Units: places and lengths in pixels, shifts in shares of the image's size.

Sources:
    [1] E²TAD (technical report of LPCVC-2021's winner): ball-person and person-person occlusion; `specs/e2tad.md`
        section 9. Probabilities, radii and places are not given there; the ranges here are this project's.
    [2] Zhong et al. Random Erasing Data Augmentation. arXiv:1708.04896: area 2-40 %, aspect 0.3-3.3, random values.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from torch import Tensor

BALL_RADIUS = (0.05, 0.15)
"""Range of a ball's radius, in image heights: 10 inches before somebody of 1.7 m is 0.075."""
DONOR_SCALE = (0.7, 1.3)
"""Range of another person's size, relative to the image."""
DONOR_ASIDE = (0.3, 0.8)
"""Range of its distance from the middle, to either side, in image widths."""
DONOR_DOWN = (-0.1, 0.2)
"""Range of its shift downwards, in image heights."""
ERASED_AREA, ERASED_ASPECT = (0.02, 0.4), (0.3, 3.3)
"""Ranges of a rectangle's share of the image, and of its height over its width ([2])."""
LEAST_VISIBLE = 0.4
"""Share of a person that must stay visible behind another."""

Image = UInt8[Tensor, "3 height width"]
Mask = Bool[Tensor, "height width"]


def within(bounds: tuple[float, float], uniform: float) -> float:
    """A number of a range, from one of [0, 1)."""
    low, high = bounds
    return low + uniform * (high - low)


def occlude_with_ball(image: Image, centre: tuple[float, float], radius: float, fill: Sequence[int]) -> Image:
    """Put a disc in front; it may reach beyond the image.

    Args:
        image: left as it is.
        centre: row and column.
        radius: > 0; pixels whose centres are no farther from the disc's are covered.
        fill: its colour.
    """
    height, width = image.shape[-2:]
    rows = torch.arange(height)[:, None] - centre[0]
    columns = torch.arange(width)[None] - centre[1]
    disc = rows**2 + columns**2 <= radius**2
    return torch.where(disc, torch.tensor(fill, dtype=torch.uint8)[:, None, None], image)


def occlude_with_person(
    image: Image,
    mask: Mask,
    donor: UInt8[Tensor, "3 donor_height donor_width"],
    donor_mask: Bool[Tensor, "donor_height donor_width"],
    *,
    scale: float,
    shift: tuple[float, float],
    least_visible: float = LEAST_VISIBLE,
) -> tuple[Image, float]:
    """Put another person in front, cut out by its mask.

    Args:
        image: left as it is.
        mask: where its person is.
        donor: image of another person; it is resized to the image's height and width, times `scale`.
        donor_mask: where that person is.
        scale: > 0.
        shift: of the donor's middle from the image's, downwards in heights and to the right in widths.
        least_visible: share of the person that must stay visible.

    Returns:
        The new image, and the share of the person's mask that is visible in it. Where that would be less than
        `least_visible`, or the mask is empty (0), the image as it was.
    """
    height, width = image.shape[-2:]
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    top = round((height - size[0]) / 2 + shift[0] * height)
    left = round((width - size[1]) / 2 + shift[1] * width)
    cut = F.interpolate(donor_mask[None, None].to(torch.uint8), size=size, mode="nearest")[0, 0].bool()
    drawn = F.interpolate(donor[None], size=size, mode="bilinear", antialias=True)[0]
    rows = slice(min(max(0, top), height), min(max(0, top + size[0]), height))
    columns = slice(min(max(0, left), width), min(max(0, left + size[1]), width))
    from_rows = slice(rows.start - top, rows.stop - top)
    from_columns = slice(columns.start - left, columns.stop - left)
    hidden = torch.zeros_like(mask)
    hidden[rows, columns] = cut[from_rows, from_columns]
    people = int(mask.sum())
    visible = int((mask & ~hidden).sum()) / people if people else 0.0
    if people == 0 or visible < least_visible:
        return image, visible
    occluded = image.clone()
    part = occluded[:, rows, columns]
    occluded[:, rows, columns] = torch.where(cut[from_rows, from_columns], drawn[:, from_rows, from_columns], part)
    return occluded, visible


def erase_rectangle(
    image: Image, *, area: float, aspect: float, place: tuple[float, float], noise: np.random.Generator
) -> Image:
    """Replace a rectangle by noise, each value of each pixel uniform in 0 to 255.

    Args:
        image: left as it is.
        area: share of the image, in [0, 1]; a side that comes out longer than the image's is cut to it.
        aspect: height over width, > 0.
        place: between top and bottom, and between left and right, in [0, 1).
        noise: what the values are drawn from.
    """
    height, width = image.shape[-2:]
    rows = min(height, max(1, round(math.sqrt(area * height * width * aspect))))
    columns = min(width, max(1, round(math.sqrt(area * height * width / aspect))))
    top, left = int(place[0] * (height - rows + 1)), int(place[1] * (width - columns + 1))
    erased = image.clone()
    values = noise.integers(0, 256, (3, rows, columns), dtype=np.uint8)
    erased[:, top : top + rows, left : left + columns] = torch.from_numpy(values)
    return erased
