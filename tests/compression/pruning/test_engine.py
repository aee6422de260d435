"""Who chooses the filters."""

import pytest
import torch
from torch import nn

from compression.pruning import nni_engine
from compression.pruning.engine import choose_filters
from compression.pruning.groups import find_groups
from compression.pruning.importance import group_scores
from compression.pruning.selection import Choice, PruningRule, choose

NETWORK = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
GROUPS = find_groups(NETWORK, torch.zeros(1, 3, 2, 2))
ORIGINALS = {group.name: group.channels for group in GROUPS}


def kept(choice: Choice) -> dict[str, list[int]]:
    return {name: indices.tolist() for name, indices in choice.keep.items()}


@pytest.mark.parametrize("importance", ["l1", "l2", "fpgm", "random"])
def test_our_own_engine_scores_and_chooses(importance: str) -> None:
    rule = PruningRule(importance=importance)
    scores = group_scores(NETWORK, GROUPS, importance, 3)
    expected = choose(GROUPS, scores, rule, sparsity=0.5, originals=ORIGINALS)
    found = choose_filters(NETWORK, GROUPS, rule, sparsity=0.5, originals=ORIGINALS, seed=3)
    assert kept(found) == kept(expected)


def test_known_scores_are_not_computed_again() -> None:
    scores = {"0": torch.arange(6.0), "2": torch.arange(4.0)}
    rule = PruningRule(importance="no such thing")
    found = choose_filters(NETWORK, GROUPS, rule, sparsity=0.5, originals=ORIGINALS, seed=0, scores=scores)
    assert kept(found) == {"0": [3, 4, 5], "2": [2, 3]}


def test_the_other_engine_is_asked_with_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def answer(module, groups, rule, *, sparsity, originals):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        asked.extend((module, groups, rule, sparsity, originals))
        return Choice({}, ("by NNI",))

    monkeypatch.setattr(nni_engine, "nni_choose", answer)
    rule = PruningRule(importance="l1")
    choice = choose_filters(NETWORK, GROUPS, rule, sparsity=0.5, originals=ORIGINALS, seed=0, engine="nni")
    assert choice.notes == ("by NNI",)
    assert asked == [NETWORK, GROUPS, rule, 0.5, ORIGINALS]
