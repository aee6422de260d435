"""Small searches as plain JSON, with one of everything that a report has to cope with. The numbers are made up.

The one of videos is as states were written before networks re-identified: without a metric, and with squares alone.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from compression.reduction import AXES

TEACHER: dict[str, Any] = {
    "name": "slowfast-teacher",
    "status": "finished",
    "top1": 0.9625,
    "top5": 1.0,
    "gmacs": 0.0212,
    "params": 541_320,
    "frames": 32,
    "side": 48,
    "seconds": 61.4,
    "epochs": 14,
    "trial": "00000000000000aa",
}


def hypothesis(iteration: int, axis: str, top1: float | None, gmacs: float, **changes: Any) -> dict[str, Any]:
    """A finished hypothesis, or what `changes` makes of it."""
    return {
        "axis": axis,
        "name": f"slowfast-pas{iteration}-{AXES[axis].name}",
        "status": "finished",
        "top1": top1,
        "top5": None if top1 is None else min(1.0, top1 + 0.06),
        "gmacs": gmacs,
        "params": 541_320,
        "frames": 32,
        "side": 34,
        "warm_started": AXES[axis].keeps_weights,
        "seconds": 19.3,
        "epochs": 5,
        "trial": f"{iteration:08d}{ord(axis):08d}",
        "cached": False,
        "reason": None,
        **changes,
    }


def control(winner: dict[str, Any], top1: float) -> dict[str, Any]:
    """The winner's architecture without distillation."""
    name = winner["name"].rsplit("-", 1)[0] + "-control"
    return {**winner, "name": name, "top1": top1, "warm_started": False, "trial": winner["trial"][:8] + "0" * 8}


def member(number: int, sequence: str, row: dict[str, Any]) -> dict[str, Any]:
    """The winner of an iteration as a member of the family."""
    kept = ("top1", "top5", "gmacs", "params", "frames", "side", "trial")
    name = f"PAS-{number}"
    return {"name": name, "axis": sequence[-1], "sequence": sequence, "path": f"models/{name}"} | {
        key: row[key] for key in kept
    }


FIRST = [
    hypothesis(1, "s", 0.9688, 0.0108),
    hypothesis(1, "t", 0.8375, 0.0109, frames=16, side=48),
    hypothesis(1, "f", 0.9031, 0.0109, frames=16, side=48, cached=True, seconds=0.0),
    hypothesis(1, "c", 0.6938, 0.0112, side=48, params=277_004),
    hypothesis(1, "l", 0.9000, 0.0121, side=48, params=302_110),
]
SECOND = [
    hypothesis(2, "s", 0.9188, 0.0057, side=24),
    hypothesis(2, "t", 0.8156, 0.0056, frames=16),
    hypothesis(2, "f", 0.9125, 0.0056, frames=16),
    hypothesis(2, "c", None, 0.0058, status="diverged", reason="loss is nan in epoch 2", epochs=2),
    hypothesis(2, "l", 0.7938, 0.0081, params=302_110),
]
THIRD = [
    hypothesis(3, "t", 0.7906, 0.0030, side=24, frames=16),
    hypothesis(3, "f", 0.8750, 0.0030, side=24, frames=16),
    hypothesis(3, "c", 0.6500, 0.0031, side=24, params=277_004),
    hypothesis(3, "l", None, 0.0041, side=24, status="failed", reason="<out of memory> & [gone]"),
]

SAMPLE: dict[str, Any] = {
    "run": "slowfast-pas-1a2b3c4d",
    "algorithm": "pas",
    "backbone": "slowfast",
    "status": "finished",
    "stop_reason": "3 iterations done",
    "seed": 0,
    "data": {
        "source": "moving-digits",
        "path": "data/moving-digits",
        "fingerprint": "9f86d081884c7d65",
        "train_videos": 480,
        "val_videos": 320,
        "classes": ["E", "NE", "N", "NW", "W", "SW", "S", "SE"],
        "quarantined": [{"path": "train/broken & short.mp4", "reason": "3 frames, but a clip needs 32"}],
    },
    "versions": {
        "orchestrate": "0.1.0",
        "commit": "1372dc0",
        "python": "3.11.9",
        "torch": "2.15.0",
        "torchvision": "0.29.0",
        "ray": "2.60.0",
        "numpy": "2.3.0",
        "platform": "Linux x86_64",
    },
    "config": {
        "seed": 0,
        "network": {"backbone": "slowfast", "preset": "tiny"},
        "train": {"epochs": 5, "batch": 16, "lr": 0.1, "schedule": "cosine"},
        "distillation": {"weight": 1.25, "temperature": 5.0, "teacher_mode": "train"},
    },
    "teacher": TEACHER,
    "iterations": [
        {
            "iteration": 1,
            "rule": "max_accuracy",
            "why": "every cost ratio lies within 15 % of the median (0.51)",
            "winner": "s",
            "skipped": [],
            "hypotheses": FIRST,
            "control": control(FIRST[0], 0.5656),
        },
        {
            "iteration": 2,
            "rule": "ratio",
            "why": "the cost ratio of l (0.75) is more than 15 % from the median (0.53)",
            "winner": "s",
            "skipped": [],
            "hypotheses": SECOND,
            "control": control(SECOND[0], 0.4438),
        },
        {
            "iteration": 3,
            "rule": "max_accuracy",
            "why": "every cost ratio lies within 15 % of the median (0.53)",
            "winner": "f",
            "skipped": [{"axis": "s", "reason": "axis s (side) is exhausted: 12 pixels are the least"}],
            "hypotheses": THIRD,
            "control": control(THIRD[1], 0.3906),
        },
    ],
    "family": [
        member(1, "s", FIRST[0]),
        member(2, "ss", SECOND[0]),
        member(3, "ssf", THIRD[1]),
    ],
    "stats": {"trained": 16, "cached": 1, "trial_epochs": 94, "seconds": 301.2, "core_seconds": 590.0},
}


def sample_state() -> dict[str, Any]:
    """A finished search of three iterations; the caller's own copy."""
    return copy.deepcopy(SAMPLE)


def running_state() -> dict[str, Any]:
    """The same search in the middle of its first iteration: one hypothesis done, one in training, the rest waiting."""
    state = sample_state()
    state.update(status="running", stop_reason=None, family=[], iterations=state["iterations"][:1])
    state["stats"].update(trained=2, cached=0, trial_epochs=20, seconds=90.0, core_seconds=170.0)
    first = state["iterations"][0]
    first.update(rule=None, why=None, winner=None, control=None)
    for row, status in zip(first["hypotheses"][1:], ("running", "pending", "pending", "pending"), strict=True):
        row.update(status=status, top1=None, top5=None, seconds=None, epochs=0, cached=False)
    return state


def empty_state() -> dict[str, Any]:
    """The same search when its teacher could not be trained."""
    state = sample_state()
    state.update(status="failed", stop_reason="the teacher diverged", family=[], iterations=[])
    state["stats"].update(trained=1, cached=0, trial_epochs=3, seconds=14.0, core_seconds=27.0)
    state["teacher"].update(status="diverged", top1=None, top5=None, seconds=None)
    return state


def reid_row(map: float | None, gmacs: float, height: int, **changes: Any) -> dict[str, Any]:
    """The numbers of a network that re-identifies: mAP, and ranks that are better than it."""
    ranks = {key: None if map is None else 1 - (1 - map) / part for key, part in (("top1", 2), ("top5", 8))}
    size = {"frames": None, "side": height // 2, "height": height, "width": height // 2}
    return {"map": map, **ranks, "gmacs": gmacs, "params": 702_096, **size, **changes}


def reid_hypothesis(iteration: int, axis: str, row: dict[str, Any]) -> dict[str, Any]:
    """A hypothesis with these numbers."""
    name = f"reid-pas{iteration}-{AXES[axis].name}"
    return {**hypothesis(iteration, axis, row["map"], row["gmacs"], name=name), **row}


def reid_state() -> dict[str, Any]:
    """A finished search of two iterations for a network that re-identifies, compared by mAP."""
    first = [
        reid_hypothesis(1, "s", reid_row(0.8512, 0.00277, 46)),
        reid_hypothesis(1, "c", reid_row(0.8733, 0.00286, 64, params=357_301)),
        reid_hypothesis(1, "l", reid_row(0.8411, 0.00301, 64, params=306_064)),
    ]
    second = [
        reid_hypothesis(2, "s", reid_row(0.8127, 0.00142, 46, params=357_301)),
        reid_hypothesis(2, "c", reid_row(None, 0.00148, 64, params=182_000, status="diverged", reason="loss is nan")),
        reid_hypothesis(2, "l", reid_row(0.8004, 0.000985, 64, params=155_800)),
    ]
    first_control = {**first[1], "name": "reid-pas1-control", **reid_row(0.7012, 0.00286, 64, params=357_301)}
    teacher = {**TEACHER, **reid_row(0.8874, 0.00553, 64), "name": "reid-teacher"}

    def kept(number: int, sequence: str, row: dict[str, Any]) -> dict[str, Any]:
        return {**member(number, sequence, row), **{key: row[key] for key in ("map", "height", "width")}}

    state = sample_state()
    return {
        **state,
        "run": "reid-pas-5e6f7a8b",
        "backbone": "reid",
        "metric": "map",
        "stop_reason": "2 iterations done",
        "data": {
            "source": "synthetic-people",
            "path": "data/synthetic-people",
            "fingerprint": "0b5c1d3f7e9a2468",
            "train_images": 912,
            "queries": 128,
            "gallery_images": 748,
            "classes": [f"{number:04d}" for number in range(1, 49)],
            "quarantined": [{"path": "query/0007_c1s1_000012_00.jpg", "reason": "is empty (0 bytes)"}],
        },
        "config": {"seed": 0, "network": {"backbone": "reid", "preset": "tiny"}, "reid": {"images": 4}},
        "teacher": teacher,
        "iterations": [
            {
                "iteration": 1,
                "rule": "max_accuracy",
                "why": "cost ratios 0.50-0.54 lie within 15 % of their median 0.52",
                "winner": "c",
                "skipped": [{"axis": "t", "reason": "axis t (length) is exhausted: it changes nothing"}],
                "hypotheses": first,
                "control": {**first_control, "trial": "0000000100000000", "warm_started": False},
            },
            {
                "iteration": 2,
                "rule": "ratio",
                "why": "axis l keeps 0.34 of the cost, 31 % below the median 0.50",
                "winner": "l",
                "skipped": [],
                "hypotheses": second,
                "control": None,
            },
        ],
        "family": [kept(1, "c", first[1]), kept(2, "cl", second[2])],
    }


def sample_curves(state: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Curves that end at each finished network's accuracy; every second epoch is evaluated."""
    metric = state.get("metric", "top1")
    rows = [state["teacher"]]
    for iteration in state["iterations"]:
        rows += [*iteration["hypotheses"], *([iteration["control"]] if iteration["control"] else [])]
    return {row["trial"]: curve(row[metric], row["epochs"], metric) for row in rows if row[metric] is not None}


def curve(reached: float, epochs: int, metric: str = "top1") -> list[dict[str, Any]]:
    """A training that approaches its last accuracy exponentially."""
    return [
        {
            "epoch": epoch,
            "loss": 0.2 + 3 * math.exp(-4 * epoch / epochs) * (1.5 - reached),
            "ce": 0.1,
            "kl": 0.1,
            "train_top1": reached,
            metric: reached - 0.4 * math.exp(-4 * epoch / epochs) if (epochs - epoch) % 2 == 0 else None,
            "lr": 0.1,
            "seconds": 3.9,
            "clips_per_second": 125.0,
        }
        for epoch in range(1, epochs + 1)
    ]
