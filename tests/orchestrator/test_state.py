"""What a run says of its networks and its data, for videos and for images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compression.cost import Cost
from compression.spec import Factors, NetworkSpec
from configs.schema import ClipSettings, ReidSettings, RunSettings
from orchestrator.state import data_state, trial_state
from trainers.data.identities import Crop, IdentityManifest
from trainers.data.manifest import Manifest, Video
from trainers.trial import Trial, TrialResult

CLIPS = NetworkSpec(backbone="slowfast", classes=8, clip_frames=8, side=16, blocks=(1, 1, 1, 1))
IMAGES = NetworkSpec(backbone="reid", classes=8, clip_frames=1, side=16, blocks=(1, 1, 1, 1), aspect=2.0)
COST = Cost(macs=2_000_000, params=100)


def trial_of(network: NetworkSpec) -> Trial:
    kind: dict[str, Any] = {"clips": ClipSettings()} if network.aspect is None else {"reid": ReidSettings()}
    return Trial(name="a", network=network, data="d", train=None, seed=0, **kind)


def result_of(trial: Trial, **scores: float) -> TrialResult:
    return TrialResult(trial=trial.digest, name="a", status="finished", **scores)  # type: ignore[arg-type]


def test_a_network_of_clips_has_frames_and_no_map() -> None:
    trial = trial_of(CLIPS.replace(factors=Factors(s=2.0, f=4.0)))
    row = trial_state(trial, COST, result_of(trial, top1=0.5, top5=0.75))
    assert {key: row[key] for key in ("top1", "top5", "map")} == {"top1": 0.5, "top5": 0.75, "map": None}
    assert [row[key] for key in ("frames", "side", "height", "width")] == [2, 8, 8, 8]


def test_a_network_of_images_has_a_height_and_no_frames() -> None:
    trial = trial_of(IMAGES.replace(factors=Factors(s=1.4)))
    row = trial_state(trial, COST, result_of(trial, top1=0.5, top5=0.75, map=0.25))
    assert {key: row[key] for key in ("top1", "top5", "map")} == {"top1": 0.5, "top5": 0.75, "map": 0.25}
    assert [row[key] for key in ("frames", "side", "height", "width")] == [None, 11, 23, 11]


@pytest.mark.parametrize("network", [CLIPS, IMAGES], ids=["clips", "images"])
def test_no_accuracy_is_known_before_the_result(network: NetworkSpec) -> None:
    row = trial_state(trial_of(network), COST, None)
    assert (row["status"], row["top1"], row["top5"], row["map"]) == ("pending", None, None, None)


def test_data_of_videos_and_of_identities_are_counted_by_what_they_are_for() -> None:
    common: dict[str, Any] = {
        "root": Path("data"),
        "classes": ("a",),
        "quarantined": (("bad", "is empty"),),
        "fingerprint": "f",
    }
    video, crop = Video("v", 0, 8, 30.0), Crop("p", 0, 1)
    videos = Manifest(source="csv", train=(video,) * 3, val=(video,), **common)
    images = IdentityManifest(source="market1501", train=(crop,) * 4, query=(crop,) * 2, gallery=(crop,) * 5, **common)
    sizes = {"train_videos", "val_videos", "train_images", "queries", "gallery_images"}
    one, other = (data_state(RunSettings(), manifest) for manifest in (videos, images))
    assert {key: one[key] for key in sizes & one.keys()} == {"train_videos": 3, "val_videos": 1}
    assert {key: other[key] for key in sizes & other.keys()} == {"train_images": 4, "queries": 2, "gallery_images": 5}
    assert one["quarantined"] == other["quarantined"] == [{"path": "bad", "reason": "is empty"}]
