"""The models that a search hands on, as folders that load without it: a family, or the Pareto front of a sweep."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from orchestrator.report.card import model_card
from orchestrator.report.sweep_card import cell_card
from orchestrator.state import State
from orchestrator.store import RunFolder, Store
from trainers.files import copy_file, read_json, write_json, write_text
from trainers.package import NETWORK_FILE, WEIGHTS_FILE
from trainers.results import RESULT_FILE

METRICS_FILE = "metrics.json"
"""What a model reached, and on which data."""
NUMBERS = (
    *("name", "top1", "top5", "map", "gmacs", "params", "frames", "side", "height", "width", "trial", "sequence"),
    *("pruner", "sparsity", "engine", "seed", "latency_ms"),
)
"""What it has of a model, as far as its kind of search knows it."""


def export_models(store: Store, run: RunFolder, state: State) -> None:
    """Write `models/teacher` and the models found, file by file whole."""
    for model in exported(state):
        export_model(store.trial_folder(model["trial"]), run.path / model["path"], model, state)


def remove_stale_models(run: RunFolder, state: State) -> None:
    """Remove models that an earlier, longer search under this name exported and this finished one did not."""
    kept = {Path(model["path"]).name for model in exported(state)}
    cells = {model_name(cell["name"]) for cell in state.get("cells", [])}
    for folder in (run.path / "models").glob("*"):
        named_by_us = folder.name.startswith("PAS-") or folder.name in cells or holds_cell(folder)
        if named_by_us and folder.is_dir() and folder.name not in kept:
            shutil.rmtree(folder)


def holds_cell(folder: Path) -> bool:
    """Whether a folder is a cell's model, and where it was exported to; a copy that somebody made is theirs."""
    numbers = read_json(folder / METRICS_FILE) or {}
    return "pruner" in numbers and model_name(numbers["name"]) == folder.name


def model_name(cell: str) -> str:
    """Folder of a cell's model: the cell's name without the backbone's, `agp-0.5`."""
    return cell.partition("-")[2]


def exported(state: State) -> list[dict[str, Any]]:
    """The teacher, and what was found so far: the family, or the cells on the Pareto front; each with its folder."""
    teacher = {**state["teacher"], "name": "teacher", "axis": None, "sequence": "", "path": "models/teacher"}
    cells = [cell for cell in state.get("cells", []) if cell.get("path")]
    return [teacher, *state.get("family", []), *cells]


def export_model(trial: Path, target: Path, model: dict[str, Any], state: State) -> None:
    """Write one model folder: weights, description, numbers, card."""
    for name in (WEIGHTS_FILE, NETWORK_FILE):
        copy_file(trial / name, target / name)
    numbers = {key: model[key] for key in NUMBERS if key in model}
    write_json(target / METRICS_FILE, {**numbers, "data": state["data"]})
    record = read_json(trial / RESULT_FILE)
    card = cell_card(model, state, record) if "pruner" in model else model_card(model, state, record)
    write_text(target / "card.md", card)
