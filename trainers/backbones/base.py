"""What every video network offers: logits for training, named feature maps and an input contract for detectors.

Axes (named as in the annotations):  clip: clips in the batch,  frame, height, width: of the reduced raw clip,
label: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from compression.spec import NetworkSpec

RGB = tuple[float, float, float]


class Network(nn.Module):
    """Base of all networks: built from a spec, and offering named feature maps.

    A backbone defines `stages`, `features`, `stage_ends` and what `forward` makes of the features.
    """

    stages: tuple[str, ...]
    """Names of all stage outputs, in the order in which they are computed."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        if len(spec.blocks) != 4:
            raise ValueError(f"blocks is {spec.blocks}, but {spec.backbone} has 4 stages; give 4 numbers")
        self.spec = spec

    @property
    def device(self) -> torch.device:
        """Where it computes: where its parameters are; without any (it computes in integers), on the CPU."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """Output of every stage by name, in the order of `stages`."""
        raise NotImplementedError

    def stage_ends(self) -> dict[str, nn.Module]:
        """The last activation of each residual stage's output, by stage name; its input is the pre-activation map."""
        raise NotImplementedError


class VideoNetwork(Network):
    """Base of the video classifiers: a fully convolutional trunk, global average pooling, dropout, a linear classifier.

    A backbone defines `stages`, `pooled`, `features` and `stage_ends`. The input is always the reduced raw clip,
    normalised with the backbone's mean and standard deviation; a network of several paths samples frames itself.

    Raises:
        ValueError: the spec does not have four stages.
    """

    pooled: tuple[str, ...]
    """The last stage's outputs, from which the classifier decides."""

    def __init__(self, spec: NetworkSpec, *, pooled_channels: int) -> None:
        super().__init__(spec)
        if spec.aspect is not None:
            raise ValueError(
                f"aspect is {spec.aspect:g}, but {spec.backbone} is fed clips of square frames; leave it out"
            )
        self.dropout = nn.Dropout(spec.dropout)
        self.fc = nn.Linear(pooled_channels, spec.classes)

    def features(self, inputs: Float[Tensor, "clip 3 frame height width"]) -> dict[str, Tensor]:
        """Output of every stage by name, in the order of `stages`; each is [clip, channel, frame, height, width]."""
        raise NotImplementedError

    def head(self, features: dict[str, Tensor]) -> Float[Tensor, "clip label"]:
        """Logits from the last stage's feature maps."""
        pooled = torch.cat([F.adaptive_avg_pool3d(features[name], 1) for name in self.pooled], 1).flatten(1)
        logits: Tensor = self.fc(self.dropout(pooled))
        return logits

    def forward(self, clips: Float[Tensor, "clip 3 frame height width"]) -> Float[Tensor, "clip label"]:
        """Logits of normalised clips."""
        return self.head(self.features(clips))


def initialise(network: nn.Module, last_norms: Iterable[nn.Module]) -> None:
    """He's initialisation by fan-out, a classifier close to zero, and residual blocks that start as identities.

    Args:
        network: the network.
        last_norms: the last batch norm of every residual block; its scale starts at zero, as in the SlowFast recipe
            (Goyal et al., arXiv:1706.02677). Without it tiny SlowFast did not learn the embedded data in 12 epochs.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return  # there is nothing to draw, but a draw on that device would import torch._dynamo, which takes seconds
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    for norm in last_norms:
        assert isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d)
        nn.init.zeros_(norm.weight)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One row of `BACKBONES`."""

    network: Callable[[NetworkSpec], Network]
    """Builds the network with random weights."""
    task: Literal["classification", "reid"] = "classification"
    """Key of `trainers.tasks.TASKS`: what it is trained for."""
    presets: Mapping[str, NetworkSpec]
    """`full`: the paper's network; `tiny`: the same topology for CPUs."""
    mean: RGB
    """Mean of each colour channel, for pixels in [0, 1]."""
    std: RGB
    """Standard deviation likewise."""
    published_key: Callable[[str], str]
    """The name that the published weights give to an entry of our state dict."""
    fps: float = 30.0
    """Nominal frame rate of the raw video, in frames per second."""


@dataclass(frozen=True, kw_only=True)
class FeatureStage:
    """A feature map that a detector can be attached to."""

    name: str
    """Key in the result of `VideoNetwork.features`."""
    channels: int
    """Number of channels."""
    temporal_stride: int
    """Frames of the reduced raw clip per frame of the map."""
    spatial_stride: int
    """Pixels of the reduced raw clip per cell of the map, in both directions."""


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """How to make, from a video, what the network was trained on."""

    fps: float
    """Resample the video to this frame rate, in frames per second."""
    frame_indices: tuple[int, ...]
    """Then take these frames, counted from the clip's first."""
    frames: int
    """Their number."""
    side: int
    """Resize and crop each to this height and width, in pixels."""
    mean: RGB
    """Subtract it from RGB values in [0, 1]."""
    std: RGB
    """Then divide by it."""
    layout: str = "clip channel frame height width"
    """Order of the tensor's axes."""
