"""Costs: worked by hand, by two independent counters, and against the source's tables."""

import pytest
import torch
from torch import nn

from compression.cost import layer_table, measure_cost
from compression.reduction import AXES, reduce, reduce_sequence
from compression.spec import NetworkSpec
from trainers.backbones import BACKBONES, build

SPEC = NetworkSpec(backbone="none", classes=5, clip_frames=4, side=6, blocks=(1,))


class OneConvolution(nn.Module):
    """A strided convolution, batch norm, pooling and a classifier."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, (1, 3, 3), stride=(2, 1, 1), padding=(0, 1, 1), bias=False)
        self.norm = nn.BatchNorm3d(8)
        self.fc = nn.Linear(8, spec.classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.norm(self.conv(clips)).mean((2, 3, 4)))
        return logits


def test_cost_by_hand() -> None:
    """2·6·6 outputs × 8 channels × 3·9 products, then 8 × 5; batch norm is free in MACs, not in parameters."""
    cost = measure_cost(SPEC, OneConvolution)
    assert cost.macs == 2 * 6 * 6 * 8 * 3 * 9 + 8 * 5
    assert cost.params == 8 * 3 * 9 + 2 * 8 + 8 * 5 + 5
    assert cost.gmacs == cost.macs / 1e9


def test_layer_table_by_hand() -> None:
    conv, fc = layer_table(SPEC, OneConvolution)
    assert (conv.name, conv.macs, conv.params) == ("conv", 2 * 6 * 6 * 8 * 3 * 9, 8 * 3 * 9)
    assert (fc.name, fc.macs, fc.params) == ("fc", 8 * 5, 8 * 5 + 5)


def axes_of(spec: NetworkSpec) -> list[str]:
    """An image has neither length nor rate."""
    return [axis for axis in AXES if spec.aspect is None or axis not in "tf"]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("axes", ["", "stfcl"])
def test_two_counters_agree(backbone: str, axes: str) -> None:
    """`torch.utils.flop_counter` on the meta device and fvcore's trace of a real forward pass, to the last MAC."""
    tiny = BACKBONES[backbone].presets["tiny"]
    spec = reduce_sequence(tiny, [axis for axis in axes if axis in axes_of(tiny)])[-1]
    assert sum(layer.macs for layer in layer_table(spec, build)) == measure_cost(spec, build).macs


@pytest.mark.parametrize(
    ("backbone", "axes", "gmacs", "source"),
    [
        ("r2plus1d", "cfttt", [40.5, 20.8, 10.4, 5.5, 3.3, 2.5], [40.8, 20.4, 10.2, 5.4, 3.2, 2.5]),
        ("slowfast", "cstsf", [36.1, 19.3, 10.4, 5.2, 2.95, 1.48], [36.6, 18.9, 10.2, 5.1, 2.9, 1.4]),
    ],
)
def test_costs_of_the_source(backbone: str, axes: str, gmacs: list[float], source: list[float]) -> None:
    """Within 1 % of the costs counted for a faithful network; within 3 % of Table 6.1, which rounds to ±0.05."""
    steps = reduce_sequence(BACKBONES[backbone].presets["full"], axes)
    measured = [measure_cost(spec, build).gmacs for spec in steps]
    assert measured == pytest.approx(gmacs, rel=0.01)
    for value, printed in zip(measured, source, strict=True):
        assert abs(value - printed) <= 0.03 * printed + 0.05


@pytest.mark.parametrize(
    ("backbone", "params", "rounding"), [("r2plus1d", 31_505_325, 0), ("slowfast", 34_480_000, 5_000)]
)
def test_parameters_of_the_published_networks(backbone: str, params: int, rounding: int) -> None:
    """What torchvision states for r2plus1d_18, and PyTorchVideo's model zoo for SlowFast R50 4×16 (two decimals)."""
    measured = measure_cost(BACKBONES[backbone].presets["full"], build).params
    assert abs(measured - params) <= rounding


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_operator_about_halves_the_full_network(backbone: str) -> None:
    """Exactly, or nearly so: the stem's input doesn't shrink with c, nor each stage's first block with l."""
    spec = BACKBONES[backbone].presets["full"]
    macs = measure_cost(spec, build).macs
    ratios = {axis: measure_cost(reduce(spec, axis), build).macs / macs for axis in axes_of(spec)}
    assert all(0.48 < ratio < 0.60 for ratio in ratios.values()), ratios
