"""What goes wrong on Ray: counted by cause, and without a trace in the result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from orchestrator.cli import run
from tests.integration.conftest import Driver, accuracies, read_state

EPOCHS = 40
ACTOR = "ray::TrialActor"


def training(driver: Driver, but: set[int]) -> psutil.Process | None:
    """The process of the trial, unless it is one of those known."""
    for process in driver.descendants():
        try:
            if process.pid not in but and process.cmdline()[:1] and process.cmdline()[0].startswith(ACTOR):
                return process
        except psutil.NoSuchProcess:
            continue
    return None


@pytest.mark.integration
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_trial_killed_twice_ends_as_an_undisturbed_one_and_both_losses_are_counted(
    start: Callable[[list[str]], Driver], search: list[str], tmp_path: Path
) -> None:
    command = [*search, "--iterations", "1", "--set", "search.axes=[s]", "--set", f"train.epochs={EPOCHS}"]
    assert run([*command, "--runner", "local", "--runs", str(tmp_path / "undisturbed")]) == 0
    undisturbed = read_state(tmp_path / "undisturbed")
    assert "failures" not in undisturbed
    runs = tmp_path / "runs"

    driver = start(command)
    killed: set[int] = set()
    for epochs in (1, 3):
        driver.wait_until(partial(_is_under_way, driver, runs, epochs, killed))
        process = training(driver, killed)
        assert process is not None
        process.kill()
        killed.add(process.pid)
    assert driver.wait() == 0, driver.output

    state = read_state(runs)
    assert accuracies(state) == accuracies(undisturbed)
    assert [(row["name"], row["cause"], row["action"]) for row in state["failures"]] == [
        ("slowfast-pas1-side", "process", "retried")
    ] * 2
    assert all(row["node"] for row in state["failures"])
    assert "2 retries: 2 process loss" in driver.output
    assert "2 retries: 2 process loss." in (runs / "mine" / "report.html").read_text()

    again = start(command)
    assert again.wait() == 0, again.output
    assert read_state(runs)["failures"] == state["failures"]


def _is_under_way(driver: Driver, runs: Path, epochs: int, killed: set[int]) -> bool:
    return _epochs(runs) >= epochs and training(driver, killed) is not None


def _epochs(runs: Path) -> int:
    """Epochs on disk of the hypothesis: all but the teacher's one."""
    return sum(len(path.read_text().splitlines()) for path in runs.glob("trials/*/metrics.jsonl")) - 1
