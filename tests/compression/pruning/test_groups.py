"""Groups of coupled convolutions: by hand, in every backbone, in odd networks, and networks that can't be traced."""

import contextlib
import threading
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compression.pruning.groups import ChannelGroup, GraphError, find_groups
from tests.trainers.tiny import ALL_SPECS, DEEP, random_clips, random_network
from trainers.backbones import BACKBONES, build

IMAGE = torch.zeros(1, 3, 8, 8)

STREAMS = {
    "r2plus1d": {
        "stem.0": ("stem.0",),
        "stem.3": ("stem.3", "layer1.0.conv2.0.3", "layer1.1.conv2.0.3"),
        "layer1.0.conv1.0.3": ("layer1.0.conv1.0.3",),
        "layer1.1.conv2.0.0": ("layer1.1.conv2.0.0",),
        "layer2.0.conv2.0.3": ("layer2.0.conv2.0.3", "layer2.0.downsample.0", "layer2.1.conv2.0.3"),
        "layer4.0.conv2.0.3": ("layer4.0.conv2.0.3", "layer4.0.downsample.0", "layer4.1.conv2.0.3"),
    },
    "slowfast": {
        "stem.slow.conv": ("stem.slow.conv",),
        "stem.fast.conv": ("stem.fast.conv",),
        "res2.lateral.conv": ("res2.lateral.conv",),
        "res2.slow.0.a.conv": ("res2.slow.0.a.conv",),
        "res2.slow.0.c.conv": ("res2.slow.0.c.conv", "res2.slow.0.shortcut.conv", "res2.slow.1.c.conv"),
        "res5.fast.0.c.conv": ("res5.fast.0.c.conv", "res5.fast.0.shortcut.conv", "res5.fast.1.c.conv"),
    },
    "reid": {
        "conv1": ("conv1", "layer1.0.conv2", "layer1.1.conv2"),
        "layer1.0.conv1": ("layer1.0.conv1",),
        "layer2.0.conv2": ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"),
    },
}
"""A few groups of each backbone with two blocks per stage, by name."""
SPECS = {**DEEP, "reid": ALL_SPECS["reid"].replace(blocks=(2, 2, 2, 2))}


class Network(nn.Module):
    """Layers given by name, and what is made of them and an image."""

    def __init__(self, forward: Callable[["Network", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = forward

    def forward(self, image: Tensor) -> Tensor:
        return self.function(self, image)

    def __getattr__(self, name: str) -> nn.Module:
        return super().__getattr__(name)  # type: ignore[return-value]


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


def layers_of(network: nn.Module) -> list[tuple[str, ...]]:
    return [group.layers for group in find_groups(network, IMAGE)]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_streams_of_the_backbones_by_hand(backbone: str) -> None:
    spec = SPECS[backbone]
    groups = {group.name: group for group in find_groups(build(spec), random_clips(spec, 1))}
    assert {name: groups[name].layers for name in STREAMS[backbone]} == STREAMS[backbone]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_convolution_of_a_backbone_is_in_one_group(backbone: str) -> None:
    """In module order, with the first as the group's name; the classifier is in none."""
    spec = SPECS[backbone]
    network = build(spec)
    groups = find_groups(network, random_clips(spec, 1))
    widths = {
        name: layer.out_channels for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Conv3d)
    }
    order = list(widths)
    assert sorted((layer for group in groups for layer in group.layers), key=order.index) == order
    for group in groups:
        assert group.name == group.layers[0]
        assert list(group.layers) == sorted(group.layers, key=order.index)
        assert {widths[layer] for layer in group.layers} == {group.channels}
    assert [group.name for group in groups] == sorted((group.name for group in groups), key=order.index)


def test_depthwise_convolutions_follow_their_input() -> None:
    network = Network(
        lambda self, x: self.last(self.depthwise(self.first(x))),
        first=conv(3, 4), depthwise=conv(4, 4, groups=4), last=conv(4, 2),
    )  # fmt: skip
    assert layers_of(network) == [("first",), ("last",)]


def test_a_depthwise_convolution_of_the_input_can_not_be_pruned() -> None:
    network = Network(lambda self, x: self.last(self.depthwise(x)), depthwise=conv(3, 3, groups=3), last=conv(3, 2))
    assert layers_of(network) == [("last",)]


def test_what_reaches_a_grouped_convolution_is_left_out() -> None:
    network = Network(
        lambda self, x: self.last(self.grouped(self.first(x))),
        first=conv(3, 4), grouped=conv(4, 4, groups=2), last=conv(4, 2),
    )  # fmt: skip
    assert layers_of(network) == [("last",)]


def test_what_reaches_a_group_norm_is_left_out() -> None:
    network = Network(
        lambda self, x: self.last(self.norm(self.first(x))), first=conv(3, 4), norm=nn.GroupNorm(2, 4), last=conv(4, 2)
    )
    assert layers_of(network) == [("last",)]


def test_outputs_that_are_concatenated_stay_free() -> None:
    network = Network(
        lambda self, x: self.last(torch.cat([self.left(x), self.right(x)], 1)),
        left=conv(3, 4), right=conv(3, 2), last=conv(6, 2),
    )  # fmt: skip
    assert layers_of(network) == [("left",), ("right",), ("last",)]


def test_an_output_that_is_added_to_a_concatenation_is_left_out() -> None:
    """Filter 5 of the one would go with filter 1 of the other: no group of equal indices."""
    network = Network(
        lambda self, x: self.last(torch.cat([self.left(x), self.right(x)], 1) + self.sum(x)),
        left=conv(3, 4), right=conv(3, 2), sum=conv(3, 6), last=conv(6, 2),
    )  # fmt: skip
    assert layers_of(network) == [("last",)]


def test_a_layer_that_is_used_twice_is_one_layer() -> None:
    network = Network(lambda self, x: self.twice(self.twice(self.first(x))), first=conv(3, 4), twice=conv(4, 4))
    assert find_groups(network, IMAGE) == (ChannelGroup("first", 4, ("first", "twice")),)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_network_is_left_as_it_was(backbone: str) -> None:
    """Mode, weights, statistics, gradients, what is frozen, and hooks, which are not called either."""
    spec = ALL_SPECS[backbone]
    network = random_network(spec).train()
    network.get_submodule("layer1" if backbone != "slowfast" else "res2").eval().requires_grad_(False)
    network(random_clips(spec)).sum().backward()
    calls: list[nn.Module] = []
    hook = network.register_forward_hook(lambda module, *_: calls.append(module))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    state = [(parameter, parameter.grad, parameter.requires_grad) for parameter in network.parameters()]
    find_groups(network, random_clips(spec, 1))
    assert calls == []
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    after = [(parameter, parameter.grad, parameter.requires_grad) for parameter in network.parameters()]
    assert all(all(one is other for one, other in zip(a, b, strict=True)) for a, b in zip(state, after, strict=True))
    hook.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_frozen_networks_without_gradients_are_traced_all_the_same() -> None:
    network = build(ALL_SPECS["reid"]).requires_grad_(False)
    with torch.inference_mode():
        frozen = find_groups(network, random_clips(ALL_SPECS["reid"], 1))
    with torch.no_grad():
        assert find_groups(network, random_clips(ALL_SPECS["reid"], 1)) == frozen
    assert frozen == find_groups(build(ALL_SPECS["reid"]), random_clips(ALL_SPECS["reid"], 1))


class Odd(nn.Module):
    """A layer of a network, with a forward of the test's."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def with_odd(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(conv(3, 4), nn.Sequential(nn.ReLU(), Odd(function)), conv(4, 2))


def fail(x: Tensor) -> Tensor:
    raise KeyError("no such thing")


def recurse(x: Tensor) -> Tensor:
    return recurse(x)


def channel_shuffle(x: Tensor) -> Tensor:
    """An operation that the graph takes for an element-wise one."""
    return F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fail, r"1\.1 \(Odd\) can't be traced: KeyError: 'no such thing'"),
        (recurse, r"1\.1 \(Odd\) can't be traced: RecursionError"),
        (lambda x: x if x.sum() > 0 else -x, r"1\.1 \(Odd\) can't be traced: "),
        (lambda x: torch.from_numpy(x.detach().numpy()), r"1\.1 \(Odd\) can't be traced: "),
        (lambda x: x.detach() * 2, r"0 \(Conv2d\) can't be traced: no gradient reaches it"),
        (channel_shuffle, r"1\.1 \(Odd\) can't be traced: "),
        (lambda x: x * torch.ones(4, 1, 1, device="meta"), r"1\.1 \(Odd\) can't be traced: "),
    ],
)
def test_the_module_that_can_not_be_traced_is_named(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        find_groups(with_odd(function), IMAGE)


def test_functions_of_a_layer_s_weights_are_found_out() -> None:
    network = Network(
        lambda self, x: F.conv2d(self.first(x), self.last.get_parameter("weight")), first=conv(3, 4), last=conv(4, 2)
    )
    with pytest.raises(GraphError, match="can't be traced"):
        find_groups(network, IMAGE)


def test_layers_that_share_weights_are_refused() -> None:
    network = nn.Sequential(conv(3, 3), nn.ReLU(), conv(3, 3))
    network[2].weight = network[0].weight
    with pytest.raises(GraphError, match=r"2 \(Conv2d\) shares weights with 0"):
        find_groups(network, IMAGE)


def test_what_can_not_be_copied_is_refused() -> None:
    network = with_odd(lambda x: x)
    network.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(GraphError, match="Sequential can't be traced: copying it raised TypeError"):
        find_groups(network, IMAGE)


def loop(x: Tensor) -> Tensor:
    while True:
        with contextlib.suppress(Exception):  # as networks do that try one thing after another
            time.sleep(0.001)


def test_a_network_that_hangs_is_given_up() -> None:
    """Its thread ends, too, although it swallows exceptions."""
    before = set(threading.enumerate())
    start = time.monotonic()
    with pytest.raises(GraphError, match=r"1\.1 \(Odd\) can't be traced: it took more than 0\.2 s"):
        find_groups(with_odd(loop), IMAGE, timeout_seconds=0.2)
    assert time.monotonic() - start < 5
    assert set(threading.enumerate()) == before
