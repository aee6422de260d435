"""The models that a search hands on, as folders that load without it: a family, the Pareto front of a sweep,
INT8 networks, networks fine-tuned on other videos."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from orchestrator.quantise.search import METHODS
from orchestrator.registry.runs import exported
from orchestrator.report.card import model_card
from orchestrator.report.chain_card import step_card
from orchestrator.report.quantise_card import quantised_card
from orchestrator.report.sweep_card import cell_card
from orchestrator.report.transfer_card import transfer_card
from orchestrator.state import State
from orchestrator.store import RunFolder, Store
from trainers.files import copy_file, read_json, sha256_of, write_json, write_text
from trainers.package import NETWORK_FILE, WEIGHTS_FILE
from trainers.results import RESULT_FILE

STEP_FOLDERS = {"pas": "pas", "prune": "prune", "quantise": "int8"}
"""What the folder of a chain's step is called after its number, by the kind of step."""
EXPORTS = "exports"
"""Folder of what `orchestrate export` writes of a model, beside it."""
METRICS_FILE = "metrics.json"
"""What a model reached, and on which data."""
NUMBERS = (
    *("name", "top1", "top5", "map", "gmacs", "params", "frames", "side", "height", "width", "trial", "sequence"),
    *("pruner", "sparsity", "engine", "seed", "latency_ms"),
    *("method", "fallbacks", "size_mb", "drop_points", "accepted", "rejected", "original"),
    *("step", "title"),
    *("model", "split"),
)
"""What it has of a model, as far as its kind of search knows it."""


def export_models(store: Store, run: RunFolder, state: State) -> None:
    """Write `models/teacher` and the models found, file by file whole."""
    for model in exported(state):
        export_model(store.trial_folder(model["trial"]), run.path / model["path"], model, state)


def remove_stale_models(run: RunFolder, state: State) -> None:
    """Remove models that an earlier, longer search under this name exported and this finished one did not.

    Those that something was exported from stay: files to deploy are not ours to delete.
    """
    kept = {Path(model["path"]).name for model in exported(state)}
    cells = {model_name(cell["name"]) for cell in state.get("cells", [])}
    for folder in (run.path / "models").glob("*"):
        named_by_us = folder.name.startswith("PAS-") or folder.name in cells or holds_cell(folder)
        named_by_us |= "candidates" in state and folder.name in METHODS
        named_by_us |= holds_step(folder) or holds_transfer(folder)
        if named_by_us and folder.is_dir() and folder.name not in kept and not any(folder.glob(f"{EXPORTS}*")):
            shutil.rmtree(folder)


def holds_cell(folder: Path) -> bool:
    """Whether a folder is a cell's model, and where it was exported to; a copy that somebody made is theirs."""
    numbers = read_json(folder / METRICS_FILE) or {}
    return "pruner" in numbers and model_name(numbers["name"]) == folder.name


def holds_step(folder: Path) -> bool:
    """Whether a folder is the model of a chain's step, and where it was exported to; a copy elsewhere is somebody's."""
    numbers = read_json(folder / METRICS_FILE) or {}
    number, _, kind = folder.name.partition("-")
    return number.isdigit() and "step" in numbers and STEP_FOLDERS.get(numbers["step"]) == kind


def holds_transfer(folder: Path) -> bool:
    """Whether a folder is a fine-tuned network, and where it was exported to; a copy elsewhere is somebody's."""
    numbers = read_json(folder / METRICS_FILE) or {}
    return "split" in numbers and numbers.get("model") == folder.name


def model_name(cell: str) -> str:
    """Folder of a cell's model: the cell's name without the backbone's, `agp-0.5`."""
    return cell.partition("-")[2]


def export_model(trial: Path, target: Path, model: dict[str, Any], state: State) -> None:
    """Write one model folder: weights, description, numbers, card."""
    set_aside_exports(trial, target)
    for name in (WEIGHTS_FILE, NETWORK_FILE):
        copy_file(trial / name, target / name)
    numbers = {key: model[key] for key in NUMBERS if key in model}
    write_json(target / METRICS_FILE, {**numbers, "data": state["data"]})
    write_text(target / "card.md", card_of(model, state, read_json(trial / RESULT_FILE)))


def set_aside_exports(trial: Path, target: Path) -> None:
    """Rename the exports of a model folder that is about to hold another network, after the one they are of."""
    weights = target / WEIGHTS_FILE
    if not (target / EXPORTS).is_dir() or not weights.is_file():
        return
    former = sha256_of(weights)
    if former != sha256_of(trial / WEIGHTS_FILE):
        (target / EXPORTS).rename(target / f"{EXPORTS}-of-{former[:8]}")


def card_of(model: dict[str, Any], state: State, record: dict[str, Any]) -> str:
    """Text of a model's card, according to what made it."""
    if "step" in model:
        return step_card(model, state, record)
    if "pruner" in model:
        return cell_card(model, state, record)
    if "method" in model:
        return quantised_card(model, state, record)
    if "model" in model:
        return transfer_card(model, state, record)
    return model_card(model, state, record)
