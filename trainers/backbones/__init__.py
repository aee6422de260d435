"""The video networks that can be shrunk, and what the rest of the program needs to know about each."""

from __future__ import annotations

import torch

from compression.spec import NetworkSpec, nearest
from configs.schema import NetworkSettings
from trainers.backbones.base import Backbone, FeatureStage, InputContract, VideoNetwork
from trainers.backbones.r2plus1d import R2PLUS1D
from trainers.backbones.slowfast import SLOWFAST

__all__ = [
    "BACKBONES",
    "Backbone",
    "FeatureStage",
    "InputContract",
    "VideoNetwork",
    "backbone",
    "build",
    "describe",
    "input_contract",
    "preset",
]

BACKBONES: dict[str, Backbone] = {"slowfast": SLOWFAST, "r2plus1d": R2PLUS1D}

PROBE = 1024
"""Frames and pixels of the clip on which strides are measured; far above any stride, so that padding rounds away."""


def build(spec: NetworkSpec) -> VideoNetwork:
    """The network that a spec describes, with random weights; without any inside `torch.device("meta")`.

    Raises:
        ValueError: unknown backbone, or options, blocks that the backbone can't have.
    """
    return backbone(spec).network(spec)


def backbone(spec: NetworkSpec) -> Backbone:
    """The row of `BACKBONES` that a spec belongs to.

    Raises:
        ValueError: there is none.
    """
    if spec.backbone not in BACKBONES:
        raise ValueError(f"backbone is {spec.backbone!r}, but must be one of {', '.join(BACKBONES)}")
    return BACKBONES[spec.backbone]


def preset(settings: NetworkSettings, classes: int) -> NetworkSpec:
    """The unreduced network that the settings ask for: a preset, with the fields that are given in its place."""
    given = settings.model_dump(exclude={"backbone", "preset"}, exclude_none=True)
    return BACKBONES[settings.backbone].presets[settings.preset].replace(classes=classes, **given)


def describe(spec: NetworkSpec) -> tuple[FeatureStage, ...]:
    """The feature maps that a network offers to detectors, measured by a forward pass without data or weights."""
    with torch.device("meta"), torch.no_grad():
        maps = build(spec).eval().features(torch.empty(1, 3, PROBE, PROBE, PROBE))
    return tuple(
        FeatureStage(
            name=name,
            channels=x.shape[1],
            temporal_stride=nearest(PROBE / x.shape[2]),
            spatial_stride=nearest(PROBE / x.shape[3]),
        )
        for name, x in maps.items()
    )


def input_contract(spec: NetworkSpec) -> InputContract:
    """What a network must be fed, for users outside this program."""
    row = backbone(spec)
    return InputContract(
        fps=row.fps,
        frame_indices=spec.frame_indices(),
        frames=spec.frames,
        side=spec.input_side,
        mean=row.mean,
        std=row.std,
    )
