"""Trainings that do not fit: the same step from smaller micro-batches.

A step of SGD adds up the gradients of its micro-batches, so half the micro-batch takes about half the memory for
activations, and gives the same step but for what batch norm sees: its statistics are those of a micro-batch. That is
why `train.micro_batch` is part of a trial's identity, and a halved training is strictly not the recipe's. It is kept
under the trial's digest all the same, because the alternative is no result; what was done is written into the metrics
of every epoch concerned and into the result, and every report says so. Whoever wants the recipe or nothing sets
`runtime.halve_on_oom` to false.

The micro-batch that fits is remembered beside the checkpoints: a restart, on whichever node, does not fail again first.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from configs.schema import TrainSettings
from trainers.files import read_json, write_json
from trainers.incidents import cause_of
from trainers.trial import Trial

FITTING_FILE = "micro_batch.json"


class StepTooLargeError(MemoryError):
    """A step did not fit into memory, but might with `micro_batch` clips at a time."""

    def __init__(self, micro_batch: int, micro_batch_before: int) -> None:
        super().__init__(f"out of memory with micro-batch {micro_batch_before}")
        self.micro_batch, self.micro_batch_before = micro_batch, micro_batch_before


@contextmanager
def fitting(trial: Trial, micro_batch: int | None, *, processes: int, halve: bool) -> Iterator[None]:
    """Steps of a training, of which one may turn out not to fit.

    Args:
        trial: by the recipe.
        micro_batch: what it was lowered to before; none: what the recipe says.
        processes: how many share a batch.
        halve: `runtime.halve_on_oom`.

    Raises:
        StepTooLargeError: it may fit in smaller parts.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        assert trial.train is not None
        now = micro_batch or share_at_a_time(trial.train, processes)
        smaller = smaller_micro_batch(trial, now)
        if cause_of(error) != "memory" or smaller is None or not halve:
            raise
        raise StepTooLargeError(smaller, now) from error


def share_at_a_time(train: TrainSettings, processes: int) -> int:
    """Clips that a process takes at a time by the recipe: a micro-batch, or else its whole share of the batch."""
    share = -(-train.batch // processes)
    return min(share, train.micro_batch or share)


def smaller_micro_batch(trial: Trial, now: int) -> int | None:
    """Half as many clips at a time; none where there is nothing to halve.

    Triplets are sought in the whole batch, so that a network that re-identifies has no micro-batches.
    """
    return now // 2 if trial.clips is not None and now > 1 else None


def with_micro_batch(trial: Trial, micro_batch: int | None) -> Trial:
    """The trial as it is to be computed, with the micro-batch that fits; its digest is not that of the trial."""
    if micro_batch is None or trial.train is None:
        return trial
    return replace(trial, train=trial.train.model_copy(update={"micro_batch": micro_batch}))


def halve(trial: Trial, folder: Path) -> str | None:
    """Let a trial that was killed for want of memory take half as many clips at a time from now on.

    Returns:
        What was done, as a sentence; none where there is nothing to halve.
    """
    if trial.train is None:
        return None
    now = remembered_micro_batch(folder) or share_at_a_time(trial.train, 1)
    smaller = smaller_micro_batch(trial, now)
    if smaller is None:
        return None
    remember_micro_batch(folder, smaller)
    return f"out of memory with micro-batch {now}: going on with {smaller}"


def remember_micro_batch(folder: Path, micro_batch: int) -> None:
    """Note in a trial's folder how many clips at a time fit; removing the file tries the recipe's again."""
    write_json(folder / FITTING_FILE, {"micro_batch": micro_batch})


def remembered_micro_batch(folder: Path) -> int | None:
    """How many clips at a time fitted; none where that was never a question."""
    known = read_json(folder / FITTING_FILE)
    return int(known["micro_batch"]) if known else None


def release_memory() -> None:
    """Give back what a training that was dropped held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
