"""A run's trials as TensorBoard reads them: `tensorboard --logdir runs/NAME/tensorboard`.

runs/NAME/tensorboard/<trial>/   events.out.tfevents.…, and logged.json once it is complete

An event file can only be appended to. So a trial that this process hears of for the first time is written anew from the
store, unless `logged.json` says that it is all there: no point twice, and none missing after a driver was killed.
Written by tensorboardX, which Ray Tune brings along; looking at it takes the package `tensorboard`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from orchestrator.observer import TrialRow
from orchestrator.telemetry.logs import final_scalars, scalars
from trainers.files import read_json, write_json
from trainers.loop import EpochMetrics
from trainers.trial import TrialResult

FOLDER = "tensorboard"
LOGGED_FILE = "logged.json"


@dataclass
class _Open:
    """A trial's event file under way."""

    events: Any
    epochs: int = 0
    """Epochs that are in it."""


class TensorBoardLog:
    """A `Log` in a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self._open: dict[str, _Open] = {}

    def update(self, trial: TrialRow, epochs: Sequence[EpochMetrics], result: TrialResult | None) -> None:
        """See `Log`.

        Raises:
            OSError: the folder can't be written to.
        """
        folder = self.folder / trial.name
        complete = {"trial": trial.digest, "epochs": len(epochs), "status": result.status if result else None}
        if trial.digest not in self._open:
            if result and read_json(folder / LOGGED_FILE) == complete:
                return
            self._open[trial.digest] = _Open(_empty(folder))
        under_way = self._open[trial.digest]
        for epoch in epochs[under_way.epochs :]:
            _add(under_way.events, scalars(epoch), epoch["epoch"])
        under_way.epochs = len(epochs)
        if result is not None:
            _add(under_way.events, final_scalars(result), result.epochs)
            self._open.pop(trial.digest).events.close()
            write_json(folder / LOGGED_FILE, complete)
        else:
            under_way.events.flush()

    def close(self) -> None:
        """See `Log`; what is not finished is written anew when it goes on."""
        for under_way in self._open.values():
            under_way.events.close()
        self._open.clear()


def _empty(folder: Path) -> Any:
    """A new event file in a folder that has no other."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOGGED_FILE).unlink(missing_ok=True)
    for events in folder.glob("events.out.tfevents.*"):
        events.unlink()
    return EventsWriter(str(folder / "events"))


def _add(events: Any, values: Mapping[str, float], step: int) -> None:
    """Write scalars at once (tensorboardX's `SummaryWriter` leaves that to a thread, and its `flush` does not wait)."""
    summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
    events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
