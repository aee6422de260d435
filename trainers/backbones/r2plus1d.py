"""R(2+1)D-18: a residual network whose 3D convolutions are factorised into space and time.

Module names are torchvision's, so that its published weights fit without renaming; equal weights give equal logits.

Sources:
    [1] Tran et al. A closer look at spatiotemporal convolutions for action recognition. arXiv:1711.11248.
    [2] torchvision.models.video.r2plus1d_18 (module names, factorised widths per block, strides).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from compression.spec import NetworkSpec
from trainers.backbones.base import Backbone, VideoNetwork, initialise

STEM = (45, 64)
"""Channels of the stem's spatial and temporal convolution."""
STAGES = {"layer1": (64, 1), "layer2": (128, 2), "layer3": (256, 2), "layer4": (512, 2)}
"""Per stage: channels, and the stride of its first block in time and space."""
STREAMS = {
    "stem": "stem.3",
    "layer1": "stem.3",
    "layer2": "layer2.0.conv2.0.3",
    "layer3": "layer3.0.conv2.0.3",
    "layer4": "layer4.0.conv2.0.3",
}
"""The convolution that stands, in a pruned network's spec, for all those whose outputs are added in a stage: its first.
The blocks of layer1 add to the stem's output, those of the other stages to a projection."""


def middle_channels(inputs: int, outputs: int) -> int:
    """Width M between the two factors that gives them the parameters of one 3×3×3 convolution ([1], sec. 3.5).

    M = ⌊27 · N_in · N_out / (9 · N_in + 3 · N_out)⌋
    """
    return (27 * inputs * outputs) // (9 * inputs + 3 * outputs)


@dataclass(frozen=True)
class BlockWidths:
    """Channels of one residual block; pruning may leave each convolution another number."""

    inputs: int
    """Of the map that it is given."""
    middle1: int
    """Between the factors of its first convolution."""
    between: int
    """Between its two convolutions."""
    middle2: int
    """Between the factors of its second convolution."""
    outputs: int
    """Of the map that it gives."""


def factorised(inputs: int, middle: int, outputs: int, stride: int) -> nn.Sequential:
    """A 1×3² convolution over space, then a 3×1² one over time."""
    return nn.Sequential(
        nn.Conv3d(inputs, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, outputs, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


class Block(nn.Module):
    """Two factorised convolutions with a residual connection; unpruned, both have one middle width, as in [2]."""

    def __init__(self, widths: BlockWidths, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            factorised(widths.inputs, widths.middle1, widths.between, stride),
            nn.BatchNorm3d(widths.between),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            factorised(widths.between, widths.middle2, widths.outputs, 1), nn.BatchNorm3d(widths.outputs)
        )
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv3d(widths.inputs, widths.outputs, 1, stride, bias=False), nn.BatchNorm3d(widths.outputs)
            )

    def forward(self, x: Float[Tensor, "clip _ _ _ _"]) -> Float[Tensor, "clip _ _ _ _"]:
        """The stage's map, refined (and halved in time and space where the block has a stride)."""
        out: Tensor = self.relu(self.conv2(self.conv1(x)) + self.downsample(x))
        return out


class R2Plus1D(VideoNetwork):
    """R(2+1)D-18 from a spec; every width of the table goes through `spec.channels`."""

    stages = ("stem", *STAGES)
    pooled = ("layer4",)

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec, pooled_channels=spec.channels(STAGES["layer4"][0], STREAMS["layer4"]))
        middle, outputs = spec.channels(STEM[0], "stem.0"), spec.channels(STEM[1], STREAMS["stem"])
        self.stem = nn.Sequential(
            nn.Conv3d(3, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, outputs, (3, 1, 1), 1, (1, 0, 0), bias=False),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
        )
        before = "stem"
        for name, blocks in zip(STAGES, spec.stage_blocks, strict=True):
            self.add_module(name, make_stage(spec, before, name, blocks))
            before = name
        initialise(self, (block.conv2[-1] for block in self.modules() if isinstance(block, Block)))

    def features(self, inputs: Float[Tensor, "clip 3 frame height width"]) -> dict[str, Tensor]:
        """Maps of the stem and the four stages, by torchvision's names."""
        maps: dict[str, Tensor] = {}
        x: Tensor = inputs
        for name in self.stages:
            maps[name] = x = self.get_submodule(name)(x)
        return maps

    def stage_ends(self) -> dict[str, nn.Module]:
        """Last activation of each stage."""
        return {name: self.get_submodule(name)[-1].relu for name in STAGES}  # type: ignore[index]


def make_stage(spec: NetworkSpec, before: str, name: str, blocks: int) -> nn.Sequential:
    """Residual blocks of one stage, which is given the output of the stage `before`."""
    stage = nn.Sequential()
    outputs, stride = STAGES[name]
    inputs = STEM[1] if before == "stem" else STAGES[before][0]
    for number in range(blocks):
        middle, block = middle_channels(inputs, outputs), f"{name}.{number}"
        widths = BlockWidths(
            inputs=spec.channels(inputs, STREAMS[before]),
            middle1=spec.channels(middle, f"{block}.conv1.0.0"),
            between=spec.channels(outputs, f"{block}.conv1.0.3"),
            middle2=spec.channels(middle, f"{block}.conv2.0.0"),
            outputs=spec.channels(outputs, STREAMS[name]),
        )
        stage.append(Block(widths, stride))
        inputs, before, stride = outputs, name, 1
    return stage


FULL = NetworkSpec(backbone="r2plus1d", classes=400, clip_frames=16, side=112, blocks=(2, 2, 2, 2))
TINY = FULL.replace(side=36, width=0.125)

R2PLUS1D = Backbone(
    network=R2Plus1D,
    presets={"full": FULL, "tiny": TINY},
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
    published_key=lambda key: key,
)
