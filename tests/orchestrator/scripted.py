"""A runner with made-up results and its own clock: what a run decides and writes, without training anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from compression.cost import Cost
from compression.spec import NetworkSpec
from configs.loader import load_settings
from configs.schema import RunSettings
from orchestrator.observer import Observer, TrialRow
from orchestrator.session import Session
from orchestrator.state import State
from orchestrator.store import Store
from orchestrator.views import VIEWS
from trainers.backbones import build
from trainers.data.digits import DigitsSettings, make_moving_digits
from trainers.data.quarantine import Quarantine
from trainers.files import read_json
from trainers.package import Description, save_package
from trainers.results import write_result
from trainers.trial import Status, Trial, TrialResult

DIGITS = DigitsSettings(
    train_per_class=4, val_per_class=2, frames=10, side=24, digit_side=(8, 9), circle_radius=(2.0, 4.0)
)
"""Eight classes in 48 videos; made in a tenth of a second."""

SECONDS = [
    "network.clip_frames=8",
    "network.side=16",
    "network.width=0.03125",
    "clips.resize=24",
    "search.axes=[s, c]",
    *(
        f"{recipe}.{setting}"
        for recipe in ("train", "teacher.train")
        for setting in ("epochs=1", "warmup_epochs=0", "batch=8")
    ),
]
"""Overrides of an embedded preset with which a whole search takes seconds."""


def make_digits(folder: Path) -> Path:
    """The data set of these tests, as a `csv` folder."""
    return make_moving_digits(folder, DIGITS)


def small_settings(data: Path, runs: Path, *overrides: str) -> RunSettings:
    """Settings of a search of seconds, in this process."""
    flags = {"data.source": "csv", "data.path": data, "runtime.runs": runs, "runtime.runner": "local"}
    return load_settings("embedded", [*SECONDS, *overrides], flags)


@dataclass(frozen=True)
class Outcome:
    """What is to come out of a trial."""

    top1: float | None = 0.5
    """Top-1; of a network that re-identifies also its mAP, so that it is what networks are compared by."""
    status: Status = "finished"
    seconds: float = 10.0
    reason: str | None = None
    transient: bool = False


class ScriptedRunner:
    """Answers every trial with the outcome that the script has under its name, and leaves what a training leaves."""

    def __init__(self, store: Store, observer: Observer, script: Mapping[str, Outcome]) -> None:
        self.store = store
        self.observer = observer
        self.script = script
        self.clock = 0.0
        """Seconds that all trainings took, one after the other."""
        self.stages: list[tuple[str, list[str]]] = []
        """Name and trials of every stage that came this far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def train(self, stage: str, trials: Sequence[Trial]) -> list[TrialResult]:
        self.stages.append((stage, [trial.name for trial in trials]))
        return [self._answer(trial) for trial in trials]

    def _answer(self, trial: Trial) -> TrialResult:
        outcome = self.script.get(trial.name, Outcome())
        self.clock += outcome.seconds
        result = TrialResult(
            trial=trial.digest,
            name=trial.name,
            status=outcome.status,
            top1=outcome.top1,
            top5=outcome.top1,
            map=outcome.top1 if trial.reid else None,
            seconds=outcome.seconds,
            epochs=trial.train.epochs if trial.train else 0,
            reason=outcome.reason,
            transient=outcome.transient,
        )
        if outcome.status != "failed":
            self._store(trial, result)
        self.observer.trial_finished(result)
        return result

    def _store(self, trial: Trial, result: TrialResult) -> None:
        folder = self.store.trial_folder(trial.digest)
        if result.status == "finished":
            classes = tuple(read_json(self.store.manifest_file(trial.data))["classes"])
            description = Description(spec=trial.network, classes=classes, clips=trial.clips, reid=trial.reid)
            save_package(folder, build(trial.network), description)
        write_result(folder, trial, result, Quarantine(1, 0.0))


class Listener:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.results: list[TrialResult] = []
        self.messages: list[str] = []

    def stage_started(self, stage: str, trials: Sequence[TrialRow]) -> None:
        self.messages.append(f"{stage}: {', '.join(trial.name for trial in trials)}")

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        raise AssertionError("a script has no epochs")

    def trial_finished(self, result: TrialResult) -> None:
        self.results.append(result)

    def stage_finished(self, summary: str) -> None:
        self.messages.append(summary)

    def message(self, text: str) -> None:
        self.messages.append(text)


class ScriptedSession(Session):
    """A run whose trials are answered from a script; without the report, which takes a second to draw."""

    known_costs: ClassVar[dict[NetworkSpec, Cost]] = {}
    """Measured once for all tests."""

    def __init__(self, settings: RunSettings, script: Mapping[str, Outcome] = {}, *, algorithm: str = "pas") -> None:
        self.listener = Listener()
        super().__init__(settings, self.listener, algorithm=algorithm)
        self.costs = self.known_costs
        self.runner = ScriptedRunner(self.store, self, script)

    def _runner(self) -> ScriptedRunner:
        return self.runner

    def _publish(self, status: str, reason: str | None = None) -> State:
        with pytest.MonkeyPatch.context() as patch:
            view = replace(VIEWS[self.algorithm], write_report=lambda *_: self.run.path / "report.html")
            patch.setitem(VIEWS, self.algorithm, view)
            return super()._publish(status, reason)
