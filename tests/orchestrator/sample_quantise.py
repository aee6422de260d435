"""Sweeps of quantised networks as plain JSON, with one of everything that a report has to cope with. Made up."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from configs.schema import DistillationSettings, QuantiseSettings, TrainSettings
from tests.orchestrator.sample_state import SAMPLE, reid_row, reid_state

CONDITIONS: dict[str, Any] = {
    "machine": "Little CPU @ 1.00GHz", "threads": 1, "batch": 1, "runs": 30, "torch": "2.15.0"
}  # fmt: skip
TEACHER: dict[str, Any] = {
    **reid_row(0.9342, 0.00553, 64),
    "name": "reid-teacher",
    "status": "finished",
    "latency_ms": 2.85,
    "size_mb": 2.81,
    "warm_started": False,
    "seconds": 61.4,
    "epochs": 14,
    "trial": "00000000000000aa",
    "cached": False,
    "reason": None,
}
SLOW = "slower in INT8: 0.31 ms against 0.24 ms"


def layer(name: str, kind: str = "conv2d", noise_db: float | None = 41.3, **changes: Any) -> dict[str, Any]:
    """A layer in integers, or what `changes` makes of it."""
    fused = [name.replace("conv", "bn"), f"{name}.relu"] if kind.startswith("conv") else []
    return {
        "name": name,
        "kind": kind,
        "precision": "int8",
        "fused": fused,
        "reason": None,
        "noise_db": noise_db,
        **changes,
    }


LAYERS = [
    layer("stem.conv", precision="float", reason="excluded", noise_db=None, fused=[]),
    *(
        layer(f"layer{stage}.0.conv{number}", noise_db=46.0 - 3.1 * stage - number)
        for stage in (1, 2, 3, 4)
        for number in (1, 2)
    ),
    layer("add_1", "add", noise_db=None),
    layer("pool", "pool", noise_db=None, precision="float", reason="its input is in floating point"),
    layer("neck", "linear", noise_db=19.7),
]
LAYER_TIMES = [
    {"layer": "stem.conv", "int8_ms": 0.31, "float_ms": 0.24},
    *({"layer": f"layer{stage}.0.conv1", "int8_ms": 0.02 * stage, "float_ms": 0.09 * stage} for stage in (1, 2, 3, 4)),
]


def candidate(
    method: str, seed: int = 0, map: float | None = None, fallbacks: int = 0, **changes: Any
) -> dict[str, Any]:
    """A finished candidate; quantisation-aware training costs 0.3 points and calibration alone 1.6."""
    reached = round(TEACHER["map"] - {"ptq": 0.016, "qat": 0.003}[method] + 0.001 * seed, 4) if map is None else map
    drop = round(100 * (TEACHER["map"] - reached), 6)
    accepted = drop <= 1
    lost = f"loses {drop:.1f} points of accuracy, more than the 1 allowed (--max-drop-points)"
    taken_back = [{"layer": f"layer{4 - n}.0.conv1", "reason": "for accuracy: noise 21 dB"} for n in range(fallbacks)]
    return {
        "method": method,
        "seed": seed,
        "fallbacks": fallbacks,
        "float_layers": [{"layer": "stem.conv", "reason": SLOW}, *taken_back],
        "drop_points": drop,
        "latency_ms": 0.91 + 0.08 * fallbacks,
        "size_mb": 0.73 + 0.05 * fallbacks,
        "accepted": accepted,
        "rejected": [] if accepted else [lost],
        "best": False,
        "path": None,
        "original": "../teacher",
        "layers": [],
        "train_epochs": 4 if method == "qat" else 0,
        **reid_row(reached, 0.00553, 64),
        "name": f"reid-{method}" + (f"-seed{seed}" if seed else "") + (f"-float{fallbacks}" if fallbacks else ""),
        "status": "finished",
        "warm_started": True,
        "seconds": 38.2 if method == "qat" else 1.9,
        "epochs": 4 if method == "qat" else 0,
        "trial": f"{method}-{seed}-{fallbacks}",
        "cached": False,
        "reason": None,
        **changes,
    }


def layers_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers of a candidate; quantising itself only knows that those left out were to be left out."""
    named = {layer["layer"] for layer in row["float_layers"]}
    left_out: dict[str, Any] = {"precision": "float", "reason": "excluded", "noise_db": None, "fused": []}
    return [{**copy.deepcopy(row), **(left_out if row["name"] in named else {})} for row in LAYERS]


def without_result(row: dict[str, Any], status: str, reason: str | None = None) -> dict[str, Any]:
    """What a candidate is before, or without, an accuracy."""
    unknown = dict.fromkeys(("drop_points", "latency_ms", "size_mb", "accepted", "path"))
    gone: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "rejected": [],
        "best": False,
        "layers": [],
        "seconds": None,
    }
    return {**row, **reid_row(None, row["gmacs"], 64), **unknown, **gone}


def quantise_state(seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """A finished sweep for re-identification: QAT passes, PTQ loses too much."""
    rows = [candidate(method, seed) for method in ("ptq", "qat") for seed in seeds]
    exports = {"reid-ptq": "models/ptq", rows[-1]["name"]: "models/qat"}
    for row in rows:
        if path := exports.get(row["name"]):
            row.update(path=path, layers=layers_of(row))
    rows[-1].update(best=True)
    points = rows[-1]["drop_points"]
    return {
        "run": "reid-qat-1a2b3c4d",
        "algorithm": "sweep-qat",
        "backbone": "reid",
        "metric": "map",
        "status": "finished",
        "stop_reason": f"QAT keeps {points:.1f} points below the original; nothing had to go back to float",
        "seed": 0,
        "data": reid_state()["data"],
        "versions": dict(SAMPLE["versions"]),
        "config": {
            "seed": 0,
            "network": {"backbone": "reid", "preset": "tiny"},
            "train": TrainSettings(epochs=4, warmup_epochs=0).model_dump(mode="json"),
            "distillation": DistillationSettings().model_dump(mode="json"),
            "quantise": QuantiseSettings(seeds=tuple(seeds), exclude=("stem.*",)).model_dump(mode="json"),
        },
        "teacher": dict(TEACHER),
        "candidates": rows,
        "layer_times": copy.deepcopy(LAYER_TIMES),
        "engine": "onednn",
        "latency": dict(CONDITIONS),
        "max_drop_points": 1.0,
        "stats": {"trained": len(rows), "cached": 1, "trial_epochs": 14 + 4 * len(seeds), "seconds": 301.2,
                  "core_seconds": 590.0},
    }  # fmt: skip


def as_videos(state: dict[str, Any]) -> dict[str, Any]:
    """The same of a video classifier, which is compared by top-1."""
    for row in [state["teacher"], *state.get("candidates", ()), *state.get("steps", ())]:
        row.update(top1=row["map"], top5=None if row["map"] is None else 0.995, map=None, frames=32, side=48)
        row.update(height=48, width=48, name=row["name"].replace("reid", "slowfast"))
    state.update(run=state["run"].replace("reid", "slowfast"), backbone="slowfast", metric="top1")
    return {**state, "data": dict(SAMPLE["data"])}


def video_sweep() -> dict[str, Any]:
    """A finished sweep of a video classifier with one seed; nothing was excluded or timed layer by layer."""
    state = as_videos(quantise_state(seeds=(0,)))
    for row in state["candidates"]:
        row["float_layers"] = []
    return {**state, "layer_times": []}


def rejected_sweep() -> dict[str, Any]:
    """A finished sweep without a network that passes: QAT loses too much although layers went back, PTQ is slow."""
    state = quantise_state(seeds=(0,))
    slow: dict[str, Any] = {"latency_ms": 3.2, "accepted": False, "rejected": ["12 % slower than its FP32 original"]}
    rows = [candidate("ptq", map=0.9012, **slow), *(candidate("qat", map=0.9102, fallbacks=n) for n in (0, 1, 2, 3))]
    rows[-1].update(path="models/qat", layers=layers_of(rows[-1]))
    return {**state, "candidates": rows, "stop_reason": "gave up after 3 layers: QAT still loses 2.4 points"}


def running_sweep() -> dict[str, Any]:
    """The sweep early on: the first calibration is done, the rest waits, and only layers have been timed."""
    state = quantise_state()
    nothing: dict[str, Any] = {
        "latency_ms": None,
        "size_mb": None,
        "accepted": None,
        "rejected": [],
        "path": None,
        "layers": [],
    }
    first, *others = state["candidates"]
    first.update(nothing)
    state.update(status="running", stop_reason=None, latency=None)
    state["teacher"].update(latency_ms=None, size_mb=None)
    state["candidates"] = [first, *(without_result(row, "pending") for row in others)]
    return state


def broken_sweep() -> dict[str, Any]:
    """A finished sweep in which no candidate has a result."""
    state = quantise_state(seeds=(0,))
    ends = (("failed", "<out of memory> & [gone]"), ("diverged", "loss is nan in epoch 2"))
    rows = [without_result(row, *end) for row, end in zip(state["candidates"], ends, strict=True)]
    return {**state, "candidates": rows, "stop_reason": "no candidate is left"}


def empty_sweep() -> dict[str, Any]:
    """The sweep when the network to be quantised could not be measured."""
    state = quantise_state()
    state.update(status="failed", stop_reason="the teacher diverged", candidates=[], layer_times=[], latency=None)
    state["teacher"].update(reid_row(None, 0.00553, 64), status="diverged")
    state["teacher"].update(dict.fromkeys(("latency_ms", "size_mb", "seconds")))
    return state
