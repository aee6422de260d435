"""What was measured of models: taken down by digest, read back, and by whom it may be taken down."""

from __future__ import annotations

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from configs.errors import UserError
from orchestrator import latency
from orchestrator.commands.measure import measure
from orchestrator.measure import measure as measuring_models
from orchestrator.measure.measure import Measurement
from orchestrator.measure.turns import Conditions
from orchestrator.registry import measurements
from orchestrator.registry.measurements import read_measurements, record
from orchestrator.registry.measuring import conditions_of, measure_latencies, owner_of, record_rows
from orchestrator.registry.model import Measured
from orchestrator.registry.quantities import comparable
from orchestrator.registry.registry import Registry
from orchestrator.store import Store
from tests.orchestrator.sample_registry import CONDITIONS, PAS1, RUN, TEACHER, make_store
from trainers.files import exclusive, write_json
from trainers.package import WEIGHTS_FILE

LATENCY = Measured(value=1.5, conditions=CONDITIONS)
ENERGY = Measured(value=20.0, conditions={**CONDITIONS, "counter": "RAPL package-0"})


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def row(folder: Path, **changes: Any) -> Measurement:
    """What measuring a model gives."""
    fields: dict[str, Any] = {
        **{"model": str(folder), "format": "package", "precision": "fp32", "median_ms": 3.0, "p95_ms": 4.0},
        **{"per_second": 333.3, "speedup": 1.0, "size_mb": 0.1, "times_smaller": 1.0},
    }
    return Measurement(**{**fields, **changes})


def file_of(store: Store) -> Path:
    return store.registry_folder / measurements.FILE


def test_what_is_recorded_is_read_back(empty: Store) -> None:
    record(empty, "a" * 16, latency=LATENCY)
    record(empty, "b" * 16, energy=ENERGY)
    assert read_measurements(empty) == {"a" * 16: (LATENCY, None), "b" * 16: (None, ENERGY)}


def test_a_measurement_replaces_its_like_and_leaves_the_other(empty: Store) -> None:
    record(empty, "a" * 16, latency=LATENCY, energy=ENERGY)
    faster = Measured(value=1.0, conditions=CONDITIONS)
    record(empty, "a" * 16, latency=faster)
    assert read_measurements(empty) == {"a" * 16: (faster, ENERGY)}


def test_nothing_was_measured_in_a_new_store(empty: Store, caplog: pytest.LogCaptureFixture) -> None:
    assert read_measurements(empty) == {}
    assert not caplog.records


@pytest.mark.parametrize("content", ["", '{"a": {"latency"', "[1]", "\x00"])
def test_damaged_file_is_empty_and_is_warned_of(content: str, empty: Store, caplog: pytest.LogCaptureFixture) -> None:
    empty.registry_folder.mkdir()
    file_of(empty).write_text(content)
    with caplog.at_level(logging.WARNING):
        assert read_measurements(empty) == {}
    assert "has to be measured again" in caplog.text
    record(empty, "a" * 16, latency=LATENCY)
    assert read_measurements(empty) == {"a" * 16: (LATENCY, None)}


@pytest.mark.parametrize(
    "entry",
    [
        *({"value": "fast", "conditions": {}}, {"value": -1, "conditions": {}}, {"value": "inf", "conditions": {}}),
        *({"value": 1.0}, 3),
    ],
    ids=["no number", "negative", "infinite", "no conditions", "no entry"],
)
def test_entry_that_is_no_measurement_is_passed_over(
    entry: Any, empty: Store, caplog: pytest.LogCaptureFixture
) -> None:
    record(empty, "a" * 16, latency=LATENCY)
    content = json.loads(file_of(empty).read_text())
    write_json(file_of(empty), {**content, "b" * 16: {"latency": entry}})
    with caplog.at_level(logging.WARNING):
        assert read_measurements(empty) == {"a" * 16: (LATENCY, None), "b" * 16: (None, None)}
    assert "is no measurement" in caplog.text


def test_writers_at_the_same_time_lose_nothing(empty: Store) -> None:
    digests = [f"{number:016x}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda digest: record(empty, digest, latency=LATENCY), digests))
    assert read_measurements(empty).keys() == set(digests)


def test_writer_that_hangs_is_told_of(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "LOCK_SECONDS", 0.0)
    with (
        exclusive(empty.registry_folder / "measurements.lock", what="it"),
        pytest.raises(UserError, match="in use by another process"),
    ):
        record(empty, "a" * 16, latency=LATENCY)
    assert not file_of(empty).exists()


# Whose measurements they are


def test_owner_of_a_model_folder_and_of_a_trial(store: Store) -> None:
    for folder in (store.trial_folder(PAS1.digest), store.run(RUN).path / "models" / "PAS-1"):
        owner, digest = owner_of(folder)
        assert (owner.root, digest) == (store.root, PAS1.digest)


def test_owner_of_a_link_to_a_trial(store: Store) -> None:
    store.run(RUN).link_trial(PAS1.name, store.trial_folder(PAS1.digest))
    assert owner_of(store.run(RUN).path / "trials" / PAS1.name)[1] == PAS1.digest


def test_folder_with_other_weights_is_none_of_the_store_s(store: Store) -> None:
    folder = store.run(RUN).path / "models" / "PAS-1"
    shutil.copyfile(store.trial_folder(TEACHER.digest) / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    with pytest.raises(UserError, match="is no model of a store"):
        owner_of(folder)


def test_folder_that_is_elsewhere_is_refused(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    copied = tmp_path_factory.mktemp("elsewhere") / "PAS-1"
    shutil.copytree(store.run(RUN).path / "models" / "PAS-1", copied)
    for folder in (copied, copied / "nothing"):
        with pytest.raises(UserError, match="is no model of a store"):
            owner_of(folder)


def test_export_is_refused(store: Store) -> None:
    folder = store.run(RUN).path / "models" / "PAS-1" / "exports" / "onnx"
    write_json(folder / "metrics.json", {"verdict": {}, "trial": PAS1.digest})
    with pytest.raises(UserError, match="was exported from a model"):
        owner_of(folder)


# Measuring


def test_latency_is_per_input_and_energy_says_who_counted(store: Store) -> None:
    folder, conditions = store.trial_folder(PAS1.digest), Conditions(batch=2, threads=3, runs=7)
    measured = row(folder, median_ms=3.0, energy_mj=20.0, energy_source="RAPL package-0")
    record_rows([owner_of(folder)], [measured], conditions, "cpu")
    latency_, energy = read_measurements(store)[PAS1.digest]
    assert latency_
    assert energy
    assert (latency_.value, energy.value) == (1.5, 20.0)
    assert latency_.conditions == {**latency.conditions(), "batch": 2, "threads": 3, "runs": 7}
    assert energy.conditions == {**latency_.conditions, "counter": "RAPL package-0"}
    assert not comparable(latency_, latency.conditions())


def test_defaults_of_measure_compare_with_what_searches_measure() -> None:
    assert comparable(Measured(value=1.0, conditions=conditions_of(Conditions(), "cpu")), latency.conditions())


def test_measured_latencies_are_in_the_registry(store: Store) -> None:
    found = measure_latencies(store, [PAS1.digest, TEACHER.digest])
    registry = Registry.open(store)
    for digest, measured in found.items():
        assert registry.find(digest).latency == measured
        assert comparable(measured, latency.conditions())
        assert 0 < measured.value < 1000


# The command

app = typer.Typer()
app.command()(measure)


def test_command_records_in_the_models_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring_models, "measure_models", lambda paths, *_, **__: [row(path) for path in paths])
    folder = store.run(RUN).path / "models" / "PAS-1"
    result = CliRunner().invoke(app, [str(folder), "--record"])
    assert result.exit_code == 0
    assert f"Recorded in {store.root}." in result.output
    assert read_measurements(store).keys() == {PAS1.digest}


def test_command_measures_nothing_where_it_could_not_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring_models, "measure_models", lambda *_, **__: pytest.fail("it was measured"))
    result = CliRunner().invoke(app, [str(tmp_path), "--record"])
    assert isinstance(result.exception, UserError)


def test_command_records_nothing_unasked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring_models, "measure_models", lambda paths, *_, **__: [row(path) for path in paths])
    assert CliRunner().invoke(app, [str(store.trial_folder(PAS1.digest))]).exit_code == 0
    assert read_measurements(store) == {}
