"""Which filters stay: numbers by hand, exceptions to the rule, both scopes, gradual steps, and messages."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression.pruning.groups import ChannelGroup
from compression.pruning.selection import (
    Choice,
    PruningError,
    PruningRule,
    choose,
    filters_left,
    kept_after,
    layer_sparsities,
)
from compression.spec import Factors, NetworkSpec

STREAM = ChannelGroup("stem", 4, ("stem", "layer1.0.conv2", "layer1.1.conv2"))
INNER = ChannelGroup("layer1.0.conv1", 10, ("layer1.0.conv1",))
LAST = ChannelGroup("layer1.1.conv1", 2, ("layer1.1.conv1",))
GROUPS = (STREAM, INNER, LAST)
ORIGINALS = {group.name: group.channels for group in GROUPS}
SCORES = {
    "stem": torch.tensor([4.0, 1.0, 3.0, 2.0]),
    "layer1.0.conv1": torch.arange(10.0, 0, -1),
    "layer1.1.conv1": torch.tensor([1.0, 3.0]),
}
RULE = PruningRule(importance="l1")


def rule(**changes: Any) -> PruningRule:
    return dataclasses.replace(RULE, **changes)


def pick(sparsity: float, with_rule: PruningRule = RULE, scores: dict[str, Tensor] = SCORES) -> Choice:
    return choose(GROUPS, scores, with_rule, sparsity=sparsity, originals=ORIGINALS)


def counts(choice: Choice) -> dict[str, int]:
    return {name: len(indices) for name, indices in choice.keep.items()}


@pytest.mark.parametrize(
    ("channels", "sparsity", "round_to", "left"),
    [
        (10, 0.0, 1, 10),
        (10, 0.25, 1, 8),  # ⌊2.5⌋ go
        (100, 0.29, 1, 71),  # 100 · 0.29 is 28.999999999999996
        (2, 0.9, 1, 1),
        (1, 0.5, 1, 1),
        (1, 0.999999999999, 1, 1),
        (64, 0.5, 8, 32),
        (64, 0.6, 8, 32),  # 26 → 32
        (45, 0.3, 8, 32),
        (45, 0.0, 8, 45),
        (45, 0.1, 8, 45),  # 41 → 48, but there are 45
        (16, 0.95, 8, 8),
        (6, 0.5, 8, 6),
    ],
)
def test_filters_left_by_hand(channels: int, sparsity: float, round_to: int, left: int) -> None:
    assert filters_left(channels, sparsity, round_to) == left


@given(st.integers(1, 2048), st.integers(0, 99), st.sampled_from([1, 2, 8, 16]))
def test_filters_left_in_exact_arithmetic(channels: int, percent: int, round_to: int) -> None:
    exact = channels - math.floor(channels * Fraction(percent, 100))
    left = filters_left(channels, percent / 100, round_to)
    assert exact <= left <= channels
    assert left == channels or (left % round_to == 0 and left - exact < round_to)


@given(st.integers(1, 300), st.floats(0, 0.999), st.floats(0, 0.999), st.sampled_from([1, 8]))
def test_more_sparsity_never_leaves_more(channels: int, one: float, other: float, round_to: int) -> None:
    low, high = sorted((one, other))
    assert filters_left(channels, high, round_to) <= filters_left(channels, low, round_to)


def test_the_lowest_scores_go() -> None:
    choice = pick(0.5)
    assert {name: indices.tolist() for name, indices in choice.keep.items()} == {
        "stem": [0, 2],
        "layer1.0.conv1": [0, 1, 2, 3, 4],
        "layer1.1.conv1": [1],
    }
    assert choice.notes == ()


def test_nothing_goes_at_sparsity_zero() -> None:
    choice = pick(0.0)
    assert counts(choice) == ORIGINALS
    assert choice.notes == ()


@pytest.mark.parametrize("scope", ["local", "global"])
def test_of_equals_the_lower_index_goes(scope: str) -> None:
    scores = {name: torch.ones(channels) for name, channels in ORIGINALS.items()}
    assert pick(0.5, rule(scope=scope), scores).keep["stem"][-1] == 3
    assert pick(0.5, scores=scores).keep["stem"].tolist() == [2, 3]
    # 8 of 16 filters, the earlier groups' first; each keeps its last one.
    assert counts(pick(0.5, rule(scope="global"), scores)) == {"stem": 1, "layer1.0.conv1": 5, "layer1.1.conv1": 2}


def test_a_group_that_would_be_emptied_keeps_one_and_says_so() -> None:
    choice = pick(0.9)
    assert counts(choice) == {"stem": 1, "layer1.0.conv1": 1, "layer1.1.conv1": 1}
    assert choice.notes == (
        "stem keeps 1 of 4 filters: sparsity 0.9 would have emptied it",
        "layer1.1.conv1 keeps 1 of 2 filters: sparsity 0.9 would have emptied it",
    )


def test_a_group_below_round_to_keeps_that_many_and_says_so() -> None:
    choice = pick(0.7, rule(round_to=4))
    assert counts(choice) == {"stem": 4, "layer1.0.conv1": 4, "layer1.1.conv1": 2}
    assert choice.notes == (
        "stem keeps 4 of 4 filters: sparsity 0.7 would have left 2, fewer than round_to 4",
        "layer1.0.conv1 keeps 4 of 10 filters: sparsity 0.7 would have left 3, fewer than round_to 4",
        "layer1.1.conv1 keeps 2 of 2 filters: sparsity 0.7 would have emptied it",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (0.5, 0.5, 0.5)),
        ({"layers": {"stem": 0.25}}, (0.25, 0.5, 0.5)),
        ({"layers": {"layer1.1.conv2": 0.25}}, (0.25, 0.5, 0.5)),
        ({"layers": {"layer1.*.conv1": 0.75}}, (0.5, 0.75, 0.75)),
        ({"layers": {"layer1.0.*": 0.25}}, (0.25, 0.25, 0.5)),
        ({"layers": {"*conv1": 0.2, "layer1.0.conv1": 0.2}}, (0.5, 0.2, 0.2)),
        ({"exclude": ("layer1.0.*",)}, (0, 0, 0.5)),
        ({"exclude": ("stem",), "layers": {"*": 0.3}}, (0, 0.3, 0.3)),
        ({"max_sparsity": {"*": 0.4}}, (0.4, 0.4, 0.4)),
        ({"max_sparsity": {"stem": 0.6, "layer1.0.conv1": 0.1}}, (0.5, 0.1, 0.5)),
        ({"layers": {"stem": 0.9}, "max_sparsity": {"layer1.0.conv2": 0.7}}, (0.7, 0.5, 0.5)),
    ],
)
def test_exceptions_to_the_rule(changes: dict[str, Any], expected: tuple[float, ...]) -> None:
    assert tuple(layer_sparsities(GROUPS, rule(**changes), 0.5).values()) == expected


def test_exceptions_hold_in_both_scopes() -> None:
    changes = {"exclude": ("layer1.1.conv1",), "layers": {"layer1.0.conv1": 0.2}}
    assert counts(pick(0.5, rule(**changes))) == {"stem": 2, "layer1.0.conv1": 8, "layer1.1.conv1": 2}
    assert counts(pick(0.5, rule(scope="global", **changes))) == {"stem": 2, "layer1.0.conv1": 8, "layer1.1.conv1": 2}


def test_global_scope_by_hand() -> None:
    """Scores over their group's mean: stem 1.6 .4 1.2 .8; conv1 10/5.5 … 1/5.5; last .5 1.5. The lowest 5 of 16 are
    conv1's 1/5.5 = .18 and 2/5.5 = .36, stem's .4, then last's .5, then conv1's 3/5.5 = .55."""
    choice = pick(5 / 16, rule(scope="global"))
    assert {name: indices.tolist() for name, indices in choice.keep.items()} == {
        "stem": [0, 2, 3],
        "layer1.0.conv1": [0, 1, 2, 3, 4, 5, 6],
        "layer1.1.conv1": [1],
    }
    assert choice.notes == ()


def test_global_scope_does_not_see_the_scale_of_a_layer() -> None:
    scaled = {name: scores * scale for (name, scores), scale in zip(SCORES.items(), (1e-3, 1.0, 1e3), strict=True)}
    one, other = pick(0.4, rule(scope="global")), pick(0.4, rule(scope="global"), scaled)
    assert {n: k.tolist() for n, k in one.keep.items()} == {n: k.tolist() for n, k in other.keep.items()}


def test_global_scope_empties_no_group_and_takes_from_others_instead() -> None:
    """All of the stem scores zero, so its 4 filters would go first; 8 of 16 go all the same."""
    scores = {**SCORES, "stem": torch.zeros(4)}
    choice = pick(0.5, rule(scope="global"), scores)
    assert counts(choice)["stem"] == 1
    assert sum(counts(choice).values()) == 8
    assert choice.notes == ("stem keeps 1 of 4 filters: sparsity 0.5 would have emptied it",)


def test_global_scope_keeps_to_the_largest_sparsity() -> None:
    choice = pick(0.5, rule(scope="global", max_sparsity={"layer1.0.conv1": 0.2}))
    assert counts(choice)["layer1.0.conv1"] == 8
    assert counts(choice) == {"stem": 1, "layer1.0.conv1": 8, "layer1.1.conv1": 1}


def test_global_scope_rounds_up() -> None:
    left = counts(pick(0.5, rule(scope="global", round_to=2)))
    assert all(count % 2 == 0 for count in left.values())
    assert sum(left.values()) >= 8


@given(st.floats(0, 0.99), st.integers(0, 1000), st.sampled_from([1, 2, 4]))
def test_global_scope_removes_what_was_asked_as_far_as_it_can(sparsity: float, seed: int, round_to: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(channels, generator=generator) for name, channels in ORIGINALS.items()}
    left = counts(pick(sparsity, rule(scope="global", round_to=round_to), scores))
    assert all(min(round_to, ORIGINALS[name]) <= count <= ORIGINALS[name] for name, count in left.items())
    exact = 16 - math.floor(16 * sparsity + 1e-9)
    if round_to == 1:
        assert sum(left.values()) == max(3, exact)
    else:
        assert sum(left.values()) >= exact


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("round_to", [1, 2])
def test_two_steps_end_where_one_does(scope: str, round_to: int) -> None:
    """With the scores of a network that isn't trained in between; local only, because a global step's mean moves."""
    with_rule = rule(scope=scope, round_to=round_to)
    first = pick(0.25, with_rule)
    groups = tuple(dataclasses.replace(group, channels=len(first.keep[group.name])) for group in GROUPS)
    scores = {name: SCORES[name][indices] for name, indices in first.keep.items()}
    second = choose(groups, scores, with_rule, sparsity=0.5, originals=ORIGINALS)
    final = {name: first.keep[name][indices].tolist() for name, indices in second.keep.items()}
    at_once = pick(0.5, with_rule)
    if scope == "local":
        assert final == {name: indices.tolist() for name, indices in at_once.keep.items()}
    elif round_to == 1:
        assert sum(map(len, final.values())) == sum(counts(at_once).values())


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_pruned_network_never_grows(scope: str) -> None:
    groups = tuple(dataclasses.replace(group, channels=1) for group in GROUPS)
    scores = {group.name: torch.ones(1) for group in groups}
    choice = choose(groups, scores, rule(scope=scope), sparsity=0.1, originals=ORIGINALS)
    assert counts(choice) == dict.fromkeys(ORIGINALS, 1)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 2.0, math.nan, math.inf])
def test_what_is_no_sparsity_is_refused(sparsity: float) -> None:
    with pytest.raises(PruningError, match=r"sparsity is .*must be in \[0, 1\)"):
        pick(sparsity)
    with pytest.raises(PruningError, match=r"layers\['stem'\] is"):
        pick(0.5, rule(layers={"stem": sparsity}))
    with pytest.raises(PruningError, match=r"max_sparsity\['stem'\] is"):
        pick(0.5, rule(max_sparsity={"stem": sparsity}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": {"layer1.0.conv3": 0.5}}, r"layers names 'layer1.0.conv3'.*did you mean layer1\.0\.conv[12]"),
        ({"max_sparsity": {"stam": 0.5}}, "max_sparsity names 'stam'.*did you mean stem"),
        ({"exclude": ("xyz*",)}, r"exclude names 'xyz\*'.*layers are named like stem, layer1\.0\.conv2"),
        ({"layers": {"stem": 0.1, "layer1.1.conv2": 0.2}}, "layers gives stem two sparsities, 0.1 by 'stem' and 0.2"),
        ({"max_sparsity": {"*": 0.1, "*.conv1": 0.2}}, "max_sparsity gives layer1.0.conv1 two sparsities"),
        ({"round_to": 0}, "round_to is 0, but must be >= 1"),
    ],
)
def test_rules_that_contradict_the_network_or_themselves(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        pick(0.5, rule(**changes))


@pytest.mark.parametrize(
    ("stem", "message"),
    [
        (torch.ones(3), r"scores of stem have the shape \[3\], but it has 4 filters"),
        (torch.tensor([1.0, math.nan, 2.0, 3.0]), "scores of stem are not all finite"),
        (torch.tensor([1.0, math.inf, 2.0, 3.0]), "scores of stem are not all finite"),
        (None, "scores lack stem"),
    ],
)
def test_scores_that_say_nothing(stem: Tensor | None, message: str) -> None:
    scores = {name: score for name, score in {**SCORES, "stem": stem}.items() if score is not None}
    with pytest.raises(PruningError, match=message):
        pick(0.5, scores=scores)


SPEC = NetworkSpec(backbone="reid", classes=2, clip_frames=1, side=8, blocks=(1,), factors=Factors(c=1.4))


def test_a_spec_counts_what_every_group_keeps() -> None:
    spec = kept_after(SPEC, GROUPS, {"stem": torch.tensor([0, 3])})
    assert spec.kept == {"stem": 2, "layer1.0.conv1": 10, "layer1.1.conv1": 2}
    assert spec.kept_at == 1.4
    assert spec.replace(kept={}, kept_at=1.0) == SPEC


def test_a_spec_of_which_nothing_is_removed_stays() -> None:
    assert kept_after(SPEC, GROUPS, {group.name: torch.arange(group.channels) for group in GROUPS}) is SPEC
    assert kept_after(SPEC, GROUPS, {}) is SPEC
