"""A transfer from networks in a store to a table: trained for real where that takes seconds, else from a script."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from configs.errors import RunError, UserError
from configs.loader import load_settings
from configs.schema import RunSettings
from orchestrator.evaluate import evaluate_model
from orchestrator.identity import default_name
from orchestrator.registry.registry import Registry
from orchestrator.session import Session
from orchestrator.state import State
from orchestrator.store import Store
from orchestrator.transfer.request import choose, defaults_of, place, settled
from orchestrator.transfer.table import summarise
from orchestrator.validation import data_of
from tests.orchestrator.sample_registry import PAS1, PAS2, RUN, TEACHER, make_store
from tests.orchestrator.sample_transfer import CLASSES, FRAMES, copy_with_network, write_hmdb51, write_ucf101
from tests.orchestrator.scripted import Listener, Outcome, ScriptedSession
from trainers.package import WEIGHTS_FILE, load_package, read_description
from trainers.site import trial_folder
from trainers.trial import Trial

QUICK = ["train.epochs=2", "train.warmup_epochs=0", "train.batch=6", "train.lr=0.5", "train.precision=fp32"]
SCRIPT = {
    "r2plus1d-teacher-ucf101-split1": Outcome(0.9),
    "r2plus1d-teacher-ucf101-split2": Outcome(0.8),
    "r2plus1d-teacher-ucf101-split3": Outcome(0.7),
    "r2plus1d-PAS-1-ucf101-split1": Outcome(0.6),
    "r2plus1d-PAS-1-ucf101-split2": Outcome(None, "diverged", reason="the loss was nan in epoch 1, step 2"),
    "r2plus1d-PAS-1-ucf101-split3": Outcome(0.8),
}


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ucf101(tmp_path_factory.mktemp("ucf") / "ucf101")


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Networks to start from; nobody changes it."""
    return make_store(tmp_path_factory.mktemp("store") / "runs")


@pytest.fixture
def store(shared_store: Store, tmp_path: Path) -> Store:
    """A copy of it, to work in."""
    shutil.copytree(shared_store.root, tmp_path / "runs", symlinks=True)
    return Store(tmp_path / "runs")


def asked_for(store: Store, models: list[str], data: Path, *overrides: str, source: str = "ucf101") -> RunSettings:
    """Settings as the command makes them."""
    chosen, _ = choose(store, models)
    flags = {"data.source": source, "data.path": data, "runtime.runs": store.root, "runtime.runner": "local"}
    settings = load_settings(None, [*QUICK, *overrides], flags, defaults=defaults_of(store, chosen))
    place(store, chosen)
    return settled(settings, chosen)


def play(settings: RunSettings, script: Mapping[str, Outcome] = {}) -> tuple[ScriptedSession, State]:
    session = ScriptedSession(settings, {**SCRIPT, **script}, algorithm="transfer")
    return session, session.execute()


def names(session: ScriptedSession) -> list[str]:
    """What was not in the store yet."""
    return [name for _, stage in session.runner.stages for name in stage]


def models(session: Session) -> list[str]:
    return sorted(path.name for path in (session.run.path / "models").iterdir())


def trials(state: State, root: Path) -> list[Trial]:
    files = [trial_folder(root, row["trial"]) / "result.json" for row in state["transfers"]]
    return [Trial.from_dict(json.loads(file.read_text())["trial"]) for file in files]


# For real


def test_a_family_of_two_is_fine_tuned_on_three_splits(store: Store, ucf101: Path) -> None:
    settings = asked_for(store, [f"{RUN}/teacher", f"{RUN}/PAS-1"], ucf101)
    listener = Listener()
    listener.epoch_finished = lambda digest, metrics: None  # type: ignore[method-assign]
    session = Session(settings, listener, algorithm="transfer")
    state = session.execute()
    assert (state["status"], state["stop_reason"]) == ("finished", "6 of 6 fine-tunings done")
    made = trials(state, store.root)
    assert {trial.network for trial in made} == {TEACHER.network, PAS1.network}  # as many classes as before
    assert [trial.start for trial in made] == [TEACHER.digest] * 3 + [PAS1.digest] * 3
    assert len({trial.data for trial in made}) == 3
    for trial in made:
        assert trial.train is not None
        assert trial.train.lr == 0.05  # a tenth
        assert (trial.teacher, trial.distillation, trial.new_classifier) == (None, None, True)
        assert trial.clips == TEACHER.clips
        assert store.manifest_file(trial.data).is_file()
        before = load_file(store.trial_folder(str(trial.start)) / WEIGHTS_FILE)
        after = load_file(store.trial_folder(trial.digest) / WEIGHTS_FILE)
        assert before.keys() == after.keys()
        assert not torch.equal(before["fc.weight"], after["fc.weight"])
    for summary in summarise(state):
        assert summary.complete
        assert summary.mean is not None
    assert models(session) == ["PAS-1", "teacher"]
    _, description = load_package(session.run.path / "models" / "PAS-1")
    assert description.classes == CLASSES
    assert "PAS-1 on UCF101" in (session.run.path / "models" / "PAS-1" / "card.md").read_text()
    assert "<svg" in (session.run.path / "report.html").read_text()
    handed_on = Registry.open(store).of_run(session.name)
    assert [model.digest for model in handed_on] == [made[0].digest, made[3].digest]
    assert {model.kind for model in handed_on} == {"transferred"}


# What a run does


def test_splits_seeds_and_classes_become_trials(store: Store, ucf101: Path) -> None:
    settings = asked_for(store, [f"{RUN}/PAS-1"], ucf101, "transfer.splits=[3, 1]", "transfer.seeds=[0, 5]")
    session, state = play(settings)
    expected = ["split3", "split3-seed5", "split1", "split1-seed5"]
    assert names(session) == [f"r2plus1d-PAS-1-ucf101-{rest}" for rest in expected]
    assert session.runner.stages[0][0] == "transfer"
    assert [row["split"] for row in state["splits"]] == [3, 1]
    assert state["data"]["split"] == 3
    assert state["data"]["fingerprint"] == state["splits"][0]["fingerprint"] != state["splits"][1]["fingerprint"]
    assert [(row["split"], row["seed"]) for row in state["transfers"] if row["path"]] == [(3, 0)]
    assert [trial.seed for trial in trials(state, store.root)] == [0, 5, 0, 5]


def test_the_epochs_of_a_transfer_take_the_warm_up_along(store: Store, ucf101: Path) -> None:
    overrides = ["train.epochs=4", "train.warmup_epochs=1", "transfer.epochs=2", "transfer.lr_divisor=5"]
    _, state = play(asked_for(store, [f"{RUN}/teacher"], ucf101, *overrides))
    train = trials(state, store.root)[0].train
    assert train is not None
    assert (train.epochs, train.warmup_epochs, train.lr) == (2, 0.5, 0.1)


def test_a_family_is_a_run_and_what_diverges_leaves_a_gap(store: Store, ucf101: Path) -> None:
    session, state = play(asked_for(store, [RUN], ucf101))
    assert list(session.settings.transfer.models) == ["teacher", "PAS-1", "PAS-2"]
    assert state["stop_reason"] == "8 of 9 fine-tunings done"
    teacher, pas1, pas2 = summarise(state)
    assert teacher.mean == pytest.approx(0.8)
    assert (teacher.before, teacher.data) == (0.9, "moving-digits")
    assert (pas1.by_split, pas1.before) == ({1: 0.6, 3: 0.8}, 0.925)
    assert pas2.complete
    assert models(session) == ["PAS-1", "PAS-2", "teacher"]
    assert "diverged" in {row["status"] for row in state["transfers"]}


def test_running_again_trains_nothing_and_says_the_same(store: Store, ucf101: Path) -> None:
    settings = asked_for(store, [f"{RUN}/teacher"], ucf101)
    _, before = play(settings)
    session, after = play(settings)
    assert names(session) == []
    assert after["stats"]["trained"] == 0
    cells = [[{k: v for k, v in row.items() if k != "cached"} for row in s["transfers"]] for s in (before, after)]
    assert cells[0] == cells[1]


def test_more_splits_seeds_and_networks_extend_a_run(store: Store, ucf101: Path) -> None:
    small, _ = play(asked_for(store, [f"{RUN}/teacher"], ucf101, "transfer.splits=[1]"))
    large, state = play(asked_for(store, [RUN], ucf101, "transfer.seeds=[0, 1]"))
    assert large.name == small.name
    assert len(names(large)) == 3 * 3 * 2 - 1
    assert "r2plus1d-teacher-ucf101-split1" not in names(large)
    assert len(state["transfers"]) == 18
    again, _ = play(asked_for(store, [f"{RUN}/teacher"], ucf101, "transfer.splits=[1]"))
    assert names(again) == []
    assert models(again) == ["teacher"]  # those of the larger run are gone; their trials are not


def test_what_failed_for_a_reason_outside_itself_is_tried_again(store: Store, ucf101: Path) -> None:
    gone = {"r2plus1d-teacher-ucf101-split2": Outcome(None, "failed", reason="disk", transient=True)}
    settings = asked_for(store, [f"{RUN}/teacher"], ucf101)
    with pytest.raises(RunError, match="1 of 3 trainings could not be run"):
        play(settings, gone)
    session, state = play(settings)
    assert names(session) == ["r2plus1d-teacher-ucf101-split2"]
    assert state["status"] == "finished"


def test_nothing_usable_fails_and_leaves_a_state(store: Store, ucf101: Path) -> None:
    settings = asked_for(store, [f"{RUN}/PAS-2"], ucf101, "transfer.splits=[2]")
    with pytest.raises(RunError, match="no fine-tuning came out usable"):
        play(settings, {"r2plus1d-PAS-2-ucf101-split2": Outcome(None, "diverged", reason="nan")})
    state = store.run(default_name(settings, "transfer")).require_state()
    assert (state["status"], state["transfers"][0]["status"]) == ("failed", "diverged")


def test_hmdb51_has_three_splits_as_well(store: Store, tmp_path: Path) -> None:
    data = write_hmdb51(tmp_path / "hmdb51")
    _, state = play(asked_for(store, [f"{RUN}/teacher"], data, source="hmdb51"))
    assert [(row["train_videos"], row["val_videos"]) for row in state["splits"]] == [(15, 6)] * 3
    assert state["data"]["classes"] == sorted(CLASSES)


def test_a_csv_file_is_one_split_and_its_models_find_it_again(store: Store, ucf101: Path, tmp_path: Path) -> None:
    lines = [
        f"{ucf101}/UCF-101/{label}/v_{label}_g{number:02d}_c01.avi,{label},{split}\n"
        for label in CLASSES
        for number, split in enumerate(("val", "train", "train"), start=1)
    ]
    file = tmp_path / "mine.csv"
    file.write_text("".join(lines))
    session, state = play(asked_for(store, [f"{RUN}/teacher"], file, source="csv"))
    assert names(session) == ["r2plus1d-teacher-csv"]
    assert [row["split"] for row in state["splits"]] == [None]
    assert state["data"]["path"] == str(file)
    folder = session.run.path / "models" / "teacher"
    found = data_of(folder, {})
    assert (found.source, found.path) == ("csv", file)
    assert evaluate_model(folder, {}, device="cpu")["videos"] == len(CLASSES)


# Videos of different lengths


def lengths(*frames: int) -> Any:
    return lambda number: frames[(number - 1) % len(frames)]


def test_videos_that_are_too_short_are_quarantined(store: Store, tmp_path: Path) -> None:
    data = write_ucf101(tmp_path / "ucf", frames=lambda number: 5 if number == 8 else FRAMES)
    _, state = play(asked_for(store, [f"{RUN}/teacher"], data, "data.max_quarantined=0.2"))
    assert [row["quarantined"] for row in state["splits"]] == [3, 3, 3]
    assert "5 frames, but a clip needs 8" in state["data"]["quarantined"][0]["reason"]


def test_networks_whose_clips_are_too_long_are_left_out(store: Store, tmp_path: Path) -> None:
    """As in the source's table, whose first SlowFast networks have no accuracy on HMDB51."""
    data = write_ucf101(tmp_path / "ucf", frames=lengths(5, 5, FRAMES, 5))
    short = PAS2.network.replace(clip_frames=4)
    folder = tmp_path / "short"
    copy_with_network(store.trial_folder(PAS2.digest), folder, short)
    session, state = play(asked_for(store, [f"{RUN}/teacher", str(folder)], data))
    teacher, other = summarise(state)
    assert teacher.reason == "75 % of the videos are shorter than its clip of 8 frames"
    assert (teacher.mean, other.complete) == (None, True)
    assert {name.split("-")[1] for name in names(session)} == {"short"}
    assert models(session) == ["short"]
    with pytest.raises(UserError, match=r"no network can be fine-tuned on .*teacher: 75 % .* use longer videos"):
        play(asked_for(store, [f"{RUN}/teacher"], data))


def test_a_model_folder_from_elsewhere_is_taken_into_the_store(store: Store, ucf101: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    copy_with_network(store.trial_folder(PAS1.digest), folder, PAS1.network.replace(dropout=0.25))
    settings = asked_for(store, [str(folder)], ucf101, "transfer.splits=[1]")
    ((name, digest),) = settings.transfer.models.items()
    assert name == "my-model"
    assert read_description(store.trial_folder(digest)).spec.dropout == 0.25
    _, state = play(settings)
    assert trials(state, store.root)[0].start == digest
    assert state["sources"][0] | {"name": "", "source": ""} == {
        **{"name": "", "source": "", "top1": None, "data": None, "classes": 3, "reason": None}
    }
    again, _ = choose(store, [digest])  # as the settings that the run leaves name it
    assert again[0].digest == digest


# What is refused


@pytest.mark.parametrize(
    ("source", "damage", "message"),
    [
        ("ucf101", "ucfTrainTestlist/testlist02.txt", r"testlist02\.txt can't be read"),
        ("hmdb51", "testTrainMulti_7030_splits/up_test_split3.txt", r"not every split has the class up"),
    ],
)
def test_a_split_that_is_missing(store: Store, tmp_path: Path, source: str, damage: str, message: str) -> None:
    data = {"ucf101": write_ucf101, "hmdb51": write_hmdb51}[source](tmp_path / source)
    (data / damage).unlink()
    settings = asked_for(store, [f"{RUN}/teacher"], data, source=source)
    with pytest.raises(UserError, match=message):
        play(settings)
    assert not (store.root / default_name(settings, "transfer")).exists()


def test_one_class_is_nothing_to_tell_apart(store: Store, tmp_path: Path) -> None:
    data = write_ucf101(tmp_path / "ucf", ["left"])
    with pytest.raises(UserError, match=r"has one class only \(left\)"):
        play(asked_for(store, [f"{RUN}/teacher"], data))


def test_splits_of_data_that_has_none(store: Store, ucf101: Path) -> None:
    with pytest.raises(UserError, match=r"transfer\.splits is \[1\], but data\.source folders is split in one way"):
        asked_for(store, [f"{RUN}/teacher"], ucf101, "transfer.splits=[1]", source="folders")


def test_images_are_no_videos(store: Store, ucf101: Path) -> None:
    settings = asked_for(store, [f"{RUN}/teacher"], ucf101, source="market1501")
    with pytest.raises(UserError, match=r"data\.source is market1501, but r2plus1d needs one of moving-digits, csv"):
        play(settings)


def test_crops_that_no_longer_fit(store: Store, ucf101: Path) -> None:
    settings = asked_for(store, [f"{RUN}/teacher"], ucf101, "clips.resize=8")
    with pytest.raises(UserError, match=r"clips\.resize gives a short side of 8 pixels"):
        play(settings)
