"""Losing the driver costs nothing but time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from orchestrator.cli import run
from tests.integration.conftest import Driver, accuracies, read_state

HYPOTHESES = ("slowfast-pas1-side", "slowfast-pas1-channels")
EPOCHS = 16
AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
"""Idle processes of Ray that try for 60 seconds, fixed in Ray 2.60, to report the loss to a head that is gone too."""


def epochs_done(runs: Path) -> int:
    """Epochs on disk of all hypotheses; the teacher, which has one, comes first and is left out."""
    return sum(len(path.read_text().splitlines()) for path in runs.glob("trials/*/metrics.jsonl")) - 1


def more_epochs_done(runs: Path, before: int) -> bool:
    """Whether there are more epochs on disk than before."""
    return epochs_done(runs) > before


def hypotheses_finished(runs: Path) -> int:
    """Results on disk, the teacher's left out."""
    return len(list(runs.glob("trials/*/result.json"))) - 1


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_an_interrupted_and_killed_search_ends_as_an_undisturbed_one(
    start: Callable[[list[str]], Driver], search: list[str], tmp_path: Path
) -> None:
    command = [*search, "--iterations", "1", "--set", f"train.epochs={EPOCHS}"]
    assert run([*command, "--runner", "local", "--runs", str(tmp_path / "undisturbed")]) == 0
    undisturbed = read_state(tmp_path / "undisturbed")
    runs = tmp_path / "runs"

    for stop in (signal.SIGINT, signal.SIGTERM):
        before = epochs_done(runs)
        polite = start(command)
        polite.wait_until(partial(more_epochs_done, runs, before))
        started = polite.descendants()
        if stop == signal.SIGINT:
            os.killpg(polite.process.pid, stop)  # Ctrl-C reaches the whole group
        else:
            polite.process.terminate()
        assert polite.wait() == 130
        assert "Interrupted. The same command goes on where this one stopped (run mine)." in polite.output
        assert "Traceback" not in polite.output
        assert psutil.wait_procs(started, timeout=30)[1] == []
        assert read_state(runs)["status"] == "interrupted"
        assert hypotheses_finished(runs) < len(HYPOTHESES)

    before = epochs_done(runs)
    killed = start(command)
    killed.wait_until(partial(more_epochs_done, runs, before))
    started = killed.descendants()
    agents = [process for process in started if process.name() in AGENTS]
    killed.process.kill()
    assert killed.wait() == -signal.SIGKILL
    assert psutil.wait_procs(set(started) - set(agents), timeout=30)[1] == []
    assert hypotheses_finished(runs) < len(HYPOTHESES)

    last = start(command)
    assert last.wait() == 0, last.output
    state = read_state(runs)
    assert accuracies(state) == accuracies(undisturbed)
    assert state["iterations"][0]["winner"] == undisturbed["iterations"][0]["winner"]
    assert state["teacher"]["cached"]
    assert state["family"] == undisturbed["family"]
    assert psutil.wait_procs(agents, timeout=90)[1] == []
