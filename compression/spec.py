"""The description from which a network is built.

A `NetworkSpec` holds the *unreduced* network (clip length, frame side, width, blocks per stage) and one total
reduction factor γ̄ per axis. Everything a builder needs is derived from these two, so that shrinking in several
steps never rounds a number that was rounded before ([1], sec. 6.1.1; `specs/pas.md` section 2). Pruning removes
filters layer by layer, so a pruned network's spec also says how many each of its layers kept.

Units: frames are raw frames of the source video, sides are pixels, γ̄ has no unit and is >= 1.

Sources:
    [1] Deep video understanding … (PhD thesis), chapter 6: progressive architecture shrinkage; Table 6.10.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1


def nearest(value: float) -> int:
    """Nearest integer of a non-negative number, halves upwards (Python's `round` would go to the even one)."""
    return math.floor(value + 0.5)


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Total reduction factor γ̄ per axis; 1 means not reduced."""

    s: float = 1.0
    """Spatial size: the frame side is divided by it."""
    t: float = 1.0
    """Clip length: only the first 1/γ̄ of the raw clip is kept."""
    f: float = 1.0
    """Frame rate: every γ̄-th frame of the raw clip is kept."""
    c: float = 1.0
    """Channels: every convolution's output channels are divided by it."""
    l: float = 1.0  # noqa: E741 (the source's symbol)
    """Layers: residual blocks per stage are divided by it."""

    def __post_init__(self) -> None:
        for axis, value in self.as_dict().items():
            if not (math.isfinite(value) and value >= 1):
                raise ValueError(f"factors.{axis} is {value}, but a total reduction factor is a finite number >= 1")

    def as_dict(self) -> dict[str, float]:
        """Factors by axis letter, in the order s, t, f, c, l."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How a network computes in integers: weights of 8 bits per output channel, activations of 8 bits per tensor.

    Raises:
        ValueError: no engine.
    """

    engine: str
    """The integer kernels that it was made for: a name of `torch.backends.quantized.supported_engines`."""
    float_layers: tuple[str, ...] = ()
    """Convolutions and linear layers that still compute in floating point, by name, sorted, each once."""

    def __post_init__(self) -> None:
        if not self.engine:
            raise ValueError("quantisation.engine is empty, but must name the integer kernels, e.g. onednn")
        object.__setattr__(self, "float_layers", tuple(sorted(set(self.float_layers))))


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Immutable description of one network, fed with clips or, where `aspect` is given, with images.

    Raises:
        ValueError: a size is not positive, or a block count is below 1.
    """

    backbone: str
    """Key of `trainers.backbones.BACKBONES`."""
    classes: int
    """Number of labels the classifier tells apart."""
    clip_frames: int
    """Length of the unreduced raw clip, in frames."""
    side: int
    """Side of the unreduced (square) evaluation crop, in pixels; of an image, its width."""
    blocks: tuple[int, ...]
    """Residual blocks per stage of the unreduced network."""
    width: float = 1.0
    """Multiplies every channel count of the backbone's table (presets `tiny` are < 1)."""
    dropout: float = 0.0
    """Probability of dropping a feature before the classifier."""
    round_to: int = 1
    """Channel counts are multiples of it (8 suits tensor cores); 1 is the source's rounding."""
    options: Mapping[str, float] = field(default_factory=dict)
    """What only this backbone has (SlowFast: strides of its two paths); checked by the backbone."""
    factors: Factors = Factors()
    """Total reduction factors."""
    aspect: float | None = None
    """Height of the images that it is fed over their width; none: it is fed clips of square frames."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """Filters left after pruning, by the name of the convolution; coupled ones go by the name of their first."""
    kept_at: float = 1.0
    """γ̄_c when they were counted: a later reduction on axis c divides them by what has come since."""
    quantisation: Quantisation | None = None
    """How it computes in integers; none: in floating point."""

    def __post_init__(self) -> None:
        for name in ("classes", "clip_frames", "side", "round_to"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be >= 1")
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"blocks is {self.blocks}, but every stage needs at least 1 residual block")
        if not self.width > 0:
            raise ValueError(f"width is {self.width}, but must be > 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but must be in [0, 1)")
        if self.aspect is not None and not (math.isfinite(self.aspect) and self.aspect > 0):
            raise ValueError(f"aspect is {self.aspect}, but height over width is a finite number > 0")
        if emptied := sorted(layer for layer, filters in self.kept.items() if filters < 1):
            raise ValueError(f"kept leaves nothing of {emptied[0]}, but every layer needs at least 1 filter")
        for name in ("options", "kept"):
            object.__setattr__(self, name, dict(sorted(getattr(self, name).items())))

    def __hash__(self) -> int:
        return hash(tuple(sorted((key, repr(value)) for key, value in self.to_dict().items())))

    @property
    def clip_span(self) -> int:
        """Raw frames that a clip covers after axis t, before frames are dropped."""
        return max(1, nearest(self.clip_frames / self.factors.t))

    @property
    def frames(self) -> int:
        """Frames that the network is given."""
        return max(1, nearest(self.clip_frames / (self.factors.t * self.factors.f)))

    def frame_indices(self) -> tuple[int, ...]:
        """Which frames of the unreduced raw clip the network is given, ascending."""
        last = self.clip_span - 1
        return tuple(min(last, math.floor(i * self.factors.f)) for i in range(self.frames))

    @property
    def input_side(self) -> int:
        """Side of the evaluation crop after reduction, in pixels."""
        return self.scaled(self.side)

    def scaled(self, pixels: int | float) -> int:
        """A length in pixels of the unreduced input, after axis s."""
        return max(1, nearest(pixels / self.factors.s))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: [3, frame, height, width] of a clip, [3, height, width] of an image."""
        if self.aspect is None:
            return 3, self.frames, self.input_side, self.input_side
        return 3, self.scaled(self.side * self.aspect), self.input_side

    def channels(self, base: int, layer: str | None = None) -> int:
        """Output channels of a layer that the backbone's table gives `base` channels.

        Args:
            base: channels in the table.
            layer: the convolution's name (of coupled ones the first); none: of a layer that was not pruned.
        """
        exact = base * self.width / self.factors.c
        if layer is not None and layer in self.kept:
            if self.kept_at == self.factors.c:
                return self.kept[layer]  # as counted, whatever `round_to` says of the table's widths
            exact = self.kept[layer] * self.kept_at / self.factors.c
        return max(1, nearest(exact / self.round_to)) * self.round_to

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        """Residual blocks per stage after axis l: floor(n / γ̄_l), at least 1."""
        return tuple(max(1, math.floor(n / self.factors.l)) for n in self.blocks)

    def replace(self, **changes: Any) -> NetworkSpec:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def floating(self) -> NetworkSpec:
        """The same network in floating point: what it was quantised from."""
        return self if self.quantisation is None else self.replace(quantisation=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back.

        What was added to specs after their first version is left out where it says nothing, so that a network's JSON,
        and with it the digest of every trial, stays what it was.
        """
        fields = dataclasses.asdict(self)
        if self.aspect is None:
            del fields["aspect"]
        if not self.kept:
            del fields["kept"], fields["kept_at"]
        if self.quantisation is None:
            del fields["quantisation"]
        else:
            fields["quantisation"]["float_layers"] = list(self.quantisation.float_layers)
        return {"schema": SCHEMA_VERSION, **fields, "blocks": list(self.blocks)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetworkSpec:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: unknown schema version, unknown or missing keys, or values out of range.
        """
        fields = dict(data)
        schema = fields.pop("schema", None)
        if schema != SCHEMA_VERSION:
            raise ValueError(f"schema is {schema!r}, but this version reads {SCHEMA_VERSION}; upgrade or re-export")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise ValueError(f"unknown keys {unknown}; a network spec has {sorted(known)}")
        try:
            fields["factors"] = Factors(**fields.get("factors", {}))
            fields["blocks"] = tuple(fields["blocks"])
            if fields.get("quantisation") is not None:
                rule = fields["quantisation"]
                fields["quantisation"] = Quantisation(**{**rule, "float_layers": tuple(rule["float_layers"])})
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a network spec: {error}") from error
