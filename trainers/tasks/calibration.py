"""Inputs on which the ranges of a network's activations are measured before it computes in integers.

Training examples, spread evenly over the set and fed as in evaluation: the same ones every time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch import Tensor

from trainers.backbones import BACKBONES
from trainers.data.clips import test_batches
from trainers.data.crops import evaluation_batches, normalise_images
from trainers.data.identities import IdentityManifest
from trainers.data.manifest import Manifest
from trainers.data.quarantine import Quarantine
from trainers.data.transforms import normalise
from trainers.package import Description
from trainers.tasks.base import DataManifest

BATCH = 32
"""Inputs at a time; a constant, so that ranges are always measured in the same order."""

Example = TypeVar("Example")


def calibration_clips(description: Description, manifest: DataManifest, examples: int) -> Iterator[Tensor]:
    """Clips of training videos.

    Args:
        description: the network, and how its clips are cut.
        manifest: the videos.
        examples: clips wanted; a video gives several only where there are fewer videos. Unreadable ones are left out.

    Yields:
        Normalised clips [clip, 3, frame, height, width] on the CPU, at most `BATCH`.
    """
    assert isinstance(manifest, Manifest)
    assert description.clips is not None
    backbone = BACKBONES[description.spec.backbone]
    videos = spread(manifest.train, examples)
    batches = test_batches(
        dataclasses.replace(manifest, val=videos),
        description.clips,
        description.spec,
        batch=BATCH,
        clips_per_video=math.ceil(examples / len(videos)),
        quarantine=Quarantine(len(videos), 1.0),
    )
    for batch in batches:
        yield normalise(batch.clips, backbone.mean, backbone.std)


def calibration_images(description: Description, manifest: DataManifest, examples: int) -> Iterator[Tensor]:
    """Training images of a network that re-identifies.

    Args:
        description: the network.
        manifest: the images.
        examples: images wanted. Unreadable ones are left out.

    Yields:
        Normalised images [image, 3, height, width] on the CPU, at most `BATCH`.
    """
    assert isinstance(manifest, IdentityManifest)
    backbone = BACKBONES[description.spec.backbone]
    crops = spread(manifest.train, examples)
    quarantine = Quarantine(len(crops), 1.0)
    for batch in evaluation_batches(manifest.root, crops, description.spec, batch=BATCH, quarantine=quarantine):
        yield normalise_images(batch.images, backbone.mean, backbone.std)


def spread(items: Sequence[Example], wanted: int) -> tuple[Example, ...]:
    """So many items at equal distances; all of them where there are fewer."""
    count = min(wanted, len(items))
    return tuple(items[index * len(items) // count] for index in range(count))
