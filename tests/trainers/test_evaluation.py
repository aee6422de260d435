"""Multi-clip accuracy against a slow reference, by hand, and with a video that does not decode."""

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch

from compression.spec import Factors
from configs.schema import ClipSettings
from tests.trainers import tiny
from trainers.backbones import BACKBONES, VideoNetwork
from trainers.data.decode import decode_frames
from trainers.data.manifest import Manifest
from trainers.data.quarantine import Quarantine
from trainers.evaluation import accuracy_of, video_probabilities

CLIPS = ClipSettings(resize=tiny.SIDE + 2, test=3)
"""Frames of 18 × 20 are left as they are."""


def reference(network: VideoNetwork, manifest: Manifest, starts: tuple[int, ...]) -> torch.Tensor:
    """Clip by clip, with plain slicing; frames 0 and 2 of a clip, 16 × 16 pixels from its centre."""
    row = BACKBONES[network.spec.backbone]
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (row.mean, row.std))
    averages = []
    for video in manifest.val:
        softmaxes = []
        for start in starts:
            frames = torch.from_numpy(decode_frames(manifest.root / video.path, [start, start + 2]))
            clip = frames[:, 1:17, 2:18].permute(3, 0, 1, 2) / 255
            softmaxes.append(network(((clip - mean) / std)[None]).softmax(-1))
        averages.append(torch.cat(softmaxes).double().mean(0))
    return torch.stack(averages)


@torch.no_grad()
@pytest.mark.parametrize("backbone", tiny.SPECS)
@pytest.mark.parametrize(("clips_per_video", "starts"), [(None, (0, 2, 4)), (1, (2,))])
def test_softmax_is_averaged_over_clips(
    manifest: Manifest, backbone: str, clips_per_video: int | None, starts: tuple[int, ...]
) -> None:
    """Videos of 12 frames, clips of 8 raw ones: the last start is 4."""
    network = tiny.random_network(tiny.SPECS[backbone].replace(factors=Factors(t=2.0, f=2.0))).train()
    probabilities, labels = video_probabilities(network, manifest, CLIPS, clips_per_video=clips_per_video)
    assert not network.training
    torch.testing.assert_close(probabilities, reference(network, manifest, starts), rtol=1e-5, atol=1e-6)
    assert labels.tolist() == [video.label for video in manifest.val]


def test_a_video_that_does_not_decode_is_left_out_and_noted(manifest: Manifest, tmp_path: Path) -> None:
    network = tiny.random_network(tiny.SPEC)
    whole, labels = video_probabilities(network, manifest, CLIPS)
    shutil.copytree(manifest.root, tmp_path / "videos")
    (tmp_path / "videos" / manifest.val[2].path).write_bytes(b"no video")
    damaged = dataclasses.replace(manifest, root=tmp_path / "videos")
    quarantine = Quarantine(len(damaged.train) + len(damaged.val), 0.1)
    probabilities, left = video_probabilities(network, damaged, CLIPS, quarantine=quarantine)
    kept = torch.arange(len(labels)) != 2
    torch.testing.assert_close(probabilities, whole[kept], rtol=1e-5, atol=1e-6)
    assert torch.equal(left, labels[kept])
    assert [path for path, _ in quarantine.items()] == [manifest.val[2].path]


def test_top1_and_top5_by_hand() -> None:
    """The label has rank 1, 5 and 6 of 6."""
    ranked = torch.tensor([0.3, 0.25, 0.2, 0.12, 0.08, 0.05], dtype=torch.float64)
    accuracy = accuracy_of(ranked.repeat(3, 1), torch.tensor([0, 4, 5]))
    assert accuracy.top1 == pytest.approx(1 / 3)
    assert accuracy.top5 == pytest.approx(2 / 3)
    assert accuracy.finite


def test_top5_of_fewer_than_five_classes_is_always_right() -> None:
    probabilities = torch.eye(3, dtype=torch.float64)
    accuracy = accuracy_of(probabilities, torch.tensor([1, 2, 2]))
    assert accuracy.top1 == pytest.approx(1 / 3)
    assert accuracy.top5 == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_output_that_is_no_number_is_seen(value: float) -> None:
    probabilities = torch.eye(3, dtype=torch.float64)
    probabilities[1, 1] = value
    assert not accuracy_of(probabilities, torch.tensor([0, 1, 2])).finite
