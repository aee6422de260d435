"""Which settings make a run this run, and what is told to whoever changes them."""

from __future__ import annotations

import json

import pytest

from configs.errors import UserError
from configs.loader import load_settings
from configs.schema import RunSettings
from orchestrator.identity import default_name, identity, require_same_identity


def settings(*overrides: str) -> RunSettings:
    return load_settings("embedded", overrides)


def state_of(*overrides: str) -> dict[str, object]:
    """What a run with these settings leaves on disk, as far as this module reads it."""
    text = json.dumps({"run": "mine", "identity": identity(settings(*overrides), "pas")})
    read: dict[str, object] = json.loads(text)
    return read


ALLOWED = [
    "search.iterations=9",
    "search.target_gmacs=1e-3",
    "search.max_drop=3",
    "search.control=true",
    "data.max_quarantined=0.1",
    "runtime.cpus_per_trial=2",
    "runtime.runner=local",
    "runtime.name=other",
]
OTHER_SEARCH = [
    "seed=1",
    "network.side=32",
    "clips.test=3",
    "teacher.train.lr=0.2",
    "train.epochs=5",
    "distillation.weight=2",
    "search.axes=[s, t]",
    "search.factors={s: 1.2}",
]


@pytest.mark.parametrize("override", ALLOWED)
def test_how_far_and_where_may_change(override: str) -> None:
    assert default_name(settings(override), "pas") == default_name(settings(), "pas")
    require_same_identity(state_of(), settings(override), "pas")


@pytest.mark.parametrize("override", OTHER_SEARCH)
def test_anything_else_is_another_run(override: str) -> None:
    assert default_name(settings(override), "pas") != default_name(settings(), "pas")
    path = override.partition("=")[0]
    with pytest.raises(UserError, match=path.replace(".", r"\.")):
        require_same_identity(state_of(), settings(override), "pas")


def test_a_value_that_is_taken_back_is_a_difference_too() -> None:
    with pytest.raises(UserError, match=r"search\.factors\.s was 1\.2, is None"):
        require_same_identity(state_of("search.factors={s: 1.2}"), settings(), "pas")


def test_a_search_does_not_continue_a_training() -> None:
    with pytest.raises(UserError, match="algorithm was 'pas', is 'train'"):
        require_same_identity(state_of(), settings(), "train")


def test_the_message_says_which_run_what_differs_and_what_to_do() -> None:
    with pytest.raises(UserError) as error:
        require_same_identity(state_of(), settings("seed=7", "train.lr=0.5"), "pas")
    assert str(error.value) == (
        "run 'mine' holds a search with other settings (seed was 0, is 7; train.lr was 0.1, is 0.5). "
        "Choose another --name; trials that both share are not trained twice"
    )


def test_a_new_run_has_no_identity_yet() -> None:
    require_same_identity(None, settings(), "pas")


def test_the_default_name_says_backbone_and_algorithm() -> None:
    assert default_name(settings(), "pas").startswith("slowfast-pas-")
    assert default_name(load_settings("embedded-r2plus1d"), "train").startswith("r2plus1d-train-")
