"""Chains of steps as plain JSON, with one of everything that a report has to cope with. Made-up numbers."""

from __future__ import annotations

import copy
from typing import Any

from configs.schema import ChainSettings, DistillationSettings, QuantiseSettings, SearchSettings, TrainSettings
from tests.orchestrator.sample_quantise import CONDITIONS, LAYERS, TEACHER, as_videos, quantise_state
from tests.orchestrator.sample_state import reid_row, reid_state, sample_state

UNKNOWN = dict.fromkeys(("latency_ms", "size_mb", "drop_points", "path"))


def step(kind: str, title: str, map: float | None, gmacs: float, params: int, **changes: Any) -> dict[str, Any]:
    """A finished step, or what `changes` makes of it."""
    return {
        "step": kind,
        "title": title,
        "trained": 1,
        "notes": [],
        "accepted": None,
        "rejected": [],
        "original": None,
        "layers": [],
        "float_layers": [],
        "engine": None,
        **reid_row(map, gmacs, 64, params=params),
        "name": f"reid-{kind}",
        "status": "finished",
        "warm_started": True,
        "seconds": 19.3,
        "epochs": 5,
        "trial": f"{kind}-step",
        "cached": False,
        "reason": None,
        **changes,
    }


STEPS = [
    step("pas", "PAS-2 (c, l)", 0.9302, 0.000985, 155_800, trained=6, latency_ms=1.02, size_mb=0.624,
         drop_points=0.4, path="models/1-pas", notes=["axis t changes nothing"]),
    step("prune", "AGP 0.5", 0.9188, 0.000251, 39_400, latency_ms=0.61, size_mb=0.158, drop_points=1.14,
         path="models/2-prune", notes=["layer1.0.conv1 keeps 1 of 8 filters where 0.5 leaves 0.8"]),
    step("quantise", "INT8 by QAT", 0.9131, 0.000251, 39_400, latency_ms=0.26, size_mb=0.0571, drop_points=0.57,
         path="models/3-int8", original="../2-prune", accepted=True, layers=LAYERS, engine="onednn",
         float_layers=[{"layer": "stem.conv", "reason": "excluded"}]),
]  # fmt: skip


def chain_state() -> dict[str, Any]:
    """A finished chain for re-identification."""
    found = reid_state()
    for row in [row for iteration in found["iterations"] for row in iteration["hypotheses"]]:
        if row["map"] is not None:  # the last one chosen is where the steps go on
            row["map"] = round(TEACHER["map"] - (0.8874 - row["map"]) * 0.004 / 0.087, 4)
    return {
        **quantise_state(seeds=(0,)),
        "run": "reid-chain-1a2b3c4d",
        "algorithm": "chain",
        "stop_reason": "3 of 3 steps done",
        "config": {
            "seed": 0,
            "train": TrainSettings(epochs=5, warmup_epochs=0).model_dump(mode="json"),
            "distillation": DistillationSettings().model_dump(mode="json"),
            "search": SearchSettings(iterations=2).model_dump(mode="json"),
            "quantise": QuantiseSettings().model_dump(mode="json"),
            "chain": ChainSettings().model_dump(mode="json"),
        },
        "teacher": dict(TEACHER),
        "steps": copy.deepcopy(STEPS),
        "iterations": found["iterations"],
        "family": found["family"],
        "latency": dict(CONDITIONS),
        "max_drop_points": 1.0,
        "stats": {"trained": 9, "cached": 0, "trial_epochs": 58, "seconds": 512.9, "core_seconds": 998.0},
    }


def video_chain() -> dict[str, Any]:
    """A finished chain of a video classifier that gains on its way, and whose INT8 network the gate rejects."""
    state = as_videos(chain_state())
    found = sample_state()
    state.update(iterations=found["iterations"][:2], family=found["family"][:2])
    for row in [iteration["hypotheses"] for iteration in state["iterations"]]:
        for hypothesis in row:
            hypothesis.update(map=None, height=48, width=48)
    state["steps"][0].update(title="PAS-2 (s, s)", top1=0.9450, drop_points=-1.08)
    reason = "loses 1.2 points of accuracy, more than the 1 allowed (--max-drop-points)"
    state["steps"][2].update(accepted=False, rejected=[reason], drop_points=1.2, top1=0.9068)
    return state


def short_chain() -> dict[str, Any]:
    """Pruning and quantising alone."""
    state = chain_state()
    return {**state, "steps": state["steps"][1:], "iterations": [], "family": [], "stop_reason": "2 of 2 steps done"}


def running_chain() -> dict[str, Any]:
    """The chain in its second step: nothing is timed yet."""
    state = chain_state()
    state.update(status="running", stop_reason=None, latency=None)
    state["teacher"].update(latency_ms=None, size_mb=None)
    state["steps"][0].update(UNKNOWN)
    state["steps"][1:] = [without_result(row, "pending") for row in state["steps"][1:]]
    return state


def starting_chain() -> dict[str, Any]:
    """The chain before its teacher is trained."""
    state = running_chain()
    state.update(steps=[], iterations=[], family=[])
    state["teacher"].update(reid_row(None, 0.00553, 64), status="pending", seconds=None, epochs=0)
    return state


def broken_chain() -> dict[str, Any]:
    """The chain whose second step diverged: the first is kept."""
    state = chain_state()
    state["steps"] = [state["steps"][0], without_result(state["steps"][1], "diverged", "loss is <nan> in epoch 2")]
    state.update(status="failed", stop_reason="step 2 (AGP 0.5) diverged: loss is <nan> in epoch 2")
    return state


def empty_chain() -> dict[str, Any]:
    """The chain whose teacher could not be trained."""
    state = starting_chain()
    state.update(status="failed", stop_reason="the teacher diverged")
    state["teacher"].update(status="diverged")
    return state


def without_result(row: dict[str, Any], status: str, reason: str | None = None) -> dict[str, Any]:
    """What a step is before, or without, an accuracy."""
    gone: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "accepted": None,
        "rejected": [],
        "layers": [],
        "seconds": None,
    }
    return {**row, **reid_row(None, row["gmacs"], 64, params=row["params"]), **UNKNOWN, **gone, "notes": []}
