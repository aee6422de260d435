"""How much rounding harms a result."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compression.quantisation.rounding import Rounding

FLOAT_DECIBELS = 138.0
"""Signal-to-noise ratio of float32's own rounding, 20 log₁₀ 2²³: less noise can't be told from none."""


def signal_to_noise(clean: Sequence[Tensor], noisy: Sequence[Tensor]) -> float:
    """Signal-to-noise ratio of rounded outputs, in dB.

        SQNR = 10 log₁₀( Σ y² / Σ (y − ŷ)² ),  within ± that of float32's own rounding

    Args:
        clean: y, batches of outputs of any shape.
        noisy: ŷ, likewise.

    Returns:
        The ratio; the lowest one where outputs are not finite.
    """
    signal = sum(float(y.double().square().sum()) for y in clean)
    noise = sum(float((y.double() - y_hat.double()).square().sum()) for y, y_hat in zip(clean, noisy, strict=True))
    if not math.isfinite(noise):  # a network that gives NaN or infinity is as bad as can be
        return -FLOAT_DECIBELS
    if noise == 0:
        return FLOAT_DECIBELS
    if signal == 0:
        return -FLOAT_DECIBELS
    return max(-FLOAT_DECIBELS, min(FLOAT_DECIBELS, 10 * math.log10(signal / noise)))


@torch.no_grad()
def layer_noise(prepared: GraphModule, inputs: Sequence[Tensor]) -> dict[str, float]:
    """How much each layer harms: the signal-to-noise ratio of the network's output when it alone is rounded, in dB.

    A layer's weights and its result are rounded. Costs one pass over the inputs per layer; mode and switches of
    `prepared` are left as they were.

    Args:
        prepared: with measured ranges.
        inputs: batches of normalised inputs.

    Returns:
        By layer that is to compute in integers, in the order in which they run; higher is better.
    """
    roundings = [module for module in prepared.modules() if isinstance(module, Rounding)]
    before = [(one.observing, one.simulating) for one in roundings]
    mode = prepared.training
    prepared.eval()
    try:
        for rounding in roundings:
            rounding.enable_observer(False)
            rounding.enable_fake_quant(False)
        clean = [prepared(batch) for batch in inputs]
        noise = {}
        for name, rounding in results_of_layers(prepared).items():
            with rounded(prepared.get_submodule(name), rounding):
                noise[name] = signal_to_noise(clean, [prepared(batch) for batch in inputs])
        return noise
    finally:
        prepared.train(mode)
        for rounding, (observes, simulates) in zip(roundings, before, strict=True):
            rounding.enable_observer(observes)
            rounding.enable_fake_quant(simulates)


def results_of_layers(prepared: GraphModule) -> dict[str, Any]:
    """What rounds the result of each layer that is to compute in integers."""
    found: dict[str, Any] = {}
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node in prepared.graph.nodes:
        if node.op == "call_module" and hasattr(modules[str(node.target)], "weight_fake_quant"):
            after = [modules[str(user.target)] for user in node.users if user.op == "call_module"]
            found[str(node.target)] = next((one for one in after if isinstance(one, Rounding)), None)
    return found


@contextlib.contextmanager
def rounded(layer: Any, rounding: Any | None) -> Iterator[None]:
    """Round a layer's weights and its result, and nothing else, though other results may share the range."""

    def round_result(_: nn.Module, __: Any, result: Tensor) -> Tensor | None:
        if rounding is None:
            return None
        rounding.enable_fake_quant(True)
        try:
            return cast(Tensor, rounding(result))
        finally:
            rounding.enable_fake_quant(False)

    hook = layer.register_forward_hook(round_result)
    layer.weight_fake_quant.enable_fake_quant(True)
    try:
        yield
    finally:
        hook.remove()
        layer.weight_fake_quant.enable_fake_quant(False)
