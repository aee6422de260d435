"""A trial's digest: what enters it, and what does not."""

import dataclasses
import json
from typing import Any

import pytest

from compression.reduction import reduce
from compression.spec import NetworkSpec, Quantisation
from configs.schema import ClipSettings, DistillationSettings, Pruning, QuantiseRecipe, ReidSettings, TrainSettings
from trainers import trial as trial_module
from trainers.trial import Trial

TRIAL = Trial(
    name="slowfast-pas2-channels",
    network=NetworkSpec(backbone="slowfast", classes=8, clip_frames=16, side=36, blocks=(2, 2, 2, 2), width=0.125),
    data="0" * 64,
    clips=ClipSettings(per_video=2, train_short_side=(40, 48)),
    train=TrainSettings(epochs=3, warmup_epochs=1, precision="fp32"),
    seed=0,
    teacher="a" * 16,
    distillation=DistillationSettings(),
    start="b" * 16,
)

OTHER: dict[str, Any] = {
    "network": reduce(TRIAL.network, "s"),
    "data": "1" * 64,
    "clips": ClipSettings(per_video=3, train_short_side=(40, 48)),
    "train": TrainSettings(epochs=4, warmup_epochs=1, precision="fp32"),
    "seed": 1,
    "teacher": "c" * 16,
    "distillation": DistillationSettings(temperature=4.0),
    "start": None,
    "weights_sha256": "2" * 64,
    "pruning": Pruning(pruner="agp", sparsity=0.5),
    "new_classifier": True,
}
"""Another value for every field but the name, and but `reid`, which takes the place of `clips`, and `quantise`, which
needs a network in integers (`test_quantisation.py`)."""
SPECIAL = ("name", "reid", "quantise")
REID = dataclasses.replace(TRIAL, clips=None, reid=ReidSettings())


def test_the_digest_is_the_same_for_ever() -> None:
    """Recorded; if it changes, every stored trial is trained again: that needs a reason and a line in the changelog."""
    assert TRIAL.digest == "e0202df11ad65474"


def test_the_name_is_not_part_of_the_digest() -> None:
    assert dataclasses.replace(TRIAL, name="other").digest == TRIAL.digest


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(Trial) if f.name not in ("name", "reid", "quantise")]
)
def test_every_other_field_is(field: str) -> None:
    assert dataclasses.replace(TRIAL, **{field: OTHER[field]}).digest != TRIAL.digest


def test_how_identities_are_learnt_is() -> None:
    other = dataclasses.replace(REID, reid=ReidSettings(margin=0.5))
    assert len({TRIAL.digest, REID.digest, other.digest}) == 3


def test_what_trials_could_not_say_at_first_is_said_only_where_it_is_meant() -> None:
    """Digests of trials that use none of it stay what they were."""
    assert not {"reid", "pruning", "new_classifier"} & TRIAL.identity().keys()
    assert not {"aspect", "kept", "kept_at"} & TRIAL.network.to_dict().keys()


@pytest.mark.parametrize("changes", [{"reid": ReidSettings()}, {"clips": None}])
def test_a_trial_has_one_task(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give `clips` or `reid`"):
        dataclasses.replace(TRIAL, **changes)


def test_pruning_starts_from_something() -> None:
    with pytest.raises(ValueError, match="give `start`"):
        dataclasses.replace(TRIAL, start=None, pruning=OTHER["pruning"])


@pytest.mark.parametrize(
    "changes", [{"start": None}, {"clips": None, "reid": ReidSettings()}, {"pruning": OTHER["pruning"]}]
)
def test_only_a_classifier_that_starts_from_another_gets_a_new_head(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="new_classifier replaces"):
        dataclasses.replace(TRIAL, new_classifier=True, **changes)


def test_another_recipe_version_is_another_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = TRIAL.digest
    monkeypatch.setattr(trial_module, "RECIPE_VERSION", trial_module.RECIPE_VERSION + 1)
    assert TRIAL.digest != digest


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train": None},
        {"distillation": None, "teacher": None},
        {"start": None},
        {"pruning": OTHER["pruning"]},
        {"clips": None, "reid": ReidSettings()},
        {"new_classifier": True},
    ],
)
def test_a_trial_survives_json(changes: dict[str, Any]) -> None:
    trial = dataclasses.replace(TRIAL, **changes)
    again = Trial.from_dict(json.loads(json.dumps(trial.to_dict())))
    assert again == trial
    assert again.digest == trial.digest


def test_a_trial_of_another_recipe_version_is_refused() -> None:
    with pytest.raises(ValueError, match="recipe version 0, but this code trains version 1"):
        Trial.from_dict({**TRIAL.to_dict(), "recipe_version": 0})


QUANTISED = dataclasses.replace(
    TRIAL,
    network=TRIAL.network.replace(quantisation=Quantisation(engine="onednn")),
    quantise=QuantiseRecipe(),
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": TrainSettings(epochs=3, warmup_epochs=1, precision="bf16")}, "simulated in fp32"),
        ({"distillation": DistillationSettings(features="l2")}, "needs maps"),
        ({"pruning": Pruning(pruner="agp", sparsity=0.5)}, "does not prune"),
        ({"start": None}, "quantises the network of `start`"),
    ],
)
def test_quantising_that_can_not_work_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(QUANTISED, **changes)
