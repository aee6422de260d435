"""Trials from settings: what enters a digest, and the recipe that each kind of trial is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compression.reduction import reduce
from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.loader import load_settings
from configs.schema import RunSettings
from orchestrator.pas import Hypothesis
from orchestrator.planning import (
    Planner,
    place_teacher_weights,
    teacher_network,
    weights_file,
    with_classes_of,
)
from orchestrator.store import Store
from tests.orchestrator.test_pas import made_up_cost
from trainers.backbones import build
from trainers.data.manifest import Manifest, Video
from trainers.package import Description, read_weights, save_package
from trainers.trial import Trial

MANIFEST = Manifest(
    root=Path("videos"),
    source="csv",
    classes=("left", "right", "up"),
    train=(Video("a.mp4", 0, 20, 30.0),),
    val=(Video("b.mp4", 1, 20, 30.0),),
    quarantined=(),
    fingerprint="f" * 64,
)


def settings(*overrides: str) -> RunSettings:
    return load_settings("embedded", ["network.width=0.03125", *overrides])


def planner(*overrides: str, manifest: Manifest = MANIFEST) -> Planner:
    given = settings(*overrides)
    return Planner(given, manifest, with_classes_of(teacher_network(given), manifest, given))


def hypothesis(plan: Planner, axis: str = "s", *, kind: str = "hypothesis", start: str | None = "parent") -> Hypothesis:
    network = reduce(plan.teacher_network, axis)
    cost = made_up_cost(network)
    return Hypothesis(kind=kind, iteration=1, axis=axis, network=network, cost=cost, start=start)  # type: ignore[arg-type]


def trained(plan: Planner) -> Trial:
    return plan.trial(hypothesis(plan))


# Digests

ENTERS_HYPOTHESIS = [
    "seed=1",
    "train.lr=0.2",
    "train.epochs=5",
    "clips.per_video=2",
    "distillation.weight=2",
    "distillation.teacher_mode=eval",
    "network.width=0.0625",
    "search.warm_start_lr_divisor=5",
    "search.factors={s: 1.3}",
    "teacher.train.epochs=13",  # another teacher is another distillation
]
STAYS_OUT = [
    "runtime.name=other",
    "runtime.runs=elsewhere",
    "runtime.runner=local",
    "runtime.cpus_per_trial=4",
    "runtime.checkpoint_every=3",
    "runtime.loader_workers=2",
    "search.iterations=7",
    "search.control=true",
    "train.precision=fp32",  # what `auto` is resolved to without a GPU
    "data.path=moved",
]


def test_equal_settings_give_equal_digests() -> None:
    assert trained(planner()).digest == trained(planner()).digest
    assert planner().teacher.digest == planner().teacher.digest


@pytest.mark.parametrize("override", ENTERS_HYPOTHESIS)
def test_what_changes_a_result_changes_its_digest(override: str) -> None:
    given = settings(override)
    plan = planner(override)
    network = reduce(plan.teacher_network, "s", given.search.factors.get("s"))
    assert plan.trial(replace(hypothesis(plan), network=network)).digest != trained(planner()).digest


@pytest.mark.parametrize("override", STAYS_OUT)
def test_what_changes_no_result_changes_no_digest(override: str) -> None:
    assert trained(planner(override)).digest == trained(planner()).digest


def test_data_and_parent_enter_the_digest() -> None:
    plan = planner()
    other_data = planner(manifest=replace(MANIFEST, fingerprint="0" * 64))
    digests = {
        trained(plan).digest,
        trained(other_data).digest,
        plan.trial(hypothesis(plan, start="another")).digest,
        plan.trial(hypothesis(plan, start=None)).digest,
    }
    assert len(digests) == 4


def test_where_the_data_lies_and_what_it_is_called_do_not_matter() -> None:
    moved = replace(MANIFEST, root=Path("elsewhere"), source="folders")
    assert trained(planner(manifest=moved)).digest == trained(planner()).digest


def test_hypothesis_settings_leave_the_teacher_alone() -> None:
    """So that searches with other recipes share one teacher."""
    for override in ("train.lr=0.2", "distillation.weight=2", "search.axes=[s]"):
        assert planner(override).teacher.digest == planner().teacher.digest
    assert planner("teacher.train.lr=0.2").teacher.digest != planner().teacher.digest


# Recipes


def test_a_warm_start_has_a_tenth_of_the_learning_rate() -> None:
    plan = planner("train.lr=0.4")
    warm, cold = plan.trial(hypothesis(plan)), plan.trial(hypothesis(plan, "c", start=None))
    assert warm.train is not None
    assert cold.train is not None
    assert warm.train.lr == pytest.approx(0.04)
    assert cold.train == plan.recipe(plan.settings.train)
    assert warm.train.model_copy(update={"lr": 0.4}) == cold.train
    assert warm.start == "parent"


def test_a_hypothesis_is_distilled_from_the_teacher() -> None:
    plan = planner()
    assert trained(plan).teacher == plan.teacher.digest
    assert trained(plan).distillation == plan.settings.distillation


def test_a_control_has_the_same_budget_and_no_teacher() -> None:
    plan = planner()
    control = plan.trial(hypothesis(plan, kind="control", start=None))
    assert (control.teacher, control.distillation, control.start) == (None, None, None)
    assert control.train == plan.recipe(plan.settings.train)
    assert control.name == "slowfast-pas1-control"


def test_a_distillation_that_weighs_nothing_needs_no_teacher() -> None:
    plan = planner("distillation.weight=0")
    assert trained(plan).teacher is None
    for override in ("distillation.source_alpha=500", "distillation.features=l2"):
        plan = planner("distillation.weight=0", override)
        assert trained(plan).teacher == plan.teacher.digest


@pytest.mark.parametrize(
    ("precision", "gpus", "expected"),
    [("auto", 0, "fp32"), ("auto", 0.5, "bf16"), ("bf16", 0, "bf16"), ("fp32", 1, "fp32")],
)
def test_precision_is_resolved(precision: str, gpus: float, expected: str) -> None:
    plan = planner(f"train.precision={precision}", f"runtime.gpus_per_trial={gpus}")
    train = trained(plan).train
    assert train is not None
    assert train.precision == expected


def test_trials_survive_the_journey_to_another_process() -> None:
    trial = trained(planner())
    assert Trial.from_dict(trial.to_dict()) == trial
    assert Trial.from_dict(trial.to_dict()).digest == trial.digest


# A given teacher


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A model folder of a network that fits `settings()` and the manifest."""
    spec = planner().teacher_network
    description = Description(spec=spec, clips=settings().clips, classes=MANIFEST.classes)
    save_package(tmp_path / "model", build(spec), description)
    return tmp_path / "model"


def given_teacher(package: Path) -> tuple[RunSettings, NetworkSpec]:
    given = settings(f"teacher.weights={package}")
    return given, teacher_network(given)


def test_a_given_teacher_is_evaluated_not_trained(package: Path, tmp_path: Path) -> None:
    given, network = given_teacher(package)
    trial = Planner(given, MANIFEST, network).teacher
    assert trial.train is None
    store = Store(tmp_path / "runs")
    place_teacher_weights(store, trial, package)
    placed = read_weights(store.trial_folder(trial.digest))
    assert {name: tensor.tolist() for name, tensor in placed.items()} == {
        name: tensor.tolist() for name, tensor in read_weights(package).items()
    }


def test_other_weights_are_another_teacher(package: Path) -> None:
    given, network = given_teacher(package)
    before = Planner(given, MANIFEST, network).teacher.digest
    description = Description(spec=network, clips=given.clips, classes=MANIFEST.classes)
    save_package(package, build(network), description)
    assert Planner(given, MANIFEST, network).teacher.digest != before


def rejection(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        action()
    return str(error.value)


def test_a_teacher_of_another_backbone_is_refused(package: Path) -> None:
    given = settings(f"teacher.weights={package}", "network.backbone=r2plus1d")
    message = rejection(lambda: teacher_network(given))
    assert str(package) in message
    assert "is a slowfast, but network.backbone is r2plus1d" in message


def test_a_teacher_for_other_classes_is_refused(package: Path) -> None:
    given, network = given_teacher(package)
    fewer = replace(MANIFEST, classes=("left", "right"))
    message = rejection(lambda: with_classes_of(network, fewer, given))
    assert "tells 3 classes apart, but the data has 2" in message


def test_a_missing_teacher_is_refused(tmp_path: Path) -> None:
    assert "does not exist; give a model folder" in rejection(lambda: weights_file(tmp_path / "none.safetensors"))
