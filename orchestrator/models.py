"""The family of models that a search hands on: folders that load without the search."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from orchestrator.report.card import model_card
from orchestrator.state import State
from orchestrator.store import RunFolder, Store
from trainers.files import copy_file, read_json, write_json, write_text
from trainers.package import NETWORK_FILE, WEIGHTS_FILE
from trainers.results import RESULT_FILE


def export_models(store: Store, run: RunFolder, state: State) -> None:
    """Write `models/teacher` and `models/PAS-k`, file by file whole."""
    for model in exported(state):
        export_model(store.trial_folder(model["trial"]), run.path / model["path"], model, state)


def remove_stale_models(run: RunFolder, state: State) -> None:
    """Remove `models/PAS-k` of an earlier search under this name that went further than this finished one."""
    kept = {Path(model["path"]).name for model in exported(state)}
    for folder in (run.path / "models").glob("PAS-*"):
        if folder.is_dir() and folder.name not in kept:
            shutil.rmtree(folder)


def exported(state: State) -> list[dict[str, Any]]:
    """The teacher and the family so far, each with its folder."""
    teacher = {**state["teacher"], "name": "teacher", "axis": None, "sequence": "", "path": "models/teacher"}
    return [teacher, *state["family"]]


def export_model(trial: Path, target: Path, model: dict[str, Any], state: State) -> None:
    """Write one model folder: weights, description, numbers, card."""
    for name in (WEIGHTS_FILE, NETWORK_FILE):
        copy_file(trial / name, target / name)
    numbers = {key: model[key] for key in ("name", "top1", "top5", "gmacs", "params", "frames", "side", "trial")}
    write_json(target / "metrics.json", {**numbers, "sequence": model["sequence"], "data": state["data"]})
    write_text(target / "card.md", model_card(model, state, read_json(trial / RESULT_FILE)))
