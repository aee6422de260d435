"""Features of regions: a box of a feature map, brought to a fixed size by RoI-align.

Boxes are x1, y1, x2, y2 with the origin at the outer corner of the first pixel of the network's input; those of an
original frame are brought there by `preprocessing.to_input_boxes`.

Axes: clip, image, region, channel, frame, height, width.

Sources:
    [1] He et al. Mask R-CNN. arXiv:1703.06870, section 3 (RoIAlign); torchvision.ops.roi_align with `aligned`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from configs.errors import UserError
from orchestrator.handoff.manifest import Stage


def roi_align(
    features: Tensor,
    boxes: Sequence[Tensor],
    stage: Stage,
    *,
    fractions_of: tuple[int, int] | None = None,
    size: int = 7,
    pool_time: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Features of boxes, sampled bilinearly from a stage's map without rounding a coordinate ([1]).

    A box lies at the same place in every frame of its clip.

    Args:
        features: the stage's map [clip, channel, frame, height, width], or [image, channel, height, width].
        boxes: per clip [N, 4].
        stage: which says how many pixels of the input a cell of the map stands for.
        fractions_of: height and width of the input, where boxes are fractions of them in [0, 1]; none: boxes are in
            pixels of the input.
        size: height and width of what is made of a box.
        pool_time: `mean` over the map's frames, or `none`: each frame by itself.

    Returns:
        [region, channel, size, size], of clips without pooling [region, channel, frame, size, size]; the regions of the
        first clip first. Gradients flow into `features`.

    Raises:
        UserError: the map is not of this stage, or there are not as many lists of boxes as clips.
    """
    from torchvision.ops import roi_align as align  # torchvision is needed for regions only

    if features.dim() not in (4, 5) or features.shape[1] != stage.channels:
        raise UserError(
            f"features has the shape {list(features.shape)}, but a map of {stage.name} has {stage.channels} channels: "
            f"[clip, {stage.channels}, frame, height, width], of images [image, {stage.channels}, height, width]"
        )
    if len(boxes) != len(features):
        raise UserError(f"boxes is a list of {len(boxes)}, but features has {len(features)} clips; give boxes per clip")
    if features.dim() == 5 and pool_time == "mean":
        features = features.mean(2)  # before the sampling, which is linear: the same, for less work
    placed = [_in_pixels(each, fractions_of).to(features) for each in boxes]
    planes = features.flatten(1, -3)  # each frame of a channel as a channel of its own
    regions: Tensor = align(planes, placed, size, spatial_scale=1 / stage.spatial_stride, aligned=True)
    return regions.reshape(len(regions), *features.shape[1:-2], size, size)


def _in_pixels(boxes: Tensor, fractions_of: tuple[int, int] | None) -> Tensor:
    """Boxes of a clip in pixels of the input.

    Raises:
        UserError: they are no boxes.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise UserError(f"boxes of a clip have the shape {list(boxes.shape)}, but must be [N, 4]: x1, y1, x2, y2")
    if fractions_of is None:
        return boxes
    height, width = fractions_of
    return boxes * boxes.new_tensor([width, height] * 2)
