"""Pruner sweeps and a sensitivity analysis as plain JSON, with one of everything that a report has to cope with.

Costs are those of channels that all keep 1 − sparsity of their number; accuracies are made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.orchestrator.sample_state import SAMPLE, reid_row, reid_state

SPARSITIES = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
PRUNERS = ("l1", "l2", "fpgm", "agp")
STEEPNESS = {"l1": 0.33, "l2": 0.36, "fpgm": 0.31, "agp": 0.22, "scratch": 0.42, "random": 0.55}
"""Accuracy lost at sparsity 1."""
TEACHER: dict[str, Any] = {
    **reid_row(0.8821, 0.01184, 64, params=11_166_912),
    "name": "reid-teacher",
    "status": "finished",
    "latency_ms": 4.31,
    "seconds": 61.4,
    "epochs": 14,
    "trial": "00000000000000aa",
}


def cell(
    pruner: str, sparsity: float, seed: int = 0, control: str | None = None, map: float | None = None
) -> dict[str, Any]:
    """A finished cell; less accurate the more is removed, with a scatter that depends on the seed alone."""
    scatter = 0.004 * ((7 * seed + 3 * len(pruner)) % 5 - 2)
    reached = round(TEACHER["map"] - STEEPNESS[pruner] * sparsity**2.2 + scatter, 4) if map is None else map
    left = (1 - sparsity) ** 2
    return {
        **reid_row(reached, TEACHER["gmacs"] * left, 64, params=round(TEACHER["params"] * left)),
        "name": f"reid-{pruner}-{sparsity:g}" + (f"-seed{seed}" if seed else ""),
        "pruner": pruner,
        "sparsity": sparsity,
        "engine": "own",
        "control": control,
        "seed": seed,
        "status": "finished",
        "latency_ms": TEACHER["latency_ms"] * (0.15 + 0.85 * left),
        "finetune_epochs": 4,
        "epochs": 4,
        "seconds": 19.3,
        "trial": f"{pruner[:6]}-{sparsity:g}-{seed}-{control or 'cell'}",
        "cached": False,
        "reason": None,
        "notes": [f"layer1.0.conv1 keeps 1 of 8 filters where {sparsity:g} leaves 0.8"] if sparsity == 0.9 else [],
        "pareto": pruner == "agp",
        "path": f"models/{pruner}-{sparsity:g}" if pruner == "agp" and not seed else None,
    }


def unfinished(row: dict[str, Any], status: str, reason: str | None = None) -> dict[str, Any]:
    """What a cell is before, or without, an accuracy."""
    return {**row, **reid_row(None, row["gmacs"], 64, params=row["params"]), "status": status, "reason": reason}


def sweep_state(seeds: Sequence[int] = (0, 1, 2), controls: Sequence[str] = ("scratch", "random")) -> dict[str, Any]:
    """A finished sweep for re-identification; two of its cells have no result."""
    cells = [cell(pruner, sparsity, seed) for pruner in PRUNERS for sparsity in SPARSITIES for seed in seeds]
    cells += [cell(name, sparsity, seed, name) for name in controls for sparsity in SPARSITIES for seed in seeds]
    broken = {
        "reid-l2-0.8": ("diverged", "loss is nan in epoch 2"),
        "reid-l1-0.9": ("failed", "<out of memory> & [gone]"),
    }
    return {
        "run": "reid-sweep-1a2b3c4d",
        "algorithm": "sweep-prune",
        "backbone": "reid",
        "metric": "map",
        "status": "finished",
        "stop_reason": f"{len(cells) - 2} of {len(cells)} cells done",
        "seed": 0,
        "data": reid_state()["data"],
        "versions": dict(SAMPLE["versions"]),
        "config": {
            "seed": 0,
            "network": {"backbone": "reid", "preset": "tiny"},
            "train": {"epochs": 4, "batch": 16},
            "prune": {"scope": "local", "engine": "own"},
            "sweep": {"pruners": list(PRUNERS), "sparsity": list(SPARSITIES), "controls": list(controls)},
        },
        "teacher": dict(TEACHER),
        "cells": [unfinished(row, *broken[row["name"]]) if row["name"] in broken else row for row in cells],
        "stats": {"trained": len(cells) - 3, "cached": 3, "trial_epochs": 4 * len(cells), "seconds": 301.2,
                  "core_seconds": 590.0},
        "latency": {"threads": 1, "batch": 1, "runs": 30, "machine": "Little CPU @ 1.00GHz"},
    }  # fmt: skip


def small_sweep() -> dict[str, Any]:
    """A finished sweep of a video classifier: two pruners, two sparsities, one seed, no latency."""
    state = sweep_state(seeds=(0,), controls=())
    rows = [row for row in state["cells"] if row["pruner"] in ("l1", "agp") and row["sparsity"] in (0.3, 0.5)]
    for row in [*rows, state["teacher"]]:
        row.update(top1=row["map"], top5=0.99, map=None, frames=32, side=48, height=48, width=48, latency_ms=None)
    state.update(run="r2plus1d-sweep-5e6f7a8b", backbone="r2plus1d", metric="top1", latency=None, cells=rows)
    state.update(data=dict(SAMPLE["data"]), stop_reason="4 of 4 cells done")
    state["stats"].update(trained=5, cached=0, trial_epochs=30)
    return state


def running_sweep() -> dict[str, Any]:
    """The large sweep early on: the first pruner's light cells are done, the rest wait."""
    state = sweep_state()
    state.update(status="running", stop_reason=None, latency=None)
    state["cells"] = [
        row if row["pruner"] == "l1" and row["sparsity"] < 0.5 else unfinished(row, "pending") for row in state["cells"]
    ]
    for row in [*state["cells"], state["teacher"]]:
        row.update(latency_ms=None, pareto=False, path=None)
    return state


def empty_sweep() -> dict[str, Any]:
    """The sweep when the network to be pruned could not be trained."""
    state = sweep_state()
    state.update(status="failed", stop_reason="the teacher diverged", cells=[], latency=None)
    state["teacher"].update(reid_row(None, 0.01184, 64), status="diverged", latency_ms=None, seconds=None)
    return state


def sensitivity_state(layers: int = 12) -> dict[str, Any]:
    """A finished sensitivity analysis; the deeper a layer, the less it is missed. One point has no result."""
    state = sweep_state()
    found = []
    for number in range(layers):
        name = f"layer{1 + 4 * number // layers}.{number}.conv1"
        slope = 0.05 + 0.5 * 0.7 ** (12 * number / layers)
        points = [
            {
                **reid_row(round(TEACHER["map"] - slope * sparsity**2, 4), 0.011, 64),
                "sparsity": sparsity,
                "status": "finished",
                "trial": f"{number:04d}-{sparsity:g}",
            }
            for sparsity in (0.25, 0.5, 0.75, 0.9)
        ]
        harmless = [row["sparsity"] for row in points if row["map"] >= TEACHER["map"] - 0.02]
        found.append(
            {
                "layer": name,
                "coupled": [name] if number % 3 else [name, f"layer{1 + 4 * number // layers}.downsample.0"],
                "channels": 16 * 2 ** (4 * number // layers),
                "points": points,
                "max_sparsity": max(harmless, default=0.0),
            }
        )
    broken = found[1]["points"][-1]
    broken.update(unfinished({**broken, "params": 1}, "failed", "<out of memory>"))
    state.update(algorithm="sweep-sensitivity", run="reid-sensitivity-9c8b7a6d", latency=None)
    state.update(layers=found, max_drop=2.0, stop_reason=f"{4 * layers - 1} of {4 * layers} cells done")
    state["stats"].update(trained=4 * layers + 1, cached=0, trial_epochs=14)
    state["cells"] = [
        {**cell("l1", row["sparsity"]), **row, "name": f"reid-l1-{layer['layer']}-{row['sparsity']:g}",
         "reason": row.get("reason"), "notes": []}
        for layer in found for row in layer["points"]
    ]  # fmt: skip
    return state


def running_sensitivity() -> dict[str, Any]:
    """The analysis before any layer is measured."""
    state = sensitivity_state()
    state.update(status="running", stop_reason=None)
    for row in [*state["cells"], *(row for layer in state["layers"] for row in layer["points"])]:
        row.update(unfinished({**row, "params": 1}, "pending"))
    return state


def empty_sensitivity() -> dict[str, Any]:
    """The analysis when the network could not be trained."""
    return {**empty_sweep(), "algorithm": "sweep-sensitivity", "layers": [], "max_drop": 2.0}
