"""What can be quantised is brought into one form, and what can't is named."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compression.quantisation.graph_cleaning import Group, cleaned, groups_of, quantisable_layers
from compression.quantisation.layers import LayerRow, QuantisationError
from compression.quantisation.torch_ao import convert, layer_rows, prepare
from compression.spec import Quantisation
from tests.compression.quantisation.networks import ENGINE, RULE, Joined, Plain, measured, random_inputs, seeded
from trainers.backbones import BACKBONES, build

CLIP = (1, 3, 4, 8, 8)


class Wrapped(nn.Module):
    """A module inside another, so that it has a path."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv3d(3, 4, 1), inner)

    def forward(self, clips: Tensor) -> Tensor:
        out: Tensor = self.stage(clips)
        return out


class Gain(nn.Module):
    """Weights of its own that are used as a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Undecided(nn.Module):
    """A forward that depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Twice(nn.Module):
    """A convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, 1)

    def forward(self, clips: Tensor) -> Tensor:
        out: Tensor = self.conv(self.conv(clips))
        return out


class Written(nn.Module):
    """One ReLU in four ways, the module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3)) for _ in range(5))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e = self.layers
        x = self.relu(b(self.relu(a(x))))
        out: Tensor = e(d(torch.relu(F.relu(c(x)))).relu())
        return out


class Idle(nn.Module):
    """A layer that is never run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, 1)
        self.spare = nn.Linear(3, 3)

    def forward(self, clips: Tensor) -> Tensor:
        out: Tensor = self.conv(clips)
        return out


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (nn.ConvTranspose3d(4, 4, 1), r"stage.1 \(ConvTranspose3d\) can't be quantised: it has weights, but"),
        (nn.LSTM(8, 8), r"stage.1 \(LSTM\) can't be quantised"),
        (nn.GroupNorm(2, 4), r"stage.1 \(GroupNorm\) can't be quantised"),
        (Gain(), r"stage.1 \(Gain\) can't be quantised: it has weights, but"),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm3d(4)), r"stage.1.1 \(BatchNorm3d\) .* does not directly follow"),
        (nn.Conv3d(4, 4, 3, padding=1, padding_mode="circular"), r"stage.1 \(Conv3d\) .* \(circular\), but .* float_l"),
        (nn.Conv3d(4, 4, 3, padding="same"), r"stage.1 \(Conv3d\) .* 'same'"),
        (Undecided(), r"stage.1 \(Undecided\) can't be quantised: tracing it raised TraceError: .*; its forward must"),
        (Twice(), r"stage.1.conv \(Conv3d\) runs 2 times"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_quantised_is_named(inner: nn.Module, message: str) -> None:
    network = Wrapped(inner)
    if isinstance(inner, Twice):
        network.stage[0] = nn.Conv3d(3, 3, 1)
    with pytest.raises(QuantisationError, match=message):
        prepare(network, random_inputs(*CLIP), RULE, training=False)


def test_odd_padding_may_stay_in_floating_point() -> None:
    network = seeded(Wrapped(nn.Conv3d(4, 4, 3, padding=1, padding_mode="circular")))
    inputs = random_inputs(*CLIP)
    rule = Quantisation(engine=ENGINE, float_layers=("stage.1",))
    integers = convert(measured(network, inputs, rule))
    with torch.no_grad():
        torch.testing.assert_close(integers(inputs), network(inputs), rtol=0, atol=0.1)


def test_layers_that_are_not_there_cannot_be_excluded() -> None:
    rule = Quantisation(engine=ENGINE, float_layers=("fc", "fcc"))
    with pytest.raises(QuantisationError, match="float_layers has 'fcc', but Plain has no such layer; it has conv, fc"):
        prepare(Plain(), random_inputs(*CLIP), rule, training=False)


def test_layers_in_the_order_of_the_network() -> None:
    assert quantisable_layers(Joined()) == ("stem", "inner", "side", "fc")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_nothing_is_left_to_tracing(backbone: str) -> None:
    """Every convolution of the full networks has its batch norm, and those that end no block have their ReLU."""
    with torch.device("meta"):
        network = build(BACKBONES[backbone].presets["full"])
    groups = groups_of(cleaned(network))
    assert tuple(sorted(groups)) == tuple(sorted(quantisable_layers(network)))
    convolutions = [group for name, group in groups.items() if name != "fc"]
    assert all(group.norm for group in convolutions)
    ends = ("conv2", "conv2.0.3", "c.conv", "downsample.0", "shortcut.conv")
    assert {group.layer for group in convolutions if not group.activation} == {
        group.layer for group in convolutions if group.layer.endswith(ends)
    }


def test_every_way_to_write_a_relu_is_fused() -> None:
    network, inputs = seeded(Written()), random_inputs(*CLIP)
    groups = groups_of(cleaned(network))
    activations = [group.activation for group in groups.values()]
    assert None not in activations[:4]
    assert activations[4] is None
    assert len(set(activations)) == 5
    rule = Quantisation(engine=ENGINE, float_layers=("layers.0.0", "layers.2.0"))
    integers = convert(measured(network, inputs, rule))
    with torch.no_grad():
        torch.testing.assert_close(integers(inputs), network(inputs), rtol=0, atol=0.1)


def test_groups_name_what_is_fused() -> None:
    assert groups_of(cleaned(Plain())) == {"conv": Group("conv", "norm", "relu"), "fc": Group("fc")}


def test_identities_and_dropout_without_effect_are_removed() -> None:
    network = nn.Sequential(nn.Identity(), nn.Conv3d(3, 4, 1), nn.Dropout(0.0), nn.Dropout3d(0.5))
    called = [node.target for node in cleaned(network).graph.nodes if node.op == "call_module"]
    assert called == ["1", "3"]


def test_dropout_is_trained_with_and_not_converted() -> None:
    network, inputs = seeded(Plain()), random_inputs(*CLIP)
    prepared = prepare(network, inputs, RULE, training=True)
    torch.manual_seed(0)
    first, *others = (prepared(inputs) for _ in range(20))
    assert not all(torch.equal(first, other) for other in others)  # two alone are equal now and then
    integers = convert(prepared)
    assert not any(isinstance(module, nn.Dropout) for module in integers.modules())


def test_a_layer_that_is_never_run_is_reported() -> None:
    network, inputs = seeded(Idle()), random_inputs(*CLIP)
    rule = Quantisation(engine=ENGINE, float_layers=("spare",))
    rows = layer_rows(convert(measured(network, inputs, rule)), network, rule)
    assert rows == (
        LayerRow(name="conv", kind="conv3d", precision="int8"),
        LayerRow(name="spare", kind="linear", precision="float", reason="never run"),
    )
