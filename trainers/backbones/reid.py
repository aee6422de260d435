"""ResNet-18 that embeds images for re-identification: images of one person or ball lie close, others far.

Module names are torchvision's, so that its published weights fit without renaming; equal weights give equal vectors.
The network ends with the pooled vector: what learns identities from it (`trainers/reid/heads.py`) is discarded after
training, and whoever compares vectors brings them to length 1 first.

Axes (named as in the annotations):  image: images in the batch,  channel, height, width.

Sources:
    [1] He et al. Deep Residual Learning for Image Recognition. arXiv:1512.03385 (Table 1).
    [2] torchvision.models.resnet18 (module names, strides).
    [3] E²TAD: persons at 2L × L pixels, balls at L × L, L = 64; all widths scaled alike (`specs/e2tad.md` 8.1, 8.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from compression.spec import NetworkSpec
from trainers.backbones.base import RGB, Backbone, Network, initialise

STEM = 64
"""Channels of the stem, and of the first stage, whose blocks add to it."""
STAGES = {"layer1": (64, 1), "layer2": (128, 2), "layer3": (256, 2), "layer4": (512, 2)}
"""Per stage: channels, and the stride of its first block."""
LAST_STRIDE = "last_stride"
"""The only option: another stride of layer4, 1 for a map of twice the height and width."""


@dataclass(frozen=True, kw_only=True)
class ImageContract:
    """How to make, from a picture, what the network was trained on."""

    height: int
    """Resize it to this height, in pixels, bicubic."""
    width: int
    """And to this width."""
    mean: RGB
    """Subtract it from RGB values in [0, 1]."""
    std: RGB
    """Then divide by it."""
    layout: str = "image channel height width"
    """Order of the tensor's axes."""


class Block(nn.Module):
    """Two 3×3 convolutions with a residual connection, projected by a 1×1 one where the stage changes the width."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, *, projected: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, middle, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(middle, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if projected:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "image _ _ _"]) -> Float[Tensor, "image _ _ _"]:
        """The stage's map, refined (and halved in height and width where the block has a stride)."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(inner)) + self.downsample(x))
        return out


class ReidNetwork(Network):
    """ResNet-18 without its classifier, from a spec; every width of the table goes through `spec.channels`.

    Raises:
        ValueError: the spec describes a network that is fed clips, or asks for what this one does not have.
    """

    stages = ("stem", *STAGES)

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        check_spec(spec)
        width = spec.channels(STEM, layer="conv1")
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        strides = {name: stride for name, (_, stride) in STAGES.items()}
        strides["layer4"] = int(spec.options.get(LAST_STRIDE, strides["layer4"]))
        for name, blocks in zip(STAGES, spec.stage_blocks, strict=True):
            self.add_module(name, make_stage(spec, name, width, strides[name], blocks))
            width = stream_width(spec, name)
        initialise(self, (block.bn2 for block in self.modules() if isinstance(block, Block)))

    @property
    def channels(self) -> int:
        """Length of the vectors, also of a network that has just lost filters."""
        width: int = self.get_submodule("layer4")[-1].bn2.num_features  # type: ignore[index]
        return width

    def features(self, inputs: Float[Tensor, "image 3 height width"]) -> dict[str, Tensor]:
        """Maps of the stem (after pooling) and the four stages by name, each [image, channel, height, width]."""
        maps = {"stem": self.maxpool(self.relu(self.bn1(self.conv1(inputs))))}
        x = maps["stem"]
        for name in STAGES:
            maps[name] = x = self.get_submodule(name)(x)
        return maps

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image channel"]:
        """Mean of the last map over height and width: the vectors that are compared, of any length."""
        pooled: Tensor = F.adaptive_avg_pool2d(self.features(images)["layer4"], 1).flatten(1)
        return pooled

    def stage_ends(self) -> dict[str, nn.Module]:
        """Last activation of each stage."""
        return {name: self.get_submodule(name)[-1].relu for name in STAGES}  # type: ignore[index]


def stream_width(spec: NetworkSpec, stage: str) -> int:
    """Channels of a stage's output.

    Its blocks' outputs are added to one another, so they lose the same filters in pruning, under the name of the
    first convolution among them: that of the stem for layer1, which adds to the stem's map.
    """
    first = "conv1" if stage == "layer1" else f"{stage}.0.conv2"
    return spec.channels(STAGES[stage][0], layer=first)


def make_stage(spec: NetworkSpec, stage: str, inputs: int, stride: int, blocks: int) -> nn.Sequential:
    """Residual blocks of one stage; `inputs` is the built width of the stage before."""
    outputs, projected = stream_width(spec, stage), stage != "layer1"
    made = nn.Sequential()
    for number in range(blocks):
        middle = spec.channels(STAGES[stage][0], layer=f"{stage}.{number}.conv1")
        made.append(Block(inputs, middle, outputs, stride, projected=projected))
        inputs, stride, projected = outputs, 1, False
    return made


def check_spec(spec: NetworkSpec) -> None:
    """Refuse what this network would ignore.

    Raises:
        ValueError: there is such a thing.
    """
    if spec.aspect is None:
        raise ValueError(
            f"{spec.backbone} is fed images, so it needs aspect, their height over their width (persons 2, balls 1)"
        )
    if spec.clip_frames != 1:
        raise ValueError(f"clip_frames is {spec.clip_frames}, but {spec.backbone} is fed single images; leave it out")
    if spec.dropout:
        raise ValueError(
            f"dropout is {spec.dropout:g}, but {spec.backbone} has no classifier; set reid.head_dropout instead"
        )
    if unknown := sorted(set(spec.options) - {LAST_STRIDE}):
        raise ValueError(f"options has {unknown[0]!r}, but {spec.backbone} only has {LAST_STRIDE!r}")
    if spec.options.get(LAST_STRIDE, 2) not in (1, 2):
        raise ValueError(f"options.{LAST_STRIDE} is {spec.options[LAST_STRIDE]:g}, but must be 1 or 2")


FULL = NetworkSpec(backbone="reid", classes=751, clip_frames=1, side=64, aspect=2.0, blocks=(2, 2, 2, 2))
TINY = FULL.replace(side=32, width=0.25)

REID = Backbone(
    network=ReidNetwork,
    task="reid",
    presets={"full": FULL, "tiny": TINY},
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    published_key=lambda key: key,
)
