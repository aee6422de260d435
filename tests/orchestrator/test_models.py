"""What a search hands on: folders that load without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compression.quantisation.torch_ao import default_engine
from compression.spec import Quantisation
from configs.errors import UserError
from orchestrator import cli
from orchestrator.evaluate import device_for
from orchestrator.models import export_models, model_name, remove_stale_models
from orchestrator.state import State
from orchestrator.store import RunFolder
from orchestrator.validation import data_of
from tests.orchestrator.scripted import Outcome, ScriptedSession, small_settings
from trainers.backbones import BACKBONES, build
from trainers.files import sha256_of
from trainers.package import load_package, read_description


@pytest.fixture
def searched(digits: Path, tmp_path: Path) -> tuple[ScriptedSession, State]:
    """A search of two iterations: side, then channels."""
    script = {"slowfast-pas1-side": Outcome(0.7), "slowfast-pas2-channels": Outcome(0.6)}
    session = ScriptedSession(small_settings(digits, tmp_path, "search.iterations=2"), script)
    return session, session.execute()


def test_each_model_is_the_winner_s_network(searched: tuple[ScriptedSession, State]) -> None:
    session, state = searched
    for row in state["family"]:
        model, description = load_package(session.run.path / row["path"])
        trained, _ = load_package(session.store.trial_folder(row["trial"]))
        assert description.spec.factors.as_dict() == {"s": 1.4, "t": 1, "f": 1, "c": 1, "l": 1} | (
            {"c": 1.4} if row["name"] == "PAS-2" else {}
        )
        clip = torch.rand(1, 3, row["frames"], row["side"], row["side"])
        with torch.no_grad():
            torch.testing.assert_close(model(clip), trained(clip), rtol=0, atol=0)
        assert sum(p.numel() for p in model.parameters()) == row["params"]


def test_no_model_holds_data_that_runs_as_code(searched: tuple[ScriptedSession, State]) -> None:
    session, _ = searched
    suffixes = {path.suffix for path in (session.run.path / "models").rglob("*") if path.is_file()}
    assert suffixes == {".md", ".json", ".safetensors"}


def test_metrics_say_how_it_came_about_and_on_which_data(searched: tuple[ScriptedSession, State]) -> None:
    session, state = searched
    numbers = json.loads((session.run.path / "models/PAS-2/metrics.json").read_text())
    assert (numbers["name"], numbers["sequence"], numbers["top1"]) == ("PAS-2", "sc", 0.6)
    assert numbers["data"] == state["data"]
    teacher = json.loads((session.run.path / "models/teacher/metrics.json").read_text())
    assert (teacher["name"], teacher["sequence"], teacher["trial"]) == ("teacher", "", state["teacher"]["trial"])


def test_evaluation_uses_the_recorded_data_where_nothing_else_is_given(
    searched: tuple[ScriptedSession, State], digits: Path, tmp_path: Path
) -> None:
    session, _ = searched
    folder = session.run.path / "models/PAS-1"
    assert data_of(folder, {}).path == digits
    assert data_of(folder, {"data.split": 3}).split == 3
    given = data_of(folder, {"data.source": "ucf101", "data.path": tmp_path, "data.split": 2})
    assert (given.source, given.path, given.split) == ("ucf101", tmp_path, 2)


def test_a_model_is_a_teacher_for_another_search(searched: tuple[ScriptedSession, State], digits: Path) -> None:
    session, _ = searched
    folder = session.run.path / "models/PAS-1"
    settings = small_settings(digits, session.store.root, f"teacher.weights={folder}", "search.iterations=1")
    second = ScriptedSession(settings)
    second.execute()
    assert second.network == read_description(folder).spec
    assert second.teacher.train is None
    assert second.run.path != session.run.path


def test_exporting_again_changes_nothing_but_stray_models(searched: tuple[ScriptedSession, State]) -> None:
    session, state = searched
    models = session.run.path / "models"
    before = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
    (models / "PAS-9").mkdir()
    export_models(session.store, session.run, state)
    remove_stale_models(session.run, state)
    assert {path: path.read_bytes() for path in models.rglob("*") if path.is_file()} == before
    assert not (models / "PAS-9").exists()


# Cells of a sweep


def test_a_cell_s_folder_goes_without_the_backbone_s_name() -> None:
    assert model_name("reid-agp-0.5") == "agp-0.5"
    assert model_name("r2plus1d-l1-iterative-0.25-nni-seed3") == "l1-iterative-0.25-nni-seed3"


def leave_cell(models: Path, folder: str, name: str) -> Path:
    """A model folder as far as its owner shows."""
    (models / folder).mkdir(parents=True)
    (models / folder / "metrics.json").write_text(json.dumps({"name": name, "pruner": "agp"}))
    return models / folder


def test_only_cells_are_taken_back_and_only_where_they_were_exported_to(tmp_path: Path) -> None:
    run, models = RunFolder(tmp_path), tmp_path / "models"
    stale = leave_cell(models, "agp-0.7", "reid-agp-0.7")  # of a sweep that is no longer asked for
    kept = leave_cell(models, "agp-0.5", "reid-agp-0.5")
    copy = leave_cell(models, "favourite", "reid-agp-0.7")
    half = models / "l1-0.5"  # a kill left it without its numbers
    half.mkdir()
    (models / "notes.txt").touch()
    (models / "other").mkdir()
    cells = [{"name": "reid-agp-0.5", "path": "models/agp-0.5"}, {"name": "reid-l1-0.5", "path": None}]
    remove_stale_models(run, {"teacher": {}, "cells": cells})
    assert sorted(models.iterdir()) == sorted([kept, copy, models / "notes.txt", models / "other"])
    assert not stale.exists()
    assert not half.exists()


def leave_export(model: Path) -> Path:
    """A file to deploy beside a model's weights, as `orchestrate export` leaves it."""
    file = model / "exports/onnx/model.onnx"
    file.parent.mkdir(parents=True)
    file.write_text("to deploy")
    return file


def test_exports_of_the_same_network_stay(searched: tuple[ScriptedSession, State]) -> None:
    session, state = searched
    file = leave_export(session.run.path / "models/PAS-1")
    export_models(session.store, session.run, state)
    assert file.is_file()


def test_exports_of_a_network_that_is_replaced_are_set_aside(searched: tuple[ScriptedSession, State]) -> None:
    """They would pass for files of the new one; they are renamed after the one that they are of."""
    session, state = searched
    model = session.run.path / "models/PAS-1"
    file = leave_export(model)
    former = sha256_of(model / "model.safetensors")
    other = {**state, "family": [{**state["family"][1], "path": "models/PAS-1"}]}
    export_models(session.store, session.run, other)
    assert not file.exists()
    assert (model / f"exports-of-{former[:8]}/onnx/model.onnx").read_text() == "to deploy"


def test_a_model_that_something_was_exported_from_is_not_removed(searched: tuple[ScriptedSession, State]) -> None:
    session, state = searched
    for name in ("PAS-1", "PAS-2"):
        assert (session.run.path / "models" / name).is_dir()
    file = leave_export(session.run.path / "models/PAS-2")
    remove_stale_models(session.run, {**state, "family": []})
    assert file.is_file()
    assert not (session.run.path / "models/PAS-1").exists()


def test_data_that_is_not_there_is_not_made(
    searched: tuple[ScriptedSession, State], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An embedded set would be written wherever a typing error leads."""
    session, _ = searched
    nowhere = tmp_path / "nowhere"
    assert cli.run(["evaluate", str(session.run.path / "models/PAS-1"), "--data", f"moving-digits:{nowhere}"]) == 2
    assert "that is no folder here" in " ".join(capsys.readouterr().err.split())
    assert not nowhere.exists()


def test_integers_are_not_sent_to_a_gpu(tmp_path: Path) -> None:
    spec = BACKBONES["r2plus1d"].presets["tiny"].replace(clip_frames=4, side=16, width=1 / 32, blocks=(1, 1, 1, 1))
    integers = build(spec.replace(quantisation=Quantisation(engine=default_engine())))
    assert [device_for(integers, tmp_path, asked) for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(UserError, match="runs on CPUs only"):
        device_for(integers, tmp_path, "cuda")
