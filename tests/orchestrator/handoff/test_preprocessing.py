"""Inputs made by the contract alone are, bit for bit, those on which accuracy was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from compression.spec import Factors, NetworkSpec
from configs.errors import UserError
from configs.schema import ClipSettings
from orchestrator.handoff.manifest import ClipInput, ImageInput
from orchestrator.handoff.preprocessing import preprocess, to_input_boxes
from tests.orchestrator.handoff.sample_package import clip_input, image_input
from tests.trainers import tiny
from trainers.backbones import backbone
from trainers.data.crops import normalise_images, resized
from trainers.data.decode import decode_frames
from trainers.data.transforms import centre_window, cut_views, normalise

HALF_RATE = tiny.SPEC.replace(factors=Factors(f=2.0, s=1.4))
"""4 of 8 frames, 11 pixels."""


def contract_of(spec: NetworkSpec, clips: ClipSettings = tiny.CLIPS) -> ClipInput:
    return TypeAdapter(ClipInput).validate_python(clip_input(spec, clips))


def image_contract() -> ImageInput:
    return TypeAdapter(ImageInput).validate_python(image_input(tiny.REID_SPEC))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("clips", [ClipSettings(), ClipSettings(resize=20), ClipSettings(resize=(18, 27))])
@pytest.mark.parametrize("spec", [tiny.SPEC, HALF_RATE])
def test_a_clip_is_the_one_of_evaluation(digits: Path, spec: NetworkSpec, clips: ClipSettings) -> None:
    """Decoded, cut and normalised as `trainers.data.clips` does it, against the contract's own rule."""
    path = sorted((digits / "videos").glob("val-*.mp4"))[0]
    chosen = torch.from_numpy(decode_frames(path, [2 + index for index in spec.frame_indices()])).permute(0, 3, 1, 2)
    window = centre_window((chosen.shape[-2], chosen.shape[-1]), clips, spec)
    (view,) = cut_views(chosen, [(range(len(chosen)), window)])
    expected = normalise(view[None], backbone(spec).mean, backbone(spec).std)
    span = decode_frames(path, range(2, 2 + spec.clip_span))
    assert torch.equal(preprocess(span, contract_of(spec, clips)), expected)
    assert torch.equal(preprocess(chosen, contract_of(spec, clips)), expected)


def test_every_layout_gives_the_same_clip() -> None:
    contract, frames = contract_of(HALF_RATE), noise(8, 24, 32, 3)
    expected = preprocess(frames, contract)
    read_only = frames.copy()
    read_only.flags.writeable = False
    assert expected.shape == (1, *HALF_RATE.input_shape)
    for given in (
        torch.from_numpy(frames),
        torch.from_numpy(frames).permute(0, 3, 1, 2),
        frames.transpose(0, 3, 1, 2).copy(),
        frames[..., ::-1].copy()[..., ::-1],
        read_only,
        frames[[0, 2, 4, 6]],
    ):
        assert torch.equal(preprocess(given, contract), expected)


def test_images_are_those_of_evaluation() -> None:
    image = noise(3, 50, 20)
    row = backbone(tiny.REID_SPEC)
    expected = normalise_images(resized(torch.from_numpy(image), (32, 16))[None], row.mean, row.std)
    for given in (image, image.transpose(1, 2, 0), image[None], np.stack([image, image])):
        made = preprocess(given, image_contract())
        assert all(torch.equal(one, expected[0]) for one in made)
        assert len(made) == (2 if len(given) == 2 else 1)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (noise(7, 24, 32, 3), r"7 frames were given, but a clip is made of 8 consecutive .* or of the 4 that"),
        (noise(8, 24, 32, 3) / 255, "frames are float64, but must be uint8"),
        (torch.zeros(8, 3, 24, 32), "frames are float32, but must be uint8"),
        (noise(8, 24, 32), r"axes \[8, 24, 32\], but must be \[frame, height, width, 3\]"),
        (noise(8, 24, 32, 4), r"axes \[8, 24, 32, 4\], but"),
        (noise(8, 3, 32, 3), r"axes \[8, 3, 32, 3\], but"),
        (noise(24, 32, 3), r"axes \[24, 32, 3\], but"),
        (noise(0, 24, 32, 3), r"axes \[0, 24, 32, 3\], but"),
    ],
)
def test_frames_that_make_no_clip(frames: np.ndarray | torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        preprocess(frames, contract_of(HALF_RATE))


def test_a_contract_that_cuts_more_than_there_is() -> None:
    contract = contract_of(tiny.SPEC).model_copy(update={"side": 40})
    with pytest.raises(UserError, match=r"gives 16 × 21 pixels, but side is 40"):
        preprocess(noise(8, 24, 32, 3), contract)


def test_boxes_by_hand() -> None:
    """24 × 32 becomes 16 × 21 (scales 2/3 and 21/32), of which columns 2 to 18 are cut out."""
    boxes = torch.tensor([[0.0, 0.0, 32.0, 24.0], [16.0, 12.0, 20.0, 18.0], [0.0, 0.0, 1.0, 24.0]])
    expected = torch.tensor([[0.0, 0.0, 16.0, 16.0], [8.5, 8.0, 11.125, 12.0], [0.0, 0.0, 0.0, 16.0]])
    torch.testing.assert_close(to_input_boxes(boxes, (24, 32), contract_of(tiny.SPEC)), expected)


def test_boxes_of_images_by_hand() -> None:
    """64 × 64 becomes 32 × 16, all of it; whole numbers will do."""
    boxes = torch.tensor([[8, 8, 24, 72]])
    expected = torch.tensor([[2.0, 4.0, 6.0, 32.0]])
    torch.testing.assert_close(to_input_boxes(boxes, (64, 64), image_contract()), expected)


def test_boxes_follow_what_is_in_them() -> None:
    """A bright rectangle of the frame is where its box says, in the clip that is made of the frame."""
    frames = np.zeros((8, 96, 128, 3), np.uint8)
    frames[:, 24:60, 48:72] = 255
    contract = contract_of(tiny.SPEC, ClipSettings(resize=24))
    (box,) = to_input_boxes(torch.tensor([[48, 24, 72, 60]]), (96, 128), contract)
    assert box.tolist() == [4, 2, 10, 11]
    bright = preprocess(frames, contract)[0, 0, 0] > 0
    assert bright.nonzero().min(0).values.tolist() == [2, 4]
    assert bright.nonzero().max(0).values.tolist() == [10, 9]
