"""The registry: what is a model, what is damaged, what models are called, and what runs say of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import UserError
from orchestrator.registry import assembly
from orchestrator.registry.model import Measured
from orchestrator.registry.records import Damage, Record, read_trial, read_trials, weights_fault
from orchestrator.registry.registry import Registry
from orchestrator.store import Store
from tests.orchestrator.sample_registry import (
    CONDITIONS,
    LOSER,
    PAS1,
    PAS2,
    PRUNED,
    RUN,
    SWEEP,
    TEACHER,
    TRIALS,
    cost_of,
    make_store,
    pas_state,
    row,
    trial,
    write_trial,
)
from trainers.files import read_json, sha256_of, write_json
from trainers.package import NETWORK_FILE, WEIGHTS_FILE
from trainers.results import RESULT_FILE
from trainers.trial import Trial


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "runs")


def result_file(store: Store, made: Trial) -> Path:
    return store.trial_folder(made.digest) / RESULT_FILE


def test_every_finished_trial_is_a_model_with_its_kind_and_its_distance_from_its_base(store: Store) -> None:
    registry = Registry.open(store)
    assert not registry.damaged
    found = {model.trial.name: (model.kind, model.drop_points) for model in registry.models}
    assert found == {
        "r2plus1d-teacher": ("trained", None),
        "r2plus1d-pas1-side": ("pas", -2.5),
        "r2plus1d-pas1-rate": ("pas", 10.0),
        "r2plus1d-pas2-channels": ("pas", 5.0),
        "r2plus1d-pas1-control": ("control", 20.0),
        "r2plus1d-l1-0.5": ("pruned", 2.5),
    }


def test_a_model_says_what_its_trial_its_runs_and_its_files_say(store: Store) -> None:
    model = Registry.open(store).find(PRUNED.digest)
    weights = store.trial_folder(PRUNED.digest) / WEIGHTS_FILE
    assert model.trial == PRUNED
    assert (model.name, model.aliases) == ("tiny-sweep/l1-0.5", ("tiny-sweep/l1-0.5",))
    assert (model.top1, model.top5, model.map, model.accuracy) == (0.875, 1.0, None, 0.875)
    assert (model.gmacs, model.params) == (cost_of(PRUNED.network).gmacs, cost_of(PRUNED.network).params)
    assert (model.size_mb, model.weights_sha256) == (weights.stat().st_size / 1e6, sha256_of(weights))
    assert model.latency == Measured(value=1.25, conditions=CONDITIONS)
    assert model.data_source == "moving-digits"


def test_models_are_in_the_order_of_their_names(store: Store) -> None:
    names = [model.name for model in Registry.open(store).models]
    assert names == sorted(names)
    assert names[:2] == ["r2plus1d-pas1-control", "r2plus1d-pas1-rate"]


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_what_did_not_finish_is_neither_a_model_nor_damaged(store: Store, status: str) -> None:
    write_trial(store, trial("broken", seed=5), 0.5, status)  # type: ignore[arg-type]
    store.trial_folder("0123456789abcdef").mkdir()  # half-trained: no result yet
    registry = Registry.open(store)
    assert (len(registry.models), registry.damaged) == (len(TRIALS), ())


def test_a_trial_that_was_only_looked_at_is_no_model(store: Store) -> None:
    looked_at = trial("cut", network=PRUNED.network, pruning=PRUNED.pruning, start=TEACHER.digest, train=None)
    folder = write_trial(store, looked_at, 0.5)
    assert read_json(folder / RESULT_FILE)["weights_sha256"] is None
    assert looked_at.digest not in Registry.open(store).by_digest


def change_result(path: Path, **changes: object) -> None:
    write_json(path, {**read_json(path), **changes})


def cut(path: Path, by: int = 1) -> None:
    path.write_bytes(path.read_bytes()[:-by])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights gone": (lambda folder: (folder / WEIGHTS_FILE).unlink(), r"^model.safetensors is missing$"),
    "network gone": (lambda folder: (folder / NETWORK_FILE).unlink(), r"^network.json is missing$"),
    "network cut": (lambda folder: cut(folder / NETWORK_FILE, 9), r"^network.json is no JSON$"),
    "weights cut": (
        lambda folder: cut(folder / WEIGHTS_FILE),
        r"^model.safetensors is truncated: [\d,]+ bytes instead",
    ),
    "header cut": (
        lambda folder: (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:50]),
        r"truncated: it has 50 bytes, which is less than its header$",
    ),
    "weights empty": (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b""), r"truncated: it has 0 bytes"),
    "weights of something else": (
        lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"\4" + b"\0" * 7 + b"text"),
        r"^model.safetensors is no safetensors file$",
    ),
    "result cut": (lambda folder: cut(folder / RESULT_FILE, 9), r"^result.json is no JSON$"),
    "result of something else": (
        lambda folder: (folder / RESULT_FILE).write_text("[]"),
        r"^result.json describes no trial that this version knows: ",
    ),
    "another recipe": (
        lambda folder: change_result(folder / RESULT_FILE, trial={**PAS1.to_dict(), "recipe_version": 99}),
        r"knows: trial has recipe version 99, but",
    ),
    "another backbone": (
        lambda folder: change_result(
            folder / RESULT_FILE,
            trial={**PAS1.to_dict(), "network": {**PAS1.network.to_dict(), "backbone": "mobilenet"}},
        ),
        r"^its backbone is 'mobilenet', but this version knows slowfast, r2plus1d, reid$",
    ),
    "no accuracy": (
        lambda folder: change_result(
            folder / RESULT_FILE, result={**read_json(folder / RESULT_FILE)["result"], "top1": None}
        ),
        r"^result.json has no accuracy$",
    ),
    "unbuildable": (
        lambda folder: change_result(
            folder / RESULT_FILE,
            trial={**LOSER.to_dict(), "network": {**LOSER.network.to_dict(), "blocks": [1, 1]}},
        ),
        r"^its network can't be built here: blocks is \(1, 1\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_trial_is_said_with_its_reason_and_the_others_are_there(store: Store, fault: str) -> None:
    break_it, reason = FAULTS[fault]
    store.run(RUN).write_state({**pas_state(), "iterations": [], "family": []})  # so that nobody says its cost
    break_it(store.trial_folder(LOSER.digest))
    registry = Registry.open(store)
    (damage,) = registry.damaged
    assert damage.digest == LOSER.digest
    assert re.search(reason, damage.reason), damage.reason
    assert len(registry.models) == len(TRIALS) - 1
    with pytest.raises(UserError, match=f"trials/{LOSER.digest}: "):
        registry.require_whole()
    with pytest.raises(UserError, match=f"model {LOSER.digest} of .* is damaged: "):
        registry.find(LOSER.digest[:8])


def test_a_folder_by_another_name_than_its_trial_is_damaged(store: Store) -> None:
    shutil.copytree(store.trial_folder(LOSER.digest), store.trial_folder("0123456789abcdef"))
    (damage,) = Registry.open(store).damaged
    assert damage.digest == "0123456789abcdef"
    assert damage.reason == f"result.json is that of trial {LOSER.digest}"


def test_what_a_run_hands_on_but_the_store_lacks_is_damage(store: Store) -> None:
    shutil.rmtree(store.trial_folder(PAS1.digest))
    registry = Registry.open(store)
    (damage,) = registry.damaged
    assert damage.digest == PAS1.digest
    assert damage.reason.endswith("are missing, though it is handed on as tiny-pas/PAS-1")
    for name in ("tiny-pas/PAS-1", PAS1.digest):
        with pytest.raises(UserError, match="is damaged: its result or its weights are missing"):
            registry.find(name)
    with pytest.raises(UserError, match=f"tiny-pas/PAS-1 is damaged: trial {PAS1.digest}: "):
        registry.of_run(RUN)


def test_a_whole_store_is_whole_and_an_empty_one_too(store: Store, tmp_path: Path) -> None:
    Registry.open(store).require_whole()
    empty = Registry.open(Store(tmp_path / "nowhere"))
    assert (empty.models, empty.damaged) == ((), ())
    empty.require_whole()
    assert not (tmp_path / "nowhere").exists()


def test_an_error_of_a_store_with_much_damage_stays_short(store: Store) -> None:
    for made in TRIALS:
        (store.trial_folder(made.digest) / WEIGHTS_FILE).unlink()
    with pytest.raises(UserError, match=r"not whole:\n(  trials/.*\n){5}  … and 1 more\nCopy the store again"):
        Registry.open(store).require_whole()


def test_weights_that_are_longer_than_they_say_are_damaged(store: Store) -> None:
    path = store.trial_folder(TEACHER.digest) / WEIGHTS_FILE
    assert weights_fault(path) is None
    path.write_bytes(path.read_bytes() + b"\0")
    assert "is too long" in (weights_fault(path) or "")


def test_a_trial_is_read_without_its_weights_being_read(store: Store) -> None:
    folder = store.trial_folder(TEACHER.digest)
    path = folder / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert isinstance(read_trial(folder), Record)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (PAS2.digest, PAS2),
        (PAS2.digest[:6], PAS2),
        ("tiny-pas/PAS-1", PAS1),
        ("tiny-sweep/teacher", TEACHER),
        ("r2plus1d-pas1-rate", LOSER),
        ("r2plus1d-l1-0.5", PRUNED),
    ],
)
def test_a_model_is_found_by_all_its_names(store: Store, name: str, found: Trial) -> None:
    assert Registry.open(store).find(name).trial == found


def test_a_model_is_found_by_its_folders(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry.open(store)
    assert registry.find(str(store.root / RUN / "models" / "PAS-2")).trial == PAS2
    assert registry.find(str(registry.folder(registry.find(PAS1.digest)))).trial == PAS1
    monkeypatch.chdir(store.root / SWEEP)
    assert registry.find("models/l1-0.5").trial == PRUNED


def test_a_model_folder_of_another_store_is_not_found_here(store: Store, tmp_path: Path) -> None:
    elsewhere = make_store(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="there is no model"):
        Registry.open(store).find(str(elsewhere.root / RUN / "models" / "PAS-2"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny-pas", "of that run there are tiny-pas/teacher, tiny-pas/PAS-1, tiny-pas/PAS-2$"),
        ("tiny-pas/PAS-3", "did you mean tiny-pas/PAS-"),
        ("r2plus1d-pas1-sid", "did you mean r2plus1d-pas1-side"),
        ("zzz", "`orchestrate models` lists them"),
        (TEACHER.digest[:5], "there is no model"),
        ("x" * 300, "there is no model"),  # longer than a file's name can be
        ("~nobody-of-that-name/models", "there is no model"),
    ],
)
def test_a_name_of_nothing_is_answered_with_what_may_be_meant(store: Store, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Registry.open(store).find(name)


def test_a_trial_without_a_network_is_not_called_unknown(store: Store) -> None:
    failed = trial("broken", seed=5)
    write_trial(store, failed, 0.5, "failed")
    with pytest.raises(UserError, match="a trial of that digest left no network"):
        Registry.open(store).find(failed.digest)


def test_a_name_of_several_is_an_error_that_names_them(store: Store) -> None:
    write_trial(store, trial("r2plus1d-teacher", seed=7), 0.5)
    with pytest.raises(UserError, match=rf"'r2plus1d-teacher' may be any of 2 models: .*{TEACHER.digest} \(tiny-pas/"):
        Registry.open(store).find("r2plus1d-teacher")


def test_a_run_hands_on_its_models_in_its_order(store: Store) -> None:
    registry = Registry.open(store)
    assert [model.trial for model in registry.of_run(RUN)] == [TEACHER, PAS1, PAS2]
    assert [model.trial for model in registry.of_run(str(store.root / SWEEP))] == [TEACHER, PRUNED]
    with pytest.raises(UserError, match=r"there is no run 'tiny-sweeep' .*did you mean tiny-sweep\?"):
        registry.of_run("tiny-sweeep")


def test_a_run_of_another_store_is_not_this_one_s(store: Store, tmp_path: Path) -> None:
    elsewhere = make_store(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"is not in .*; `--runs .*elsewhere` looks there"):
        Registry.open(store).of_run(str(elsewhere.root / RUN))


def test_a_run_that_has_just_begun_hands_on_nothing(store: Store) -> None:
    teacher = {**row(TEACHER), "status": "pending"}
    store.run("new").write_state({**pas_state(), "run": "new", "teacher": teacher, "iterations": [], "family": []})
    registry = Registry.open(store)
    assert not registry.damaged
    with pytest.raises(UserError, match="run new hands on no model yet"):
        registry.of_run("new")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"status": "finished", "teacher": 3}'])
def test_a_run_that_can_not_be_read_costs_its_models_their_aliases_only(store: Store, content: str) -> None:
    (store.run(RUN).path / "state.json").write_text(content)
    registry = Registry.open(store)
    assert len(registry.models) == len(TRIALS)
    assert registry.find(PAS2.digest).aliases == ()
    with pytest.raises(UserError, match=f"{RUN}/state.json can't be read|hands on no model"):
        registry.of_run(RUN)


def test_what_a_run_finishes_while_the_store_is_read_is_no_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run at work writes a trial, then its state; both may happen while trials are being read."""
    state = store.run(RUN)
    before, after = state.read_state(), store.trial_folder(PAS2.digest)
    assert before is not None
    later = after.rename(store.root / "later")
    state.write_state({**before, "family": []})

    def finish_while_reading(of: Store) -> tuple[dict[str, Record], list[Damage]]:
        found = read_trials(of)
        later.rename(after)
        state.write_state(before)
        return found

    monkeypatch.setattr(assembly, "read_trials", finish_while_reading)
    assert Registry.open(store).damaged == ()
    monkeypatch.undo()
    assert Registry.open(store).find(f"{RUN}/PAS-2").digest == PAS2.digest


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["top1", "top5", "map"])
def test_an_accuracy_that_is_no_number_is_damage(store: Store, name: str, value: float) -> None:
    stored = read_json(result_file(store, PAS1))
    stored["result"][name] = value
    result_file(store, PAS1).write_text(json.dumps(stored))
    (damage,) = Registry.open(store).damaged
    assert damage.digest == PAS1.digest
    assert f"as {name}, which is no number" in damage.reason
