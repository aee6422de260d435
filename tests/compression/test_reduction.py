"""Reduction operators: what each changes, that steps compose without rounding, and when an axis is exhausted."""

import math
from random import Random

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from compression.reduction import AXES, ReductionError, reduce, reduce_sequence
from compression.spec import NetworkSpec, nearest

SPEC = NetworkSpec(backbone="slowfast", classes=400, clip_frames=64, side=256, blocks=(3, 4, 6, 3))

sequences = st.lists(st.sampled_from(list(AXES)), max_size=8)


def effects(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    return {letter: axis.effect(spec) for letter, axis in AXES.items()}


def possible_steps(sequence: list[str]) -> list[NetworkSpec]:
    try:
        return reduce_sequence(SPEC, sequence)
    except ReductionError:
        reject()


def test_the_axes_are_the_source_s() -> None:
    assert {letter: axis.factor for letter, axis in AXES.items()} == {"s": 1.4, "t": 2, "f": 2, "c": 1.4, "l": 2}
    assert {letter for letter, axis in AXES.items() if axis.keeps_weights} == {"s", "t", "f"}


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("s", {"input_side": 183, "frames": 64}),
        ("t", {"clip_span": 32, "frames": 32}),
        ("f", {"clip_span": 64, "frames": 32}),
        ("c", {"input_side": 256, "frames": 64}),
        ("l", {"stage_blocks": (1, 2, 3, 1), "frames": 64}),
    ],
)
def test_one_step_by_hand(axis: str, expected: dict[str, object]) -> None:
    smaller = reduce(SPEC, axis)
    assert {name: getattr(smaller, name) for name in expected} == expected


@pytest.mark.parametrize("axis", AXES)
def test_a_step_changes_its_own_axis_only(axis: str) -> None:
    """t also determines the number of frames, which is f's effect; every other pair is independent."""
    before, after = effects(SPEC), effects(reduce(SPEC, axis))
    changed = {letter for letter in AXES if before[letter] != after[letter]}
    assert changed == ({"t", "f"} if axis in "tf" else {axis})


def test_the_frame_rate_keeps_the_span_and_the_length_does_not() -> None:
    assert reduce(SPEC, "f").frame_indices() == tuple(range(0, 64, 2))
    assert reduce(SPEC, "t").frame_indices() == tuple(range(32))


@given(sequences)
def test_sizes_come_from_the_total_factor(sequence: list[str]) -> None:
    """After any steps every size is the unreduced one divided once: nothing is rounded on the way."""
    last = possible_steps(sequence)[-1]
    total = {axis: math.prod([AXES[axis].factor] * sequence.count(axis)) for axis in AXES}
    assert last.factors.as_dict() == pytest.approx(total)
    assert last.input_side == nearest(256 / total["s"])
    assert last.frames == nearest(64 / total["t"] / total["f"])
    assert last.channels(64) == nearest(64 / total["c"])
    assert last.stage_blocks == tuple(max(1, math.floor(n / total["l"])) for n in SPEC.blocks)


@given(sequences, st.randoms(use_true_random=False))
def test_the_order_of_steps_does_not_matter(sequence: list[str], random: Random) -> None:
    shuffled = sequence.copy()
    random.shuffle(shuffled)
    assert effects(possible_steps(sequence)[-1]) == effects(possible_steps(shuffled)[-1])


@given(sequences)
def test_every_step_changes_something(sequence: list[str]) -> None:
    steps = possible_steps(sequence)
    assert len(steps) == len(sequence) + 1
    for axis, before, after in zip(sequence, steps, steps[1:], strict=False):
        assert effects(before)[axis] != effects(after)[axis]


@pytest.mark.parametrize(
    ("axis", "sizes"),
    [
        ("t", {"clip_frames": 1}),
        ("f", {"clip_frames": 1}),
        ("l", {"blocks": (1, 1, 1, 1)}),
        ("s", {"side": 1}),
        ("c", {"width": 1e-9}),
    ],
)
def test_an_exhausted_axis_raises(axis: str, sizes: dict[str, object]) -> None:
    with pytest.raises(ReductionError, match=f"axis {axis} .*exhausted"):
        reduce(SPEC.replace(**sizes), axis)


def test_axis_c_divides_what_pruning_kept() -> None:
    """100/1.4 = 71.4 and 7/1.4 = 5; a second step divides the same counts, 100/1.96 = 51.02."""
    spec = SPEC.replace(kept={"stem": 100, "layer1.0.conv1": 7})
    once = reduce(spec, "c")
    assert [once.channels(64, layer) for layer in spec.kept] == [5, 71]
    assert [reduce(once, "c").channels(64, layer) for layer in spec.kept] == [4, 51]
    assert once.kept == spec.kept


def test_axis_c_is_not_exhausted_while_a_pruned_layer_shrinks() -> None:
    """All reference widths are at 1 already, but 2 filters of a pruned layer become 1."""
    spec = SPEC.replace(width=1e-9, kept={"stem": 2})
    once = reduce(spec, "c", 2.0)
    assert once.channels(64, "stem") == 1
    with pytest.raises(ReductionError, match=r"axis c .*exhausted"):
        reduce(once, "c", 2.0)


def test_a_step_may_have_its_own_factor() -> None:
    assert reduce(SPEC, "s", 2.0).input_side == 128


@pytest.mark.parametrize("factor", [1.0, 0.5, -1.0, math.nan])
def test_factors_not_above_one_are_refused(factor: float) -> None:
    with pytest.raises(ReductionError, match="must be > 1"):
        reduce(SPEC, "s", factor)


def test_an_unknown_axis_is_named_with_the_known_ones() -> None:
    with pytest.raises(ReductionError, match="'x', but must be one of s, t, f, c, l"):
        reduce(SPEC, "x")


def test_a_sequence_names_the_step_that_fails() -> None:
    with pytest.raises(ReductionError, match=r"step 3: axis l \(layers\) is exhausted"):
        reduce_sequence(SPEC.replace(blocks=(2, 2, 2, 2)), "sll")


def test_reducing_leaves_its_argument_alone() -> None:
    before = SPEC.to_dict()
    reduce_sequence(SPEC, "stfcl")
    assert SPEC.to_dict() == before
