"""Network specs: what is derived from sizes and factors, and the round trip through JSON."""

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.spec import Factors, NetworkSpec, nearest

SPEC = NetworkSpec(backbone="slowfast", classes=400, clip_frames=64, side=256, blocks=(3, 4, 6, 3))

fields = st.fixed_dictionaries(
    {
        "backbone": st.sampled_from(["slowfast", "r2plus1d"]),
        "classes": st.integers(1, 1000),
        "clip_frames": st.integers(1, 128),
        "side": st.integers(1, 512),
        "blocks": st.lists(st.integers(1, 8), min_size=1, max_size=5).map(tuple),
        "width": st.floats(0.01, 2),
        "dropout": st.floats(0, 0.9),
        "round_to": st.sampled_from([1, 4, 8]),
        "options": st.dictionaries(st.sampled_from(["slow_stride", "fast_stride"]), st.floats(1, 16)),
        "factors": st.builds(Factors, **{axis: st.floats(1, 40) for axis in "stfcl"}),
        "aspect": st.none() | st.floats(0.25, 4),
        "kept": st.dictionaries(st.sampled_from(["stem.0", "layer1.0.conv1"]), st.integers(1, 64)),
        "kept_at": st.floats(1, 40),
    }
).map(lambda fields: fields if fields["kept"] else {**fields, "kept_at": 1.0})


@pytest.mark.parametrize(("value", "integer"), [(0.0, 0), (0.49, 0), (0.5, 1), (1.5, 2), (2.5, 3), (2.49, 2)])
def test_nearest_rounds_halves_up(value: float, integer: int) -> None:
    assert nearest(value) == integer


def test_unreduced_spec_is_the_table() -> None:
    assert (SPEC.frames, SPEC.clip_span, SPEC.input_side) == (64, 64, 256)
    assert SPEC.frame_indices() == tuple(range(64))
    assert SPEC.stage_blocks == (3, 4, 6, 3)
    assert [SPEC.channels(base) for base in (8, 64, 2048)] == [8, 64, 2048]


def test_every_factor_by_hand() -> None:
    """256/1.4 = 182.9; 64/2/2 = 16 frames, each second one of the first 32; 64/1.4 = 45.7; ⌊n/2⌋."""
    small = SPEC.replace(factors=Factors(s=1.4, t=2.0, f=2.0, c=1.4, l=2.0))
    assert small.input_side == 183
    assert small.frame_indices() == tuple(range(0, 32, 2))
    assert small.channels(64) == 46
    assert small.stage_blocks == (1, 2, 3, 1)


def test_two_steps_do_not_round_twice() -> None:
    """9/1.4² = 4.6 → 5, whereas rounding after each step would give 9/1.4 = 6.4 → 6 and 6/1.4 = 4.3 → 4."""
    twice = SPEC.replace(side=9, factors=Factors(s=1.4 * 1.4, c=1.4 * 1.4))
    assert twice.input_side == 5
    assert twice.channels(9) == 5


def test_channels_are_multiples_of_round_to() -> None:
    spec = SPEC.replace(round_to=8, factors=Factors(c=1.4))
    assert spec.channels(64) == 48
    assert spec.channels(3) == 8


@given(fields)
def test_derived_sizes_are_usable(fields: dict[str, Any]) -> None:
    """Whatever the factors: at least one frame, pixel, channel and block, and never more than the network had."""
    spec = NetworkSpec(**fields)
    assert 1 <= spec.frames <= spec.clip_span <= spec.clip_frames
    assert 1 <= spec.input_side <= spec.side
    assert spec.channels(64) >= 1
    assert spec.channels(64) % spec.round_to == 0
    assert all(1 <= reduced <= full for reduced, full in zip(spec.stage_blocks, spec.blocks, strict=True))


@given(fields)
def test_frame_indices_ascend_within_the_span(fields: dict[str, Any]) -> None:
    spec = NetworkSpec(**fields)
    indices = spec.frame_indices()
    assert len(indices) == spec.frames
    assert indices[0] == 0
    assert all(a < b for a, b in itertools.pairwise(indices))
    assert indices[-1] < spec.clip_span


@given(fields)
def test_round_trip_through_json(fields: dict[str, Any]) -> None:
    spec = NetworkSpec(**fields)
    again = NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)


@given(fields, st.sampled_from("stfcl"))
def test_specs_that_differ_are_told_apart(fields: dict[str, Any], axis: str) -> None:
    spec = NetworkSpec(**fields)
    changed = spec.to_dict()
    changed["factors"] = {**changed["factors"], axis: getattr(spec.factors, axis) + 1}
    assert NetworkSpec.from_dict(changed) != spec


def test_order_of_options_does_not_matter() -> None:
    one, two = ({"slow_stride": 4.0, "fast_stride": 1.0}, {"fast_stride": 1.0, "slow_stride": 4.0})
    assert json.dumps(SPEC.replace(options=one).to_dict()) == json.dumps(SPEC.replace(options=two).to_dict())


def test_order_of_pruned_layers_does_not_matter() -> None:
    one, two = ({"stem": 4, "layer1": 2}, {"layer1": 2, "stem": 4})
    assert json.dumps(SPEC.replace(kept=one).to_dict()) == json.dumps(SPEC.replace(kept=two).to_dict())


def test_pruned_layers_have_what_they_kept() -> None:
    """Whatever their width in the table, and whatever it is rounded to; the others are not concerned."""
    spec = SPEC.replace(kept={"stem": 13}, round_to=8)
    assert [spec.channels(base, "stem") for base in (8, 64, 2048)] == [13, 13, 13]
    assert spec.channels(64, "layer1") == spec.channels(64) == 64


def test_pruned_layers_follow_axis_c_from_where_they_were_counted() -> None:
    """Pruned at γ̄ = 1.4, 13 are left; at γ̄ = 2.8 that is 6.5 → 7, and at multiples of 4 it is 8."""
    spec = SPEC.replace(factors=Factors(c=1.4), kept={"stem": 13}, kept_at=1.4)
    assert spec.channels(64, "stem") == 13
    halved = spec.replace(factors=Factors(c=2.8))
    assert halved.channels(64, "stem") == 7
    assert halved.replace(round_to=4).channels(64, "stem") == 8
    assert halved.channels(64, "layer1") == nearest(64 / 2.8) == 23
    assert spec.replace(factors=Factors(c=1000.0)).channels(64, "stem") == 1


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (3, 64, 256, 256)),
        ({"factors": Factors(s=2.0, f=2.0)}, (3, 32, 128, 128)),
        ({"aspect": 2.0}, (3, 512, 256)),
        ({"aspect": 1.0}, (3, 256, 256)),
        ({"aspect": 2.0, "side": 64, "factors": Factors(s=1.4)}, (3, 91, 46)),  # 128/1.4 = 91.4, 64/1.4 = 45.7
        ({"aspect": 0.1, "side": 4}, (3, 1, 4)),
    ],
)
def test_shapes_of_clips_and_images(changes: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert SPEC.replace(**changes).input_shape == shape


def test_what_was_added_to_specs_is_not_said_where_it_says_nothing() -> None:
    """Digests of trials that are older stay what they were."""
    assert not {"aspect", "kept", "kept_at"} & SPEC.to_dict().keys()
    assert SPEC.replace(aspect=2.0, kept={"stem": 4}).to_dict().keys() >= {"aspect", "kept", "kept_at"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aspect": 0.0}, "aspect is 0"),
        ({"aspect": -1.0}, "aspect is -1"),
        ({"aspect": math.nan}, "aspect is nan"),
        ({"aspect": math.inf}, "aspect is inf"),
        ({"kept": {"stem": 4, "layer1": 0}}, "kept leaves nothing of layer1"),
        ({"classes": 0}, "classes is 0"),
        ({"clip_frames": 0}, "clip_frames is 0"),
        ({"side": -1}, "side is -1"),
        ({"round_to": 0}, "round_to is 0"),
        ({"blocks": ()}, "blocks is"),
        ({"blocks": (2, 0)}, "blocks is"),
        ({"width": 0.0}, "width is 0"),
        ({"width": math.nan}, "width is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_values_out_of_range_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPEC.replace(**change)


@pytest.mark.parametrize("value", [0.5, 0.0, -2.0, math.nan, math.inf])
def test_factors_below_one_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"factors\.c"):
        Factors(c=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"schema": None}, "schema is None"),
        ({"widht": 1.0}, "unknown keys \\['widht'\\]"),
        ({"factors": {"x": 2.0}}, "not a network spec"),
        ({"blocks": 3}, "not a network spec"),
    ],
)
def test_documents_that_are_no_spec(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkSpec.from_dict({**SPEC.to_dict(), **change})


def test_a_missing_key_is_an_error() -> None:
    document = SPEC.to_dict()
    del document["classes"]
    with pytest.raises(ValueError, match="classes"):
        NetworkSpec.from_dict(document)
