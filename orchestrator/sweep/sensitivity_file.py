"""`sensitivity.yaml`: what a sensitivity analysis hands on to a sweep, which reads it with `--layer-sparsity`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from configs.errors import UserError
from orchestrator.report import State
from trainers.files import write_text

SENSITIVITY_FILE = "sensitivity.yaml"
"""Largest sparsity per layer, as settings."""
WEIGHT_FILES = (".safetensors", ".pth", ".pyth", ".pt")
"""How `teacher.weights` ends where it is no model folder, which `--model` would take."""


def write_layer_sparsity(state: State, folder: Path) -> None:
    """Write what a finished analysis found into its run's folder, as settings that a sweep reads."""
    sparsities = {layer["layer"]: layer["max_sparsity"] for layer in state["layers"]}
    about = [
        f"Largest sparsity at which each layer alone costs at most {state['max_drop']:g} points, without fine-tuning.",
        *(f"  {line}" for line in sweep_command(state, folder).splitlines()),  # a path may hold line breaks
    ]
    settings = yaml.safe_dump({"prune": {"max_sparsity": sparsities}}, sort_keys=False)
    write_text(folder / SENSITIVITY_FILE, "".join(f"# {line}\n" for line in about) + settings)


def read_layer_sparsity(path: Path) -> dict[str, Any]:
    """`prune.max_sparsity` of a file that `sweep sensitivity` wrote.

    Raises:
        UserError: it can't be read, or is something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        sparsities: dict[str, Any] = dict(content["prune"]["max_sparsity"])
    except OSError as error:
        raise UserError(f"--layer-sparsity {path} can't be read ({error.strerror})") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--layer-sparsity {path} has no prune.max_sparsity; give the sensitivity.yaml of `sweep sensitivity`"
        ) from error
    return sparsities


def sweep_command(state: State, folder: Path) -> str:
    """The command that prunes the analysed network within the limits found, for a shell.

    Args:
        state: a sensitivity analysis.
        folder: of its run.
    """
    weights = state["config"].get("teacher", {}).get("weights")
    if weights is None:
        model = ["--model", state["backbone"]]
    elif Path(weights).suffix in WEIGHT_FILES:
        model = ["--model", state["backbone"], "--set", f"teacher.weights={weights}"]
    else:
        model = ["--model", str(weights)]
    return shlex.join(["orchestrate", "sweep", "prune", *model, "--layer-sparsity", str(folder / SENSITIVITY_FILE)])
