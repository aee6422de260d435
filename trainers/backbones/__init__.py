"""The networks that can be shrunk, and what the rest of the program needs to know about each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compression.spec import NetworkSpec, nearest
from configs.schema import NetworkSettings
from trainers.backbones.base import Backbone, FeatureStage, InputContract, Network, VideoNetwork
from trainers.backbones.quantised import IntegerNetwork, SimulatedNetwork
from trainers.backbones.r2plus1d import R2PLUS1D
from trainers.backbones.reid import REID, ImageContract
from trainers.backbones.slowfast import SLOWFAST

__all__ = [
    "BACKBONES",
    "Backbone",
    "FeatureStage",
    "ImageContract",
    "InputContract",
    "IntegerNetwork",
    "Network",
    "SimulatedNetwork",
    "VideoNetwork",
    "backbone",
    "build",
    "describe",
    "fast_order",
    "in_fast_order",
    "input_contract",
    "preset",
]

BACKBONES: dict[str, Backbone] = {"slowfast": SLOWFAST, "r2plus1d": R2PLUS1D, "reid": REID}

ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory format of a tensor of so many dimensions."""

PROBE = 1024
"""Frames and pixels of what strides are measured on; far above any stride, so that padding rounds away."""


def build(spec: NetworkSpec) -> Network:
    """The network that a spec describes, with random weights; without any inside `torch.device("meta")`.

    One that computes in integers is always on the CPU, and has values only once its state is loaded.

    Raises:
        ValueError: unknown backbone, or options, blocks that the backbone can't have; no such integer kernels here.
    """
    if spec.quantisation is None:
        return backbone(spec).network(spec)
    with torch.device("meta"):  # only its structure is looked at
        floating = backbone(spec).network(spec.floating)
    with torch.device("cpu"):
        return IntegerNetwork.empty(floating, spec)


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


def fast_order(network: nn.Module) -> nn.Module:
    """Put a network's weights into the order in memory in which convolutions run fastest, in place; returns it.

    Channels last: 1.2 to 1.5 times faster, on CPUs too, for inputs in the same order. Orders decide the order of sums,
    so every network is given this one, or equal trainings would differ in the last bit.
    """
    for parameter in network.parameters():
        parameter.data = in_fast_order(parameter.data)
    return network


def in_fast_order(tensor: Tensor) -> Tensor:
    """A tensor of inputs or weights in that order; those of other dimensions as they are."""
    order = ORDERS.get(tensor.dim())
    return tensor if order is None else tensor.contiguous(memory_format=order)


def describe(spec: NetworkSpec) -> tuple[FeatureStage, ...]:
    """The feature maps that a network offers to detectors, measured by a forward pass without data or weights.

    To an image network, an image is a clip of one frame.
    """
    probe = (3, *[PROBE] * len(spec.input_shape[1:]))
    with torch.device("meta"), torch.no_grad():
        maps = build(spec.floating).eval().features(torch.empty(1, *probe))
    return tuple(
        FeatureStage(
            name=name,
            channels=x.shape[1],
            temporal_stride=1 if spec.aspect else nearest(PROBE / x.shape[2]),
            spatial_stride=nearest(PROBE / x.shape[-1]),
        )
        for name, x in maps.items()
    )


def input_contract(spec: NetworkSpec) -> InputContract | ImageContract:
    """What a network must be fed, for users outside this program: clips, or images where the spec has an aspect."""
    row = backbone(spec)
    if spec.aspect is not None:
        _, height, width = spec.input_shape
        return ImageContract(height=height, width=width, mean=row.mean, std=row.std)
    return InputContract(
        fps=row.fps,
        frame_indices=spec.frame_indices(),
        frames=spec.frames,
        side=spec.input_side,
        mean=row.mean,
        std=row.std,
    )
