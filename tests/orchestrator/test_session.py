"""A run from settings to models: once trained for real, otherwise with results from a script."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RunError, UserError
from configs.loader import load_settings
from configs.schema import RunSettings
from orchestrator import runner as runners
from orchestrator.evaluate import evaluate_model
from orchestrator.session import Session
from orchestrator.state import State
from orchestrator.views import VIEWS
from tests.orchestrator.scripted import Listener, Outcome, ScriptedSession, small_settings

SCRIPT = {
    "slowfast-teacher": Outcome(0.75, seconds=60.0),
    "slowfast-pas1-side": Outcome(0.7),
    "slowfast-pas1-channels": Outcome(None, "diverged", reason="the loss was nan in epoch 1, step 2"),
    "slowfast-pas2-side": Outcome(0.6),
    "slowfast-pas2-channels": Outcome(0.65),
    "slowfast-pas3-side": Outcome(0.5),
}


def play(settings: RunSettings, **changes: Outcome) -> tuple[ScriptedSession, State]:
    session = ScriptedSession(settings, SCRIPT | changes)
    return session, session.execute()


def numbers(state: State) -> dict[str, tuple[Any, ...]]:
    """Every accuracy that a state reports, by name, controls included."""
    rows = [state["teacher"]]
    for iteration in state["iterations"]:
        rows += [*iteration["hypotheses"], *([iteration["control"]] if iteration["control"] else [])]
    return {row["name"]: (row["status"], row["top1"], row["top5"], row["trial"]) for row in rows}


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# A search that is trained for real


class LoudListener(Listener):
    """Takes epochs too."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        self.epochs += 1


def train(settings: RunSettings) -> tuple[State, LoudListener]:
    listener = LoudListener()
    return Session(settings, listener).execute(), listener


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSettings, State]:
    """A finished search of two iterations over side and channels with controls; tests that change it make a copy."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    settings = small_settings(digits, runs, "runtime.name=mine", "search.control=true", "search.iterations=2")
    state, listener = train(settings)
    assert listener.epochs == 7
    return settings, state


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the report, which takes a second to draw."""
    view = replace(VIEWS["pas"], write_report=lambda *_: Path("report.html"))
    monkeypatch.setitem(VIEWS, "pas", view)


@pytest.fixture
def copied(trained: tuple[RunSettings, State], tmp_path: Path) -> tuple[RunSettings, State]:
    """The same in a place of its own."""
    settings, state = trained
    runs = tmp_path / "runs"
    shutil.copytree(settings.runtime.runs, runs, symlinks=True)
    return settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"runs": runs})}), state


def test_the_state_on_disk_has_the_documented_keys(trained: tuple[RunSettings, State]) -> None:
    settings, state = trained
    stored = json.loads((settings.runtime.runs / "mine" / "state.json").read_text())
    assert stored == state
    assert (stored["status"], stored["seed"], stored["stop_reason"]) == ("finished", 0, "2 iterations done")
    assert {"top1", "top5", "gmacs", "params"} <= stored["teacher"].keys()
    assert {"orchestrate", "commit", "python", "torch", "ray"} <= stored["versions"].keys()
    assert (stored["data"]["train_videos"], stored["data"]["val_videos"]) == (32, 16)
    assert len(stored["data"]["classes"]) == 8
    for number, iteration in enumerate(stored["iterations"], start=1):
        assert iteration["iteration"] == number
        assert iteration["rule"] in ("max_accuracy", "ratio")
        assert iteration["why"]
        assert [row["axis"] for row in iteration["hypotheses"]] == ["s", "c"]
        assert [row["warm_started"] for row in iteration["hypotheses"]] == [True, False]
        winner = next(row for row in iteration["hypotheses"] if row["axis"] == iteration["winner"])
        for row in (*iteration["hypotheses"], iteration["control"]):
            assert row["status"] == "finished"
            assert 0 <= row["top1"] <= row["top5"] <= 1
            assert row["seconds"] > 0
        for same in ("axis", "gmacs", "params", "frames", "side"):
            assert iteration["control"][same] == winner[same]
    assert stored["stats"] | {"seconds": 0, "core_seconds": 0} == {
        "trained": 7,
        "cached": 0,
        "trial_epochs": 7,
        "seconds": 0,
        "core_seconds": 0,
    }


def test_the_run_s_folder_is_complete(trained: tuple[RunSettings, State]) -> None:
    settings, state = trained
    run = settings.runtime.runs / "mine"
    files = {"lock", "state.json", "config.yaml", "ledger.jsonl", "report.html", "report.png"}
    models = {
        f"models/{name}/{file}"
        for name in ("teacher", "PAS-1", "PAS-2")
        for file in ("card.md", "metrics.json", "model.safetensors", "network.json")
    }
    assert {path for path in files_below(run) if not path.startswith("trials/")} == files | models
    links = {link.name: link.resolve().name for link in (run / "trials").iterdir()}
    assert links == {name: row[-1] for name, row in numbers(state).items()}


def test_the_saved_config_is_the_run_s(trained: tuple[RunSettings, State]) -> None:
    settings, _ = trained
    assert load_settings(settings.runtime.runs / "mine" / "config.yaml") == settings


def test_the_ledger_tells_the_story(trained: tuple[RunSettings, State]) -> None:
    settings, state = trained
    lines = (settings.runtime.runs / "mine" / "ledger.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert (events[0], events[-1]) == ("started", "finished")
    assert events.count("trial") == 7
    selected = [json.loads(line)["axis"] for line in lines if json.loads(line)["event"] == "selected"]
    assert selected == [iteration["winner"] for iteration in state["iterations"]]


def test_evaluation_of_a_model_gives_the_accuracy_of_the_search(trained: tuple[RunSettings, State]) -> None:
    settings, state = trained
    for row in state["family"]:
        report = evaluate_model(settings.runtime.runs / "mine" / row["path"], {}, device="cpu")
        assert (report["top1"], report["top5"]) == (row["top1"], row["top5"])
        assert report["fingerprint"] == state["data"]["fingerprint"]


@pytest.mark.usefixtures("_undrawn")
def test_the_same_again_trains_nothing_and_says_the_same(copied: tuple[RunSettings, State]) -> None:
    settings, before = copied
    state, listener = train(settings)
    assert listener.epochs == 0
    assert (state["stats"]["trained"], state["stats"]["cached"]) == (0, 7)
    assert numbers(state) == numbers(before)
    assert state["family"] == before["family"]


def test_a_deleted_run_comes_back_at_no_cost(copied: tuple[RunSettings, State]) -> None:
    settings, before = copied
    run = settings.runtime.runs / "mine"
    files = files_below(run)
    shutil.rmtree(run)
    state, listener = train(settings)
    assert listener.epochs == 0
    assert state["stats"]["trained"] == 0
    assert numbers(state) == numbers(before)
    assert files_below(run) == files


@pytest.mark.usefixtures("_undrawn")
def test_a_damaged_result_is_trained_again_to_the_same_numbers(copied: tuple[RunSettings, State]) -> None:
    settings, before = copied
    winner = before["family"][-1]["trial"]
    weights = settings.runtime.runs / "trials" / winner / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    state, _ = train(settings)
    assert state["stats"]["trained"] == 1
    assert numbers(state) == numbers(before)
    assert weights.read_bytes() == content


@pytest.mark.usefixtures("_undrawn")
def test_a_training_cut_off_between_epochs_gives_the_same_numbers(digits: Path, tmp_path: Path) -> None:
    class Interrupting(LoudListener):
        def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
            super().epoch_finished(digest, metrics)
            if self.epochs == 2:  # the hypothesis, after the first of its two epochs
                raise KeyboardInterrupt

    overrides = ("search.axes=[s]", "train.epochs=2", "search.iterations=1", "runtime.name=mine")
    undisturbed, whole = train(small_settings(digits, tmp_path / "undisturbed", *overrides))
    settings = small_settings(digits, tmp_path / "runs", *overrides)
    with pytest.raises(KeyboardInterrupt):
        Session(settings, Interrupting()).execute()
    stored = json.loads((settings.runtime.runs / "mine" / "state.json").read_text())
    assert stored["status"] == "interrupted"
    assert (stored["teacher"]["status"], stored["iterations"][0]["hypotheses"][0]["status"]) == ("finished", "pending")
    resumed, rest = train(settings)
    assert (whole.epochs, rest.epochs) == (3, 1)
    assert numbers(resumed) == numbers(undisturbed)


# Searches from a script


def test_a_run_writes_what_its_results_say(digits: Path, tmp_path: Path) -> None:
    session, state = play(small_settings(digits, tmp_path, "search.iterations=2"))
    assert [row["sequence"] for row in state["family"]] == ["s", "sc"]
    first = state["iterations"][0]["hypotheses"]
    assert [row["status"] for row in first] == ["finished", "diverged"]
    assert first[1]["reason"] == "the loss was nan in epoch 1, step 2"
    assert session.runner.stages == [
        ("teacher", ["slowfast-teacher"]),
        ("iter-1", ["slowfast-pas1-side", "slowfast-pas1-channels"]),
        ("iter-2", ["slowfast-pas2-side", "slowfast-pas2-channels"]),
    ]
    assert state["stats"]["core_seconds"] == session.runner.clock == 100.0


def test_more_iterations_train_only_what_is_new(digits: Path, tmp_path: Path) -> None:
    _, two = play(small_settings(digits, tmp_path, "search.iterations=2"))
    session, three = play(small_settings(digits, tmp_path, "search.iterations=3"))
    assert session.runner.stages == [("iter-3", ["slowfast-pas3-side", "slowfast-pas3-channels"])]
    assert three["run"] == two["run"]
    assert (three["stats"]["trained"], three["stats"]["cached"]) == (2, 5)
    assert numbers(three) == {**numbers(two), **numbers({**three, "iterations": three["iterations"][2:]})}
    assert three["family"][:2] == two["family"]


def test_fewer_iterations_take_models_back(digits: Path, tmp_path: Path) -> None:
    session, _ = play(small_settings(digits, tmp_path, "search.iterations=2"))
    _, one = play(small_settings(digits, tmp_path, "search.iterations=1"))
    assert [row["name"] for row in one["family"]] == ["PAS-1"]
    assert sorted(path.name for path in (session.run.path / "models").iterdir()) == ["PAS-1", "teacher"]


def test_controls_added_later_are_all_that_is_trained(digits: Path, tmp_path: Path) -> None:
    play(small_settings(digits, tmp_path, "search.iterations=2"))
    session, state = play(small_settings(digits, tmp_path, "search.iterations=2", "search.control=true"))
    trained = [name for _, names in session.runner.stages for name in names]
    assert trained == ["slowfast-pas1-control", "slowfast-pas2-control"]
    assert [iteration["control"]["status"] for iteration in state["iterations"]] == ["finished", "finished"]


def test_another_search_shares_the_teacher(digits: Path, tmp_path: Path) -> None:
    play(small_settings(digits, tmp_path, "runtime.name=first"))
    session, state = play(small_settings(digits, tmp_path, "runtime.name=second", "train.lr=0.5"))
    assert "teacher" not in [stage for stage, _ in session.runner.stages]
    assert state["teacher"]["cached"] is True
    assert state["stats"]["cached"] == 1


def test_a_base_network_trained_alone_is_a_search_s_teacher(digits: Path, tmp_path: Path) -> None:
    alone = ScriptedSession(small_settings(digits, tmp_path), SCRIPT, algorithm="train")
    state = alone.execute()
    assert (state["iterations"], state["family"], state["stats"]["trained"]) == ([], [], 1)
    assert [path.name for path in (alone.run.path / "models").iterdir()] == ["teacher"]
    _, searched = play(small_settings(digits, tmp_path))
    assert searched["teacher"]["cached"] is True
    assert searched["run"] != state["run"]


def test_other_settings_under_the_same_name_are_refused(digits: Path, tmp_path: Path) -> None:
    session, _ = play(small_settings(digits, tmp_path, "runtime.name=mine"))
    before = files_below(tmp_path), session.run.read_state()
    with pytest.raises(UserError, match=r"train\.lr was 0\.1, is 0\.2"):
        play(small_settings(digits, tmp_path, "runtime.name=mine", "train.lr=0.2"))
    assert (files_below(tmp_path), session.run.read_state()) == before


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_teacher_that_fails_ends_the_run(status: Any, digits: Path, tmp_path: Path) -> None:
    session = ScriptedSession(
        small_settings(digits, tmp_path), {"slowfast-teacher": Outcome(None, status, reason="no luck")}
    )
    with pytest.raises(RunError, match=f"the teacher {status}: no luck"):
        session.execute()
    state = session.run.read_state()
    assert state is not None
    assert state["status"] == "failed"
    assert state["stop_reason"].startswith(f"the teacher {status}: no luck")


def test_all_hypotheses_failing_ends_the_run_and_can_be_tried_again(digits: Path, tmp_path: Path) -> None:
    """A failure is no result: once its cause is gone, the same command goes on."""
    failed = Outcome(None, "failed", reason="no space left on device")
    settings = small_settings(digits, tmp_path, "search.iterations=1")
    session = ScriptedSession(settings, {"slowfast-pas1-side": failed, "slowfast-pas1-channels": failed})
    with pytest.raises(RunError, match="no hypothesis of iteration 1 came out usable"):
        session.execute()
    state = session.run.read_state()
    assert state is not None
    assert state["status"] == "failed"
    assert [row["reason"] for row in state["iterations"][0]["hypotheses"]] == ["no space left on device"] * 2
    _, again = play(settings)
    assert (again["status"], again["stats"]["trained"], again["stats"]["cached"]) == ("finished", 2, 1)


def test_a_rejected_winner_is_shown_and_not_handed_on(digits: Path, tmp_path: Path) -> None:
    settings = small_settings(digits, tmp_path, "search.max_drop=3", "search.iterations=2")
    session, state = play(settings)
    assert [iteration["accepted"] for iteration in state["iterations"]] == [False]
    assert state["iterations"][0]["winner"] == "s"
    assert state["family"] == []
    assert "5.0 points below the teacher" in state["stop_reason"]
    assert session.listener.messages[-1].startswith("PAS-1: axis s (not accepted)")


def test_the_state_follows_every_result(digits: Path, tmp_path: Path) -> None:
    """What `show` says of a run at work: each trial as soon as it is known."""

    seen: list[list[str]] = []

    class Watching(ScriptedSession):
        def trial_finished(self, result: Any) -> None:
            super().trial_finished(result)
            iterations = json.loads((self.run.path / "state.json").read_text())["iterations"]
            seen.append([row["status"] for row in iterations[0]["hypotheses"]] if iterations else [])

    Watching(small_settings(digits, tmp_path, "search.iterations=1"), SCRIPT).execute()
    assert seen == [[], ["finished", "pending"], ["finished", "diverged"]]


# The stage runner's look-up


def test_trials_that_are_equal_are_trained_once(digits: Path, tmp_path: Path) -> None:
    session = ScriptedSession(small_settings(digits, tmp_path), SCRIPT)
    session.open()
    session.manifest.save(session.store.manifest_file(session.manifest.fingerprint))
    results = runners.run_stage(session.runner, session.store, Listener(), "twice", [session.teacher, session.teacher])
    assert session.runner.stages == [("twice", ["slowfast-teacher"])]
    assert results[0] == results[1]
    assert not results[0].cached
    (again,) = runners.run_stage(session.runner, session.store, Listener(), "again", [session.teacher])
    assert again.cached
    assert again.top1 == results[0].top1
