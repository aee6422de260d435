"""Regions of maps whose values are known everywhere: a ramp's mean over a cell is its value in the middle."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from orchestrator.handoff.manifest import Stage
from orchestrator.handoff.regions import roi_align

STRIDE = 4
STAGE = Stage(name="layer2", channels=2, temporal_stride=2, spatial_stride=STRIDE, shape=(2, 3, 16, 20))
BOX = torch.tensor([[8.0, 16.0, 40.0, 48.0]])
"""In pixels: columns 2 to 10 and rows 4 to 12 of the map."""


def ramps(clips: int = 1) -> Tensor:
    """Maps [clip, 2, 3, 16, 20]: x and y of a cell's middle in pixels, plus 1000 per frame, plus 10000 per clip."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(20.0), indexing="ij")
    planes = torch.stack([x, y]) * STRIDE + STRIDE / 2
    frames = planes[:, None] + 1000 * torch.arange(3.0)[:, None, None]
    return frames + 10000 * torch.arange(float(clips))[:, None, None, None, None]


def middles(low: float, high: float, size: int) -> Tensor:
    """Middles of the cells that a side of a box is divided into."""
    return low + (torch.arange(size) + 0.5) * (high - low) / size


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("box", [BOX, torch.tensor([[9.5, 17.0, 21.25, 50.0]])])
def test_a_ramp_by_hand(box: Tensor, size: int) -> None:
    """The second box is not aligned to anything; the mean of the frames adds 1000."""
    (region,) = roi_align(ramps(), [box], STAGE, size=size)
    left, top, right, bottom = box[0].tolist()
    x, y = middles(left, right, size) + 1000, middles(top, bottom, size) + 1000
    torch.testing.assert_close(region[0], x.expand(size, size))
    torch.testing.assert_close(region[1], y[:, None].expand(size, size))


def test_a_box_of_one_cell_is_that_cell() -> None:
    box = torch.tensor([[STRIDE * 3.0, STRIDE * 5.0, STRIDE * 4.0, STRIDE * 6.0]])
    features = torch.rand(1, 2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    (region,) = roi_align(features, [box], STAGE, size=1, pool_time="none")
    # RoI-align samples the middle of a cell, where bilinear interpolation gives the cell itself
    torch.testing.assert_close(region[..., 0, 0], features[0, :, :, 5, 3])


def test_frames_by_themselves_average_to_the_mean() -> None:
    features = torch.rand(2, 2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    each = roi_align(features, [BOX, BOX + 7], STAGE, pool_time="none")
    assert each.shape == (2, 2, 3, 7, 7)
    torch.testing.assert_close(each.mean(2), roi_align(features, [BOX, BOX + 7], STAGE))


def test_frames_and_channels_stay_apart() -> None:
    each = roi_align(ramps(), [BOX], STAGE, size=1, pool_time="none")
    torch.testing.assert_close(each.flatten(), torch.tensor([24.0, 1024.0, 2024.0, 32.0, 1032.0, 2032.0]))


def test_regions_come_clip_by_clip() -> None:
    """Two of the first, none of the second, one of the third."""
    regions = roi_align(ramps(clips=3), [BOX.expand(2, 4), torch.empty(0, 4), BOX], STAGE, size=1)
    torch.testing.assert_close(regions[:, 0].flatten(), torch.tensor([1024.0, 1024.0, 21024.0]))


def test_images_have_no_time() -> None:
    torch.testing.assert_close(roi_align(ramps()[:, :, 0], [BOX], STAGE), roi_align(ramps()[:, :, :1], [BOX], STAGE))


def test_fractions_are_pixels_over_the_inputs_size() -> None:
    height, width = 64, 80
    fractions = BOX / torch.tensor([width, height, width, height])
    torch.testing.assert_close(
        roi_align(ramps(), [fractions], STAGE, fractions_of=(height, width)), roi_align(ramps(), [BOX], STAGE)
    )


def test_gradients_reach_the_map_inside_the_box_only() -> None:
    features = ramps().requires_grad_()
    roi_align(features, [BOX], STAGE).sum().backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    touched = features.grad[0, 0, 0] != 0
    assert touched[4:12, 2:10].all()
    assert not touched[:3].any()
    assert not touched[:, 11:].any()


@pytest.mark.parametrize("pool_time", ["mean", "none"])
def test_no_boxes_no_regions(pool_time: Literal["mean", "none"]) -> None:
    assert len(roi_align(ramps(), [torch.empty(0, 4)], STAGE, pool_time=pool_time)) == 0


@pytest.mark.parametrize(
    ("features", "boxes", "message"),
    [
        (torch.zeros(1, 3, 2, 8, 8), [BOX], r"shape \[1, 3, 2, 8, 8\], but a map of layer2 has 2 channels"),
        (torch.zeros(2, 8, 8), [BOX], r"shape \[2, 8, 8\], but a map of layer2"),
        (ramps(), [BOX, BOX], "list of 2, but features has 1 clips"),
        (ramps(), [BOX[0]], r"shape \[4\], but must be \[N, 4\]"),
        (ramps(), [torch.zeros(2, 5)], r"shape \[2, 5\], but must be \[N, 4\]"),
    ],
)
def test_what_does_not_fit_is_refused(features: Tensor, boxes: list[Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        roi_align(features, boxes, STAGE)
