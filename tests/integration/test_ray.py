"""A whole search on Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli import run
from tests.integration.conftest import Driver, accuracies, read_state

NETWORKS = ["slowfast-teacher", "slowfast-pas1-side", "slowfast-pas1-channels", "slowfast-pas1-control"]


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_search_on_ray_finds_what_one_without_ray_finds_and_answers_again_at_once(
    start: Callable[[list[str]], Driver], search: list[str], tmp_path: Path
) -> None:
    """The search says what it does under the names an operator looks for, and leaves neither process nor scratch."""
    command = [*search, "--control", "--iterations", "1"]
    assert run([*command, "--runner", "local", "--runs", str(tmp_path / "local")]) == 0
    expected = read_state(tmp_path / "local")

    runs = tmp_path / "runs"
    driver = start(command)
    driver.wait_until(lambda: any(runs.glob("mine/tune/iter-1-1/slowfast-pas1-*")))
    started = driver.descendants()
    assert "raylet" in [process.name() for process in started]
    assert driver.wait() == 0, driver.output
    assert not any(process.is_running() for process in started)

    state = read_state(runs)
    assert list(accuracies(state)) == NETWORKS
    assert accuracies(state) == accuracies(expected)
    assert state["family"] == expected["family"]
    assert state["stats"]["trained"] == len(NETWORKS)
    for name in NETWORKS:
        assert f"trial finished: {name}" in driver.output
    assert not (runs / "mine" / "tune").exists()

    again = start(command)
    assert again.wait() == 0, again.output
    answered = read_state(runs)
    assert (answered["stats"]["trained"], answered["stats"]["cached"]) == (0, len(NETWORKS))
    assert accuracies(answered) == accuracies(expected)


def test_an_actor_is_shown_under_its_trial_s_name(digits: Path, tmp_path: Path) -> None:
    from orchestrator.ray_runner import TrialActor
    from tests.orchestrator.scripted import ScriptedSession, small_settings
    from trainers.site import Site

    session = ScriptedSession(small_settings(digits, tmp_path))
    session.open()
    actor = TrialActor({"trial": session.teacher.to_dict(), "site": Site(store=tmp_path).to_dict()})
    assert repr(actor) == "slowfast-teacher"
