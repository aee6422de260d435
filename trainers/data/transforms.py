"""Where a clip is cut in space, and the cutting.

Settings speak of pixels of the unreduced network; a network reduced on axis s resizes and crops by γ̄_s less, with the
crop at the same relative place, so that teacher and student see the same part of the picture.

Axes: frame, clip, 3 for red, green, blue, height, width. Units: pixels; values are uint8 until `normalise`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import ClipSettings
from trainers.data.sampling import ClipSample
from trainers.framing import Size, centre_corner, normalise, resize_pictures, short_side_size

__all__ = ["Size", "Window", "centre_window", "check_clips", "cut_views", "normalise", "random_window"]


@dataclass(frozen=True)
class Window:
    """A square cut out of the resized frame."""

    size: Size
    """What the frame is resized to."""
    side: int
    """Side of the square."""
    top: int
    """First row of the square."""
    left: int
    """First column of the square."""
    flip: bool = False
    """Whether the square is mirrored left to right."""


def check_clips(clips: ClipSettings, side: int) -> None:
    """See that every crop fits into its resized frame.

    Args:
        clips: how clips are cut.
        side: of the unreduced network, in pixels.

    Raises:
        UserError: one does not.
    """
    resize = _short_side(clips.resize or side)
    if resize < side:
        raise UserError(
            f"clips.resize gives a short side of {resize} pixels, but the network's crop has {side}; "
            "raise clips.resize or lower network.side"
        )
    low, high = clips.train_short_side or (resize, resize)
    if low > high:
        raise UserError(f"clips.train_short_side is [{low}, {high}], but the smaller number comes first")
    crop = clips.train_crop or side
    if low < crop:
        raise UserError(
            f"the training frame's short side may be {low} pixels, but clips.train_crop is {crop}; "
            "raise clips.train_short_side (or clips.resize), or lower clips.train_crop"
        )


def random_window(frame: Size, clips: ClipSettings, spec: NetworkSpec, sample: ClipSample) -> Window:
    """The random training window of a frame of this size, for one network."""
    resize = clips.resize or spec.side
    if clips.train_short_side is not None:
        low, high = clips.train_short_side
        resize = low + int(sample.scale * (high - low + 1))
    height, width = _resized(frame, resize, spec)
    side = spec.scaled(clips.train_crop or spec.side)
    top, left = int(sample.crop_y * (height - side + 1)), int(sample.crop_x * (width - side + 1))
    return Window((height, width), side, top, left, flip=clips.flip and sample.flip < 0.5)


def centre_window(frame: Size, clips: ClipSettings, spec: NetworkSpec) -> Window:
    """The centre window of a frame of this size, for one network."""
    size, side = _resized(frame, clips.resize or spec.side, spec), spec.input_side
    return Window(size, side, *centre_corner(size, side))


def cut_views(
    frames: UInt8[Tensor, "frame 3 height width"], cuts: Sequence[tuple[Sequence[int], Window]]
) -> tuple[UInt8[Tensor, "3 _frame _side _side"], ...]:
    """Cut one decoded clip for several networks; networks whose windows have one size share the resized frames.

    Args:
        frames: decoded frames.
        cuts: per network, the rows of `frames` that it is given, and its window.

    Returns:
        One clip per network.
    """
    rows_of_size: dict[Size, set[int]] = {}
    for rows, window in cuts:
        rows_of_size.setdefault(window.size, set()).update(rows)
    resized = {size: _resize(frames[sorted(rows)], size) for size, rows in rows_of_size.items()}
    views = []
    for rows, window in cuts:
        place = {row: i for i, row in enumerate(sorted(rows_of_size[window.size]))}
        bottom, right = window.top + window.side, window.left + window.side
        view = resized[window.size][[place[row] for row in rows], :, window.top : bottom, window.left : right]
        views.append((view.flip(-1) if window.flip else view).transpose(0, 1).contiguous())
    return tuple(views)


def _short_side(resize: int | Size) -> int:
    return resize if isinstance(resize, int) else min(resize)


def _resized(frame: Size, resize: int | Size, spec: NetworkSpec) -> Size:
    """The frame's size after resizing its short side, or both sides, in pixels of this network."""
    if not isinstance(resize, int):
        return spec.scaled(resize[0]), spec.scaled(resize[1])
    return short_side_size(frame, spec.scaled(resize))


def _resize(frames: UInt8[Tensor, "frame 3 height width"], size: Size) -> UInt8[Tensor, "frame 3 new_height new_width"]:
    return resize_pictures(frames, size, "bilinear")
