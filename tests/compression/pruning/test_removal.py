"""Cutting filters: masked and cut networks agree, specs describe what is left, and pruning goes on from there."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from compression.cost import measure_cost
from compression.pruning.engine import choose_filters
from compression.pruning.groups import ChannelGroup, GraphError, find_groups
from compression.pruning.removal import cut
from compression.pruning.selection import PruningError, PruningRule, kept_after
from compression.reduction import reduce
from compression.spec import NetworkSpec
from tests.trainers.tiny import ALL_SPECS, random_clips, random_network
from trainers.backbones import BACKBONES, build

SPECS = {name: spec.replace(blocks=(2, 2, 2, 2), width=1 / 16) for name, spec in ALL_SPECS.items()}

every_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def random_keep(groups: tuple[ChannelGroup, ...], seed: int) -> dict[str, Tensor]:
    """Any number of filters of each group, at least one."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in groups:
        left = int(torch.randint(1, group.channels + 1, (), generator=generator))
        keep[group.name] = torch.randperm(group.channels, generator=generator)[:left].sort().values
    return keep


def mask(module: nn.Module, groups: tuple[ChannelGroup, ...], keep: Mapping[str, Tensor]) -> None:
    """Zero the filters that are not kept, and scale and shift of the norm after each convolution."""
    modules = dict(module.named_modules())
    names = list(modules)
    for group in groups:
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[keep.get(group.name, torch.arange(group.channels))] = False
        for layer in group.layers:
            following = (modules[name] for name in names[names.index(layer) + 1 :])
            norm = next(found for found in following if isinstance(found, nn.BatchNorm2d | nn.BatchNorm3d))
            with torch.no_grad():
                for parameter in (*modules[layer].parameters(), *norm.parameters()):
                    parameter[gone] = 0


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def on_meta(spec: NetworkSpec) -> nn.Module:
    with torch.device("meta"):
        return build(spec)


def pruned(spec: NetworkSpec, sparsity: float, seed: int = 0) -> tuple[Any, NetworkSpec]:
    """A network cut by random importances, and the spec of what is left."""
    network = random_network(spec, seed)
    clip = random_clips(spec, 1)
    groups = find_groups(network, clip)
    originals = {group.name: group.channels for group in groups}
    choice = choose_filters(
        network, groups, PruningRule(importance="random"), sparsity=sparsity, originals=originals, seed=seed
    )
    cut(network, clip, choice.keep)
    return network, kept_after(spec, groups, choice.keep)


@every_backbone
@pytest.mark.parametrize("seed", range(2))
def test_the_masked_and_the_cut_network_agree(backbone: str, seed: int) -> None:
    spec = SPECS[backbone]
    network = random_network(spec, seed).eval()
    clips = random_clips(spec, 2)
    groups = find_groups(network, clips)
    keep = random_keep(groups, seed)
    masked = copy.deepcopy(network)
    mask(masked, groups, keep)
    cut(network, clips, keep)
    with torch.no_grad():
        expected, found = masked.features(clips), network.features(clips)
        if backbone != "reid":  # of which the vectors themselves get shorter
            torch.testing.assert_close(network(clips), masked(clips), rtol=0, atol=1e-5)
    for name in network.stages:
        kept = expected[name].abs().amax((0, *range(2, expected[name].dim()))) > 0
        torch.testing.assert_close(found[name].sum(1), expected[name].sum(1), rtol=1e-5, atol=1e-5)
        assert found[name].shape[1] >= kept.sum()


@every_backbone
def test_each_group_alone(backbone: str) -> None:
    """A wrong index is not drowned in others; a sample of the groups, for time."""
    spec = ALL_SPECS[backbone].replace(width=1 / 16)
    network = random_network(spec).eval()
    clips = random_clips(spec, 1)
    groups = find_groups(network, clips)
    for group in groups[:: len(groups) // 7]:
        keep = {group.name: torch.arange(0, group.channels, 2)}
        masked, smaller = copy.deepcopy(network), copy.deepcopy(network)
        mask(masked, groups, keep)
        cut(smaller, clips, keep)
        with torch.no_grad():
            last = network.stages[-1]
            expected, found = masked.features(clips)[last], smaller.features(clips)[last]
        torch.testing.assert_close(found.sum(1), expected.sum(1), rtol=1e-5, atol=1e-5, msg=group.name)
        for layer in group.layers:
            assert smaller.get_submodule(layer).out_channels == len(keep[group.name])


@every_backbone
def test_nothing_changes_at_sparsity_zero(backbone: str) -> None:
    spec = SPECS[backbone]
    network, left = pruned(spec, 0.0)
    reference = random_network(spec)
    assert left == spec
    state = network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in reference.state_dict().items())
    assert all(
        one.shape == other.shape for one, other in zip(network.parameters(), reference.parameters(), strict=True)
    )


@every_backbone
@pytest.mark.parametrize("seed", range(2))
def test_the_spec_describes_the_cut_network(backbone: str, seed: int) -> None:
    """Any number of filters of every group, on a network that axis c has reduced before."""
    spec = SPECS[backbone]
    spec = reduce(spec, "c") if seed else spec
    network = random_network(spec)
    clip = random_clips(spec, 1)
    groups = find_groups(network, clip)
    keep = random_keep(groups, seed)
    left = kept_after(spec, groups, keep)
    cut(network, clip, keep)
    assert shapes(on_meta(left)) == shapes(network)
    assert NetworkSpec.from_dict(left.to_dict()) == left


@every_backbone
def test_a_cut_network_lives_on(backbone: str) -> None:
    """It learns, is saved, is built from its spec, and is pruned again by the same names."""
    spec = SPECS[backbone]
    network, left = pruned(spec, 0.4)
    clips = random_clips(left, 4)
    network.train()
    network(clips).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    again = build(left)
    again.load_state_dict(load(save(network.state_dict())))
    again.eval()
    network.eval()
    torch.testing.assert_close(again(clips), network(clips), rtol=0, atol=0)
    groups = find_groups(again, clips)
    assert [group.layers for group in groups] == [group.layers for group in find_groups(build(spec), clips)]
    keep = {group.name: torch.arange(max(1, group.channels // 2)) for group in groups}
    cut(again, clips, keep)
    assert shapes(on_meta(kept_after(left, groups, keep))) == shapes(again)
    assert again(clips).isfinite().all()


@every_backbone
@pytest.mark.parametrize("axis", ["c", "l", "s"])
def test_a_pruned_network_can_be_reduced_and_pruned_again(backbone: str, axis: str) -> None:
    _, left = pruned(SPECS[backbone], 0.3)
    smaller = reduce(left, axis, 2.0)
    assert measure_cost(smaller, build).macs < measure_cost(left, build).macs
    network, least = pruned(smaller, 0.5)
    assert shapes(on_meta(least)) == shapes(network)
    assert network.eval()(random_clips(least, 1)).isfinite().all()
    assert measure_cost(least, build).macs < measure_cost(smaller, build).macs


@every_backbone
def test_cost_falls_with_the_square_of_what_is_left(backbone: str) -> None:
    """All but the first layers' and the classifier's weights lose on both sides."""
    spec = BACKBONES[backbone].presets["tiny"]
    with torch.device("meta"):
        groups = find_groups(build(spec), torch.empty(1, *spec.input_shape))
    keep = {group.name: torch.arange(group.channels - group.channels // 2) for group in groups}
    before, after = measure_cost(spec, build), measure_cost(kept_after(spec, groups, keep), build)
    assert 0.25 <= after.params / before.params < 0.32
    assert 0.25 <= after.macs / before.macs < 0.40


def test_what_else_there_is_to_know_of_a_parameter_survives() -> None:
    spec = SPECS["r2plus1d"]
    network = random_network(spec).to(torch.float64).to(memory_format=torch.channels_last_3d)
    network.layer2.requires_grad_(False)
    network.layer3.eval()
    network(random_clips(spec).double()).sum().backward()
    before = copy.deepcopy(network)
    modes = [module.training for module in network.modules()]
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    groups = find_groups(network, random_clips(spec, 1))
    keep = {group.name: torch.arange(1, group.channels, 2) for group in groups}
    cut(network, random_clips(spec, 1), keep)
    assert [module.training for module in network.modules()] == modes
    assert all(buffer.dtype == dict(before.named_buffers())[name].dtype for name, buffer in network.named_buffers())
    for name, parameter in network.named_parameters():
        old = before.get_parameter(name)
        assert parameter.dtype == torch.float64
        assert parameter.requires_grad == old.requires_grad
        assert (parameter.grad is None) == (gradients[name] is None)
        assert parameter.is_leaf
    weight = network.get_submodule("layer1.0.conv1.0.0").weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    kept, inputs = keep["layer1.0.conv1.0.0"], keep["stem.3"]
    name = "layer1.0.conv1.0.0.weight"
    torch.testing.assert_close(weight.detach(), before.get_parameter(name).detach()[kept][:, inputs], rtol=0, atol=0)
    gradient = gradients[name]
    assert gradient is not None
    torch.testing.assert_close(weight.grad, gradient[kept][:, inputs], rtol=0, atol=0)
    norm, old_norm = network.get_submodule("layer1.0.conv1.0.1"), before.get_submodule("layer1.0.conv1.0.1")
    assert torch.equal(norm.running_var, old_norm.running_var[kept])
    assert torch.equal(norm.num_batches_tracked, old_norm.num_batches_tracked)


class Odd(nn.Module):
    """Biases, a depth-wise convolution, squeeze-and-excitation, a dense connection, and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.squeeze, self.excite = nn.Linear(6, 3), nn.Linear(3, 6)
        self.dense, self.activation = nn.Conv2d(6, 4, 1), nn.PReLU(4)
        self.last, self.classifier = nn.Conv2d(10, 5, 3, padding=1), nn.Linear(5 * 4 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.norm(self.first(x)).relu())
        x = x * self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        x = torch.cat([x, self.activation(self.dense(x))], 1)
        result: Tensor = self.classifier(self.last(x).flatten(1))
        return result


def test_an_odd_network_is_cut_exactly() -> None:
    torch.manual_seed(0)
    network, images = Odd().eval(), torch.randn(2, 3, 4, 4)
    keep = {"first": torch.tensor([0, 2, 5]), "dense": torch.tensor([1]), "last": torch.tensor([0, 1, 4])}
    assert [group.name for group in find_groups(network, images)] == list(keep)
    masked = copy.deepcopy(network)
    with torch.no_grad():
        for layer, name in (
            (masked.first, "first"),
            (masked.norm, "first"),
            (masked.depthwise, "first"),
            (masked.dense, "dense"),
            (masked.last, "last"),
        ):
            for parameter in layer.parameters():
                gone = torch.ones(len(parameter), dtype=torch.bool)
                gone[keep[name]] = False
                parameter[gone] = 0
    cut(network, images, keep)
    torch.testing.assert_close(network(images), masked(images))
    assert network.classifier.in_features == 3 * 4 * 4
    assert (network.depthwise.groups, network.depthwise.in_channels, network.depthwise.out_channels) == (3, 3, 3)
    assert (network.excite.out_features, network.squeeze.in_features, network.last.in_channels) == (3, 3, 4)


def test_what_sits_on_top_loses_its_inputs() -> None:
    """As heads on a network that embeds do; the names then begin with the network's."""
    spec = SPECS["reid"]
    network = random_network(spec)
    head = nn.Linear(network.channels, 5)
    joined = nn.Sequential(OrderedDict(student=network, head=head))
    cut(joined, random_clips(spec, 1), {"student.layer4.0.conv2": torch.arange(3)})
    assert head.in_features == network.channels == 3
    assert head.out_features == 5


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"conv9": torch.tensor([0])}, "keep names 'conv9', but the groups are conv1, layer1.0.conv1"),
        ({"layer1.0.conv2": torch.tensor([0])}, "keep names 'layer1.0.conv2', but the groups are"),
        ({"conv1": torch.tensor([], dtype=torch.int64)}, r"keep\['conv1'\] is .*at least one"),
        ({"conv1": torch.tensor([0, 4])}, "different indices into its 4 filters"),
        ({"conv1": torch.tensor([-1])}, "different indices into its 4 filters"),
        ({"conv1": torch.tensor([1, 1])}, "different indices into its 4 filters"),
        ({"conv1": torch.tensor([True, False, True, True])}, "different indices into its 4 filters"),
        ({"conv1": torch.tensor([[0]])}, "different indices into its 4 filters"),
    ],
)
def test_filters_that_are_not_there(keep: dict[str, Tensor], message: str) -> None:
    spec = ALL_SPECS["reid"]
    network = random_network(spec)
    before = shapes(network)
    with pytest.raises(PruningError, match=message):
        cut(network, random_clips(spec, 1), {"layer1.0.conv1": torch.tensor([0]), **keep})
    assert shapes(network) == before


def test_a_network_that_can_not_be_traced_stays_whole() -> None:
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2] + x[:, 2:]  # which the graph does not see

    network = nn.Sequential(nn.Conv3d(3, 4, 1), Halved(), nn.Conv3d(2, 2, 1))
    before = shapes(network)
    with pytest.raises(GraphError, match="can't be traced"):
        cut(network, torch.zeros(1, 3, 2, 2, 2), {"0": torch.tensor([0, 1, 2])})
    assert shapes(network) == before
