"""Integers as plain tensors: what comes back from a file computes the same bits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.fx import GraphModule

from compression.quantisation.layers import QuantisationError
from compression.quantisation.torch_ao import (
    convert,
    integers_of,
    load_integers,
    quantisable_layers,
    skeleton,
)
from compression.spec import NetworkSpec, Quantisation
from tests.compression.quantisation.networks import ENGINE, RULE, Joined, Plain, measured, random_inputs, seeded
from tests.trainers.tiny import ALL_SPECS
from trainers.backbones import BACKBONES, build, fast_order

SPECS = {name: spec.replace(blocks=(1, 1, 1, 1), width=1 / 16) for name, spec in ALL_SPECS.items()}
PRUNED = {
    "slowfast": {"stem.slow.conv": 3, "res2.slow.0.a.conv": 5, "res3.lateral.conv": 7},
    "r2plus1d": {"stem.0": 5, "layer1.0.conv1.0.0": 7, "layer4.0.conv2.0.0": 3},
    "reid": {"conv1": 3, "layer2.0.conv1": 5},
}
"""Odd widths, as pruning leaves them."""


def through_a_file(graph: GraphModule, folder: Path) -> dict[str, Tensor]:
    save_file(integers_of(graph), folder / "model.safetensors")
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("some_in_float", [False, True], ids=["integers", "mixed"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_reloaded_networks_compute_the_same_bits(backbone: str, some_in_float: bool, tmp_path: Path) -> None:
    spec: NetworkSpec = SPECS[backbone].replace(kept=PRUNED[backbone])
    network = fast_order(seeded(build(spec)))
    chosen = quantisable_layers(network)[::4] if some_in_float else ()
    rule = Quantisation(engine=ENGINE, float_layers=chosen)
    inputs = random_inputs(3, *spec.input_shape)
    integers = convert(measured(network, inputs, rule, training=some_in_float))
    twin = skeleton(build(spec).eval(), inputs[:1], rule)
    load_integers(twin, through_a_file(integers, tmp_path))
    with torch.no_grad():
        for batch in (inputs, inputs[:1]):
            assert torch.equal(twin(batch), integers(batch))
    assert all(torch.equal(value, integers_of(twin)[name]) for name, value in integers_of(integers).items())


@pytest.mark.parametrize("layer", [nn.Conv1d(3, 5, 3, stride=2, padding=1, dilation=2), nn.Conv1d(3, 6, 1, groups=3)])
def test_convolutions_in_one_dimension_too(layer: nn.Module, tmp_path: Path) -> None:
    network, inputs = seeded(nn.Sequential(layer, nn.ReLU())), random_inputs(2, 3, 20)
    integers = convert(measured(network, inputs))
    twin = skeleton(network, inputs[:1], RULE)
    load_integers(twin, through_a_file(integers, tmp_path))
    with torch.no_grad():
        assert torch.equal(twin(inputs), integers(inputs))
        torch.testing.assert_close(integers(inputs), network(inputs), rtol=0, atol=0.1)


def test_tensors_are_eight_bits_per_weight() -> None:
    network, inputs = seeded(Plain()), random_inputs(2, 3, 4, 8, 8)
    tensors = integers_of(convert(measured(network, inputs)))
    assert {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items() if name.startswith("conv.")} == {
        "conv.weight": (torch.int8, (5, 3, 3, 3, 3)),
        "conv.weight_scales": (torch.float32, (5,)),
        "conv.bias": (torch.float32, (5,)),
        "conv.scale": (torch.float64, ()),
        "conv.zero_point": (torch.int64, ()),
    }
    assert tensors["quantize_per_tensor.scale"].dtype == torch.float64


def test_weights_are_the_folded_ones_over_their_scale() -> None:
    """round(w · γ / √(σ² + ε) / s), by hand."""
    network, inputs = seeded(Plain()), random_inputs(2, 3, 4, 8, 8)
    assert isinstance(network, Plain)
    tensors = integers_of(convert(measured(network, inputs)))
    norm = network.norm
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    exact = network.conv.weight * gain.reshape(-1, 1, 1, 1, 1) / tensors["conv.weight_scales"].reshape(-1, 1, 1, 1, 1)
    assert (tensors["conv.weight"] - exact.clamp(-128, 127)).abs().max() <= 0.5 + 1e-4


def test_what_does_not_fit_is_named() -> None:
    inputs = random_inputs(1, 3, 8, 8)
    tensors = integers_of(skeleton(seeded(Joined()), inputs, RULE))
    graph = skeleton(seeded(Joined()), inputs, RULE)
    less = {name: value for name, value in tensors.items() if name != "fc.weight_scales"}
    with pytest.raises(QuantisationError, match=r"fc.weight_scales is missing"):
        load_integers(graph, less)
    with pytest.raises(QuantisationError, match=r"fd.bias is not expected"):
        load_integers(graph, {**tensors, "fd.bias": torch.zeros(1)})
    with pytest.raises(QuantisationError, match=r"fc.weight is \[3, 7\] torch.int8, but must be \[3, 6\] torch.int8"):
        load_integers(graph, {**tensors, "fc.weight": torch.zeros(3, 7, dtype=torch.int8)})
    with pytest.raises(QuantisationError, match=r"fc.weight is \[3, 6\] torch.float32, but must be"):
        load_integers(graph, {**tensors, "fc.weight": torch.zeros(3, 6)})
