"""What a network costs: multiply-adds of its convolutions and linear layers, and its parameters.

Units: one multiply-add (MAC) is a multiplication and the addition that follows it, counted once; 1 GMAC is 1e9. The
source calls the same quantity FLOPs ([1], Table 6.1). Costs are those of one clip at evaluation. Batch norm,
activations and pooling are left out: at inference batch norm folds into the convolution before it.

Sources:
    [1] Deep video understanding … (PhD thesis), chapter 6.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compression.spec import NetworkSpec

Build = Callable[[NetworkSpec], nn.Module]
"""Builds a spec's network, which maps inputs [input, *spec.input_shape] to logits or embeddings."""


@dataclass(frozen=True)
class Cost:
    """Cost of one clip, or image, at evaluation."""

    macs: int
    """Multiply-adds."""
    params: int
    """Trainable parameters."""

    @property
    def gmacs(self) -> float:
        """Multiply-adds in units of 1e9."""
        return self.macs / 1e9


@dataclass(frozen=True)
class LayerCost(Cost):
    """Cost of one convolution or linear layer."""

    name: str
    """The module's path in the network."""


def measure_cost(spec: NetworkSpec, build: Build) -> Cost:
    """Cost of a spec's network, from a forward pass on the meta device: no weights, no arithmetic, under a second.

    Quantising changes no count: a multiply-add of integers is one, and a parameter of 8 bits is one.

    Args:
        spec: the network, reductions included.
        build: builds it on the current device.
    """
    with torch.device("meta"), torch.no_grad():
        network = build(spec.floating).eval()
        with FlopCounterMode(display=False) as counter:
            network(empty_input(spec))
    return Cost(macs=counter.get_total_flops() // 2, params=sum(p.numel() for p in network.parameters()))


def layer_table(spec: NetworkSpec, build: Build) -> list[LayerCost]:
    """Cost of every convolution and linear layer, in the network's order.

    Counted by fvcore, independently of `measure_cost`, which it must add up to. It traces a real forward pass on the
    CPU (it can't trace the meta device): seconds for a full-size network.
    """
    with warnings.catch_warnings():  # merely importing it calls torch.jit.script, which PyTorch has deprecated
        warnings.simplefilter("ignore", FutureWarning)
        from fvcore.nn import FlopCountAnalysis
    network = build(spec.floating).eval()
    analysis = FlopCountAnalysis(network, empty_input(spec))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    macs = analysis.by_module()
    return [
        LayerCost(macs=int(macs[name]), params=sum(p.numel() for p in layer.parameters()), name=name)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear)
    ]


def empty_input(spec: NetworkSpec) -> Tensor:
    """One clip or image of the size that the network is given at evaluation; its values don't matter."""
    return torch.zeros(1, *spec.input_shape)
