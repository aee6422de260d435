import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.observer import Observer, TrialRow
from orchestrator.terminal import LiveTable, PlainLines, choose_observer, print_family, print_runs, print_state
from tests.orchestrator.sample_state import empty_state, reid_state, running_state, sample_state
from trainers.trial import TrialResult

STAGE = "PAS iteration 2 of 3"
ROWS = [
    TrialRow(name=f"slowfast-pas2-{name}", digest=name, epochs=5, gmacs=0.0057, params=541_320)
    for name in ("side", "rate", "channels")
]
DONE = TrialResult(trial="side", name="slowfast-pas2-side", status="finished", top1=0.9188, seconds=19.31, epochs=5)
BROKEN = TrialResult(
    trial="channels",
    name="slowfast-pas2-channels",
    status="diverged",
    epochs=2,
    reason="loss is [bold]nan[/] in epoch 2",
)


class Clock:
    """A clock that only moves when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def epoch(number: int, top1: float | None = None, seconds: float = 4.0) -> dict[str, float | int | None]:
    return {"epoch": number, "loss": 1.25, "top1": top1, "seconds": seconds}


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def shown(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table.render())
    return written(console)


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name)]
    return line.split()


def test_table_shows_how_far_each_trial_is(console: Console, clock: Clock) -> None:
    table = LiveTable(console, clock)
    table.stage_started(STAGE, ROWS)
    clock.now += 12
    table.epoch_finished("side", epoch(1, top1=0.5))
    table.epoch_finished("side", epoch(2, seconds=6.0))
    assert row(shown(table), "slowfast-pas2-side") == [
        *("slowfast-pas2-side", "2/5", "1.250", "50.0", "%", "0.00570", "running", "15", "s"),
    ]
    assert row(shown(table), "slowfast-pas2-rate")[1:] == ["0/5", "–", "–", "0.00570", "waiting", "–"]


def test_table_of_networks_that_re_identify_shows_map(console: Console, clock: Clock) -> None:
    """Epochs without evaluation have no mAP, or none; both leave the last one as it is."""
    table = LiveTable(console, clock)
    table.stage_started(STAGE, [replace(trial, metric="map") for trial in ROWS])
    table.epoch_finished("side", {**epoch(1, top1=0.9), "map": 0.5})
    table.epoch_finished("side", {**epoch(2, top1=0.9), "map": None})
    table.epoch_finished("side", epoch(3, top1=0.9))
    table.epoch_finished("rate", epoch(1, top1=0.9))
    table.trial_finished(replace(BROKEN, status="finished", top1=0.9, map=0.25, reason=None))
    text = shown(table)
    assert "mAP" in text
    assert "top-1" not in text
    assert row(text, "slowfast-pas2-side")[3] == "50.0"
    assert row(text, "slowfast-pas2-rate")[3] == "–"
    assert row(text, "slowfast-pas2-channels")[3] == "25.0"


def test_lines_of_networks_that_re_identify_say_map(console: Console, clock: Clock) -> None:
    lines = PlainLines(console, clock)
    lines.stage_started(STAGE, [replace(trial, metric="map") for trial in ROWS])
    lines.trial_finished(replace(DONE, map=0.8123))
    lines.trial_finished(BROKEN)
    one, other = written(console).splitlines()[1:]
    assert "slowfast-pas2-side map=0.8123 epochs=5" in one
    assert "slowfast-pas2-channels map=- epochs=2" in other


def test_title_extrapolates_the_pace_of_all_trials_together(console: Console, clock: Clock) -> None:
    """Two trials side by side: 4 epochs in 8 s of wall time; 11 of the 15 are left, so 22 s."""
    table = LiveTable(console, clock)
    table.stage_started(STAGE, ROWS)
    for number in (1, 2):
        clock.now += 4
        table.epoch_finished("side", epoch(number))
        table.epoch_finished("rate", epoch(number))
    assert shown(table).splitlines()[0].strip() == f"{STAGE} · 0 of 3 done · 8 s · about 22 s left"
    table.trial_finished(BROKEN)
    assert shown(table).splitlines()[0].strip() == f"{STAGE} · 1 of 3 done · 8 s · about 12 s left"


def test_table_shows_results_and_reasons_as_they_are(console: Console, clock: Clock) -> None:
    table = LiveTable(console, clock)
    table.stage_started(STAGE, ROWS)
    table.trial_finished(BROKEN)
    table.trial_finished(TrialResult(trial="rate", name="-", status="finished", top1=0.9, epochs=5, cached=True))
    assert "diverged" in row(shown(table), "slowfast-pas2-channels ")
    assert "slowfast-pas2-channels: loss is [bold]nan[/] in epoch 2" in shown(table)
    assert row(shown(table), "slowfast-pas2-rate")[1:] == ["5/5", "–", "90.0", "%", "0.00570", "known", "–"]


def test_stage_leaves_one_line_behind(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with LiveTable(console, clock) as table:
        table.stage_started(STAGE, ROWS)
        clock.now += 61
        table.stage_finished("side was chosen")
        assert shown(table).strip() == ""
    assert f"✓ {STAGE} · side was chosen · 1 min 01 s" in written(console)


def test_terminal_is_left_in_order_when_the_search_breaks(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)

    def search() -> None:
        with LiveTable(console, clock) as table:
            table.stage_started(STAGE, ROWS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search()
    hidden, visible = "\x1b[?25l", "\x1b[?25h"
    assert written(console).rindex(visible) > written(console).rindex(hidden)
    assert "slowfast-pas2-side" in written(console), "the last table stays"


def test_plain_lines_are_sparse_and_can_be_searched(console: Console, clock: Clock) -> None:
    with PlainLines(console, clock) as lines:
        lines.stage_started(STAGE, ROWS)
        for number in (1, 2, 3):
            clock.now += 15
            lines.epoch_finished("side", epoch(number))
        lines.trial_finished(DONE)
        clock.now += 3600
        lines.trial_finished(BROKEN)
        lines.stage_finished("side was chosen")
        lines.message("see [here]")
    assert written(console).splitlines() == [
        "00:00:00 stage started: PAS iteration 2 of 3 trials=3 epochs=15",
        "00:00:30 progress: PAS iteration 2 of 3 · 0 of 3 done · 30 s · about 3 min 15 s left",
        "00:00:45 trial finished: slowfast-pas2-side top1=0.9188 epochs=5 seconds=19.3 digest=side",
        "01:00:45 trial diverged: slowfast-pas2-channels top1=- epochs=2 seconds=0.0 digest=channels "
        "reason=loss is [bold]nan[/] in epoch 2",
        "01:00:45 stage finished: PAS iteration 2 of 3: side was chosen",
        "01:00:45 see [here]",
    ]


@pytest.mark.parametrize(("terminal", "kind"), [(True, LiveTable), (False, PlainLines)])
def test_observer_suits_the_output(terminal: bool, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    observer: Observer = choose_observer(Console(file=io.StringIO(), force_terminal=terminal))
    assert type(observer) is kind


def test_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose_observer(Console(file=io.StringIO(), force_terminal=True)), PlainLines)


def test_family_ends_with_the_report(console: Console) -> None:
    print_family(console, sample_state(), Path("runs/slowfast/report.html"))
    text = written(console)
    assert row(text, "PAS-2")[1:] == [
        "side",
        "32",
        "×",
        "24",
        "0.00570",
        "27",
        "%",
        "91.9",
        "%",
        "−4.4",
    ]
    assert text.splitlines()[-1] == "Report: runs/slowfast/report.html"


def test_state_shows_every_hypothesis_and_marks_the_winners(console: Console) -> None:
    print_state(console, sample_state())
    text = written(console)
    assert [line.split()[1] for line in text.splitlines() if line.strip().startswith("✓")] == [
        *("slowfast-pas1-side", "slowfast-pas2-side", "slowfast-pas3-rate"),
    ]
    for expected in ("slowfast-pas2-control", "[gone]", "side was not tried", "rule ratio: the cost ratio of l"):
        assert expected in text


def test_state_of_a_search_without_results_says_so(console: Console) -> None:
    print_state(console, empty_state())
    assert "failed (the teacher diverged)" in written(console)


def test_runs_are_one_line_each_and_never_cut(console: Console) -> None:
    print_runs(console, [sample_state(), running_state()])
    finished, running = [line for line in written(console).splitlines() if "slowfast-pas-1a2b3c4d" in line]
    assert finished.split()[1:6] == ["finished", "3", "PAS-3", "14", "%"]
    assert running.split()[1:4] == ["running", "0", "–"]


def test_state_of_networks_that_re_identify_shows_map(console: Console) -> None:
    print_state(console, reid_state())
    text = written(console)
    assert row(text, "✓  reid-pas1-channels")[2:] == [
        *("64", "×", "32", "0.00286", "357.3", "k", "87.3", "%", "finished"),
    ]
    assert row(text, "PAS-2    ")[-3:] == ["80.0", "%", "−8.7"]
    assert "mAP" in text
    assert "top-1" not in text


def test_a_sweep_is_listed_with_its_cheapest_cell(console: Console) -> None:
    """Neither a control nor a cell that failed, however cheap, is what the sweep found."""
    state = reid_state()
    cell = {**state["teacher"], "status": "finished", "control": None}
    cells = [
        {**cell, "name": "reid-l1-0.9", "gmacs": 0.001, "control": "random"},
        {**cell, "name": "reid-l1-0.8", "gmacs": 0.002, "status": "failed"},
        {**cell, "name": "reid-l1-0.5", "gmacs": 0.003, "map": 0.8},
        {**cell, "name": "reid-l1-0.3", "gmacs": 0.004},
    ]
    sweep = {key: value for key, value in state.items() if key not in ("iterations", "family")}
    print_runs(console, [{**sweep, "run": "reid-sweep", "cells": cells}, {**sweep, "run": "reid-layers"}])
    assert "mAP" in written(console)
    assert row(written(console), "reid-sweep")[1:8] == ["finished", "–", "reid-l1-0.5", "54", "%", "80.0", "%"]
    assert row(written(console), "reid-layers")[1:4] == ["finished", "–", "–"]


def test_runs_of_both_kinds_say_which_accuracy_is_map(console: Console) -> None:
    print_runs(console, [sample_state(), reid_state()])
    text = written(console)
    assert "accuracy" in text
    assert row(text, "slowfast-pas-1a2b3c4d")[6:9] == ["87.5", "%", "−8.8"]
    assert row(text, "reid-pas-5e6f7a8b")[6:10] == ["80.0", "%", "mAP", "−8.7"]


def test_no_runs_is_said_in_words(console: Console) -> None:
    print_runs(console, [])
    assert written(console) == "No runs yet.\n"
