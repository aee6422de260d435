"""Models as the registry lists them, and a small store on disk: random weights, written as real trials write them."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compression.cost import Cost, measure_cost
from compression.spec import Factors, NetworkSpec
from configs.schema import DistillationSettings, Pruning
from orchestrator.registry.model import Measured, StoredModel
from orchestrator.state import State, trial_state
from orchestrator.store import Store
from tests.orchestrator.sample_state import sample_state
from tests.orchestrator.sample_sweep import small_sweep
from tests.trainers.tiny import CLASSES, CLIPS, SPEC, TRAIN
from trainers.backbones import build
from trainers.data.manifest import Manifest, Video
from trainers.data.quarantine import Quarantine
from trainers.files import write_json
from trainers.package import NETWORK_FILE, WEIGHTS_FILE, Description, save_package
from trainers.results import write_metrics, write_result
from trainers.trial import Status, Trial, TrialResult

FINGERPRINT = "d" * 64
"""Of the data of every trial here."""
RUN, SWEEP = "tiny-pas", "tiny-sweep"
"""Runs of the store: one hands on teacher, PAS-1 and PAS-2, the other teacher and l1-0.5."""
ACCURACIES = {
    "r2plus1d-teacher": 0.9,
    "r2plus1d-pas1-side": 0.925,
    "r2plus1d-pas1-rate": 0.8,
    "r2plus1d-pas2-channels": 0.85,
    "r2plus1d-pas1-control": 0.7,
    "r2plus1d-l1-0.5": 0.875,
}
"""Top-1 by the name of the trial."""
CONDITIONS = {"machine": "Little CPU @ 1.00GHz", "isa": "AVX2", "threads": 1, "batch": 1, "runs": 30, "torch": "2.15.0"}
"""What latencies of the sweep were measured under."""
PRUNING = Pruning(pruner="l1", sparsity=0.5)


def trial(name: str = "r2plus1d-pas1-side", **changes: Any) -> Trial:
    """A trial of a tiny R(2+1)D, trained from labels alone, with some fields changed."""
    fields = {"network": SPEC, "data": FINGERPRINT, "clips": CLIPS, "train": TRAIN, "seed": 0, **changes}
    return Trial(name=name, **fields)


def taught(name: str, teacher: Trial, **changes: Any) -> Trial:
    """A trial that learns from another."""
    return trial(name, teacher=teacher.digest, distillation=DistillationSettings(), **changes)


TEACHER = trial("r2plus1d-teacher")
PAS1 = taught("r2plus1d-pas1-side", TEACHER, network=SPEC.replace(factors=Factors(s=1.4)), start=TEACHER.digest)
LOSER = taught("r2plus1d-pas1-rate", TEACHER, network=SPEC.replace(factors=Factors(f=2.0)), start=TEACHER.digest)
PAS2 = taught("r2plus1d-pas2-channels", TEACHER, network=SPEC.replace(factors=Factors(s=1.4, c=1.4)))
CONTROL = trial("r2plus1d-pas1-control", network=PAS1.network)
PRUNED = taught(
    "r2plus1d-l1-0.5",
    TEACHER,
    network=SPEC.replace(kept={f"layer{stage}.0.conv1.0.0": 2 * stage for stage in (1, 2, 3, 4)}),
    start=TEACHER.digest,
    pruning=PRUNING,
)
TRIALS = (TEACHER, PAS1, LOSER, PAS2, CONTROL, PRUNED)
"""All models of the store."""


def stored(**changes: Any) -> StoredModel:
    """PAS-1 of the store as the registry lists it; with some fields changed.

    A trial given without a digest brings its own.
    """
    made: Trial = changes.get("trial", PAS1)
    fields: dict[str, Any] = {
        "digest": made.digest,
        "trial": made,
        "kind": "pas",
        "aliases": (f"{RUN}/PAS-1",),
        "tags": (),
        "top1": 0.925,
        "top5": 1.0,
        "map": None,
        "drop_points": -2.5,
        "gmacs": 0.00125,
        "params": 12_345,
        "size_mb": 0.0625,
        "weights_sha256": "a" * 64,
        "latency": Measured(value=1.5, conditions=CONDITIONS),
        "energy": None,
        "data_source": "moving-digits",
        "exports": (),
    }
    return StoredModel(**{**fields, **changes})


def make_store(root: Path) -> Store:
    """A store of six models, and two runs that hand on teacher, PAS-1, PAS-2 and l1-0.5; whatever is there already
    stays."""
    shutil.copytree(_template(), root, dirs_exist_ok=True)
    return Store(root)


@functools.cache
def _template() -> Path:
    """The store, made once: a copy is made ten times as fast."""
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root)
    store = Store(root)
    store.prepare()
    make_manifest().save(store.manifest_file(FINGERPRINT))
    for made in TRIALS:
        write_trial(store, made, ACCURACIES[made.name])
    store.run(SWEEP).write_state(sweep_state())
    store.run(RUN).write_state(pas_state())
    for run, names in ((RUN, {"teacher": TEACHER, "PAS-1": PAS1, "PAS-2": PAS2}), (SWEEP, {"l1-0.5": PRUNED})):
        for folder, made in names.items():
            write_model_folder(store, run, folder, made)
    return root


def make_manifest() -> Manifest:
    """Data of which there is only the list."""
    videos = tuple(Video(path=f"{name}.mp4", label=label, frames=12, fps=30.0) for label, name in enumerate(CLASSES))
    return Manifest(
        root=Path("videos"),
        source="moving-digits",
        classes=CLASSES,
        train=videos,
        val=videos,
        quarantined=(),
        fingerprint=FINGERPRINT,
    )


def write_trial(store: Store, made: Trial, top1: float, status: Status = "finished") -> Path:
    """A trial as it is when it is over; returns its folder."""
    folder = store.trial_folder(made.digest)
    result = result_of(made, top1, status)
    if status == "finished":
        torch.manual_seed(int(made.digest[:8], 16))
        save_package(folder, build(made.network), Description(spec=made.network, classes=CLASSES, clips=made.clips))
    write_metrics(folder, [{"epoch": 1, "loss": 0.5, "top1": top1, "seconds": 1.5, "lr": 0.1}])
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "epoch-0001").write_bytes(b"resumable")
    write_result(folder, made, result, Quarantine(1, 0.0))
    return folder


def result_of(made: Trial, top1: float, status: Status = "finished") -> TrialResult:
    """What comes of a trial."""
    finished = status == "finished"
    return TrialResult(
        trial=made.digest,
        name=made.name,
        status=status,
        top1=top1 if finished else None,
        top5=1.0 if finished else None,
        seconds=1.5,
        epochs=1,
    )


def write_model_folder(store: Store, run: str, name: str, made: Trial) -> Path:
    """A model folder as a run hands it on, without its card; returns it."""
    folder = store.run(run).path / "models" / name
    folder.mkdir(parents=True)
    for file in (NETWORK_FILE, WEIGHTS_FILE):
        (folder / file).write_bytes((store.trial_folder(made.digest) / file).read_bytes())
    write_json(folder / "metrics.json", {"name": made.name, "trial": made.digest})
    return folder


def pas_state() -> State:
    """A finished search: PAS-1 (side) and PAS-2 (channels), with PAS-1's control."""
    state = sample_state()
    first = {
        **state["iterations"][0],
        "winner": "s",
        "hypotheses": [row(PAS1, axis="s"), row(LOSER, axis="f")],
        "control": row(CONTROL, axis="s"),
    }
    second = {**state["iterations"][1], "winner": "c", "hypotheses": [row(PAS2, axis="c")], "control": None}
    family = [member(1, "s", PAS1), member(2, "sc", PAS2)]
    return {
        **state,
        **_common(RUN, "2 iterations done"),
        "teacher": row(TEACHER),
        "iterations": [first, second],
        "family": family,
    }


def member(number: int, sequence: str, made: Trial) -> dict[str, Any]:
    """The winner of an iteration as a member of the family."""
    name = f"PAS-{number}"
    return {**row(made), "name": name, "axis": sequence[-1], "sequence": sequence, "path": f"models/{name}"}


def sweep_state() -> State:
    """A finished pruner sweep of one cell, with latencies."""
    cell = {
        **small_sweep()["cells"][0],
        **row(PRUNED, latency_ms=1.25),
        **{"pruner": "l1", "sparsity": 0.5, "pareto": True, "path": "models/l1-0.5"},
    }
    return {
        **small_sweep(),
        **_common(SWEEP, "1 of 1 cells done"),
        "teacher": row(TEACHER, latency_ms=2.0),
        "cells": [cell],
        "latency": dict(CONDITIONS),
    }


def row(made: Trial, **changes: Any) -> dict[str, Any]:
    """What a state says of a finished trial of this store."""
    return {**trial_state(made, cost_of(made.network), result_of(made, ACCURACIES[made.name])), **changes}


@functools.cache
def cost_of(network: NetworkSpec) -> Cost:
    """Measured once for all tests."""
    return measure_cost(network, build)


def _common(run: str, reason: str) -> Mapping[str, Any]:
    data = {**sample_state()["data"], "fingerprint": FINGERPRINT, "source": "moving-digits", "classes": list(CLASSES)}
    return {
        "run": run,
        "backbone": "r2plus1d",
        "metric": "top1",
        "status": "finished",
        "stop_reason": reason,
        "data": data,
    }
