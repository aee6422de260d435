"""Accuracy on the validation videos: several clips per video, softmax averaged (the source's multi-clip test)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_stat_scores

from configs.schema import ClipSettings
from trainers.backbones import BACKBONES, Network
from trainers.data.cache import FrameCache
from trainers.data.clips import test_batches
from trainers.data.manifest import Manifest
from trainers.data.quarantine import Quarantine
from trainers.data.transforms import normalise
from trainers.distributed import World

EVALUATION_BATCH = 32
"""Clips per forward pass; a constant, so that every evaluation of a network sums in the same order."""


@dataclass(frozen=True)
class Accuracy:
    """Fractions of the validation videos."""

    top1: float
    top5: float
    """Top-5, or top-k with k = classes where there are fewer than 5."""
    finite: bool
    """Whether every output was a finite number; if not, the accuracies mean nothing."""


@torch.no_grad()
def video_probabilities(
    network: Network,
    manifest: Manifest,
    clips: ClipSettings,
    *,
    clips_per_video: int | None = None,
    device: torch.device | str = "cpu",
    world: World | None = None,
    loader_workers: int = 0,
    cache: FrameCache | None = None,
    quarantine: Quarantine | None = None,
) -> tuple[Tensor, Tensor]:
    """Averaged class probabilities of every validation video.

    Args:
        network: in any mode; it is left in evaluation mode.
        manifest: the data.
        clips: how clips are cut; `clips.test` clips per video unless `clips_per_video` says otherwise.
        clips_per_video: fewer clips, for a quick look.
        device: where the network is.
        world: processes that share the work.
        loader_workers: decoding processes; 0 decodes ahead in a thread.
        cache: decoded frames kept in memory.
        quarantine: takes the videos that can't be decoded; they are left out.

    Returns:
        Probabilities [video, label] and labels [video], of the videos that could be decoded.
    """
    world = world or World()
    backbone = BACKBONES[network.spec.backbone]
    network.eval()
    sums = torch.zeros(len(manifest.val), network.spec.classes, dtype=torch.float64, device=device)
    counts = torch.zeros(len(manifest.val), dtype=torch.float64, device=device)
    batches = test_batches(
        manifest,
        clips,
        network.spec,
        batch=EVALUATION_BATCH,
        clips_per_video=clips_per_video,
        rank=world.rank,
        world=world.size,
        loader_workers=loader_workers,
        cache=cache,
        quarantine=quarantine,
    )
    for images, videos, _ in batches:
        inputs = normalise(images.to(device), backbone.mean, backbone.std)
        probabilities = network(inputs).double().softmax(-1)
        sums.index_add_(0, videos.to(device), probabilities)
        counts.index_add_(0, videos.to(device), torch.ones(len(videos), dtype=torch.float64, device=device))
    world.sum(sums)
    world.sum(counts)
    seen = counts > 0
    labels = torch.tensor([video.label for video in manifest.val], device=device)
    return sums[seen] / counts[seen, None], labels[seen]


def accuracy_of(probabilities: Tensor, labels: Tensor) -> Accuracy:
    """Top-1 and top-5 over videos.

    Args:
        probabilities: [video, label].
        labels: [video], the true classes.
    """
    classes = probabilities.shape[1]

    def top(k: int) -> float:
        scores = multiclass_stat_scores(probabilities, labels, num_classes=classes, average="micro", top_k=k)
        return int(scores[0]) / len(labels)  # true positives over videos; torchmetrics' own ratio is in float32

    return Accuracy(top(1), top(min(5, classes)), bool(torch.isfinite(probabilities).all()))
