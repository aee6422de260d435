"""The trainings of a finished search, again, by a plain PyTorch loop in plain processes: what the search itself costs.

    python -m benchmarks.bare_loop RUN_FOLDER [--processes 2]

No Ray, no store, no checkpoints, no metrics, no search: each iteration's trainings are taken in order by two
processes, from the same videos, with the same losses, steps and final evaluation, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from compression.distillation import softened_kl
from trainers.backbones import BACKBONES, build, fast_order
from trainers.data.cache import FrameCache
from trainers.data.clips import steps_per_epoch, train_batches
from trainers.data.manifest import Manifest
from trainers.data.transforms import normalise
from trainers.distiller import set_teacher_mode
from trainers.evaluation import video_probabilities
from trainers.package import load_package, read_weights
from trainers.schedule import learning_rate
from trainers.trial import Trial


def train(trial: Trial, store: Path) -> None:
    """One training, start to end."""
    train_settings = trial.train
    assert train_settings is not None
    torch.set_num_threads(1)
    manifest = Manifest.load(store / "data" / f"{trial.data}.json")
    assert trial.clips is not None, "only searches over videos are timed"
    cache = FrameCache(512 * 2**20)
    torch.manual_seed(trial.seed)
    student = build(trial.network)
    if trial.start:
        student.load_state_dict(read_weights(store / "trials" / trial.start))
    fast_order(student)
    views = [trial.network]
    teacher = None
    if trial.teacher and trial.distillation:
        teacher, _ = load_package(store / "trials" / trial.teacher)
        fast_order(teacher)
        teacher = set_teacher_mode(teacher, trial.distillation.teacher_mode)
        views.append(teacher.spec)
    row = BACKBONES[trial.network.backbone]
    optimizer = torch.optim.SGD(
        student.parameters(),
        lr=train_settings.lr,
        momentum=train_settings.momentum,
        weight_decay=train_settings.weight_decay,
    )
    steps = steps_per_epoch(manifest, trial.clips, train_settings.batch)
    for epoch in range(train_settings.epochs):
        student.train()
        batches = train_batches(
            manifest, trial.clips, views, seed=trial.seed, epoch=epoch, batch=train_settings.batch, cache=cache
        )
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(train_settings, epoch + (step + 0.5) / steps, base_lr=train_settings.lr)
            clips = [
                normalise(view, row.mean, row.std).contiguous(memory_format=torch.channels_last_3d)
                for view in batch.views
            ]
            logits = student(clips[0])
            loss = F.cross_entropy(logits, batch.labels)
            if teacher is not None and trial.distillation is not None:
                with torch.no_grad():
                    targets = teacher(clips[1])
                temperature = trial.distillation.temperature
                loss = loss + trial.distillation.weight * softened_kl(logits, targets, temperature=temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        video_probabilities(student, manifest, trial.clips, clips_per_video=1, cache=cache)
    video_probabilities(student, manifest, trial.clips, cache=cache)


def work(trials: multiprocessing.Queue[dict[str, Any] | None], store: Path) -> None:
    """One process: take the next training until told that there is none."""
    while (data := trials.get()) is not None:
        train(Trial.from_dict(data), store)


def stages_of(run: Path) -> list[list[dict[str, Any]]]:
    """The trials of a finished run, stage by stage, as the search trained them."""
    state = json.loads((run / "state.json").read_text())
    controls = [iteration["control"] for iteration in state["iterations"]]
    hypotheses = [iteration["hypotheses"] for iteration in state["iterations"]]
    # a control runs beside the next iteration, and the last one alone
    beside = zip([*hypotheses, []], [None, *controls], strict=True)
    stages = [[state["teacher"]], *([*stage, *([control] if control else [])] for stage, control in beside)]
    results = run.parent / "trials"
    return [[json.loads((results / t["trial"] / "result.json").read_text())["trial"] for t in s] for s in stages]


def main() -> None:
    """Train everything again, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    for stage in filter(None, stages_of(arguments.run.absolute())):
        trials: multiprocessing.Queue[dict[str, Any] | None] = context.Queue()
        for trial in [*stage, *[None] * arguments.processes]:
            trials.put(trial)
        workers = [
            context.Process(target=work, args=(trials, arguments.run.absolute().parent))
            for _ in range(min(arguments.processes, len(stage)))
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            if worker.exitcode:
                raise SystemExit(f"a training process ended with exit code {worker.exitcode}")
    print(f"{time.perf_counter() - started:.1f} s for the bare loop")


if __name__ == "__main__":
    main()
