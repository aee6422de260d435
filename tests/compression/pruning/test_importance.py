"""Importances against the source's toy, hand values and a slow reference."""

import pytest
import torch
from torch import Tensor, nn

from compression.pruning.groups import ChannelGroup
from compression.pruning.importance import IMPORTANCES, Importance, fpgm, group_scores, l1, l2, random_scores

TOY = torch.tensor([[2, 2], [3, 0], [0, 2.9], [-1.5, -1.6]])
"""Four filters of which each importance removes another first (`specs/e2tad.md` 16.2)."""


def random_weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distances_by_hand(weight: Tensor) -> Tensor:
    """Equation 5 of the FPGM paper as it stands, in double precision."""
    filters = [filter_.double() for filter_ in weight]
    return torch.stack([torch.stack([(one - other).pow(2).sum().sqrt() for other in filters]).sum() for one in filters])


@pytest.mark.parametrize(
    ("importance", "scores", "first_to_go"),
    [
        (l1, [4, 3, 2.9, 3.1], 2),
        (l2, [2.828, 3, 2.9, 2.193], 3),
        (fpgm, [9.450, 11.185, 11.109, 14.540], 0),
    ],
)
def test_the_source_s_toy_has_three_answers(importance: Importance, scores: list[float], first_to_go: int) -> None:
    found = importance(TOY)
    torch.testing.assert_close(found, torch.tensor(scores), rtol=0, atol=6e-4)
    assert int(found.argmin()) == first_to_go


@pytest.mark.parametrize("shape", [(7, 3, 3, 1, 1), (5, 2, 1, 3, 3), (4, 3, 3, 3), (1, 2, 1, 1)])
def test_fpgm_is_the_sum_of_all_distances(shape: tuple[int, ...]) -> None:
    weight = random_weight(*shape)
    torch.testing.assert_close(fpgm(weight).double(), distances_by_hand(weight), rtol=1e-6, atol=0)


def test_fpgm_of_filters_that_are_almost_equal() -> None:
    """In float32, by way of a matrix product, ‖a‖² + ‖b‖² − 2ab, these distances would be rounding errors."""
    weight = 100 + 1e-3 * random_weight(30, 8, 3, 3)
    torch.testing.assert_close(fpgm(weight).double(), distances_by_hand(weight), rtol=1e-4, atol=0)


def test_fpgm_tells_signs_apart() -> None:
    """A filter and its negative are far apart; on absolute values (as Torch-Pruning's) they would be the same."""
    same, opposite = torch.ones(2, 4, 1, 1), torch.stack([torch.ones(4, 1, 1), -torch.ones(4, 1, 1)])
    assert fpgm(same).tolist() == [0, 0]
    assert fpgm(opposite).tolist() == [4, 4]


@pytest.mark.parametrize("name", IMPORTANCES)
def test_scores_follow_the_filters_and_their_scale(name: str) -> None:
    score, weight, order = IMPORTANCES[name], random_weight(6, 4, 3, 3), torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(score(weight[order]), score(weight)[order])
    torch.testing.assert_close(score(-2 * weight), 2 * score(weight))


@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_scores_are_float32_without_gradient(name: str, dtype: torch.dtype) -> None:
    weight = nn.Parameter(random_weight(5, 3, 3, 3).to(dtype))
    scores = IMPORTANCES[name](weight)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    torch.testing.assert_close(scores, IMPORTANCES[name](weight.detach().float()))


def two_convolutions() -> tuple[nn.Module, tuple[ChannelGroup, ...]]:
    """Coupled, filters of 2 weights in the one and of 1 in the other; and one that stands alone."""
    module = nn.Module()
    module.first, module.second, module.alone = nn.Conv2d(2, 2, 1), nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 1)
    with torch.no_grad():
        module.first.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, -1.0]]).view(2, 2, 1, 1))
        module.second.weight.copy_(torch.tensor([-2.0, 5.0]).view(2, 1, 1, 1))
    return module, (ChannelGroup("first", 2, ("first", "second")), ChannelGroup("alone", 3, ("alone",)))


@pytest.mark.parametrize(
    ("importance", "scores"),
    [
        ("l1", [7 + 2, 1 + 5]),
        ("l2", [5 + 2, 1 + 5]),
        ("fpgm", [34**0.5 + 7, 34**0.5 + 7]),
    ],
)
def test_coupled_filters_are_judged_by_the_sum(importance: str, scores: list[float]) -> None:
    module, groups = two_convolutions()
    found = group_scores(module, groups, importance, 0)
    assert found.keys() == {"first", "alone"}
    torch.testing.assert_close(found["first"], torch.tensor(scores, dtype=torch.float32))
    assert found["alone"].shape == (3,)


def test_scores_by_lot_depend_on_seed_and_name_alone() -> None:
    module, groups = two_convolutions()
    scores = group_scores(module, groups, "random", 7)
    reversed_scores = group_scores(module, groups[::-1], "random", 7)
    assert all(torch.equal(scores[name], reversed_scores[name]) for name in scores)
    assert not torch.equal(scores["first"], group_scores(module, groups, "random", 8)["first"])
    assert not torch.equal(random_scores("one", 5, 0), random_scores("other", 5, 0))


def test_scores_by_lot_are_uniform() -> None:
    """The mean of 4000 has a standard deviation of 0.0046."""
    scores = random_scores("layer", 4000, 0)
    assert 0 <= scores.min() < 0.01 < 0.99 < scores.max() < 1
    assert scores.mean() == pytest.approx(0.5, abs=0.02)


def test_an_unknown_importance_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'taylor', but must be one of l1, l2, fpgm, random"):
        group_scores(*two_convolutions(), "taylor", 0)
