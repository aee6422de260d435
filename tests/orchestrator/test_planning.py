"""Trials from settings: what enters a digest, and the recipe that each kind of trial is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from compression.reduction import reduce
from compression.spec import NetworkSpec, Quantisation
from configs.errors import UserError
from configs.loader import load_settings
from configs.schema import Pruning, QuantiseRecipe, ReidSettings, RunSettings
from orchestrator.pas import Hypothesis
from orchestrator.planning import (
    Planner,
    place_teacher_weights,
    teacher_network,
    weights_file,
    with_classes_of,
)
from orchestrator.store import Store
from orchestrator.sweep.cells import Cell, Control
from tests.orchestrator.test_pas import made_up_cost
from trainers.backbones import build, preset
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


RECORDED = {"s": "6e65e47fb9713045", "t": "ca80495820447317", "c": "1e1888647531e76d", "f": "c898584ce353599f"}


def test_digests_of_a_search_are_what_they_were_before_there_were_sweeps() -> None:
    """Recorded with the version before: whoever updates keeps all trials in the store."""
    plan = planner()
    assert plan.teacher.digest == "f7f1d81c65f04c1f"
    assert {axis: plan.trial(hypothesis(plan, axis)).digest for axis in RECORDED} == RECORDED
    assert plan.trial(hypothesis(plan, "c", kind="control", start=None)).digest == "155334f32309918e"


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


# Cells of a sweep


def cell(pruner: str = "l1", control: Control | None = None, *, finetuned: bool = True, **pruning: Any) -> Cell:
    network = planner().teacher_network.replace(kept={"s1.slow.conv": 1})
    return Cell(
        pruner=pruner,
        sparsity=0.5,
        seed=5,
        control=control,
        pruning=Pruning.model_validate(
            {"pruner": "l1" if control == "scratch" else pruner, "sparsity": 0.5, **pruning}
        ),
        network=network,
        cost=made_up_cost(network),
        reached=0.5,
        notes=(),
        name=f"slowfast-{pruner}-0.5",
        finetuned=finetuned,
    )


@pytest.mark.parametrize(("pruner", "control"), [("l1", None), ("agp", None), ("random", "random")])
def test_a_cell_is_pruned_and_distilled_from_the_teacher(pruner: str, control: Control | None) -> None:
    plan = planner("train.epochs=5")
    trial = plan.cell_trial(cell(pruner, control))
    assert trial.start == trial.teacher == plan.teacher.digest
    assert trial.distillation == plan.settings.distillation
    assert trial.pruning == Pruning.model_validate({"pruner": pruner, "sparsity": 0.5})
    assert trial.train == plan.recipe(plan.settings.train)
    assert (trial.name, trial.seed, trial.network.kept) == (f"slowfast-{pruner}-0.5", 5, {"s1.slow.conv": 1})
    assert (trial.data, trial.clips, trial.reid) == (MANIFEST.fingerprint, plan.settings.clips, None)


def test_a_cell_from_scratch_has_the_same_budget_and_nothing_else() -> None:
    plan = planner()
    trial = plan.cell_trial(cell("scratch", "scratch"))
    assert (trial.start, trial.teacher, trial.distillation, trial.pruning) == (None, None, None, None)
    assert trial.train == plan.cell_trial(cell()).train
    assert trial.network == plan.cell_trial(cell()).network


def test_a_cell_that_is_not_fine_tuned_is_only_evaluated() -> None:
    plan = planner()
    trial = plan.cell_trial(cell(finetuned=False))
    assert (trial.train, trial.teacher, trial.distillation) == (None, None, None)
    assert trial.start == plan.teacher.digest
    assert trial.pruning is not None


def test_cells_need_no_distillation() -> None:
    trial = planner("distillation.weight=0").cell_trial(cell())
    assert (trial.teacher, trial.distillation) == (None, None)
    assert trial.start is not None


def test_cells_survive_the_journey_to_another_process() -> None:
    for made in (cell(), cell("agp"), cell("scratch", "scratch"), cell(finetuned=False)):
        trial = planner().cell_trial(made)
        assert Trial.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial


def same(pruner: str, **pruning: Any) -> bool:
    plan = planner()
    return plan.cell_trial(cell(pruner, **pruning)).digest == plan.cell_trial(cell(pruner)).digest


@pytest.mark.parametrize("pruner", ["l1", "l2", "fpgm", "random"])
def test_one_shot_pruners_have_no_ramp(pruner: str) -> None:
    assert same(pruner, ramp=1.0, initial_sparsity=0.2)


@pytest.mark.parametrize("pruner", ["agp", "l1-iterative"])
@pytest.mark.parametrize("changed", [{"ramp": 1.0}, {"initial_sparsity": 0.2}])
def test_gradual_pruners_do(pruner: str, changed: dict[str, float]) -> None:
    assert not same(pruner, **changed)


def test_nobody_chooses_what_is_drawn_by_lot() -> None:
    assert same("random", engine="nni")
    assert not same("l1", engine="nni")


@pytest.mark.parametrize(
    "changed",
    [{"round_to": 4}, {"exclude": ["a"]}, {"layers": {"a": 0.1}}, {"max_sparsity": {"a": 0.1}}, {"scope": "global"}],
    ids=str,
)
def test_what_may_be_taken_away_enters_the_digest(changed: dict[str, Any]) -> None:
    assert not same("l1", **changed)


# Networks in integers

RULE = Quantisation(engine="onednn", float_layers=("fc",))


def quantised(*overrides: str, method: Literal["ptq", "qat"] = "qat", seed: int = 5) -> Trial:
    plan = planner(*overrides)
    return plan.quantised_trial(
        plan.teacher_network, "trained", method=method, rule=RULE, seed=seed, name="slowfast-qat"
    )


def test_a_network_is_quantised_in_training_taught_by_itself() -> None:
    plan, trial = planner(), quantised("train.lr=0.4", "quantise.calibration=32", "quantise.freeze_norms_after=7")
    assert trial.start == trial.teacher == "trained"
    assert trial.distillation == plan.settings.distillation
    assert trial.quantise == QuantiseRecipe(calibration=32, freeze_norms_after=7)
    assert trial.network == plan.teacher_network.replace(quantisation=RULE)
    assert (trial.name, trial.seed, trial.data, trial.pruning) == ("slowfast-qat", 5, MANIFEST.fingerprint, None)
    assert trial.train is not None
    assert trial.train.lr == pytest.approx(0.004)
    changed = {name: getattr(plan.settings.train, name) for name in ("lr", "epochs", "warmup_epochs")}
    assert trial.train.model_copy(update=changed) == plan.recipe(plan.settings.train)


def test_quantising_has_epochs_of_its_own_and_warms_up_for_the_same_share() -> None:
    train = quantised("train.epochs=30", "train.warmup_epochs=5", "quantise.epochs=12").train
    assert train is not None
    assert (train.epochs, train.warmup_epochs) == (12, 2)


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_rounding_is_simulated_in_full_precision(precision: str) -> None:
    train = quantised(f"train.precision={precision}", "runtime.gpus_per_trial=1").train
    assert train is not None
    assert train.precision == "fp32"


def test_quantising_needs_no_distillation() -> None:
    trial = quantised("distillation.weight=0")
    assert (trial.start, trial.teacher, trial.distillation) == ("trained", None, None)


def test_measuring_ranges_trains_nothing() -> None:
    trial = quantised("quantise.calibration=32", method="ptq")
    assert (trial.train, trial.teacher, trial.distillation, trial.start) == (None, None, None, "trained")
    assert trial.quantise == QuantiseRecipe(calibration=32)


TRAINING = ["train.lr=0.2", "train.epochs=5", "distillation.weight=2", "quantise.lr_divisor=3",
            "quantise.freeze_norms_after=1", "quantise.freeze_ranges_after=1"]  # fmt: skip


@pytest.mark.parametrize("override", [*TRAINING, "quantise.calibration=8"])
def test_what_changes_an_int8_network_changes_its_digest(override: str) -> None:
    assert quantised(override).digest != quantised().digest
    assert (quantised(override, method="ptq").digest == quantised(method="ptq").digest) == (override in TRAINING)


@pytest.mark.parametrize("override", ["quantise.max_drop_points=9", "quantise.methods=[qat]", "quantise.seeds=[1]"])
def test_how_far_the_search_goes_changes_no_int8_network(override: str) -> None:
    assert quantised(override).digest == quantised().digest


def test_measuring_ranges_has_no_seed() -> None:
    assert quantised(seed=1).digest != quantised(seed=2).digest
    assert quantised(seed=1, method="ptq").digest == quantised(seed=2, method="ptq").digest


def test_int8_networks_survive_the_journey_to_another_process() -> None:
    for trial in (quantised(), quantised(method="ptq")):
        assert Trial.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial


# Networks for images


def test_identities_are_learnt_by_their_own_settings() -> None:
    given = load_settings("embedded-reid")
    plan = Planner(given, MANIFEST, teacher_network(given))
    assert (plan.teacher.clips, plan.teacher.reid) == (None, given.reid)
    trial = plan.cell_trial(replace(cell(), network=plan.teacher_network))
    assert (trial.clips, trial.reid) == (None, given.reid)


def test_a_given_network_for_images_can_meet_other_people(tmp_path: Path) -> None:
    spec = preset(load_settings("embedded-reid").network, classes=7)
    description = Description(spec=spec, reid=ReidSettings(), classes=tuple("abcdefg"))
    save_package(tmp_path / "model", build(spec), description)
    given = load_settings("embedded-reid", [f"teacher.weights={tmp_path / 'model'}"])
    assert with_classes_of(teacher_network(given), MANIFEST, given) == spec


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
