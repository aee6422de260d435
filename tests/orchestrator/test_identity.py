"""Which settings make a run this run, and what is told to whoever changes them."""

from __future__ import annotations

import json

import pytest

from configs.errors import UserError
from configs.loader import load_settings
from configs.schema import RunSettings
from orchestrator.identity import UNUSED, default_name, identity, require_same_identity
from orchestrator.searches import SEARCHES


def settings(*overrides: str, preset: str = "embedded") -> RunSettings:
    return load_settings(preset, overrides)


def state_of(*overrides: str, algorithm: str = "pas") -> dict[str, object]:
    """What a run with these settings leaves on disk, as far as this module reads it."""
    text = json.dumps({"run": "mine", "identity": identity(settings(*overrides), algorithm)})
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


@pytest.mark.parametrize(
    ("preset", "algorithm", "name"),
    [
        ("embedded", "pas", "slowfast-pas-51a5c2"),
        ("embedded", "train", "slowfast-train-a9392b"),
        ("embedded-r2plus1d", "pas", "r2plus1d-pas-6be40d"),
        ("kinetics-slowfast", "pas", "slowfast-pas-010c90"),
    ],
)
def test_names_of_searches_are_what_they_were_before_there_were_sweeps(preset: str, algorithm: str, name: str) -> None:
    """Recorded with the version before; what a search does not look at may be added to the settings."""
    assert default_name(settings(preset=preset), algorithm) == name


# Sweeps

SWEEP_EXTENDS = ["sweep.pruners=[fpgm]", "sweep.sparsity=[0.5]", "sweep.seeds=[1, 2]", "sweep.controls=[scratch]"]
NOT_LOOKED_AT = {
    "pas": ["prune.round_to=8", "sweep.pruners=[l2]", "reid.margin=0.5"],
    "train": ["prune.engine=nni", "sweep.sparsity=[0.5]"],
    "sweep-prune": [*SWEEP_EXTENDS, "search.axes=[s]", "search.iterations=3", "sweep.max_drop=5", "reid.margin=0.5"],
    "sweep-sensitivity": [
        *("sweep.sparsity=[0.5]", "sweep.max_drop=5", "search.axes=[s]"),
        *("train.epochs=5", "distillation.weight=2", "reid.margin=0.5"),
    ],
    "sweep-qat": [
        *("quantise.methods=[ptq]", "quantise.seeds=[1, 2]", "quantise.max_drop_points=5", "quantise.max_fallbacks=1"),
        *("search.axes=[s]", "prune.round_to=8", "sweep.sparsity=[0.5]", "chain.steps=[{step: pas}]"),
    ],
    "chain": ["search.iterations=3", "sweep.sparsity=[0.5]", "reid.margin=0.5", "transfer.epochs=3"],
    "transfer": [
        *("transfer.splits=[1]", "transfer.seeds=[1, 2]", "data.split=2", "network.width=0.5", "teacher.train.lr=0.2"),
        *("distillation.weight=2", "search.axes=[s]", "reid.margin=0.5"),
    ],
}
LOOKED_AT = {
    "sweep-prune": ["prune.round_to=8", "prune.exclude=[conv1]", "train.epochs=5", "distillation.weight=2", "seed=1"],
    "sweep-sensitivity": ["sweep.pruners=[l2]", "prune.exclude=[conv1]", "teacher.train.epochs=5", "seed=1"],
    "sweep-qat": ["quantise.exclude=[fc]", "quantise.epochs=2", "train.lr=0.5", "distillation.weight=2", "seed=1"],
    "chain": ["chain.steps=[{step: pas}]", "search.axes=[s]", "prune.round_to=8", "quantise.epochs=2", "train.lr=0.5"],
    "transfer": [
        *("transfer.epochs=3", "transfer.lr_divisor=1", "transfer.models={a: other}", "train.lr=0.5", "clips.test=3"),
        *("data.path=elsewhere", "seed=1"),
    ],
}


@pytest.mark.parametrize(
    ("algorithm", "override"), [(name, override) for name, row in NOT_LOOKED_AT.items() for override in row]
)
def test_what_an_algorithm_does_not_look_at_may_change(algorithm: str, override: str) -> None:
    assert default_name(settings(override), algorithm) == default_name(settings(), algorithm)
    require_same_identity(state_of(algorithm=algorithm), settings(override), algorithm)


@pytest.mark.parametrize(
    ("algorithm", "override"), [(name, override) for name, row in LOOKED_AT.items() for override in row]
)
def test_what_determines_cells_is_another_sweep(algorithm: str, override: str) -> None:
    assert default_name(settings(override), algorithm) != default_name(settings(), algorithm)
    with pytest.raises(UserError, match="holds a search with other settings"):
        require_same_identity(state_of(algorithm=algorithm), settings(override), algorithm)


def test_more_networks_extend_a_transfer_of_the_first() -> None:
    one, two, other = (
        settings(f"transfer.models={models}") for models in ("{a: 1a}", "{a: 1a, b: 2b}", "{b: 2b, a: 1a}")
    )
    assert default_name(one, "transfer") == default_name(two, "transfer") != default_name(other, "transfer")


def test_images_are_not_cut_into_clips() -> None:
    reid = default_name(settings(preset="embedded-reid"), "sweep-prune")
    assert default_name(settings("clips.test=3", preset="embedded-reid"), "sweep-prune") == reid
    assert default_name(settings("reid.margin=0.5", preset="embedded-reid"), "sweep-prune") != reid
    assert default_name(settings("network.aspect=1", preset="embedded-reid"), "sweep-prune") != reid


def test_each_algorithm_has_its_own_name() -> None:
    names = {default_name(settings(), algorithm) for algorithm in UNUSED}
    assert len(names) == len(UNUSED) == 7
    assert default_name(settings(preset="embedded-reid"), "sweep-prune").startswith("reid-sweep-prune-")


def test_every_search_says_what_it_does_not_look_at() -> None:
    assert UNUSED.keys() == SEARCHES.keys()
