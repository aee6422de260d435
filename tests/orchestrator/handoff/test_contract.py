"""What a package says of input, feature maps and output: what evaluation does, and what forward passes give."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.spec import Factors, NetworkSpec, Quantisation
from configs.schema import ClipSettings, ReidSettings
from orchestrator.handoff.contract import input_of, median_rate, output_of, stages_of
from orchestrator.handoff.manifest import ClipInput, ImageInput
from orchestrator.handoff.preprocessing import preprocess
from orchestrator.handoff.reference import evaluation_input, noise_picture, pictures_of
from tests.trainers.tiny import ALL_SPECS, CLASSES, REID_SPEC, SPEC, SPECS
from trainers.backbones import build
from trainers.package import Description

REDUCED = Factors(s=1.4, t=1.5, f=1.3)


def described(spec: NetworkSpec, clips: ClipSettings | None = None, **reid: Any) -> Description:
    """A network with the settings of its kind."""
    if spec.aspect is not None:
        return Description(spec=spec, classes=CLASSES, reid=ReidSettings(**reid))
    return Description(spec=spec, classes=CLASSES, clips=clips or ClipSettings(test=3))


# Input


def test_a_clip_worked_out_by_hand() -> None:
    """8 raw frames of side 16, short side 20; s = 1.6, t = 2, f = 1.5."""
    spec = SPEC.replace(clip_frames=8, side=16, factors=Factors(s=1.6, t=2.0, f=1.5))
    given_ = input_of(described(spec, ClipSettings(resize=20, test=3)), [25.0, 30.0, 50.0])
    assert isinstance(given_, ClipInput)
    assert given_.fps == 30.0
    assert (given_.evaluation_span, given_.span) == (8, 4)
    assert given_.frames == 3  # 8 / (2 · 1.5) = 2.67
    assert given_.frame_indices == (0, 1, 3)
    assert (given_.resize.short_side, given_.resize.size) == (13, None)  # 20 / 1.6 = 12.5
    assert given_.side == 10
    assert given_.clips_per_video == 3


def test_an_image_worked_out_by_hand() -> None:
    spec = REID_SPEC.replace(side=16, aspect=2.0, factors=Factors(s=1.6))
    given_ = input_of(described(spec, flip=True), [])
    assert isinstance(given_, ImageInput)
    assert (given_.height, given_.width) == (20, 10)
    assert given_.resize.size == (20, 10)
    assert given_.resize.interpolation == "bicubic"
    assert given_.mirrored
    unmirrored = input_of(described(spec, flip=False), [])
    assert isinstance(unmirrored, ImageInput)
    assert not unmirrored.mirrored


@pytest.mark.parametrize(
    ("rates", "median"), [([], 30.0), ([0.0, 0.0], 30.0), ([25.0], 25.0), ([0.0, 24.0, 60.0, 25.0], 25.0)]
)
def test_rates_that_no_file_says_are_left_out(rates: list[float], median: float) -> None:
    assert median_rate(rates, nominal=30.0) == median


@pytest.mark.parametrize("factors", [Factors(), REDUCED], ids=["unreduced", "reduced"])
@pytest.mark.parametrize("resize", [None, 20, (20, 27)])
@pytest.mark.parametrize("backbone", ALL_SPECS)
def test_preprocessing_by_contract_is_that_of_evaluation_bit_for_bit(
    backbone: str, resize: int | tuple[int, int] | None, factors: Factors
) -> None:
    """Evaluation's own functions, from the settings; the reader's, from the contract alone."""
    description = described(ALL_SPECS[backbone].replace(factors=factors), ClipSettings(resize=resize, test=2))
    contract = input_of(description, [])
    pictures = pictures_of(noise_picture(contract), contract)
    expected = evaluation_input(pictures, description, contract)
    assert torch.equal(preprocess(pictures, contract), expected)
    assert expected.shape == (1, *description.spec.input_shape)


@settings(max_examples=30, deadline=None)
@given(s=st.floats(1, 3), t=st.floats(1, 4), f=st.floats(1, 4), resize=st.integers(16, 30))
def test_every_reduction_makes_a_contract_that_holds(s: float, t: float, f: float, resize: int) -> None:
    """The contract's own checks pass, and a square of the network's side fits into the resized frame."""
    spec = SPEC.replace(factors=Factors(s=s, t=t, f=f))
    made = input_of(described(spec, ClipSettings(resize=resize)), [])
    assert isinstance(made, ClipInput)
    assert made.resize.short_side is not None
    assert made.resize.short_side >= made.side


def test_the_noise_is_resized_and_moves() -> None:
    """Otherwise neither resizing nor the choice of frames would be checked."""
    contract = input_of(described(SPEC), [])
    assert isinstance(contract, ClipInput)
    pictures = pictures_of(noise_picture(contract), contract)
    height, width = pictures.shape[1:3]
    assert contract.resize.short_side is not None
    assert contract.resize.short_side < height < width
    assert torch.equal(pictures[1][:, 1:], pictures[0][:, :-1])
    assert not torch.equal(pictures[1], pictures[0])


# Feature maps and output


@pytest.mark.parametrize("backbone", ALL_SPECS)
def test_stages_are_those_of_a_forward_pass(backbone: str) -> None:
    spec = ALL_SPECS[backbone].replace(factors=REDUCED)
    with torch.no_grad():
        network = build(spec).eval()
        maps = network.features(torch.zeros(1, *spec.input_shape))
    stages = stages_of(spec)
    assert [stage.name for stage in stages] == list(network.stages)
    for stage in stages:
        assert stage.shape == maps[stage.name].shape[1:]
        assert stage.channels == stage.shape[0]


@pytest.mark.parametrize("backbone", SPECS)
def test_strides_are_those_of_a_larger_input(backbone: str) -> None:
    """A map of an input that every stride divides: exactly that many times smaller."""
    spec = SPECS[backbone]
    with torch.no_grad():
        maps = build(spec).eval().features(torch.zeros(1, 3, 64, 64, 64))
    for stage in stages_of(spec):
        frames, height, width = maps[stage.name].shape[2:]
        assert frames * stage.temporal_stride == 64
        assert height * stage.spatial_stride == width * stage.spatial_stride == 64


@pytest.mark.parametrize("backbone", ALL_SPECS)
def test_the_output_is_that_of_a_forward_pass(backbone: str) -> None:
    spec = ALL_SPECS[backbone]
    with torch.no_grad():
        made = build(spec).eval()(torch.zeros(1, *spec.input_shape))
    output = output_of(spec)
    assert output.dimension == made.shape[1]
    assert (output.kind, output.distance) == (("embedding", "cosine") if backbone == "reid" else ("logits", None))


def test_integers_have_no_maps_but_an_output() -> None:
    spec = dataclasses.replace(SPEC, quantisation=Quantisation(engine="onednn"))
    assert stages_of(spec) == ()
    assert output_of(spec).dimension == len(CLASSES)
