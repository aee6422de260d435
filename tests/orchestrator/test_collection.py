"""What a collection removes, what it never does, and that a search replayed after it trains nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from configs.errors import UserError
from orchestrator.commands.gc import gc
from orchestrator.handoff.handed_over import record_package
from orchestrator.registry import collection
from orchestrator.registry.collection import Plan, collect, plan
from orchestrator.registry.registry import Registry
from orchestrator.store import Store
from tests.orchestrator.sample_registry import (
    CONTROL,
    LOSER,
    PAS1,
    PAS2,
    PRUNED,
    RUN,
    SWEEP,
    TEACHER,
    TRIALS,
    make_store,
    taught,
    trial,
    write_trial,
)
from tests.orchestrator.scripted import Outcome, ScriptedSession, small_settings
from trainers.files import exclusive, write_json
from trainers.package import WEIGHTS_FILE
from trainers.results import RESULT_FILE
from trainers.trial import Trial

NOBODYS = taught("r2plus1d-nobodys", TEACHER, seed=7)
"""A trial that no run refers to."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def checkpointed(store: Store) -> set[str]:
    """Trials that have checkpoints."""
    return {folder.parent.name for folder in store.root.glob("trials/*/checkpoints")}


def digests(*trials: Trial) -> set[str]:
    return {made.digest for made in trials}


def removed(found: Plan, what: str) -> set[str]:
    return {removal.digest for removal in found.removals if removal.what == what}


def why_kept(found: Plan, made: Trial) -> str | None:
    return dict(found.kept).get(made.digest)


def files(store: Store) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


@contextmanager
def held(store: Store, made: Trial) -> Iterator[None]:
    """As while a process trains it."""
    with exclusive(store.trial_folder(made.digest) / "lock", what="trial"):
        yield


def tag(store: Store, made: Trial) -> None:
    write_json(store.registry_folder / "tags" / "production", {"model": made.digest})


def unfinished(store: Store, made: Trial) -> Path:
    """A trial that was cut off: it has checkpoints and no result; returns its folder."""
    folder = write_trial(store, made, 0.5)
    (folder / RESULT_FILE).unlink()
    return folder


def test_checkpoints_of_all_that_is_over_go_and_nothing_else(store: Store) -> None:
    diverged = trial("r2plus1d-diverged", seed=3)
    write_trial(store, diverged, 0.0, "diverged")
    before = files(store)
    found = collect(store)
    assert removed(found, "checkpoints") == digests(*TRIALS, diverged)
    assert found.size_mb == pytest.approx(7 * len(b"resumable") / 1e6)
    assert checkpointed(store) == set()
    gone = before.keys() - files(store).keys()
    assert all("/checkpoints/" in path for path in gone)
    assert len(gone) == 7


def test_what_is_half_trained_keeps_its_checkpoints(store: Store) -> None:
    half = trial("r2plus1d-half", seed=3)
    unfinished(store, half)
    found = collect(store)
    assert why_kept(found, half) == "unfinished"
    assert checkpointed(store) == digests(half)


def test_what_a_process_holds_is_left_alone(store: Store) -> None:
    with held(store, PAS1):
        assert why_kept(collect(store, unused=False), PAS1) == "at work"
    assert checkpointed(store) == digests(PAS1)


def test_what_a_process_takes_hold_of_meanwhile_is_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(store)
    monkeypatch.setattr(collection, "plan", lambda *_, **__: planned)
    with held(store, PAS1):
        found = collect(store)
    assert PAS1.digest not in removed(found, "checkpoints")
    assert why_kept(found, PAS1) == "at work"
    assert checkpointed(store) == digests(PAS1)


def test_tagged_model_and_its_ancestors_keep_everything(store: Store) -> None:
    """PAS-1 inherits from the teacher and learns from it."""
    tag(store, PAS1)
    found = collect(store, unused=True)
    assert checkpointed(store) == digests(PAS1, TEACHER)
    assert why_kept(found, TEACHER) == "needed"


def test_teacher_of_a_handed_over_model_keeps_everything(store: Store, tmp_path: Path) -> None:
    """PAS-2 has random weights of its own, and only learns from the teacher."""
    record_package(store, PAS2.digest, tmp_path / "package")
    collect(store)
    assert checkpointed(store) == digests(PAS2, TEACHER)


def test_unused_trials_go_as_a_whole_only_where_asked_for(store: Store) -> None:
    write_trial(store, NOBODYS, 0.5)
    collect(store)
    assert store.result(NOBODYS.digest)
    found = collect(store, unused=True)
    assert removed(found, "trial") == digests(NOBODYS)
    assert not store.trial_folder(NOBODYS.digest).exists()
    assert {folder.name for folder in store.root.glob("trials/*")} == digests(*TRIALS)


def test_unused_ancestors_of_what_is_used_stay(store: Store) -> None:
    """A chain of three; a tag on its end keeps all of it, without a tag all of it goes."""
    first = trial("first", seed=5)
    second = trial("second", seed=5, start=first.digest)
    third = trial("third", seed=6, start=second.digest)
    for made in (first, second, third):
        write_trial(store, made, 0.5)
    tag(store, third)
    assert removed(plan(store, unused=True), "trial") == set()
    (store.registry_folder / "tags" / "production").unlink()
    assert removed(plan(store, unused=True), "trial") == digests(first, second, third)


def test_ancestor_of_a_trial_without_network_stays(store: Store) -> None:
    """A run refers to a trial that diverged, which started from one that no run names."""
    diverged = trial("r2plus1d-diverged", seed=3, start=NOBODYS.digest)
    write_trial(store, NOBODYS, 0.5)
    write_trial(store, diverged, 0.0, "diverged")
    run = store.find_run(SWEEP)
    state = run.require_state()
    run.write_state(
        {**state, "cells": [*state["cells"], {**state["cells"][0], "trial": diverged.digest, "path": None}]}
    )
    assert removed(plan(store, unused=True), "trial") == set()


def test_everything_is_unused_once_its_runs_are_gone(store: Store) -> None:
    for name in (RUN, SWEEP):
        shutil.rmtree(store.run(name).path)
    assert removed(collect(store, unused=True), "trial") == digests(*TRIALS)
    assert list(store.root.glob("trials/*")) == []


def test_unused_half_trained_trial_goes_unless_it_is_held(store: Store) -> None:
    half = trial("r2plus1d-half", seed=3)
    unfinished(store, half)
    with held(store, half):
        assert why_kept(collect(store, unused=True), half) == "at work"
    assert removed(collect(store, unused=True), "trial") == digests(half)


def test_looking_changes_nothing(store: Store) -> None:
    write_trial(store, NOBODYS, 0.5)
    Registry.open(store)  # writes down costs
    before = files(store)
    assert len(plan(store, unused=True).removals) == 7
    assert files(store) == before


def test_collecting_twice_finds_nothing_the_second_time(store: Store) -> None:
    assert collect(store, unused=True).removals
    assert collect(store, unused=True).removals == ()


# Interrupted


def test_kill_in_the_middle_leaves_a_store_that_works(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, each time at the next folder: what was renamed is seen by nobody, and goes in the end."""
    write_trial(store, NOBODYS, 0.5)
    really = shutil.rmtree
    for survivors in range(3):
        calls: list[Path] = []

        def kill(path: Path, *, calls: list[Path] = calls, last: int = survivors, **options: Any) -> None:
            if len(calls) < last:
                calls.append(path)
                return really(path, **options)
            for file in [one for one in path.rglob("*") if one.is_file()][:1]:
                file.unlink()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", kill)
            with pytest.raises(KeyboardInterrupt):
                collect(store, unused=True)
        registry = Registry.open(store)
        registry.require_whole()
        assert digests(*TRIALS) <= {model.digest for model in registry.models}
        assert list(store.root.rglob("*.tmp"))
    assert removed(collect(store, unused=True), "leftover")
    assert not list(store.root.rglob("*.tmp"))
    assert checkpointed(store) == set()
    assert not store.trial_folder(NOBODYS.digest).exists()


def test_leftovers_of_a_trial_are_told_by_its_digest(store: Store) -> None:
    folder = store.trial_folder(PAS1.digest)
    folder.rename(folder.with_name(f".{PAS1.digest}.0123456789ab.tmp"))
    assert removed(Plan(removals=tuple(collection.leftovers(store)), kept=()), "leftover") == digests(PAS1)


# What can't be told


def test_damaged_store_is_refused_and_nothing_is_removed(store: Store) -> None:
    weights = store.trial_folder(PAS1.digest) / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    before = checkpointed(store)
    with pytest.raises(UserError, match="is not whole"):
        collect(store)
    assert checkpointed(store) == before


def test_checkpoints_of_weights_that_rotted_are_all_that_is_left(store: Store) -> None:
    """As long as they should be, so that only their hash tells."""
    weights = store.trial_folder(PAS1.digest) / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    before = checkpointed(store)
    with pytest.raises(UserError, match=f"weights of trial {PAS1.digest} .* are not those of its result"):
        collect(store)
    assert checkpointed(store) == before


def test_unreadable_tag_could_be_of_anything(store: Store) -> None:
    tags = store.registry_folder / "tags"
    tags.mkdir(parents=True)
    (tags / "production").write_text("{")
    with pytest.raises(UserError, match="production"):
        collect(store)
    assert checkpointed(store) == digests(*TRIALS)


def test_unreadable_list_of_packages_could_be_of_anything(store: Store) -> None:
    store.registry_folder.mkdir(exist_ok=True)
    (store.registry_folder / "packages.json").write_text("{")
    with pytest.raises(UserError, match=r"packages.json is damaged"):
        collect(store)
    assert checkpointed(store) == digests(*TRIALS)


def test_unreadable_run_could_need_anything(store: Store) -> None:
    (store.run(SWEEP).path / "state.json").write_text("{")
    with pytest.raises(UserError, match=f"which trials run {SWEEP} needs"):
        collect(store, unused=True)
    assert {folder.name for folder in store.root.glob("trials/*")} == digests(*TRIALS)
    assert removed(collect(store), "checkpoints") == digests(*TRIALS)


def test_run_at_work_could_need_anything(store: Store) -> None:
    with store.run(RUN).locked():
        with pytest.raises(UserError, match=f"run {RUN} is in use by another process"):
            collect(store, unused=True)
        assert checkpointed(store) == digests(*TRIALS)
        assert removed(collect(store), "checkpoints") == digests(*TRIALS)


def test_one_collection_at_a_time(store: Store) -> None:
    with (
        exclusive(store.registry_folder / "collection.lock", what="it"),
        pytest.raises(UserError, match="in use by another process"),
    ):
        collect(store)
    assert checkpointed(store) == digests(*TRIALS)


# A search afterwards

SCRIPT = {"slowfast-teacher": Outcome(0.75), "slowfast-pas1-side": Outcome(0.7), "slowfast-pas2-side": Outcome(0.6)}


def test_search_replayed_after_a_collection_trains_nothing(digits: Path, tmp_path: Path) -> None:
    overrides = ("runtime.name=mine", "search.iterations=2", "search.control=true")
    settings = small_settings(digits, tmp_path / "runs", *overrides)
    first = ScriptedSession(settings, SCRIPT).execute()
    store = Store(tmp_path / "runs")
    for folder in store.root.glob("trials/*"):
        (folder / "checkpoints").mkdir()
    write_trial(store, NOBODYS, 0.5)
    found = collect(store, unused=True)
    assert removed(found, "trial") == digests(NOBODYS)
    assert len(removed(found, "checkpoints")) == 7  # teacher, two iterations of two, two controls
    session = ScriptedSession(settings, SCRIPT)
    again = session.execute()
    assert session.runner.stages == []
    assert again["stats"]["trained"] == 0
    assert [row["trial"] for row in again["family"]] == [row["trial"] for row in first["family"]]


# The command

app = typer.Typer()
app.command()(gc)


def invoke(store: Store, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--runs", str(store.root)], env={"COLUMNS": "80"})
    if result.exception:
        raise result.exception
    return result.output


def test_command_says_what_it_would_do_and_then_does_it(store: Store) -> None:
    write_trial(store, NOBODYS, 0.5)
    tag(store, CONTROL)
    shown = invoke(store, "--dry-run", "--unused")
    assert "Would remove the checkpoints of 5 trials, 1 trial as a whole" in shown
    assert NOBODYS.digest in shown
    assert "Kept the checkpoints of 1 trial: tagged" in shown
    assert checkpointed(store) == digests(*TRIALS, NOBODYS)
    assert "Removed the checkpoints of 5 trials, 1 trial as a whole" in invoke(store, "--unused")
    assert checkpointed(store) == digests(CONTROL)
    assert invoke(store).startswith("There is nothing to remove.")


def test_command_in_json(store: Store) -> None:
    tag(store, LOSER)
    said = json.loads(invoke(store, "--json"))
    assert {one["digest"] for one in said["removed"]} == digests(PAS1, PAS2, PRUNED, CONTROL)
    assert {one["digest"]: one["why"] for one in said["kept"]} == dict.fromkeys(digests(LOSER, TEACHER), "needed")
    assert not said["dry_run"]


def test_a_store_that_is_not_there_is_not_created(tmp_path: Path) -> None:
    assert collect(Store(tmp_path / "mistyped"), unused=True) == Plan(removals=(), kept=())
    assert not list(tmp_path.iterdir())
