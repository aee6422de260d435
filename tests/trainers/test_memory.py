"""Trainings that do not fit: half the micro-batch, the same step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import ReidSettings
from tests.trainers import tiny
from trainers.backbones import VideoNetwork
from trainers.data.manifest import Manifest
from trainers.incidents import Incident
from trainers.loop import run_trial
from trainers.memory import (
    halve,
    remember_micro_batch,
    remembered_micro_batch,
    share_at_a_time,
    smaller_micro_batch,
    with_micro_batch,
)
from trainers.results import read_metrics, read_result
from trainers.site import Site
from trainers.trial import Trial, TrialResult


@pytest.fixture
def manifest(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Manifest:
    videos = tmp_path_factory.mktemp("videos")
    tiny.write_videos(videos)
    return tiny.make_store(tmp_path, videos)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(store=tmp_path)


def fits(monkeypatch: pytest.MonkeyPatch, clips: int, *, from_step: int = 0) -> None:
    """Let a network in training have memory for so many clips at a time, from some forward pass on."""
    forward = VideoNetwork.forward
    passes = 0

    def limited(self: VideoNetwork, images: Tensor, *more: Any) -> Tensor:
        nonlocal passes
        passes += self.training
        if self.training and passes > from_step and len(images) > clips:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, images, *more)

    monkeypatch.setattr(VideoNetwork, "forward", limited)


def run(trial: Trial, site: Site) -> tuple[list[Incident], TrialResult]:
    """A trial's incidents and its result."""
    training, incidents = run_trial(trial, site), list[Incident]()
    while True:
        try:
            report = next(training)
        except StopIteration as end:
            return incidents, end.value
        if isinstance(report, Incident):
            incidents.append(report)


def test_a_trial_that_does_not_fit_goes_on_with_half_as_many_clips(
    manifest: Manifest, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 8 by 4 to 2, and under the digest that it had; what it did is in its metrics and in its result."""
    trial = tiny.make_trial(manifest, train=tiny.TRAIN.model_copy(update={"batch": 8}))
    fits(monkeypatch, 2)
    incidents, result = run(trial, site)
    assert [(incident.cause, incident.action, incident.at_epoch) for incident in incidents] == [
        ("memory", "halved", 0)
    ] * 2
    assert [incident.text for incident in incidents] == [
        "out of memory with micro-batch 8: going on with 4",
        "out of memory with micro-batch 4: going on with 2",
    ]
    assert (result.status, result.micro_batch, result.trial) == ("finished", 2, trial.digest)
    folder = site.trial_folder(trial.digest)
    assert read_result(folder) == result
    assert [row["micro_batch"] for row in read_metrics(folder)] == [2, 2, 2]


def test_it_computes_what_the_smaller_micro_batch_computes(
    manifest: Manifest, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and from the checkpoint where it ran out of memory in the middle."""
    trial = tiny.make_trial(manifest)
    smaller = tiny.make_trial(manifest, train=tiny.TRAIN.model_copy(update={"micro_batch": 3}))
    expected = tiny.finish(smaller, site)
    with monkeypatch.context() as patch:
        fits(patch, 3)
        incidents, result = run(trial, site)
    assert len(incidents) == 1
    assert (result.top1, result.top5) == (expected.top1, expected.top5)
    rows = [tiny.timeless(site.trial_folder(one.digest)) for one in (trial, smaller)]
    assert [{**row, "micro_batch": 3} for row in rows[1]] == rows[0]


def test_epochs_before_it_are_kept(manifest: Manifest, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = tiny.make_trial(manifest)
    steps = len(manifest.train) * tiny.CLIPS.per_video // tiny.TRAIN.batch
    fits(monkeypatch, 3, from_step=steps)
    [incident], result = run(trial, site)
    assert incident.at_epoch == 1
    rows = read_metrics(site.trial_folder(trial.digest))
    assert [row.get("micro_batch") for row in rows] == [None, 3, 3]
    assert (result.micro_batch, result.epochs) == (3, 3)


def test_what_fits_is_remembered_by_the_next_start(
    manifest: Manifest, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = tiny.make_trial(manifest)
    remember_micro_batch(site.trial_folder(trial.digest), 3)
    fits(monkeypatch, 3)
    incidents, result = run(trial, site)
    assert (incidents, result.micro_batch) == ([], 3)


def test_a_clip_that_does_not_fit_alone_is_an_error(
    manifest: Manifest, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        run(tiny.make_trial(manifest), site)


def test_who_wants_the_recipe_or_nothing_gets_nothing(
    manifest: Manifest, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = tiny.make_trial(manifest)
    fits(monkeypatch, 3)
    with pytest.raises(torch.OutOfMemoryError):
        run(trial, dataclasses.replace(site, halve_on_oom=False))
    assert remembered_micro_batch(site.trial_folder(trial.digest)) is None


def test_another_error_is_none_of_memory(manifest: Manifest, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(VideoNetwork, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run(tiny.make_trial(manifest), site)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 7])
def test_without_batch_norm_the_gradient_is_that_of_the_whole_batch(micro_batch: int) -> None:
    """Each part's mean loss by its share of the clips, added up: the mean over all, in float64 to its last digits."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.GELU(), nn.Linear(5, 3)).double()
    clips, labels = torch.randn(7, 3, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    whole = torch.autograd.grad(F.cross_entropy(network(clips), labels), list(network.parameters()))
    for part, its_labels in zip(torch.split(clips, micro_batch), torch.split(labels, micro_batch), strict=True):
        (F.cross_entropy(network(part), its_labels) * len(part) / len(clips)).backward()  # type: ignore[no-untyped-call]
    added = [parameter.grad for parameter in network.parameters()]
    torch.testing.assert_close(added, list(whole), rtol=1e-12, atol=1e-14)


def test_a_network_that_reidentifies_has_no_micro_batch_to_halve(manifest: Manifest) -> None:
    trial = tiny.make_trial(manifest, network=tiny.REID_SPEC, clips=None, reid=ReidSettings())
    assert smaller_micro_batch(trial, 8) is None


@pytest.mark.parametrize(
    ("batch", "micro_batch", "processes", "share"), [(16, None, 1, 16), (16, 4, 1, 4), (7, None, 2, 4), (16, 8, 4, 4)]
)
def test_clips_that_a_process_takes_at_a_time(batch: int, micro_batch: int | None, processes: int, share: int) -> None:
    train = tiny.TRAIN.model_copy(update={"batch": batch, "micro_batch": micro_batch})
    assert share_at_a_time(train, processes) == share


def test_a_trial_that_was_killed_for_memory_is_halved_from_outside_down_to_one(
    manifest: Manifest, tmp_path: Path
) -> None:
    trial = tiny.make_trial(manifest)
    assert [halve(trial, tmp_path), remembered_micro_batch(tmp_path)] == [
        "out of memory with micro-batch 6: going on with 3", 3,
    ]  # fmt: skip
    assert halve(trial, tmp_path) == "out of memory with micro-batch 3: going on with 1"
    assert halve(trial, tmp_path) is None
    assert remembered_micro_batch(tmp_path) == 1
    assert halve(dataclasses.replace(trial, train=None), tmp_path) is None


def test_only_the_micro_batch_changes(manifest: Manifest) -> None:
    trial = tiny.make_trial(manifest)
    assert with_micro_batch(trial, None) is trial
    changed = with_micro_batch(trial, 2)
    assert changed.train is not None
    assert changed.train.micro_batch == 2
    assert dataclasses.replace(changed, train=trial.train) == trial
