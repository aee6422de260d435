"""What is seen at the terminal: a running search, its result, and the list of runs.

`LiveTable` draws one table that changes in place; `PlainLines` writes lines that can be searched, for logs and pipes.
Both are observers (`orchestrator/observer.py`), and context managers that leave the terminal in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from compression.reduction import AXES
from orchestrator.observer import TrialRow
from orchestrator.report import (
    METRICS,
    UNKNOWN,
    Row,
    State,
    accuracy,
    clip,
    count,
    duration,
    gmacs,
    headline,
    metric_of,
    percent,
    points,
    share,
    words,
)
from trainers.trial import TrialResult

Clock = Callable[[], float]
"""Seconds since whenever; only differences are used."""

STYLES = {"running": "cyan", "finished": "green", "diverged": "red", "failed": "red", "interrupted": "yellow"}
"""Colour of a status; the others have none."""
PROGRESS_SECONDS = 30.0
"""Least time between two progress lines of `PlainLines`."""


@dataclass
class TrialProgress:
    """How far one trial is."""

    trial: TrialRow
    status: str = "waiting"
    epoch: int = 0
    loss: float | None = None
    accuracy: float | None = None
    reason: str | None = None
    epoch_seconds: list[float] = field(default_factory=list)

    @property
    def epochs_left(self) -> int:
        """Epochs still to be trained; none once it is over."""
        return self.trial.epochs - self.epoch if self.status in ("waiting", "running") else 0

    @property
    def seconds_left(self) -> float | None:
        """Training time left at the mean pace of the epochs seen so far."""
        if not self.epoch_seconds or not self.epochs_left:
            return None
        return self.epochs_left * sum(self.epoch_seconds) / len(self.epoch_seconds)


class StageProgress:
    """How far a stage is: its trials, by digest, and the pace at which all of them together advance."""

    def __init__(self, name: str, trials: Sequence[TrialRow], clock: Clock) -> None:
        self.name = name
        self.metric = trials[0].metric if trials else "top1"
        self.trials = {trial.digest: TrialProgress(trial) for trial in trials}
        self._clock = clock
        self._started = clock()

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        """Take down an epoch; an epoch without evaluation leaves the last accuracy as it is."""
        progress = self.trials[digest]
        progress.status, progress.epoch, progress.loss = "running", metrics["epoch"], metrics["loss"]
        progress.epoch_seconds.append(metrics["seconds"])
        if metrics.get(self.metric) is not None:
            progress.accuracy = metrics[self.metric]

    def trial_finished(self, result: TrialResult) -> None:
        """Take down a result."""
        progress = self.trials[result.trial]
        progress.status = "known" if result.cached else result.status
        progress.epoch, progress.accuracy, progress.reason = result.epochs, result.accuracy, result.reason

    @property
    def elapsed(self) -> float:
        """Seconds since it started."""
        return self._clock() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Time left if all trials together go on at the pace seen so far, however many run side by side."""
        trained = sum(len(progress.epoch_seconds) for progress in self.trials.values())
        left = sum(progress.epochs_left for progress in self.trials.values())
        return left * self.elapsed / trained if trained and left else None

    def __str__(self) -> str:
        over = sum(progress.status not in ("waiting", "running") for progress in self.trials.values())
        parts = [self.name, f"{over} of {len(self.trials)} done", duration(self.elapsed)]
        if self.seconds_left is not None:
            parts.append(f"about {duration(self.seconds_left)} left")
        return " · ".join(parts)


class LiveTable:
    """One table that changes in place; each stage leaves a line behind."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._stage: StageProgress | None = None
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=2)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def stage_started(self, stage: str, trials: Sequence[TrialRow]) -> None:
        """Show the table of a new stage."""
        self._stage = StageProgress(stage, trials, self._clock)

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        """Update the trial's row."""
        self._running().epoch_finished(digest, metrics)

    def trial_finished(self, result: TrialResult) -> None:
        """Update the trial's row."""
        self._running().trial_finished(result)

    def stage_finished(self, summary: str) -> None:
        """Replace the table by a line above."""
        stage = self._running()
        self._stage = None
        self._live.refresh()
        line = Text.assemble(("✓ ", "green"), (stage.name, "bold"), f" · {summary} · {duration(stage.elapsed)}")
        self._console.print(line)

    def message(self, text: str) -> None:
        """Write a line above the table."""
        self._console.print(Text(text))

    def render(self) -> RenderableType:
        """What is to be seen now."""
        if self._stage is None:
            return Text("")
        label = METRICS[self._stage.metric]
        table = plain_table("hypothesis", ">epoch", ">loss", f">{label}", ">GMACs", "status", ">time left")
        for progress in self._stage.trials.values():
            trial = progress.trial
            table.add_row(
                Text(trial.name),
                f"{progress.epoch}/{trial.epochs}",
                "–" if progress.loss is None else f"{progress.loss:.3f}",
                percent(progress.accuracy),
                gmacs(trial.gmacs),
                Text(progress.status, STYLES.get(progress.status, "dim")),
                duration(progress.seconds_left),
            )
        reasons = [Text(f"{p.trial.name}: {p.reason}", "red") for p in self._stage.trials.values() if p.reason]
        return Group(Text(str(self._stage), "bold"), table, *reasons)

    def _running(self) -> StageProgress:
        assert self._stage is not None, "stage_started comes first"
        return self._stage


class PlainLines:
    """One line per stage, per finished trial, and now and then one of progress; each with the time since the start."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._started = self._spoke = clock()
        self._stage: StageProgress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def stage_started(self, stage: str, trials: Sequence[TrialRow]) -> None:
        """Write the stage's name and size."""
        self._stage = StageProgress(stage, trials, self._clock)
        epochs = sum(trial.epochs for trial in trials)
        self.message(f"stage started: {stage} trials={len(trials)} epochs={epochs}")

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        """Write how far the stage is, unless something was written a moment ago."""
        stage = self._running()
        stage.epoch_finished(digest, metrics)
        if self._clock() - self._spoke >= PROGRESS_SECONDS:
            self.message(f"progress: {stage}")

    def trial_finished(self, result: TrialResult) -> None:
        """Write the result."""
        stage = self._running()
        stage.trial_finished(result)
        reached = "-" if result.accuracy is None else f"{result.accuracy:.4f}"
        known = " known=yes" if result.cached else ""
        reason = f" reason={result.reason}" if result.reason else ""
        self.message(
            f"trial {result.status}: {result.name} {stage.metric}={reached} epochs={result.epochs} "
            f"seconds={result.seconds:.1f} digest={result.trial}{known}{reason}"
        )

    def stage_finished(self, summary: str) -> None:
        """Write what was decided."""
        self.message(f"stage finished: {self._running().name}: {summary}")

    def message(self, text: str) -> None:
        """Write a line."""
        self._spoke = self._clock()
        seconds = int(self._spoke - self._started)
        stamp = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        self._console.print(f"{stamp} {text}", markup=False, highlight=False, soft_wrap=True)

    def _running(self) -> StageProgress:
        assert self._stage is not None, "stage_started comes first"
        return self._stage


def choose_observer(console: Console) -> LiveTable | PlainLines:
    """A live table where the terminal can redraw one, plain lines elsewhere."""
    redraws = console.is_terminal and not console.is_dumb_terminal
    return LiveTable(console) if redraws else PlainLines(console)


def print_family(console: Console, state: State, report: Path) -> None:
    """The result of a search: the teacher, every member of the family, and where to read more."""
    console.print(_family_table(state))
    console.print(Text(headline(state), "bold"))
    console.print(Text(f"Models: {report.parent / 'models'}"), soft_wrap=True)
    console.print(Text(f"Report: {report}"), soft_wrap=True)


def print_state(console: Console, state: State) -> None:
    """A search in full: its status, what every iteration tried and chose, and the family."""
    reason = f" ({state['stop_reason']})" if state["stop_reason"] else ""
    console.print(Text.assemble((state["run"], "bold"), " · ", _status(state["status"]), reason))
    console.print(Text(headline(state)))
    for iteration in state["iterations"]:
        console.print()
        chosen = f": {AXES[iteration['winner']].name} was chosen" if iteration["winner"] else ""
        console.print(Text(f"Iteration {iteration['iteration']}{chosen}", "bold"))
        if iteration["why"]:
            console.print(Text(f"rule {iteration['rule']}: {iteration['why']}", "dim"))
        console.print(_iteration_table(state, iteration))
        for skipped in iteration["skipped"]:
            console.print(Text(f"{AXES[skipped['axis']].name} was not tried: {skipped['reason']}", "dim"))
    if state["family"]:
        console.print()
        console.print(_family_table(state))


def print_runs(console: Console, states: Sequence[State]) -> None:
    """Every run in one line: status, how far it came, and its smallest network."""
    metrics = {metric_of(state) for state in states}
    label = METRICS[metrics.pop()] if len(metrics) == 1 else "accuracy"
    table = plain_table("run", "status", ">iterations", "smallest", ">of teacher", f">{label}", ">points", ">time")
    for state in states:
        teacher, metric = state["teacher"], metric_of(state)
        smallest = _smallest(state)
        reached = percent(accuracy(smallest, metric))
        table.add_row(
            Text(state["run"]),
            _status(state["status"]),
            str(len(state["family"])) if "family" in state else UNKNOWN,
            smallest["name"],
            share(smallest["gmacs"], teacher["gmacs"]),
            f"{reached} mAP" if label == "accuracy" and metric == "map" else reached,
            points(accuracy(smallest, metric), accuracy(teacher, metric)),
            duration(state["stats"]["seconds"]),
        )
    console.print(table if states else Text("No runs yet."))


def _smallest(state: State) -> Row:
    """The end of a chain, of a search's family or of one that was fine-tuned, the cheapest cell of a sweep, the chosen
    INT8 network; dashes where there is none."""
    cells = [cell for cell in state.get("cells", ()) if cell["status"] == "finished" and not cell.get("control")]
    cells.sort(key=lambda cell: cell["gmacs"], reverse=True)
    cells += [candidate for candidate in state.get("candidates", ()) if candidate["best"]]
    cells += [{**row, "name": row["model"]} for row in state.get("transfers", ()) if row["path"]]
    steps = [step for step in state.get("steps", ()) if step["status"] == "finished"]
    rows: list[Row] = steps or state.get("family") or cells or [{"name": UNKNOWN, "gmacs": None}]
    return rows[-1]


def _family_table(state: State) -> Table:
    spoken, metric = words(state), metric_of(state)
    table = plain_table("model", "step", f">{spoken.input}", ">GMACs", ">of teacher", f">{spoken.metric}", ">points")
    teacher = state["teacher"]
    for row in (teacher, *state["family"]):
        own = row is teacher
        table.add_row(
            "teacher" if own else row["name"],
            "" if own else AXES[row["axis"]].name,
            clip(row),
            gmacs(row["gmacs"]),
            share(row["gmacs"], teacher["gmacs"]),
            percent(accuracy(row, metric)),
            "" if own else points(accuracy(row, metric), accuracy(teacher, metric)),
        )
    return table


def _iteration_table(state: State, iteration: dict[str, Any]) -> Table:
    spoken = words(state)
    table = plain_table("", "hypothesis", f">{spoken.input}", ">GMACs", ">params", f">{spoken.metric}", "status")
    control: list[Row] = [iteration["control"]] if iteration["control"] else []
    for row in [*iteration["hypotheses"], *control]:
        chosen = row["axis"] == iteration["winner"] and row not in control
        status = _status(row["status"]).append(f": {row['reason']}" if row["reason"] else "", "default")
        mark = Text("✓" if chosen else "", "green")
        cost, reached = (gmacs(row["gmacs"]), count(row["params"])), percent(accuracy(row, metric_of(state)))
        style = "bold" if chosen else None
        table.add_row(mark, Text(row["name"]), clip(row), *cost, reached, status, style=style)
    return table


def _status(status: str) -> Text:
    return Text(status, STYLES.get(status, "dim"))


def plain_table(*headings: str) -> Table:
    """An empty table; a heading that starts with `>` is of a column of numbers."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, collapse_padding=True)
    for heading in headings:
        number = heading.startswith(">")
        table.add_column(
            heading.removeprefix(">"), justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    return table
