"""The store: what it trusts, what it creates, and how a run's folder is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from configs.errors import UserError
from orchestrator.store import LOCK_FILE, RunFolder, Store
from trainers import files
from trainers.files import exclusive

STATE = {"run": "mine", "status": "finished"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "runs")
    store.prepare()
    return store


def make_run(store: Store, name: str, status: str = "finished") -> RunFolder:
    run = store.run(name)
    run.write_state({"run": name, "status": status})
    return run


def test_prepare_leaves_nothing_but_folders(store: Store) -> None:
    assert sorted(path.name for path in store.root.rglob("*")) == ["data", "trials"]


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"nothing can be written there \(Not a directory\); give a folder"):
        Store(tmp_path / "file" / "runs").prepare()


def test_a_trial_without_result_is_unknown(store: Store) -> None:
    assert store.result("0" * 16) is None
    assert store.metrics("0" * 16) == []


@pytest.mark.parametrize("name", ["trials", "data", "registry"])
def test_the_store_s_own_folders_are_no_runs(store: Store, name: str) -> None:
    with pytest.raises(UserError, match="belongs to the store; choose another --name"):
        store.run(name)


def test_a_run_is_found_by_name_and_by_path(store: Store) -> None:
    run = make_run(store, "mine")
    assert store.find_run("mine").path == run.path
    assert Store(store.root.parent / "elsewhere").find_run(str(run.path)).path == run.path


def test_a_run_that_is_not_there_is_answered_with_one_that_is(store: Store) -> None:
    make_run(store, "slowfast-first")
    with pytest.raises(UserError, match=r"no run 'slowfst-first' in .*; did you mean slowfast-first\?"):
        store.find_run("slowfst-first")


def test_runs_are_listed_newest_first(store: Store) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        state = make_run(store, name).path / "state.json"
        os.utime(state, (1e9 - age, 1e9 - age))
    assert [run.path.name for run in store.runs()] == ["new", "middle", "old"]


def test_a_state_is_replaced_as_a_whole(store: Store) -> None:
    run = store.run("mine")
    run.write_state({**STATE, "accuracy": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_state({**STATE, "accuracy": float("nan")})
    assert run.read_state() == {**STATE, "accuracy": 0.5}
    assert [path.name for path in run.path.iterdir()] == ["state.json"]


def test_a_run_is_running_only_while_a_driver_holds_it(store: Store) -> None:
    run = make_run(store, "mine", "running")
    with run.locked():
        assert (run.read_state() or {})["status"] == "running"
    assert (run.read_state() or {})["status"] == "interrupted"


class Clock:
    """Time that passes only in `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_second_driver_waits_a_moment_and_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(files, "time", clock)
    run = store.run("mine")
    with (
        exclusive(run.path / LOCK_FILE, wait_seconds=0.0, what="the first"),
        pytest.raises(UserError, match=r"run mine is in use by another process .* choose another --name"),
        run.locked(),
    ):
        raise AssertionError("the lock was given twice")
    assert 5 <= clock.now < 10


def test_the_ledger_has_a_line_per_event(store: Store) -> None:
    run = make_run(store, "mine")
    run.log("started", commit="abc")
    run.log("finished", reason=None)
    lines = [json.loads(line) for line in (run.path / "ledger.jsonl").read_text().splitlines()]
    assert [(line["event"], line.get("commit")) for line in lines] == [("started", "abc"), ("finished", None)]


def test_a_link_to_a_trial_survives_moving_the_store_and_is_replaced(store: Store) -> None:
    run = make_run(store, "mine")
    for digest in ("first", "second"):
        folder = store.trial_folder(digest)
        folder.mkdir()
        (folder / "who").write_text(digest)
        run.link_trial("slowfast-teacher", folder)
    moved = store.root.rename(store.root.with_name("moved"))
    assert (moved / "mine" / "trials" / "slowfast-teacher" / "who").read_text() == "second"
    assert len(list((moved / "mine" / "trials").iterdir())) == 1
