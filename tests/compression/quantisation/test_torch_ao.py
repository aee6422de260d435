"""From floating point to integers: simulation and integers agree with what they come from and with each other."""

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compression.cost import empty_input
from compression.quantisation.graph_cleaning import SMALLEST_SCALE
from compression.quantisation.layers import QuantisationError
from compression.quantisation.torch_ao import (
    convert,
    integers_of,
    layer_rows,
    load_integers,
    prepare,
    quantisable_layers,
    set_phase,
    skeleton,
    use_engine,
)
from compression.spec import Quantisation
from tests.compression.quantisation.networks import (
    ENGINE,
    RULE,
    Joined,
    Plain,
    measured,
    random_inputs,
    seeded,
)
from tests.trainers.tiny import ALL_SPECS
from trainers.backbones import BACKBONES, build

SPECS = {name: spec.replace(blocks=(1, 1, 1, 1), width=1 / 16) for name, spec in ALL_SPECS.items()}
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def last_step(graph: GraphModule, layer: str = "fc") -> float:
    """Scale of a layer's result in a converted graph."""
    (node,) = (node for node in graph.graph.nodes if node.meta.get("layer") == layer)
    step = node.args[2]
    assert isinstance(step, float)
    return step


def without_rounding(prepared: GraphModule) -> GraphModule:
    set_phase(prepared, observe=False, simulate=False, freeze_norms=True)
    return prepared


@every_backbone
@pytest.mark.parametrize("training", [False, True], ids=["ptq", "qat"])
def test_fused_is_unfused_in_floating_point(backbone: str, training: bool) -> None:
    spec = SPECS[backbone]
    network, inputs = seeded(build(spec)), random_inputs(2, *spec.input_shape)
    fused = without_rounding(prepare(network, inputs, RULE, training=training)).eval()
    with torch.no_grad():
        expected = network(inputs)
        torch.testing.assert_close(fused(inputs), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("training", [False, True], ids=["ptq", "qat"])
def test_integers_are_within_one_step_of_the_simulation(training: bool) -> None:
    network, inputs = seeded(Plain()), random_inputs(6, 3, 4, 8, 8)
    simulated = measured(network, inputs, training=training)
    integers = convert(simulated)
    with torch.no_grad():
        difference = (integers(inputs) - simulated(inputs)).abs().max()
    assert difference <= last_step(integers) * (1 + 1e-4)


@every_backbone
def test_integers_are_the_simulation_but_for_ties(backbone: str) -> None:
    """Sums in another order move a value across a tie now and then; what follows it then differs by a few steps.

    Signal over difference was 36 to 60 dB; over the rounding itself it is 20 to 30 dB.
    """
    spec = SPECS[backbone]
    network, inputs = seeded(build(spec)), random_inputs(4, *spec.input_shape)
    simulated = measured(network, inputs)
    with torch.no_grad():
        expected, given = simulated(inputs), convert(simulated)(inputs)
    noise = (expected - given).square().sum() / expected.square().sum()
    assert noise < 10**-2.5


@every_backbone
def test_every_layer_of_the_backbones_runs_in_integers(backbone: str) -> None:
    network = build(SPECS[backbone])
    inputs = empty_input(SPECS[backbone])
    rows = layer_rows(convert(measured(network, inputs)), network, RULE)
    assert {row.precision for row in rows} == {"int8"}
    weighted = {row.name for row in rows if row.kind.startswith(("conv", "linear"))}
    assert weighted == set(quantisable_layers(network))
    assert all(row.fused for row in rows if row.kind.startswith("conv"))


@every_backbone
def test_layers_stay_in_floating_point_on_request_and_no_others(backbone: str) -> None:
    network, inputs = seeded(build(SPECS[backbone])), random_inputs(2, *SPECS[backbone].input_shape)
    chosen = quantisable_layers(network)[::3]
    rule = Quantisation(engine=ENGINE, float_layers=chosen)
    simulated = measured(network, inputs, rule)
    integers = convert(simulated)
    rows = layer_rows(integers, network, rule)
    floats = {
        row.name: row.reason for row in rows if row.kind.startswith(("conv", "linear")) and row.precision != "int8"
    }
    assert floats == dict.fromkeys(chosen, "kept in floating point on request")
    left = [type(module).__name__ for module in integers.modules()]
    assert not any("BatchNorm" in name for name in left)


def test_the_linear_layer_may_stay_in_floating_point() -> None:
    network, inputs = seeded(Plain()), random_inputs(4, 3, 4, 8, 8)
    rule = Quantisation(engine=ENGINE, float_layers=("fc",))
    simulated = measured(network, inputs, rule)
    with torch.no_grad():
        torch.testing.assert_close(convert(simulated)(inputs), simulated(inputs), rtol=0, atol=1e-2)


@pytest.mark.parametrize("training", [False, True], ids=["ptq", "qat"])
def test_additions_and_concatenations_run_in_integers(training: bool) -> None:
    """Of two pooled maps, the second once was read with the scale of the first: off by a factor of 5 here."""
    network, inputs = seeded(Joined()), random_inputs(8, 3, 8, 8)
    assert isinstance(network, Joined)
    with torch.no_grad():
        network.side_norm.weight.mul_(5)
    simulated = measured(network, inputs, training=training)
    integers = convert(simulated)
    with torch.no_grad():
        exact, rounded, given = network(inputs), simulated(inputs), integers(inputs)
    assert (given - rounded).abs().max() <= 2 * last_step(integers)
    assert (given - exact).abs().max() <= 0.05 * exact.abs().max()
    rows = {row.kind: row.precision for row in layer_rows(integers, network, RULE)}
    assert rows == dict.fromkeys(("conv2d", "linear", "add", "cat", "pool"), "int8")


def test_scales_of_weights_after_folding_by_hand() -> None:
    """w · γ / √(σ² + ε), and of that the largest magnitude per output channel over 127.5."""
    network, inputs = seeded(Plain()), random_inputs(2, 3, 4, 8, 8)
    assert isinstance(network, Plain)
    conv, norm = network.conv, network.norm
    simulated = measured(network, inputs)
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    largest = (conv.weight * gain.reshape(-1, 1, 1, 1, 1)).flatten(1).abs().amax(1)
    rounding = simulated.get_submodule("conv").get_submodule("weight_fake_quant")
    torch.testing.assert_close(rounding.scale, (largest / 127.5).detach())


def test_dead_scales_of_batch_norm_do_no_harm() -> None:
    """Residual blocks start with γ = 0, and training divides by it."""
    network, inputs = seeded(Plain()), random_inputs(4, 3, 4, 8, 8)
    assert isinstance(network, Plain)
    with torch.no_grad():
        network.norm.weight.copy_(torch.tensor([0.0, -1e-9, 1e-9, 1.0, -1.0]))
    prepared = prepare(network, inputs, RULE, training=True)
    lifted = prepared.get_submodule("conv").get_submodule("bn").weight
    assert isinstance(lifted, Tensor)
    torch.testing.assert_close(lifted.detach(), torch.tensor([1, -1, 1, 1e6, -1e6]) * SMALLEST_SCALE, rtol=1e-6, atol=0)
    with torch.no_grad():
        fused = without_rounding(copy.deepcopy(prepared)).eval()
        torch.testing.assert_close(fused(inputs), network(inputs), rtol=0, atol=1e-4)
    prepared(inputs).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in prepared.parameters())
    with torch.no_grad():
        assert convert(prepared.eval())(inputs).isfinite().all()


@pytest.mark.parametrize("constant", [0.0, 2.5, -2.5])
def test_constant_inputs_can_be_measured(constant: float) -> None:
    network, inputs = seeded(Plain()), torch.full((2, 3, 4, 8, 8), constant)
    simulated = measured(network, inputs)
    with torch.no_grad():
        torch.testing.assert_close(convert(simulated)(inputs), network(inputs), rtol=0, atol=0.1)


def test_the_network_and_what_was_prepared_are_left_as_they_were() -> None:
    network, inputs = seeded(Plain()), random_inputs(2, 3, 4, 8, 8)
    before = copy.deepcopy(network.state_dict())
    simulated = measured(network, inputs)
    with torch.no_grad():
        once = simulated(inputs)
        convert(simulated)
        assert torch.equal(simulated(inputs), once)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_training_learns_through_the_rounding() -> None:
    """A few steps towards a target: the loss of the converted network falls as that of the simulation does."""
    network, inputs = seeded(Plain()), random_inputs(8, 3, 4, 8, 8)
    target = random_inputs(8, 4, seed=5)
    prepared = prepare(network, inputs, RULE, training=True)
    optimiser = torch.optim.SGD(prepared.parameters(), lr=0.1)

    def loss(graph: nn.Module) -> Tensor:
        return nn.functional.mse_loss(graph(inputs), target)

    first = loss(prepared).item()
    for _ in range(20):
        optimiser.zero_grad()
        loss(prepared).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    prepared.eval()
    set_phase(prepared, observe=False, simulate=True, freeze_norms=True)
    with torch.no_grad():
        simulated, integers = loss(prepared).item(), loss(convert(prepared)).item()
    assert simulated < 0.9 * first
    assert integers == pytest.approx(simulated, abs=0.02)


@pytest.mark.parametrize("float_layers", [(), ("conv",)], ids=["integer", "float"])
def test_frozen_norms_keep_their_statistics_in_training_mode(float_layers: tuple[str, ...]) -> None:
    network, inputs = seeded(Plain()), random_inputs(4, 3, 4, 8, 8)
    prepared = prepare(network, inputs, Quantisation(engine=ENGINE, float_layers=float_layers), training=True)
    means = [buffer for name, buffer in prepared.named_buffers() if name.endswith("running_mean")]
    assert len(means) == 1
    before = means[0].clone()
    set_phase(prepared, observe=True, simulate=True, freeze_norms=True)
    prepared.train()
    prepared(inputs)
    assert torch.equal(means[0], before)
    set_phase(prepared, observe=True, simulate=True, freeze_norms=False)
    prepared(inputs)
    assert not torch.equal(means[0], before)
    prepared.eval()
    after = means[0].clone()
    prepared(inputs)
    assert torch.equal(means[0], after)


@pytest.mark.parametrize("training", [False, True], ids=["ptq", "qat"])
def test_frozen_ranges_do_not_move(training: bool) -> None:
    network, inputs = seeded(Plain()), random_inputs(4, 3, 4, 8, 8)
    simulated = measured(network, inputs, training=training)
    before = {name: value.clone() for name, value in simulated.state_dict().items()}
    with torch.no_grad():
        simulated(100 * inputs)
    assert all(torch.equal(value, before[name]) for name, value in simulated.state_dict().items())
    set_phase(simulated, observe=True, simulate=False, freeze_norms=True)
    with torch.no_grad():
        simulated(100 * inputs)
    assert any(not torch.equal(value, before[name]) for name, value in simulated.state_dict().items())


def test_a_prepared_network_resumes_from_its_state() -> None:
    network, inputs = seeded(Plain()), random_inputs(4, 3, 4, 8, 8)
    simulated = measured(network, inputs, training=True)
    twin = prepare(seeded(Plain(), seed=9), inputs, RULE, training=True).eval()
    twin.load_state_dict(simulated.state_dict())
    set_phase(twin, observe=False, simulate=True, freeze_norms=True)
    with torch.no_grad():
        assert torch.equal(twin(inputs), simulated(inputs))
        assert torch.equal(convert(twin)(inputs), convert(simulated)(inputs))


def test_ranges_that_were_never_measured_are_not_converted() -> None:
    prepared = prepare(seeded(Plain()), random_inputs(1, 3, 4, 8, 8), RULE, training=True)
    with pytest.raises(QuantisationError, match="has no range yet; run inputs through"):
        convert(prepared)


def test_networks_that_give_nan_are_not_converted() -> None:
    network, inputs = seeded(Plain()), random_inputs(2, 3, 4, 8, 8)
    assert isinstance(network, Plain)
    with torch.no_grad():
        network.fc.weight[0, 0] = float("nan")
    prepared = prepare(network, inputs, RULE, training=True).eval()
    with torch.no_grad():
        prepared(inputs)
    with pytest.raises(QuantisationError, match="not finite"):
        convert(prepared)


def test_memory_order_of_weights_and_inputs_makes_no_difference() -> None:
    network, inputs = seeded(Plain()), random_inputs(3, 3, 4, 8, 8)
    fast = copy.deepcopy(network).to(memory_format=torch.channels_last_3d)
    ordered = inputs.contiguous(memory_format=torch.channels_last_3d)
    one, other = convert(measured(network, inputs)), convert(measured(fast, ordered))
    with torch.no_grad():
        torch.testing.assert_close(one(inputs), other(ordered), rtol=0, atol=last_step(one) * 1.01)
        assert torch.equal(one(inputs), one(ordered))


def test_integers_can_be_copied() -> None:
    network, inputs = seeded(Plain()), random_inputs(3, 3, 4, 8, 8)
    integers = convert(measured(network, inputs))
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(integers)(inputs), integers(inputs))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_prepared_on_a_gpu_is_converted_for_the_cpu() -> None:
    network, inputs = seeded(Plain()).cuda(), random_inputs(4, 3, 4, 8, 8)
    simulated = measured(network, inputs.cuda(), training=True)
    integers = convert(simulated)
    with torch.no_grad():
        difference = (integers(inputs) - simulated(inputs.cuda()).cpu()).abs().max()
    assert difference <= 2 * last_step(integers)


@pytest.mark.parametrize("engine", ["x86", "qnnpack", "fbgemm"])
def test_other_engines_convert_too(engine: str) -> None:
    if engine not in torch.backends.quantized.supported_engines:
        pytest.skip(f"this build has no {engine}")
    network, inputs = seeded(Joined()), random_inputs(4, 3, 8, 8)
    simulated = measured(network, inputs, Quantisation(engine=engine))
    try:
        with torch.no_grad():
            rounded, given, exact = simulated(inputs), convert(simulated)(inputs), network(inputs)
    finally:
        use_engine(ENGINE)
    torch.testing.assert_close(given, rounded, rtol=0, atol=0.05 * float(exact.abs().max()))


@pytest.mark.parametrize("training", [False, True], ids=["ptq", "qat"])
def test_nothing_keeps_a_network_that_nobody_uses(training: bool) -> None:
    """Torch remembers every module whose device it looked up."""
    network, inputs = seeded(Plain()), random_inputs(2, 3, 4, 8, 8)
    simulated = measured(network, inputs, training=training)
    integers = convert(simulated)
    left = [weakref.ref(one) for one in (simulated, simulated.get_submodule("conv"), integers)]
    del simulated, integers
    gc.collect()
    assert [one() for one in left] == [None, None, None]


def test_no_random_numbers_are_used_up() -> None:
    network, inputs = seeded(Plain()), random_inputs(2, 3, 4, 8, 8)
    before = torch.random.get_rng_state()
    convert(measured(network, inputs, training=True))
    skeleton(network, inputs, RULE)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("float_layers", [(), ("stem", "fc")], ids=["integer", "mixed"])
def test_a_skeleton_is_what_conversion_makes_but_for_its_values(device: str, float_layers: tuple[str, ...]) -> None:
    """Nothing is computed for it: the network may have no values at all."""
    rule = Quantisation(engine=ENGINE, float_layers=float_layers)
    network, inputs = seeded(Joined()), random_inputs(4, 3, 8, 8)
    made = convert(measured(network, inputs, rule))
    bare = skeleton(copy.deepcopy(network).to(device), inputs[:1], rule)
    assert bare(inputs).isfinite().all()
    assert [str(node.target) for node in bare.graph.nodes] == [str(node.target) for node in made.graph.nodes]
    load_integers(bare, integers_of(made))
    assert torch.equal(bare(inputs), made(inputs))


@pytest.mark.skipif("qnnpack" not in torch.backends.quantized.supported_engines, reason="this build has no qnnpack")
@pytest.mark.parametrize("pool", [nn.MaxPool3d(2), lambda x: nn.functional.max_pool3d(x, 2)], ids=["module", "call"])
def test_pooling_without_a_kernel_is_refused_before_anything_is_trained(pool: Callable[[Tensor], Tensor]) -> None:
    class Pooled(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.pool = pool

        def forward(self, clips: Tensor) -> Tensor:
            out: Tensor = super().forward(self.pool(clips))
            return out

    network, inputs = seeded(Pooled()), random_inputs(2, 3, 4, 8, 8)
    prepare(network, inputs, RULE, training=True)
    with pytest.raises(QuantisationError, match=r"pool.* can't be quantised: qnnpack has no kernel .* onednn or x86"):
        prepare(network, inputs, Quantisation(engine="qnnpack"), training=True)
    use_engine(ENGINE)


def test_ranges_of_weights_can_be_renewed_at_conversion() -> None:
    """Weights that doubled in the last step would be cut off at half their size."""
    network, inputs = seeded(Plain()), random_inputs(4, 3, 4, 8, 8)
    simulated = measured(network, inputs, training=True)
    twin = copy.deepcopy(simulated)
    before = integers_of(convert(simulated))
    unmoved = integers_of(convert(twin, renew=True))
    assert all(torch.equal(unmoved[name], value) for name, value in before.items())
    with torch.no_grad():
        for name in ("conv", "fc"):
            twin.get_submodule(name).get_parameter("weight").mul_(2)
    stale, renewed = (integers_of(convert(twin, renew=renew)) for renew in (False, True))
    for name in ("conv", "fc"):
        assert torch.equal(stale[f"{name}.weight_scales"], before[f"{name}.weight_scales"])
        torch.testing.assert_close(renewed[f"{name}.weight_scales"], 2 * before[f"{name}.weight_scales"])
        assert torch.equal(renewed[f"{name}.weight"], before[f"{name}.weight"])
    assert torch.equal(integers_of(convert(simulated))["fc.weight"], before["fc.weight"])
