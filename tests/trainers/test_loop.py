"""The training loop: interrupted, diverged, answered from the store, started from a parent."""

import copy
import dataclasses
import json
import math
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compression.reduction import AXES, reduce
from configs.schema import DistillationSettings
from tests.trainers import tiny
from trainers import loop
from trainers.backbones import build
from trainers.checkpoint import OPTIMISER
from trainers.data.clips import Batch, train_batches
from trainers.data.manifest import Manifest
from trainers.data.quarantine import Quarantine
from trainers.distributed import World
from trainers.files import exclusive, read_json, sha256_of
from trainers.loop import Training, _Sums, run_trial
from trainers.package import NETWORK_FILE, WEIGHTS_FILE
from trainers.results import METRICS_FILE, RESULT_FILE, read_metrics, read_result, write_result
from trainers.site import Site
from trainers.tasks import classification
from trainers.trial import Trial, TrialResult


def assert_same_outcome(some: Path, other: Path) -> None:
    """Bit for bit: network, optimiser, metrics and accuracy."""
    assert sha256_of(some / WEIGHTS_FILE) == sha256_of(other / WEIGHTS_FILE)
    assert tiny.timeless(some) == tiny.timeless(other)
    last = max((some / "checkpoints").iterdir()).name
    states = (torch.load(folder / "checkpoints" / last / OPTIMISER, weights_only=True) for folder in (some, other))
    torch.testing.assert_close(*states, rtol=0, atol=0)
    results = [read_result(folder) for folder in (some, other)]
    assert results[0] is not None
    assert results[1] is not None
    assert dataclasses.replace(results[0], seconds=0.0) == dataclasses.replace(results[1], seconds=0.0)


@pytest.mark.parametrize("features", ["none", "margin_relu"])
@pytest.mark.parametrize("stops", [[1], [2], [1, 1, 1]])
def test_a_resumed_training_is_the_undisturbed_one(
    manifest: Manifest, teacher: str, shared_site: Site, site: Site, features: str, stops: list[int]
) -> None:
    """With teacher, dropout and learnt connectors; `stops` are epochs reported between two interruptions."""
    distillation = DistillationSettings.model_validate({"features": features})
    trial = tiny.make_distilled(manifest, teacher, distillation=distillation)
    tiny.finish(trial, shared_site)
    for epochs in stops:
        tiny.train(trial, site, epochs=epochs)
    result = tiny.finish(trial, site)
    assert not result.cached
    assert_same_outcome(site.trial_folder(trial.digest), shared_site.trial_folder(trial.digest))


def test_an_interruption_costs_one_checkpoint_interval_at_most(
    manifest: Manifest, shared_site: Site, site: Site
) -> None:
    """Stopped after epoch 3 of 4 with a checkpoint every 2 epochs: epoch 3 is trained again, to the same numbers."""
    trial = tiny.make_trial(manifest, train=tiny.TRAIN.model_copy(update={"epochs": 4}))
    site = dataclasses.replace(site, checkpoint_every=2)
    tiny.train(trial, site, epochs=3)
    assert [row["epoch"] for row in tiny.epochs_of(trial, site)] == [3, 4]
    tiny.finish(trial, shared_site)
    assert_same_outcome(site.trial_folder(trial.digest), shared_site.trial_folder(trial.digest))


def test_a_finished_trial_is_answered_from_the_store(
    manifest: Manifest, teacher: str, shared_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its new name, without building anything."""
    known = read_result(shared_site.trial_folder(teacher))
    assert known is not None
    monkeypatch.delattr(loop, "Training")
    result = tiny.finish(tiny.make_trial(manifest, name="other-name"), shared_site)
    assert result == dataclasses.replace(known, cached=True, name="other-name")


def test_another_seed_gives_other_numbers(manifest: Manifest, teacher: str, shared_site: Site) -> None:
    """Seed 0 is the teacher's."""
    other = tiny.finish(tiny.make_trial(manifest, seed=7), shared_site)
    losses = [[row["loss"] for row in read_metrics(shared_site.trial_folder(d))] for d in (teacher, other.trial)]
    assert not set(losses[0]) & set(losses[1])


@pytest.mark.parametrize("backbone", tiny.SPECS)
def test_every_epoch_is_in_the_history(manifest: Manifest, shared_site: Site, backbone: str) -> None:
    """What is yielded is on disk; the loss is the mean of the terms; top-1 is there where it was evaluated."""
    train = tiny.TRAIN.model_copy(update={"epochs": 4, "evaluate_every": 2})
    trial = tiny.make_trial(manifest, network=tiny.SPECS[backbone], train=train)
    folder = shared_site.trial_folder(trial.digest)
    seen = []
    for row in tiny.epochs_of(trial, shared_site):
        seen.append(row)
        assert read_metrics(folder) == seen
    assert [row["epoch"] for row in seen] == [1, 2, 3, 4]
    assert [row["top1"] is not None for row in seen] == [False, True, False, True]
    assert all(row["loss"] == row["ce"] for row in seen)
    assert seen[-1]["loss"] < seen[0]["loss"]
    result = read_result(folder)
    assert result is not None
    assert (result.status, result.epochs, result.top5) == ("finished", 4, 1.0)


def test_the_loss_is_the_sum_of_its_terms(manifest: Manifest, teacher: str, site: Site) -> None:
    trial = tiny.make_distilled(manifest, teacher, distillation=DistillationSettings(features="l2"))
    row = next(tiny.epochs_of(trial, site))
    assert row["loss"] == pytest.approx(row["ce"] + row["kl"] + row["features"])
    assert min(row["ce"], row["kl"], row["features"]) > 0


def test_the_connectors_learn_with_the_student(manifest: Manifest, teacher: str, site: Site) -> None:
    trial = tiny.make_distilled(manifest, teacher, distillation=DistillationSettings(features="l2"))
    training = Training(trial, site, World())
    connectors = training.task.learnt["distiller"]
    before = copy.deepcopy(connectors.state_dict())
    next(training.epochs())
    assert not any(torch.equal(tensor, before[name]) for name, tensor in connectors.state_dict().items())


def assert_no_such_number(folder: Path) -> None:
    """JSON files without NaN and infinities, which Python would write and nobody else could read."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = (folder / METRICS_FILE).read_text().splitlines() if (folder / METRICS_FILE).exists() else []
    for text in [*lines, (folder / RESULT_FILE).read_text()]:
        json.loads(text, parse_constant=refuse)


def test_a_learning_rate_that_is_far_too_high_diverges(manifest: Manifest, site: Site) -> None:
    trial = tiny.make_trial(manifest, train=tiny.TRAIN.model_copy(update={"lr": 1e30}))
    result = tiny.finish(trial, site)
    assert (result.status, result.top1, result.epochs) == ("diverged", None, 0)
    assert result.reason is not None
    assert re.search(r"the loss was (nan|inf) in epoch 1, step \d; a lower train\.lr", result.reason)
    folder = site.trial_folder(trial.digest)
    assert_no_such_number(folder)
    assert not (folder / WEIGHTS_FILE).exists()
    assert tiny.finish(trial, site) == dataclasses.replace(result, cached=True)


@pytest.mark.parametrize("bad", [1, 16, 17, 18])
def test_the_first_step_that_diverged_is_named(
    manifest: Manifest, site: Site, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    """Epochs of 18 steps; losses are looked at after 16 and at the end. The second epoch diverges."""
    steps = 0
    step = Training._step

    def failing(*args: Any) -> Tensor:
        nonlocal steps
        steps += 1
        return step(*args) * (math.nan if steps >= 18 + bad else 1)

    monkeypatch.setattr(Training, "_step", failing)
    train = tiny.TRAIN.model_copy(update={"batch": 3})
    result = tiny.finish(
        tiny.make_trial(manifest, clips=tiny.CLIPS.model_copy(update={"per_video": 6}), train=train), site
    )
    assert (result.status, result.epochs) == ("diverged", 1)
    assert result.reason is not None
    assert f"nan in epoch 2, step {bad};" in result.reason
    assert_no_such_number(site.trial_folder(result.trial))


def test_outputs_that_are_no_numbers_diverge_too(manifest: Manifest, site: Site, teacher: str) -> None:
    """Weights from outside with a NaN: no loss is computed that could show it."""
    weights = load_file(site.trial_folder(teacher) / WEIGHTS_FILE)
    weights["fc.bias"][0] = math.nan
    trial = tiny.make_trial(manifest, train=None, weights_sha256="0" * 64)
    site.trial_folder(trial.digest).mkdir()
    save_file(weights, site.trial_folder(trial.digest) / WEIGHTS_FILE)
    result = tiny.finish(trial, site)
    assert (result.status, result.reason) == ("diverged", "the network's outputs are not finite after epoch 0")
    assert_no_such_number(site.trial_folder(trial.digest))


@pytest.mark.parametrize("axis", [letter for letter, axis in AXES.items() if axis.keeps_weights])
def test_a_warm_start_begins_with_the_parent_s_weights(manifest: Manifest, teacher: str, site: Site, axis: str) -> None:
    """Before the first step every tensor is the parent's, and steps of a negligible size keep it so."""
    train = tiny.TRAIN.model_copy(update={"epochs": 2, "lr": 1e-12})
    trial = tiny.make_trial(manifest, network=reduce(tiny.SPEC, axis), start=teacher, train=train)
    parent = load_file(site.trial_folder(teacher) / WEIGHTS_FILE)
    training = Training(trial, site, World())
    torch.testing.assert_close(training.student.state_dict(), parent, rtol=0, atol=0)
    list(training.epochs())
    parameters = {name: p.detach() for name, p in training.student.named_parameters()}
    torch.testing.assert_close(parameters, {name: parent[name] for name in parameters}, rtol=0, atol=1e-9)


@pytest.mark.parametrize("classes", [len(tiny.CLASSES), 5])
def test_a_new_classifier_inherits_everything_but_the_classifier(
    manifest: Manifest, teacher: str, site: Site, classes: int
) -> None:
    """Also where there are as many classes as before: they are others. It is what the seed gives a fresh network."""
    parent = load_file(site.trial_folder(teacher) / WEIGHTS_FILE)
    network = tiny.SPEC.replace(classes=classes)
    trial = tiny.make_trial(manifest, network=network, start=teacher, new_classifier=True, seed=3)
    state = Training(trial, site, World()).student.state_dict()
    torch.manual_seed(3)
    fresh = build(network).state_dict()
    for name, tensor in state.items():
        wanted = fresh[name] if name in ("fc.weight", "fc.bias") else parent[name]
        torch.testing.assert_close(tensor, wanted, rtol=0, atol=0)
    assert state["fc.weight"].shape[0] == classes
    assert classes != len(tiny.CLASSES) or not torch.equal(state["fc.weight"], parent["fc.weight"])


def test_hypotheses_of_all_axes_see_the_same_clips(
    manifest: Manifest, teacher: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's view, which no axis changes, is the same in every step of every training; no two steps' are."""
    views: list[Tensor] = []

    def recorded(*args: Any, **kwargs: Any) -> Iterator[Batch]:
        for batch in train_batches(*args, **kwargs):
            views.append(batch.views[1])
            yield batch

    monkeypatch.setattr(classification, "train_batches", recorded)
    deep = tiny.DEEP["r2plus1d"]
    seen = []
    for axis in AXES:
        views.clear()
        tiny.train(tiny.make_distilled(manifest, teacher, network=reduce(deep, axis)), site, epochs=2)
        seen.append(torch.stack(views))
    assert len(seen[0]) == len(torch.unique(seen[0], dim=0)) == 6
    assert all(torch.equal(other, seen[0]) for other in seen[1:])


def test_given_weights_are_only_evaluated(manifest: Manifest, teacher: str, site: Site) -> None:
    trial = tiny.make_trial(manifest, train=None, weights_sha256="0" * 64)
    folder = site.trial_folder(trial.digest)
    folder.mkdir()
    shutil.copyfile(site.trial_folder(teacher) / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    result, trained = tiny.finish(trial, site), read_result(site.trial_folder(teacher))
    assert trained is not None
    assert (result.status, result.top1, result.epochs) == ("finished", trained.top1, 0)
    assert sha256_of(folder / WEIGHTS_FILE) == sha256_of(site.trial_folder(teacher) / WEIGHTS_FILE)
    assert {path.name for path in folder.iterdir()} == {"lock", "network.json", "model.safetensors", "result.json"}


def finish_without_training(trial: Trial, site: Site) -> TrialResult:
    run = run_trial(trial, site)
    try:
        row = next(run)
    except StopIteration as stop:
        result: TrialResult = stop.value
        return result
    raise AssertionError(f"it was trained again: {row}")


def test_the_result_is_written_last(
    manifest: Manifest, teacher: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the network is saved; later the trial is finished from its last checkpoint."""
    trial = tiny.make_trial(manifest, seed=3)
    folder = site.trial_folder(trial.digest)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_package", full)
        with pytest.raises(OSError, match="No space left"):
            tiny.finish(trial, site)
    assert not (folder / RESULT_FILE).exists()
    result = finish_without_training(trial, site)
    assert (result.status, result.cached) == ("finished", False)
    assert [row["epoch"] for row in read_metrics(folder)] == [1, 2, 3]


def test_a_result_does_not_count_without_its_weights(
    manifest: Manifest, teacher: str, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """They are restored from the last checkpoint."""
    folder = site.trial_folder(teacher)
    before = read_result(folder)
    assert before is not None
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert read_result(folder) is None
    assert "does not match its result" in caplog.text
    result = finish_without_training(tiny.make_trial(manifest, name="teacher"), site)
    assert (folder / WEIGHTS_FILE).read_bytes() == content
    assert (result.top1, result.cached) == (before.top1, False)


@pytest.mark.parametrize("found", ["{}", "", None])
def test_a_result_does_not_count_without_its_network(
    manifest: Manifest, teacher: str, site: Site, found: str | None
) -> None:
    """`network.json` says what the outputs mean; without it as it was, the trial is finished again."""
    file = site.trial_folder(teacher) / NETWORK_FILE
    content = file.read_text()
    file.unlink()
    if found is not None:
        file.write_text(found)
    assert read_result(file.parent) is None
    finish_without_training(tiny.make_trial(manifest, name="teacher"), site)
    assert file.read_text() == content


@pytest.mark.parametrize("text", ["[]", "{}", '{"result": {"trial": "x"}, "weights_sha256": null}', '{"result": 3}'])
def test_a_record_that_is_no_result_does_not_count(tmp_path: Path, text: str) -> None:
    (tmp_path / RESULT_FILE).write_text(text)
    assert read_result(tmp_path) is None


def test_a_video_that_does_not_decode_is_in_the_result(manifest: Manifest, site: Site, tmp_path: Path) -> None:
    shutil.copytree(manifest.root, tmp_path / "videos")
    (tmp_path / "videos" / manifest.val[0].path).write_bytes(b"no video")
    dataclasses.replace(manifest, root=tmp_path / "videos").save(site.manifest_file(manifest.fingerprint))
    trial = tiny.make_trial(manifest, seed=4)
    tiny.finish(trial, dataclasses.replace(site, max_quarantined=0.1))
    [entry] = read_json(site.trial_folder(trial.digest) / RESULT_FILE)["quarantined"]
    assert entry["path"] == manifest.val[0].path


def test_a_trial_that_another_process_trains_is_waited_for_and_then_answered(manifest: Manifest, site: Site) -> None:
    trial = tiny.make_trial(manifest, seed=5)
    folder = site.trial_folder(trial.digest)
    with ThreadPoolExecutor(1) as second, exclusive(folder / "lock", what="it"):
        answer = second.submit(tiny.finish, trial, site)
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.5)
        done = TrialResult(trial=trial.digest, name=trial.name, status="diverged", reason="as the other process found")
        write_result(folder, trial, done, Quarantine(1, 0.0))
    assert answer.result() == dataclasses.replace(done, cached=True)


@pytest.mark.parametrize("size", [3, 8])
def test_micro_batches_add_up_to_the_gradient_of_the_batch(manifest: Manifest, site: Site, size: int) -> None:
    """With batch norm held still; the parts are equal to within one clip and their shares sum to 1."""
    gradients = []
    for micro_batch in (None, size):
        recipe = tiny.TRAIN.model_copy(update={"micro_batch": micro_batch, "batch": 8})
        training = Training(tiny.make_trial(manifest, train=recipe), site, World())
        training.model.eval()
        sums = _Sums({}, torch.zeros(()), torch.zeros(()))
        step = [batch for batch in training._batches(0, sums) if batch.step == 0 and isinstance(batch, Batch)]
        assert len(step) == math.ceil(8 / (micro_batch or 8))
        assert sum(batch.share for batch in step) == pytest.approx(1)
        assert max(len(batch.labels) for batch in step) - min(len(batch.labels) for batch in step) <= 1
        training._step(step, 0.1, 0.0, sums)
        assert sums.clips == 8
        gradients.append([parameter.grad for parameter in training.student.parameters()])
        gradients[-1] += [parameter.detach().clone() for parameter in training.student.parameters()]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
