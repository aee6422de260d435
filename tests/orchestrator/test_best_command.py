"""The command `orchestrate best` on a small store: what it prints, measures, and refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from configs.errors import UserError
from orchestrator import latency
from orchestrator.commands.best import best
from orchestrator.registry.measurements import read_measurements
from orchestrator.registry.model import StoredModel
from orchestrator.registry.quantities import comparable
from orchestrator.registry.registry import Registry
from orchestrator.store import Store
from tests.orchestrator.sample_registry import RUN, SWEEP, TEACHER, make_store
from trainers.package import WEIGHTS_FILE

app = typer.Typer()
app.command()(best)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def invoke(store: Store, *arguments: str) -> str:
    """Output of a command that succeeds; its error where it does not."""
    result = CliRunner().invoke(app, [*arguments, "--runs", str(store.root)], env={"COLUMNS": "80"})
    if result.exception:
        raise result.exception
    return result.output


def test_command_shows_winner_front_and_next_step(store: Store) -> None:
    shown = invoke(store)
    assert shown.startswith(f"{RUN}/PAS-1: the most accurate model there is")
    assert "1 trained for comparison only" in " ".join(shown.split())
    assert f"orchestrate handoff {RUN}/PAS-1 DIR" in shown
    assert max(map(len, shown.splitlines()[4:])) <= 80


def test_command_explains(store: Store) -> None:
    shown = invoke(store, "--explain", "--max-drop", "5")
    assert "r2plus1d-pas1-control" in shown
    assert "fell by 10.0 points, 5.0 more than" in shown


def test_command_in_json_explains_always(store: Store) -> None:
    said = json.loads(invoke(store, "--json", "--where", "pruned"))
    assert said["winner"]["name"] == f"{SWEEP}/l1-0.5"
    assert said["folder"].endswith(said["winner"]["digest"])
    assert said["lost"] == []


def test_command_refuses_a_store_that_is_half_copied(store: Store) -> None:
    (store.trial_folder(TEACHER.digest) / WEIGHTS_FILE).unlink()
    with pytest.raises(UserError, match="is not whole"):
        invoke(store)


def test_command_measures_what_passes_side_by_side_and_takes_it_down(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[set[str]] = []

    def measure(folders: Mapping[str, Path]) -> dict[str, float]:
        measured.append(set(folders))
        return {digest: 1.0 + number for number, digest in enumerate(folders)}

    monkeypatch.setattr(latency, "measure_trial_latencies", measure)
    arguments = ("--max-latency-ms", "100", "--max-drop", "3", "--json")
    with pytest.raises(UserError, match="never measured here"):
        invoke(store, *arguments)
    said = json.loads(invoke(store, "--measure", *arguments))
    fitting = {one.digest for one in Registry.open(store).models if one.kind != "control" and dropped(one) <= 3}
    assert measured == [fitting]
    assert set(read_measurements(store)) == fitting
    assert said["winner"]["latency_ms"] is not None
    assert json.loads(invoke(store, "--measure", *arguments)) == said
    assert len(measured) == 1


def dropped(one: StoredModel) -> float:
    return one.drop_points or 0.0


def test_command_does_not_count_latencies_of_other_machines(store: Store) -> None:
    """Those that the sweep measured are of a machine that is not this one."""
    elsewhere = [one.latency for one in Registry.open(store).models if one.latency]
    assert elsewhere
    assert not any(comparable(taken, latency.conditions()) for taken in elsewhere)
    with pytest.raises(UserError, match="never measured here"):
        invoke(store, "--max-latency-ms", "100")
