"""How much each layer harms when it alone is rounded."""

import pytest
import torch

from compression.quantisation.noise import FLOAT_DECIBELS, signal_to_noise
from compression.quantisation.torch_ao import layer_noise, prepare, set_phase
from compression.spec import Quantisation
from tests.compression.quantisation.networks import ENGINE, Joined, Plain, measured, random_inputs, seeded


def test_decibels_by_hand() -> None:
    """Half a percent of the power is noise: 10 log₁₀ 200 = 23 dB."""
    clean, noisy = [torch.tensor([3.0, 1.0]), torch.tensor([0.0])], [torch.tensor([3.2, 1.0]), torch.tensor([0.1])]
    assert signal_to_noise(clean, noisy) == pytest.approx(10 * torch.log10(torch.tensor(200.0)).item(), abs=1e-4)


def test_decibels_have_ends() -> None:
    one, zero = [torch.ones(2)], [torch.zeros(2)]
    assert signal_to_noise(one, one) == FLOAT_DECIBELS
    assert signal_to_noise(zero, zero) == FLOAT_DECIBELS
    assert signal_to_noise(zero, one) == -FLOAT_DECIBELS


@pytest.mark.parametrize("training", [False, True], ids=["ptq", "qat"])
def test_noise_of_each_layer_alone(training: bool) -> None:
    """All layers together make more noise than the worst of them alone, and the switches are left as they were."""
    network, inputs = seeded(Joined()), random_inputs(8, 3, 8, 8)
    prepared = measured(network, inputs, training=training)
    with torch.no_grad():
        before, clean = prepared(inputs), network(inputs)
    noise = layer_noise(prepared, [inputs[:4], inputs[4:]])
    assert list(noise) == ["stem", "inner", "side", "fc"]
    assert signal_to_noise([clean], [before]) < min(noise.values())
    assert max(noise.values()) < 70
    with torch.no_grad():
        assert torch.equal(prepared(inputs), before)


def test_the_layer_with_the_coarse_grid_is_found() -> None:
    """One huge weight per output channel leaves a few steps to all the others."""
    network, inputs = seeded(Plain()), random_inputs(8, 3, 4, 8, 8)
    assert isinstance(network, Plain)
    fine = layer_noise(measured(network, inputs), [inputs])
    with torch.no_grad():
        network.conv.weight[:, 0, 0, 0, 0] = 100.0
        inputs[:, 0] = 0
    noise = layer_noise(measured(network, inputs), [inputs])
    assert noise["conv"] < fine["conv"] - 10


def test_layers_in_floating_point_make_no_noise() -> None:
    network, inputs = seeded(Plain()), random_inputs(4, 3, 4, 8, 8)
    rule = Quantisation(engine=ENGINE, float_layers=("conv",))
    assert list(layer_noise(measured(network, inputs, rule), [inputs])) == ["fc"]


def test_mode_and_phase_are_restored() -> None:
    network, inputs = seeded(Plain()), random_inputs(4, 3, 4, 8, 8)
    prepared = prepare(network, inputs, Quantisation(engine=ENGINE), training=True)
    prepared(inputs)
    set_phase(prepared, observe=True, simulate=False, freeze_norms=False)
    layer_noise(prepared, [inputs])
    assert prepared.training
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    prepared(2 * inputs)
    moved = [name for name, value in prepared.state_dict().items() if not torch.equal(value, before[name])]
    assert any(name.endswith("running_mean") for name in moved)
    assert any(name.endswith("scale") for name in moved)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_outputs_that_are_not_finite_are_as_bad_as_can_be(bad: float) -> None:
    one, broken = [torch.ones(2)], [torch.tensor([1.0, bad])]
    assert signal_to_noise(one, broken) == -FLOAT_DECIBELS
    assert signal_to_noise(broken, one) == -FLOAT_DECIBELS
    assert signal_to_noise(broken, broken) == -FLOAT_DECIBELS
