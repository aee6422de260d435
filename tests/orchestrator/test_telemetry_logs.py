"""TensorBoard and MLflow: every epoch once, whatever was killed, answered from the store or out of reach meanwhile."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from orchestrator.observer import TrialRow
from orchestrator.telemetry.logs import RETRY_SECONDS, Logger
from orchestrator.telemetry.tensorboard_log import FOLDER, TensorBoardLog
from tests.orchestrator.sample_telemetry import epoch, prepared_store, result, row, store_epochs
from trainers.loop import EpochMetrics
from trainers.trial import TrialResult


class Notebook:
    """A log that can be put out of reach."""

    def __init__(self) -> None:
        self.reachable = True
        self.tries = 0
        self.epochs: dict[str, list[int]] = {}
        self.ended: list[str] = []

    def update(self, trial: TrialRow, epochs: Sequence[EpochMetrics], result: TrialResult | None) -> None:
        self.tries += 1
        if not self.reachable:
            raise ConnectionError("refused")
        self.epochs[trial.digest] = [row["epoch"] for row in epochs]
        if result:
            self.ended.append(trial.digest)

    def close(self) -> None:
        pass


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    """Step and value of a scalar in the event files of a folder, in the order of writing."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:  # a record: length, its checksum, an event, its checksum
            (length,) = struct.unpack_from("<Q", data)
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == name]
    return found


def test_a_log_that_is_out_of_reach_is_told_of_once_and_has_no_gap_in_the_end(tmp_path: Path) -> None:
    store, log, told, now = prepared_store(tmp_path), Notebook(), list[str](), [0.0]
    logger = Logger("--log fails", log, store, tell=told.append, clock=lambda: now[0])
    logger.stage_started("teacher", [row("a"), row("b")])
    log.reachable = False
    for number in (1, 2):
        store_epochs(store, "a", [epoch(n + 1) for n in range(number)])
        logger.epoch_finished("a", epoch(number))
    assert log.tries == 1, "a log that fails is left alone for a while"
    now[0] += RETRY_SECONDS
    logger.trial_finished(result("a"))
    assert log.tries == 2
    assert told == ["--log fails: refused. The run goes on without."]
    log.reachable = True
    logger.epoch_finished("b", epoch(1))
    assert log.epochs == {}
    now[0] += RETRY_SECONDS
    logger.epoch_finished("b", epoch(1))
    assert log.epochs == {"a": [1, 2], "b": [1]}
    assert log.ended == ["a"]


def test_what_could_not_be_logged_is_tried_again_at_the_end(tmp_path: Path) -> None:
    log = Notebook()
    logger = Logger("", log, prepared_store(tmp_path), tell=lambda _: None)
    logger.stage_started("teacher", [row("a")])
    log.reachable = False
    logger.trial_finished(result("a"))
    log.reachable = True
    logger.close()
    assert log.ended == ["a"]


def test_an_epoch_that_the_store_does_not_show_yet_is_taken_as_it_was_heard(tmp_path: Path) -> None:
    store, log = prepared_store(tmp_path), Notebook()
    logger = Logger("", log, store, tell=print)
    logger.stage_started("teacher", [row("a")])
    store_epochs(store, "a", [epoch(1)])
    logger.epoch_finished("a", epoch(2))
    assert log.epochs == {"a": [1, 2]}
    logger.epoch_finished("a", epoch(1))  # a trial that was restarted on another node tells of an epoch again
    assert log.epochs == {"a": [1]}


def tensorboard(log: TensorBoardLog, tmp_path: Path) -> tuple[Logger, Path]:
    """A logger of trial `a`, and the folder of its events."""
    logger = Logger("", log, prepared_store(tmp_path), tell=lambda text: pytest.fail(text))
    logger.stage_started("teacher", [row("a")])
    return logger, tmp_path / FOLDER / "net-a"


def test_tensorboard_has_every_epoch_once_after_the_driver_was_killed(tmp_path: Path) -> None:
    """The first driver has logged an epoch that the second one does again, from the checkpoint before it."""
    store = prepared_store(tmp_path)
    killed, folder = tensorboard(TensorBoardLog(tmp_path), tmp_path)
    for number in (1, 2):
        store_epochs(store, "a", [epoch(n + 1, loss=n) for n in range(number)])
        killed.epoch_finished("a", epoch(number))
    assert points(folder, "loss") == [(1, 0.0), (2, 1.0)]
    resumed, _ = tensorboard(TensorBoardLog(tmp_path), tmp_path)
    for number in (2, 3):
        store_epochs(store, "a", [epoch(n + 1, loss=n) for n in range(number)])
        resumed.epoch_finished("a", epoch(number))
    resumed.trial_finished(result("a"))
    assert points(folder, "loss") == [(1, 0.0), (2, 1.0), (3, 2.0)]
    assert points(folder, "final_top1") == [(2, 0.75)]
    assert points(folder, "top1") == []
    killed.close()


def test_tensorboard_leaves_a_trial_that_is_complete_as_it_is(tmp_path: Path) -> None:
    store = prepared_store(tmp_path)
    store_epochs(store, "a", [epoch(1), epoch(2)])
    first, folder = tensorboard(TensorBoardLog(tmp_path), tmp_path)
    first.trial_finished(result("a", cached=True))
    (events,) = folder.glob("events.*")
    assert [step for step, _ in points(folder, "loss")] == [1, 2]
    again, _ = tensorboard(TensorBoardLog(tmp_path), tmp_path)
    again.trial_finished(result("a", cached=True))
    assert list(folder.glob("events.*")) == [events]


def test_tensorboard_writes_another_trial_of_the_same_name_anew(tmp_path: Path) -> None:
    store = prepared_store(tmp_path)
    store_epochs(store, "a", [epoch(1, loss=5.0)])
    store_epochs(store, "b", [epoch(1, loss=7.0)])
    log = TensorBoardLog(tmp_path)
    for digest in ("a", "b"):
        log.update(replace(row(digest), name="net"), store.metrics(digest), result(digest))
    assert points(tmp_path / FOLDER / "net", "loss") == [(1, 7.0)]
