"""What the registry reads beside trials: runs, measurements, manifests, costs counted before, exports."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from compression.spec import Quantisation
from orchestrator.registry import costs
from orchestrator.registry.measurements import record
from orchestrator.registry.model import Measured
from orchestrator.registry.registry import Registry
from orchestrator.store import Store
from tests.orchestrator.sample_registry import (
    CONDITIONS,
    CONTROL,
    FINGERPRINT,
    PAS1,
    PRUNED,
    RUN,
    SWEEP,
    TEACHER,
    TRIALS,
    cost_of,
    make_store,
    pas_state,
    row,
    taught,
    trial,
    write_model_folder,
    write_trial,
)
from trainers.files import read_json, sha256_of, write_json
from trainers.package import WEIGHTS_FILE


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "runs")


def test_a_control_of_one_run_that_is_a_network_of_another_is_none(store: Store) -> None:
    state = pas_state()
    state["iterations"][0].update(hypotheses=[row(CONTROL, axis="s")], control=None)
    store.run("other").write_state({**state, "run": "other"})
    assert Registry.open(store).find(CONTROL.digest).kind == "pas"


def test_a_control_on_other_data_than_its_run_s_base_is_not_compared_with_it(store: Store) -> None:
    control = trial("r2plus1d-pas1-control", network=PAS1.network, data="e" * 64)
    write_trial(store, control, 0.5)
    state = pas_state()
    state["iterations"][0]["control"] = row(control, axis="s")
    store.run(RUN).write_state(state)
    found = Registry.open(store).find(control.digest)
    assert (found.kind, found.drop_points) == ("control", None)


def test_the_newest_run_s_latency_counts(store: Store) -> None:
    state = read_json(store.run(SWEEP).path / "state.json")
    newer = {**state, "run": "newer", "cells": [{**state["cells"][0], "latency_ms": 9.0}]}
    path = store.run("newer").path / "state.json"
    store.run("newer").write_state(newer)
    now = path.stat().st_mtime
    os.utime(store.run(SWEEP).path / "state.json", (now - 9, now - 9))
    latency = Registry.open(store).find(PRUNED.digest).latency
    assert latency == Measured(value=9.0, conditions=CONDITIONS)


def test_a_measurement_that_was_recorded_counts_before_a_run_s(store: Store) -> None:
    measured = Measured(value=0.5, conditions={"machine": "Big CPU"})
    record(store, PRUNED.digest, latency=measured)
    assert Registry.open(store).find(PRUNED.digest).latency == measured


@pytest.fixture
def bare_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store without runs, which know all costs; counting them is made quick."""
    for run in (RUN, SWEEP):
        shutil.rmtree(store.run(run).path)
    monkeypatch.setattr(costs, "measure_cost", lambda network, _: cost_of(network))
    return store


def test_costs_that_no_run_says_are_counted_once(bare_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store, counted = bare_store, Registry.open(bare_store)
    assert {model.digest: model.gmacs for model in counted.models} == {
        made.digest: cost_of(made.network).gmacs for made in TRIALS
    }
    monkeypatch.setattr(costs, "measure_cost", lambda *_: pytest.fail("counted again"))
    assert Registry.open(store) == counted
    assert len(json.loads((store.registry_folder / "costs.json").read_text())) == 5  # PAS-1 and its control are alike


def test_quantising_changes_no_cost() -> None:
    integers = PAS1.network.replace(quantisation=Quantisation(engine="onednn"))
    assert costs.key_of(integers) == costs.key_of(PAS1.network) != costs.key_of(TEACHER.network)


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 3}', '{"a": {"macs": "x", "params": 1}}'])
def test_a_damaged_memory_of_costs_is_counted_anew(bare_store: Store, content: str) -> None:
    memory = bare_store.registry_folder / "costs.json"
    counted = Registry.open(bare_store)
    whole = memory.read_text()
    memory.write_text(content)
    assert Registry.open(bare_store) == counted
    assert memory.read_text() == whole


def test_a_store_that_can_not_be_written_to_is_read_all_the_same(bare_store: Store) -> None:
    bare_store.registry_folder.write_text("in the way")  # rights alone would not keep root out
    assert len(Registry.open(bare_store).models) == len(TRIALS)


def test_the_source_of_data_that_no_run_names_is_read_from_its_manifest(bare_store: Store) -> None:
    assert {model.data_source for model in Registry.open(bare_store).models} == {"moving-digits"}
    bare_store.manifest_file(FINGERPRINT).unlink()
    assert {model.data_source for model in Registry.open(bare_store).models} == {None}


def test_reading_writes_nothing_into_a_store_whose_costs_are_known(store: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    Registry.open(store)
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_exports_are_those_of_the_weights_that_the_trial_left(store: Store) -> None:
    folder = store.run(RUN).path / "models" / "PAS-1"
    weights = sha256_of(folder / WEIGHTS_FILE)
    numbers = {"format": "onnx", "metric": "top1", "top1": 0.91, "size_mb": 0.05, "latency_ms": 0.75}
    verdict = {"accepted": True, "reasons": [], "unjudged": ["latency"]}
    write_json(folder / "exports" / "onnx" / "metrics.json", {**numbers, "model_sha256": weights, "verdict": verdict})
    write_json(folder / "exports" / "int8" / "metrics.json", {**numbers, "model_sha256": "f" * 64, "verdict": verdict})
    write_json(folder / "exports" / "odd" / "metrics.json", ["no export"])
    (exported,) = Registry.open(store).find("tiny-pas/PAS-1").exports
    assert exported.folder == str(folder / "exports" / "onnx")
    assert (exported.accepted, exported.accuracy, exported.size_mb, exported.latency_ms) == (True, 0.91, 0.05, 0.75)


def test_an_export_of_which_nothing_was_measured_was_not_judged(store: Store) -> None:
    folder = store.run(RUN).path / "models" / "PAS-1"
    verdict = {"accepted": True, "reasons": [], "unjudged": ["latency", "accuracy"]}
    said = {"format": "onnx", "metric": "top1", "model_sha256": sha256_of(folder / WEIGHTS_FILE), "verdict": verdict}
    write_json(folder / "exports" / "onnx" / "metrics.json", said)
    (exported,) = Registry.open(store).find("tiny-pas/PAS-1").exports
    assert (exported.accepted, exported.accuracy) == (None, None)


def test_the_json_of_a_model_is_json(store: Store) -> None:
    model = Registry.open(store).find("tiny-pas/PAS-1")
    assert json.loads(json.dumps(model.to_dict(), allow_nan=False))["digest"] == PAS1.digest


def test_a_model_that_two_runs_hand_on_has_both_names(store: Store) -> None:
    write_model_folder(store, "again", "PAS-1", PAS1)
    store.run("again").write_state({**pas_state(), "run": "again"})
    assert Registry.open(store).find(PAS1.digest).aliases == ("again/PAS-1", "tiny-pas/PAS-1")


def test_a_base_that_the_store_has_lost_leaves_the_drop_open(store: Store) -> None:
    lost = taught("orphan", trial(seed=99), network=PAS1.network)
    write_trial(store, lost, 0.5)
    assert Registry.open(store).find(lost.digest).drop_points is None


def test_a_memory_of_costs_that_is_not_ours_to_read_costs_only_time(
    bare_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(costs, "read_json", refuse)
    assert costs.read_costs(bare_store.registry_folder / "costs.json") == {}
