"""SlowFast-4×16-R50: a wide path sees few frames, a narrow path sees many and informs the wide one.

Sources:
    [1] Feichtenhofer et al. SlowFast networks for video recognition. ICCV 2019, arXiv:1812.03982; Table 1.
    [2] Deep video understanding … (PhD thesis), Table 6.10 (layers and the reductions' effect on them).
    [3] PyTorchVideo, models/slowfast.py and models/resnet.py (names in the published weights).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, fields
from itertools import chain

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from compression.spec import NetworkSpec, nearest
from trainers.backbones.base import Backbone, VideoNetwork, initialise

STEM_CHANNELS = 64
STAGES = {"res2": (64, 1, 1), "res3": (128, 1, 2), "res4": (256, 3, 2), "res5": (512, 3, 2)}
"""Per stage of the slow path: inner channels, temporal kernel of a block's first convolution, spatial stride."""
EXPANSION = 4
"""A block's output channels per inner channel."""
FAST_TEMPORAL_KERNEL = 3
"""That convolution's temporal kernel in the fast path, in every stage."""
PATHS = {"slow": 0, "fast": 1}
"""The paths' numbers in [3]."""
LATERAL_WIDTH = 2
"""Channels that a lateral connection adds to the slow path, per channel of the fast path."""

Map = Float[Tensor, "clip _ _ _ _"]


@dataclass(frozen=True)
class PathOptions:
    """How the two paths differ; the fields are the keys of `NetworkSpec.options`."""

    slow_stride: int
    """The slow path takes every n-th frame of the reduced raw clip."""
    fast_stride: int
    """The fast path likewise; divides `slow_stride`."""
    fast_width: float
    """Channels of the fast path per channel of the slow one, in (0, 1] (β in [1])."""

    def fast(self, channels: int) -> int:
        """The fast path's channels where the slow path's table says `channels`; neither is reduced."""
        return nearest(channels * self.fast_width)

    @property
    def speed_ratio(self) -> int:
        """Frames of the fast path per frame of the slow one (α in [1])."""
        return self.slow_stride // self.fast_stride


def read_options(spec: NetworkSpec) -> PathOptions:
    """A spec's options, checked.

    Raises:
        ValueError: unknown or missing keys, or values that no pair of paths can have.
    """
    expected = [field.name for field in fields(PathOptions)]
    if spec.options.keys() != set(expected):
        raise ValueError(f"options has the keys {list(spec.options)}, but slowfast needs {expected}")
    slow, fast, width = (spec.options[name] for name in expected)
    if fast < 1 or fast % 1 or slow < fast or slow % fast:
        raise ValueError(
            f"options.slow_stride is {slow:g} and options.fast_stride is {fast:g}, "
            "but both must be whole numbers >= 1, and the slow one a multiple of the fast one"
        )
    if not 0 < width <= 1:
        raise ValueError(f"options.fast_width is {width:g}, but must be in (0, 1]")
    return PathOptions(int(slow), int(fast), width)


def conv_norm(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)
) -> nn.Sequential:
    """A convolution padded to keep the size (before its stride), then batch norm."""
    time, height, width = kernel
    conv = nn.Conv3d(inputs, outputs, kernel, stride, (time // 2, height // 2, width // 2), bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm3d(outputs)))


def stem(outputs: int, temporal_kernel: int) -> nn.Sequential:
    """conv1 and pool1 of one path."""
    layers = conv_norm(3, outputs, (temporal_kernel, 7, 7), (1, 2, 2))
    layers.add_module("relu", nn.ReLU(inplace=True))
    layers.add_module("pool", nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
    return layers


class Bottleneck(nn.Module):
    """1×1² or 3×1², 1×3², 1×1² with a residual connection; a projection in the first block of a stage."""

    def __init__(
        self, inputs: int, inner: tuple[int, int], outputs: int, *, temporal_kernel: int, stride: int, project: bool
    ) -> None:
        super().__init__()
        first, second = inner
        self.a = conv_norm(inputs, first, (temporal_kernel, 1, 1))
        self.b = conv_norm(first, second, (1, 3, 3), (1, stride, stride))
        self.c = conv_norm(second, outputs, (1, 1, 1))
        self.shortcut = conv_norm(inputs, outputs, (1, 1, 1), (1, stride, stride)) if project else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Map) -> Map:
        """The path's map, refined (and halved in space where the block has a stride)."""
        out: Map = self.relu(self.c(F.relu(self.b(F.relu(self.a(x))))) + self.shortcut(x))
        return out


def path(
    spec: NetworkSpec,
    name: str,
    inputs: int,
    inner: int,
    outputs: int,
    *,
    temporal_kernel: int,
    stride: int,
    blocks: int,
) -> nn.Sequential:
    """Residual blocks of one path in one stage.

    Args:
        spec: the network.
        name: of the blocks' module.
        inputs: channels that the first block is given.
        inner: a block's inner channels in the path's table, not reduced.
        outputs: a block's output channels, likewise.
        temporal_kernel: of each block's first convolution.
        stride: of the first block, in space.
        blocks: their number.
    """
    layers = nn.Sequential()
    width = spec.channels(outputs, stream(name))
    for number in range(blocks):
        layers.append(
            Bottleneck(
                inputs,
                (spec.channels(inner, f"{name}.{number}.a.conv"), spec.channels(inner, f"{name}.{number}.b.conv")),
                width,
                temporal_kernel=temporal_kernel,
                stride=stride,
                project=number == 0,
            )
        )
        inputs, stride = width, 1
    return layers


def stream(name: str) -> str:
    """The convolution that stands, in a pruned network's spec, for a map: the first of those that are added up in it.

    Args:
        name: of the map, as in `SlowFast.stages`.
    """
    return f"{name}.conv" if name.startswith("stem") else f"{name}.0.c.conv"


class Stage(nn.Module):
    """The lateral connection into a stage, then the residual blocks of both paths."""

    def __init__(self, lateral: nn.Sequential, slow: nn.Sequential, fast: nn.Sequential) -> None:
        super().__init__()
        self.lateral = lateral
        self.slow = slow
        self.fast = fast

    def forward(self, slow: Map, fast: Map) -> tuple[Map, Map]:
        """Maps of both paths after this stage, from those before it."""
        fused = torch.cat([slow, F.relu(self.lateral(fast))], 1)
        return self.slow(fused), self.fast(fast)


class SlowFast(VideoNetwork):
    """SlowFast from a spec; every width of the table goes through `spec.channels`."""

    stages = tuple(chain.from_iterable((f"{name}.slow", f"{name}.fast") for name in ("stem", *STAGES)))
    pooled = ("res5.slow", "res5.fast")

    def __init__(self, spec: NetworkSpec) -> None:
        paths = read_options(spec)
        last = EXPANSION * STAGES["res5"][0]
        pooled = spec.channels(last, stream("res5.slow")) + spec.channels(paths.fast(last), stream("res5.fast"))
        super().__init__(spec, pooled_channels=pooled)
        self.paths = paths
        slow = spec.channels(STEM_CHANNELS, stream("stem.slow"))
        fast = spec.channels(paths.fast(STEM_CHANNELS), stream("stem.fast"))
        self.stem = nn.ModuleDict({"slow": stem(slow, temporal_kernel=1), "fast": stem(fast, temporal_kernel=5)})
        before = "stem"
        for name, blocks in zip(STAGES, spec.stage_blocks, strict=True):
            self.add_module(name, make_stage(spec, paths, before, name, blocks))
            before = name
        initialise(self, (block.c.get_submodule("norm") for block in self.modules() if isinstance(block, Bottleneck)))

    def features(self, inputs: Float[Tensor, "clip 3 frame height width"]) -> dict[str, Tensor]:
        """Maps of both paths after pool1 and the four stages: `stem.slow`, `stem.fast`, `res2.slow` …"""
        slow = self.stem["slow"](inputs[:, :, :: self.paths.slow_stride])
        fast = self.stem["fast"](inputs[:, :, :: self.paths.fast_stride])
        maps = {"stem.slow": slow, "stem.fast": fast}
        for name in STAGES:
            slow, fast = self.get_submodule(name)(slow, fast)
            maps |= {f"{name}.slow": slow, f"{name}.fast": fast}
        return maps

    def stage_ends(self) -> dict[str, nn.Module]:
        """Last activation of each stage in each path."""
        paths = {f"{name}.{path}": self.get_submodule(f"{name}.{path}") for name in STAGES for path in PATHS}
        return {name: blocks[-1].relu for name, blocks in paths.items()}  # type: ignore[index]


def make_stage(spec: NetworkSpec, paths: PathOptions, before: str, name: str, blocks: int) -> Stage:
    """One stage, which is given the outputs of the stage `before`."""
    base = STEM_CHANNELS if before == "stem" else EXPANSION * STAGES[before][0]
    inner, slow_kernel, stride = STAGES[name]
    outputs = EXPANSION * inner
    slow, fast = (
        spec.channels(base, stream(f"{before}.slow")),
        spec.channels(paths.fast(base), stream(f"{before}.fast")),
    )
    added = spec.channels(LATERAL_WIDTH * paths.fast(base), f"{name}.lateral.conv")
    return Stage(
        lateral=conv_norm(fast, added, (5, 1, 1), (paths.speed_ratio, 1, 1)),
        slow=path(
            spec,
            f"{name}.slow",
            slow + added,
            inner,
            outputs,
            temporal_kernel=slow_kernel,
            stride=stride,
            blocks=blocks,
        ),
        fast=path(
            spec,
            f"{name}.fast",
            fast,
            paths.fast(inner),
            paths.fast(outputs),
            temporal_kernel=FAST_TEMPORAL_KERNEL,
            stride=stride,
            blocks=blocks,
        ),
    )


def published_key(key: str) -> str:
    """PyTorchVideo's name of an entry of our state dict ([3]).

    Its `blocks` 0 to 4 are the stem and res2 to res5, and a lateral connection belongs to the block it leaves.
    """
    if match := re.fullmatch(r"stem\.(slow|fast)\.(.+)", key):
        return f"blocks.0.multipathway_blocks.{PATHS[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"res(\d)\.lateral\.(.+)", key):
        layer = match[2].replace("conv.", "conv_fast_to_slow.")
        return f"blocks.{int(match[1]) - 2}.multipathway_fusion.{layer}"
    if match := re.fullmatch(r"res(\d)\.(slow|fast)\.(\d+)\.(\w+)\.(conv|norm)\.(\w+)", key):
        stage, side, block, part, layer, entry = match.groups()
        layer = f"branch1_{layer}" if part == "shortcut" else f"branch2.{layer}_{part}"
        return f"blocks.{int(stage) - 1}.multipathway_blocks.{PATHS[side]}.res_blocks.{block}.{layer}.{entry}"
    return key.replace("fc.", "blocks.6.proj.")


FULL = NetworkSpec(
    backbone="slowfast",
    classes=400,
    clip_frames=64,
    side=256,
    blocks=(3, 4, 6, 3),
    dropout=0.5,
    options={"slow_stride": 16.0, "fast_stride": 2.0, "fast_width": 1 / 8},
)
TINY = FULL.replace(
    clip_frames=16,
    side=36,
    blocks=(2, 2, 2, 2),
    width=1 / 8,
    dropout=0.0,
    options={"slow_stride": 4.0, "fast_stride": 1.0, "fast_width": 1 / 2},
)
"""The fast path is half as wide as the slow one: at 1/8 it would start with a single channel."""

SLOWFAST = Backbone(
    network=SlowFast,
    presets={"full": FULL, "tiny": TINY},
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    published_key=published_key,
)
