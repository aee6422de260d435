"""Videos in the official layouts of UCF101 and HMDB51, made on the spot, and a transfer as plain JSON."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from sklearn.datasets import load_digits

from compression.spec import NetworkSpec
from configs.schema import TrainSettings, TransferSettings
from tests.orchestrator.sample_state import sample_state
from trainers.data.digits import DigitsSettings, draw_video

Draw = Callable[[str, int, np.random.Generator], np.ndarray]
"""A grey video [frame, side, side] of a class, given how many frames it is to have."""

CLASSES = ("left", "right", "up")
"""Motions of `moving-digits` that serve as classes."""
PER_CLASS = 8
"""Videos per class."""
SPLITS = (1, 2, 3)
TESTED = {1: (1, 2), 2: (3, 4), 3: (5, 6)}
"""Of each class, the numbers of the videos that a split tests; all others are for training."""
FRAMES = 10
DIGITS = DigitsSettings(frames=FRAMES, side=24, digit_side=(8, 9))


def draw_digit(name: str, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A moving digit; its class is its motion."""
    glyphs = load_digits().images / 16
    settings = DigitsSettings(frames=frames, side=DIGITS.side, digit_side=DIGITS.digit_side)
    return draw_video(name, glyphs[int(rng.integers(len(glyphs)))], settings, rng)


def write_ucf101(
    root: Path,
    classes: Sequence[str] = CLASSES,
    *,
    per_class: int = PER_CLASS,
    frames: Callable[[int], int] = lambda number: FRAMES,
    draw: Draw = draw_digit,
) -> Path:
    """A set as UCF101 is unpacked, with its three splits.

    Args:
        root: folder to be made.
        classes: names, known to `draw`.
        per_class: videos of each.
        frames: length of the n-th video of each class, counted from 1.
        draw: makes them.
    """
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(classes, start=1)))
    splits: dict[tuple[int, str], list[str]] = {(split, kind): [] for split in SPLITS for kind in ("train", "test")}
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes, start=1):
        for number in range(1, per_class + 1):
            video = f"{name}/v_{name}_g{number:02d}_c01.avi"
            write_avi(root / "UCF-101" / video, draw(name, frames(number), rng))
            for split in SPLITS:
                tested = _is_tested(number, split, per_class)
                splits[split, "test" if tested else "train"].append(f"{video}{'' if tested else f' {label}'}\n")
    for (split, kind), lines in splits.items():
        (lists / f"{kind}list0{split}.txt").write_text("".join(lines))
    return root


def write_hmdb51(root: Path, classes: Sequence[str] = CLASSES, *, draw: Draw = draw_digit) -> Path:
    """A set as HMDB51 is unpacked, with its three splits; the last video of each class is in none."""
    lists = root / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in classes:
        videos = [f"{name}_{number}.avi" for number in range(1, PER_CLASS + 1)]
        for video in videos:
            write_avi(root / name / video, draw(name, FRAMES, rng))
        for split in SPLITS:
            uses = [2 if _is_tested(number, split, PER_CLASS) else 1 for number in range(1, PER_CLASS)]
            lines = [f"{video} {use} \n" for video, use in zip(videos, [*uses, 0], strict=True)]
            (lists / f"{name}_test_split{split}.txt").write_text("".join(lines))
    return root


def write_avi(path: Path, grey: np.ndarray) -> None:
    """A video as those of UCF101 are encoded: MPEG-4 in AVI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qscale": "3", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = *grey.shape[1:], "yuv420p"
        for picture in grey:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode())


def _is_tested(number: int, split: int, per_class: int) -> bool:
    """Whether a split tests the n-th video of a class: a quarter of them, others in each split."""
    share = per_class // 4
    return (split - 1) * share < number <= split * share


def copy_with_network(trial: Path, folder: Path, network: NetworkSpec) -> None:
    """A copy of a trial's network as a model folder, whose description says something else."""
    shutil.copytree(trial, folder)
    (folder / "result.json").unlink()
    described = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps({**described, "spec": network.to_dict()}))


# Plain JSON


def fine_tuned(model: str, split: int | None, top1: float | None, gmacs: float, **changes: Any) -> dict[str, Any]:
    """A finished fine-tuning, or what `changes` makes of it."""
    split_name = "" if split is None else f"-split{split}"
    return {
        "model": model,
        "split": split,
        "seed": 0,
        "path": f"models/{model}" if split in (None, 1) else None,
        "name": f"slowfast-{model}-ucf101{split_name}",
        "status": "finished",
        "top1": top1,
        "top5": None if top1 is None else min(1.0, top1 + 0.06),
        "map": None,
        "gmacs": gmacs,
        "params": 541_320,
        **{"frames": 32, "side": 48, "height": 48, "width": 48},
        "warm_started": True,
        "seconds": 19.3,
        "epochs": 5,
        "trial": f"{model}-{split}",
        "cached": False,
        "reason": None,
        **changes,
    }


def source(name: str, top1: float | None, **changes: Any) -> dict[str, Any]:
    """A network as it was before, or what `changes` makes of it."""
    digest = f"{name}-before"
    return {
        "name": name,
        "source": digest,
        "top1": top1,
        "data": "moving-digits",
        "classes": 8,
        "reason": None,
        **changes,
    }


REACHED = {"teacher": (0.95, 0.94, 0.96), "PAS-1": (0.953, 0.955, 0.952), "PAS-2": (0.90, 0.91, 0.905)}
"""Top-1 on the three splits, by network."""
GMACS = {"teacher": 0.0398, "PAS-1": 0.0193, "PAS-2": 0.0123}


def transfer_state() -> dict[str, Any]:
    """A finished transfer of a family to three splits."""
    sample = sample_state()
    transfers = [
        fine_tuned(name, split, top1, GMACS[name])
        for name, values in REACHED.items()
        for split, top1 in zip(SPLITS, values, strict=True)
    ]
    return {
        "run": "slowfast-transfer-1a2b3c",
        "algorithm": "transfer",
        "backbone": "slowfast",
        "metric": "top1",
        "status": "finished",
        "stop_reason": "9 of 9 fine-tunings done",
        "seed": 0,
        "data": {**sample["data"], "source": "ucf101", "path": "data/ucf", "split": 1, "classes": ["a", "b", "c"]},
        "versions": sample["versions"],
        "config": {
            "seed": 0,
            "train": TrainSettings(epochs=5, warmup_epochs=1, lr=0.1).model_dump(mode="json"),
            "transfer": TransferSettings(models={name: f"{name}-before" for name in REACHED}).model_dump(mode="json"),
        },
        "teacher": copy.deepcopy(transfers[0]),
        "sources": [source("teacher", 0.969), source("PAS-1", 0.953), source("PAS-2", 0.934)],
        "transfers": transfers,
        "splits": [
            {"split": split, "fingerprint": f"{split}" * 64, "train_videos": 180, "val_videos": 60, "quarantined": 0}
            for split in SPLITS
        ],
        "latency": None,
        "stats": {"trained": 9, "cached": 0, "trial_epochs": 45, "seconds": 312.9, "core_seconds": 298.0},
    }


def single_transfer() -> dict[str, Any]:
    """A finished transfer of one network, on data that is split in one way only."""
    state = transfer_state()
    state["data"]["source"] = "csv"
    state["sources"] = state["sources"][1:2]
    state["transfers"] = [fine_tuned("PAS-1", None, 0.953, GMACS["PAS-1"])]
    state["splits"] = [{**state["splits"][0], "split": None}]
    return {**state, "stop_reason": "1 of 1 fine-tunings done"}


def uneven_transfer() -> dict[str, Any]:
    """One of everything: a network that did not fit the videos, splits that diverged and failed, two seeds."""
    state = transfer_state()
    reason = "84 % of the videos are shorter than its clip of 64 frames"
    state["sources"].insert(0, source("big", None, data=None, reason=reason))
    for row in state["transfers"]:
        if row["model"] == "PAS-2":
            gone = {"diverged": "loss is <nan> in epoch 2", "failed": "<out of memory> & [gone]"}
            status = {2: "diverged", 3: "failed"}.get(row["split"])
            if status:
                row.update(status=status, reason=gone[status], top1=None, top5=None)
    state["transfers"].append(fine_tuned("teacher", 1, 0.97, GMACS["teacher"], seed=1, path=None, trial="teacher-1-1"))
    return state


def starting_transfer() -> dict[str, Any]:
    """The transfer before anything is trained."""
    state = transfer_state()
    for row in state["transfers"]:
        row.update(status="pending", top1=None, top5=None, path=None, seconds=None, epochs=0)
    return {**state, "status": "running", "stop_reason": None}


def broken_transfer() -> dict[str, Any]:
    """A transfer of which nothing came."""
    state = starting_transfer()
    for row in state["transfers"]:
        row.update(status="diverged", reason="loss is nan in epoch 1")
    return {**state, "status": "failed", "stop_reason": "no fine-tuning came out usable"}
