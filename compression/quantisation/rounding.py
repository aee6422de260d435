"""Rounding to the grid that integers have, simulated in floating point, and the ranges that the grid spans.

    x̂ = s · (clamp(round(x / s) + z, q_min, q_max) − z)

The range may span fewer steps than the type has: for engines with 7 bits per activation, 127 of 255. Values outside
the range then have integers too, and only those outside of the type's are clamped: q_min and q_max are the type's.
The gradient is that of the identity inside the range and 0 outside ([1], sec. 3). What is simulated is what integers
will compute: scales and zero points are stored, and conversion takes those.

Sources:
    [1] Jacob et al. Quantization and training of neural networks for efficient integer-arithmetic-only inference.
        arXiv:1712.05877; moving averages of ranges in sec. 3.1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SMALLEST_STEP = torch.finfo(torch.float32).eps
"""No scale is smaller, so that a tensor of zeros has one."""
AVERAGING = 0.01
"""Weight of the newest range in a moving average, torch's; in training only."""


class Rounding(nn.Module):
    """Rounds a tensor to 8 bits once its range is known; how the range is found is left to `observe`.

    Measuring and rounding are switched separately, by the methods by which torch's quantisation would.

    Args:
        dtype: of the integers.
        qscheme: per tensor or per output channel.
        quant_min: the integer of the range's lower end.
        quant_max: of its upper end; at most the largest of the type.
    """

    scale: Tensor
    zero_point: Tensor
    measured: Tensor

    def __init__(self, dtype: torch.dtype, qscheme: torch.qscheme, quant_min: int, quant_max: int) -> None:
        super().__init__()
        self.dtype = dtype
        self.qscheme = qscheme
        self.quant_min = quant_min
        self.quant_max = quant_max
        self.ch_axis = 0 if qscheme == torch.per_channel_symmetric else -1
        self.is_dynamic = False
        self.observing = True
        self.simulating = True
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("measured", torch.zeros((), dtype=torch.bool))

    def enable_observer(self, enabled: bool = True) -> None:
        """Let the range follow what comes by, or not."""
        self.observing = enabled

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Round what comes by, or not."""
        self.simulating = enabled

    def forward(self, X: Tensor) -> Tensor:  # noqa: N803 (torch's name)
        """The input, rounded or as it is."""
        if self.observing:
            with torch.no_grad():
                self.observe(X.detach().float())
        return self.rounded(X) if self.simulating else X

    def observe(self, tensor: Tensor) -> None:
        """Take note of a tensor's range."""
        raise NotImplementedError

    def rounded(self, tensor: Tensor) -> Tensor:
        """x̂ of x, in the tensor's own type."""
        limits = self.quant_min, torch.iinfo(self.dtype).max
        exact = tensor.float()
        if self.ch_axis == 0:
            result = torch.fake_quantize_per_channel_affine(exact, self.scale, self.zero_point, 0, *limits)
        else:
            result = torch.fake_quantize_per_tensor_affine(exact, self.scale, self.zero_point, *limits)
        return result.to(tensor.dtype)

    def adopt(self, scale: Tensor, zero_point: Tensor) -> None:
        """Round with this scale and zero point from now on."""
        for buffer, value in ((self.scale, scale), (self.zero_point, zero_point)):
            buffer.resize_(value.shape).copy_(value)
        self.measured.fill_(True)

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale and zero point, for conversion: those of the simulation."""
        return self.scale, self.zero_point

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Scales of weights have as many elements as there are output channels, but that is not known before."""
        for name in ("scale", "zero_point"):
            if prefix + name in state_dict:
                getattr(self, name).resize_(state_dict[prefix + name].shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class WeightRange(Rounding):
    """Of weights [output, …]: one scale per output channel, from the largest magnitude of now.

        s = max |w| / 127.5,  z = 0

    Averaged over steps, as torch would, the range would lag behind the weights.
    """

    def observe(self, tensor: Tensor) -> None:
        """Take the range of the weights as they are."""
        half = (self.quant_max - self.quant_min) / 2
        scale = (tensor.flatten(1).abs().amax(1) / half).clamp(min=SMALLEST_STEP)
        self.adopt(scale, torch.zeros_like(scale, dtype=torch.int32))


class MovingRange(Rounding):
    """Of activations: the average of the range over passes.

        s = (max(x_max, 0) − min(x_min, 0)) / (q_max − q_min),  z = q_min − round(x_min / s)

    While rounding is simulated, in training, it is a moving average. Before that, all passes since measuring began
    count alike, in whichever order they came.

    Several tensors may share it, e.g. a map and what it is pooled to. Then the range that they have together moves,
    once per pass. Torch averages over the tensors too, and a map that is pooled to small values is cut off.
    """

    min_val: Tensor
    max_val: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tensors = 1
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.first_pass = True
        self.passes = 0
        self.register_buffer("min_val", torch.zeros(()))
        self.register_buffer("max_val", torch.zeros(()))

    def enable_observer(self, enabled: bool = True) -> None:
        """Begin or end moving; a pass that was broken off is forgotten."""
        self.seen = []
        self.passes = 0
        super().enable_observer(enabled)

    def observe(self, tensor: Tensor) -> None:
        """Take note of one tensor; in the very first pass it counts at once."""
        if not self.seen:
            self.passes += 1
            self.first_pass = self.first_pass and not bool(self.measured)
        self.seen.append(torch.aminmax(tensor))
        last = len(self.seen) == self.tensors
        if last or self.first_pass:
            self.move()
        if last:
            self.seen = []

    def move(self) -> None:
        """Let the range follow what was seen in this pass."""
        lows, highs = (torch.stack(ends) for ends in zip(*self.seen, strict=True))
        newest = AVERAGING if self.simulating else 1 / self.passes
        weight = 1.0 if self.first_pass else newest
        self.min_val.lerp_(lows.min(), weight)
        self.max_val.lerp_(highs.max(), weight)
        low, high = self.min_val.clamp(max=0), self.max_val.clamp(min=0)
        scale = ((high - low) / (self.quant_max - self.quant_min)).clamp(min=SMALLEST_STEP)
        zero_point = (self.quant_min - torch.round(low / scale)).clamp(self.quant_min, self.quant_max)
        # NaN has no integer; the scale carries it on to the loss, where it is noticed
        self.adopt(scale.reshape(1), zero_point.nan_to_num(0.0).int().reshape(1))


@torch.no_grad()
def renew_ranges_of_weights(prepared: nn.Module) -> None:
    """Measure the weights as the simulation would in evaluation: times γ/σ of the batch norm after them."""
    layer: Any
    for layer in prepared.modules():
        if not hasattr(layer, "weight_fake_quant"):
            continue
        weight = layer.weight
        if norm := getattr(layer, "bn", None):
            gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weight = weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
        layer.weight_fake_quant.observe(weight.float())
