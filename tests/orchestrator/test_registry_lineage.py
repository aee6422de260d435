"""Where models come from: kinds, ancestors, base networks, and what changed on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compression.spec import Factors, Quantisation
from configs.schema import DistillationSettings, Pruning, QuantiseRecipe
from orchestrator.registry.assembly import drop_points
from orchestrator.registry.changes import change
from orchestrator.registry.kinds import kind_of, role_of
from orchestrator.registry.lineage import ancestors, base_of, children
from orchestrator.registry.model import StoredModel
from orchestrator.registry.runs import RunRecord, record_of
from tests.orchestrator.sample_registry import (
    CONTROL,
    LOSER,
    PAS1,
    PAS2,
    PRUNED,
    TEACHER,
    pas_state,
    stored,
    sweep_state,
    taught,
    trial,
)
from tests.trainers.tiny import SPEC, TRAIN
from trainers.trial import Trial

OTHER_DATA = "e" * 64
SHRUNK_TWICE = SPEC.replace(factors=Factors(s=1.4, t=2.0))
PAS_OF_PAS = taught("pas2", TEACHER, network=SHRUNK_TWICE, start=PAS1.digest)
INTEGERS = SPEC.replace(quantisation=Quantisation(engine="onednn"))
QAT = trial(
    "qat",
    network=SHRUNK_TWICE.replace(quantisation=Quantisation(engine="onednn")),
    start=PAS_OF_PAS.digest,
    teacher=PAS_OF_PAS.digest,
    distillation=DistillationSettings(),
    quantise=QuantiseRecipe(),
    seed=3,
)
PTQ = trial("ptq", network=INTEGERS, start=TEACHER.digest, train=None, quantise=QuantiseRecipe())
IMPORTED = trial("given", network=PAS1.network, train=None, weights_sha256="b" * 64)
TRANSFERRED = trial("moved", network=PAS1.network, data=OTHER_DATA, start=PAS1.digest)
TRANSFERRED_BASE = trial("moved-base", data=OTHER_DATA, start=TEACHER.digest)


def models(*trials: Trial) -> dict[str, StoredModel]:
    """Models of trials, each with weights of its own."""
    found = {}
    for number, made in enumerate(trials):
        kind = kind_of(made, start=None, teacher=None, role=None)
        found[made.digest] = stored(trial=made, kind=kind, weights_sha256=f"{number:064x}")
    return found


def steps(made: Trial, by_digest: dict[str, StoredModel]) -> list[tuple[str, str, str]]:
    """Ancestors as (name, relation, of)."""
    names = {digest: model.trial.name for digest, model in by_digest.items()}
    found = ancestors(by_digest[made.digest], by_digest)
    return [(names.get(step.digest, step.digest), step.relation, names[step.of]) for step in found]


@pytest.mark.parametrize(
    ("made", "start", "teacher", "kind"),
    [
        (TEACHER, None, None, "trained"),
        (PAS1, TEACHER, TEACHER, "pas"),
        (PAS2, None, TEACHER, "pas"),
        (PRUNED, TEACHER, TEACHER, "pruned"),
        (PTQ, TEACHER, None, "quantised"),
        (QAT, PAS_OF_PAS, PAS_OF_PAS, "quantised"),
        (IMPORTED, None, None, "imported"),
        (TRANSFERRED, PAS1, None, "transferred"),
        (trial("further", start=TEACHER.digest), TEACHER, None, "trained"),
        (trial("undistilled", network=PAS1.network, start=TEACHER.digest), TEACHER, None, "pas"),
        (taught("alike", TEACHER), None, TEACHER, "trained"),
    ],
)
def test_kinds(made: Trial, start: Trial | None, teacher: Trial | None, kind: str) -> None:
    assert kind_of(made, start=start, teacher=teacher, role=None) == kind


def test_what_runs_say_decides_where_a_trial_does_not() -> None:
    assert kind_of(PAS2, start=None, teacher=None, role="hypothesis") == "pas"
    assert kind_of(CONTROL, start=None, teacher=None, role="control") == "control"
    assert kind_of(PRUNED, start=TEACHER, teacher=TEACHER, role="control") == "control"


def run_with(role: str | None) -> RunRecord:
    empty: dict[str, object] = {"name": "run", "teacher": None, "source": None, "handed_on": ()}
    return RunRecord(**empty, roles={"a": {role}}, costs={}, latencies={})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "role"),
    [
        ([], None),
        (["control"], "control"),
        (["control", "control"], "control"),
        (["control", None], None),
        (["control", "hypothesis"], "hypothesis"),
        ([None, "hypothesis"], "hypothesis"),
    ],
)
def test_a_control_is_one_only_if_all_runs_say_so(said: list[str | None], role: str | None) -> None:
    assert role_of("a", [run_with(each) for each in said]) == role


def test_roles_are_read_off_states() -> None:
    found = record_of("tiny-pas", pas_state()).roles
    hypotheses = {made.digest: {"hypothesis"} for made in (PAS1, PAS2, LOSER)}
    assert found == {TEACHER.digest: {None}, **hypotheses, CONTROL.digest: {"control"}}
    state = sweep_state()
    assert record_of("tiny-sweep", state).roles == {TEACHER.digest: {None}, PRUNED.digest: {None}}
    state["cells"][0]["control"] = "scratch"
    assert record_of("tiny-sweep", state).roles[PRUNED.digest] == {"control"}


def test_the_way_back_goes_by_weights_and_names_each_once() -> None:
    found = models(TEACHER, PAS1, PAS_OF_PAS, QAT)
    assert steps(QAT, found) == [
        ("pas2", "start", "qat"),
        ("r2plus1d-pas1-side", "start", "pas2"),
        ("r2plus1d-teacher", "start", "r2plus1d-pas1-side"),
    ]


def test_a_teacher_whose_weights_were_not_inherited_comes_after_the_starts() -> None:
    wise = trial("wise", seed=8)
    pupil = taught("pupil", wise, start=PAS1.digest)
    assert steps(pupil, models(TEACHER, PAS1, wise, pupil)) == [
        ("r2plus1d-pas1-side", "start", "pupil"),
        ("r2plus1d-teacher", "start", "r2plus1d-pas1-side"),
        ("wise", "teacher", "pupil"),
    ]


def test_a_base_network_has_no_ancestors() -> None:
    assert ancestors(stored(trial=TEACHER), models(TEACHER, PAS1)) == ()


def test_a_base_network_on_other_data_has_no_drop_there_and_others_are_measured_against_it() -> None:
    found = models(TEACHER, PAS1, TRANSFERRED, TRANSFERRED_BASE)
    moved = replace(found[TRANSFERRED.digest], kind="transferred", top1=0.5)
    base = replace(found[TRANSFERRED_BASE.digest], kind="transferred", top1=0.6)
    found |= {moved.digest: moved, base.digest: base}
    assert drop_points(base, found, ()) == 0
    assert drop_points(moved, found, ()) == pytest.approx(10)
    alone = {digest: model for digest, model in found.items() if digest != base.digest}
    assert drop_points(moved, alone, ()) is None


def test_an_ancestor_that_is_not_in_the_store_is_named() -> None:
    (step,) = ancestors(stored(trial=PAS1), models(PAS1))
    assert (step.digest, step.model, step.relation, step.of) == (TEACHER.digest, None, "start", PAS1.digest)


def test_weights_given_as_a_file_are_recognised() -> None:
    found = models(TEACHER, IMPORTED, PAS1)
    found[PAS1.digest] = stored(trial=PAS1, weights_sha256="b" * 64)
    found[IMPORTED.digest] = stored(trial=IMPORTED, weights_sha256="b" * 64)  # written again, byte for byte
    assert steps(IMPORTED, found) == [
        ("r2plus1d-pas1-side", "start", "given"),
        ("r2plus1d-teacher", "start", "r2plus1d-pas1-side"),
    ]
    assert base_of(found[IMPORTED.digest], found) is found[TEACHER.digest]
    assert children(found[PAS1.digest], found) == ((found[IMPORTED.digest], "start"),)


def test_weights_from_outside_have_no_ancestors() -> None:
    found = models(IMPORTED, TEACHER)
    assert ancestors(found[IMPORTED.digest], found) == ()
    assert base_of(found[IMPORTED.digest], found) is None


def test_children_are_those_of_weights_and_of_teaching() -> None:
    found = models(TEACHER, PAS1, PAS2, PTQ, CONTROL)
    made = {(child.trial.name, relation) for child, relation in children(found[TEACHER.digest], found)}
    assert made == {("r2plus1d-pas1-side", "start"), ("r2plus1d-pas2-channels", "teacher"), ("ptq", "start")}


@pytest.mark.parametrize("made", [PAS1, PAS2, PRUNED, PTQ, PAS_OF_PAS, QAT])
def test_the_base_is_the_network_that_the_search_began_with(made: Trial) -> None:
    found = models(TEACHER, PAS1, PAS2, PRUNED, PTQ, PAS_OF_PAS, QAT)
    assert base_of(found[made.digest], found) is found[TEACHER.digest]


def test_who_taught_decides_before_whose_weights_were_inherited() -> None:
    wise = trial("wise", seed=8)
    pupil = taught("pupil", wise, start=PAS1.digest)
    found = models(TEACHER, PAS1, wise, pupil)
    assert base_of(found[pupil.digest], found) is found[wise.digest]


def test_a_model_without_parents_has_no_base_nor_one_that_lost_them() -> None:
    found = models(TEACHER, CONTROL, PAS_OF_PAS, QAT)
    del found[TEACHER.digest]
    for made in (CONTROL, PAS_OF_PAS, QAT):
        assert base_of(found[made.digest], found) is None


def test_a_network_on_other_data_is_compared_with_its_base_on_that_data() -> None:
    found = models(TEACHER, PAS1, TRANSFERRED, TRANSFERRED_BASE)
    assert base_of(found[TRANSFERRED.digest], found) is found[TRANSFERRED_BASE.digest]
    assert base_of(found[TRANSFERRED_BASE.digest], found) is None
    del found[TRANSFERRED_BASE.digest]
    assert base_of(found[TRANSFERRED.digest], found) is None


@pytest.mark.parametrize("source", [TRANSFERRED, TRANSFERRED_BASE])
def test_what_was_made_on_other_data_has_its_base_there(source: Trial) -> None:
    pruned = trial("pruned", data=OTHER_DATA, network=PRUNED.network, start=source.digest, pruning=PRUNED.pruning)
    found = models(TEACHER, PAS1, TRANSFERRED, TRANSFERRED_BASE, pruned)
    assert base_of(found[pruned.digest], found) is found[TRANSFERRED_BASE.digest]


@pytest.mark.parametrize("difference", [{"seed": 1}, {"train": TRAIN.model_copy(update={"epochs": 9})}])
def test_the_base_on_other_data_was_fine_tuned_alike(difference: dict[str, object]) -> None:
    otherwise = trial("moved-base", **{"data": OTHER_DATA, "start": TEACHER.digest, **difference})
    found = models(TEACHER, PAS1, TRANSFERRED, otherwise)
    assert base_of(found[TRANSFERRED.digest], found) is None


@pytest.mark.parametrize(
    ("made", "parent", "said"),
    [
        (PAS1, TEACHER, "side ÷ 1.4"),
        (PAS2, TEACHER, "side ÷ 1.4, channels ÷ 1.4"),
        (PAS_OF_PAS, PAS1, "length ÷ 2"),
        (PRUNED, TEACHER, "L1 at sparsity 0.5"),
        (PTQ, TEACHER, "INT8 by PTQ (onednn)"),
        (QAT, PAS_OF_PAS, "INT8 by QAT (onednn), seed 3"),
        (IMPORTED, PAS1, "the same weights, given as a file"),
        (trial("further", start=TEACHER.digest), TEACHER, "trained further"),
        (PRUNED, None, "L1 at sparsity 0.5"),
        (PAS1, None, "changed in a way that is not known here"),
    ],
)
def test_changes_in_words(made: Trial, parent: Trial | None, said: str) -> None:
    kind = kind_of(made, start=None, teacher=None, role=None)
    assert change(stored(trial=made, kind=kind), stored(trial=parent) if parent else None) == said


def test_changes_of_data_and_of_pruners_in_words() -> None:
    moved = stored(trial=TRANSFERRED, kind="transferred", data_source="ucf101")
    assert change(moved, stored(trial=PAS1)) == "fine-tuned on ucf101"
    gradual = trial(network=PRUNED.network, start=TEACHER.digest, pruning=Pruning(pruner="agp", sparsity=0.25))
    assert change(stored(trial=gradual, kind="pruned"), stored(trial=TEACHER)) == "AGP at sparsity 0.25"
