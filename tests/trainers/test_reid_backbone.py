"""The embedding network against torchvision's ResNet-18, the source's table of widths, and its own spec."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from compression.cost import measure_cost
from compression.reduction import ReductionError, reduce
from compression.spec import Factors, NetworkSpec
from tests.trainers import tiny
from trainers.backbones import BACKBONES, FeatureStage, ImageContract, build, describe, input_contract
from trainers.backbones.published import load_weights
from trainers.backbones.reid import ReidNetwork

FULL, TINY = BACKBONES["reid"].presets["full"], BACKBONES["reid"].presets["tiny"]
SPEC = tiny.REID_SPEC
DEEP = SPEC.replace(blocks=(2, 2, 2, 2))


def on_meta(spec: NetworkSpec) -> ReidNetwork:
    with torch.device("meta"):
        network = build(spec).eval()
    assert isinstance(network, ReidNetwork)
    return network


def widths(spec: NetworkSpec) -> dict[str, int]:
    """Filters of every convolution."""
    return {name: m.out_channels for name, m in on_meta(spec).named_modules() if isinstance(m, nn.Conv2d)}


def reference() -> nn.Module:
    """torchvision's network without its classifier, as after a training."""
    torch.manual_seed(0)
    network: nn.Module = resnet18(weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(tiny.random_network(FULL).state_dict())
    return network.eval()


def test_it_computes_what_torchvision_does() -> None:
    x = torch.randn(2, 3, 70, 36)
    with torch.no_grad():
        torch.testing.assert_close(tiny.random_network(FULL).eval()(x), reference()(x))


@pytest.mark.parametrize(
    ("width", "params", "macs"),
    [
        (64, 11_176_512, 1_184_366_592),
        (48, 6_290_352, 680_656_896),
        (32, 2_798_880, 315_359_232),
        (16, 702_096, 88_473_600),
        (8, 176_712, 26_935_296),
    ],
)
def test_costs_of_the_source_s_widths(width: int, params: int, macs: int) -> None:
    """At 256 × 128 (`specs/e2tad.md` 8.2); at half the side a quarter of the multiply-adds, since all sizes halve."""
    spec = FULL.replace(width=width / 64, side=128)
    cost = measure_cost(spec, build)
    assert (cost.params, cost.macs) == (params, macs)
    assert measure_cost(spec.replace(side=64), build).macs == macs / 4


@pytest.mark.parametrize(
    ("width", "printed_macs", "printed_params"), [(64, 11.84, 11.16), (32, 3.15, 2.79), (8, 0.27, 0.17)]
)
def test_costs_that_the_source_prints(width: int, printed_macs: float, printed_params: float) -> None:
    """E²TAD, Table 4 at sparsities 0, 0.5, 0.875: 1e8 multiply-adds rounded, millions of weights (conv) cut off."""
    spec = FULL.replace(width=width / 64, side=128)
    assert round(measure_cost(spec, build).macs / 1e8, 2) == printed_macs
    weights = sum(m.weight.numel() for m in on_meta(spec).modules() if isinstance(m, nn.Conv2d))
    assert math.floor(weights / 1e4) / 100 == printed_params


def test_inputs_are_those_of_persons_and_balls() -> None:
    assert FULL.input_shape == (3, 128, 64)
    assert FULL.replace(aspect=1.0).input_shape == (3, 64, 64)
    assert TINY.input_shape == (3, 64, 32)


def test_vectors_are_means_of_the_last_map() -> None:
    network = tiny.random_network(DEEP).eval()
    x = torch.randn(2, 3, 80, 48)
    maps = network.features(x)
    assert tuple(maps) == network.stages
    assert [tuple(x.shape[1:]) for x in maps.values()] == [(4, 20, 12), (4, 20, 12), (8, 10, 6), (16, 5, 3), (32, 3, 2)]
    torch.testing.assert_close(network(x), maps["layer4"].mean((2, 3)))
    assert network.channels == 32


def test_an_empty_batch_gives_no_vectors() -> None:
    assert build(SPEC).eval()(torch.zeros(0, *SPEC.input_shape)).shape == (0, 32)


def test_the_last_stride_may_be_one() -> None:
    """layer4 then has layer3's size, the same weights, and twice the height and width of features."""
    sharp = DEEP.replace(options={"last_stride": 1.0})
    x = torch.zeros(1, 3, 64, 64, device="meta")
    assert on_meta(sharp).features(x)["layer4"].shape[2:] == on_meta(DEEP).features(x)["layer3"].shape[2:]
    shapes = [{k: v.shape for k, v in on_meta(spec).state_dict().items()} for spec in (sharp, DEEP)]
    assert shapes[0] == shapes[1]
    assert on_meta(DEEP.replace(options={"last_stride": 2.0})).features(x)["layer4"].shape[2:] == (2, 2)


def test_stage_ends_give_the_maps() -> None:
    network = tiny.random_network(DEEP).eval()
    seen: dict[str, torch.Tensor] = {}
    for name, module in network.stage_ends().items():
        module.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output.clone()))
    maps = network.features(tiny.random_clips(DEEP))
    assert list(seen) == ["layer1", "layer2", "layer3", "layer4"]
    for name, end in seen.items():
        assert torch.equal(end, maps[name])


def test_described_stages() -> None:
    strides = {"stem": 4, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    channels = dict(zip(strides, (64, 64, 128, 256, 512), strict=True))
    assert describe(FULL) == tuple(
        FeatureStage(name=name, channels=channels[name], temporal_stride=1, spatial_stride=stride)
        for name, stride in strides.items()
    )


def test_input_contract_of_a_reduced_network() -> None:
    """128 × 64 over 1.4: 91.4 × 45.7, each rounded by itself."""
    contract = input_contract(FULL.replace(factors=Factors(s=1.4)))
    assert isinstance(contract, ImageContract)
    assert (contract.height, contract.width) == (91, 46)
    assert contract.mean == (0.485, 0.456, 0.406)
    assert contract.layout == "image channel height width"


@pytest.mark.parametrize(
    ("axis", "image", "stem", "blocks"),
    [("s", (3, 91, 46), 64, 2), ("c", (3, 128, 64), 46, 2), ("l", (3, 128, 64), 64, 1)],
)
def test_reductions_that_images_have(axis: str, image: tuple[int, ...], stem: int, blocks: int) -> None:
    spec = reduce(FULL, axis)
    network = on_meta(spec)
    assert (spec.input_shape, network.conv1.out_channels) == (image, stem)
    assert [len(network.get_submodule(name)) for name in network.stages[1:]] == [blocks] * 4  # type: ignore[arg-type]
    assert network(torch.zeros(1, *image, device="meta")).shape == (1, network.channels)


@pytest.mark.parametrize("axis", ["t", "f"])
def test_images_have_no_frames_to_drop(axis: str) -> None:
    with pytest.raises(ReductionError, match=f"axis {axis} .* is exhausted"):
        reduce(FULL, axis)


@pytest.mark.parametrize(
    ("layer", "narrowed"),
    [
        ("conv1", {"conv1", "layer1.0.conv2", "layer1.1.conv2"}),
        ("layer1.0.conv1", {"layer1.0.conv1"}),
        ("layer2.0.conv1", {"layer2.0.conv1"}),
        ("layer2.0.conv2", {"layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"}),
        ("layer4.1.conv1", {"layer4.1.conv1"}),
        ("layer4.0.conv2", {"layer4.0.conv2", "layer4.0.downsample.0", "layer4.1.conv2"}),
    ],
)
def test_what_pruning_kept_goes_by_the_first_of_coupled_layers(layer: str, narrowed: set[str]) -> None:
    """Outputs that are added have one width, and everything downstream fits."""
    pruned = DEEP.replace(kept={layer: 3})
    before, after = widths(DEEP), widths(pruned)
    assert {name for name in before if after[name] != before[name]} == narrowed
    assert {after[name] for name in narrowed} == {3}
    network = build(pruned).eval()
    assert network(tiny.random_clips(pruned)).shape == (4, 3 if layer == "layer4.0.conv2" else 32)


def test_other_names_keep_nothing() -> None:
    """The second of coupled layers is not asked for, so a spec that names it describes the unpruned network."""
    assert widths(DEEP.replace(kept={"layer1.0.conv2": 3, "layer2.0.downsample.0": 3})) == widths(DEEP)


def test_blocks_start_as_identities() -> None:
    """Their last batch norm's scale, and no other, is 0 at first, so layer1 gives the stem's map back."""
    torch.manual_seed(0)
    network = build(DEEP).train()
    scales = {k: v for k, v in network.state_dict().items() if k.endswith(("bn1.weight", "bn2.weight"))}
    assert {k for k, v in scales.items() if not v.any()} == {k for k in scales if k.endswith("bn2.weight")}
    maps = network.features(tiny.random_clips(DEEP))
    assert maps["stem"].any()
    assert torch.equal(maps["layer1"], maps["stem"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aspect": None}, "reid is fed images, so it needs aspect"),
        ({"clip_frames": 8}, "clip_frames is 8, but reid is fed single images"),
        ({"dropout": 0.5}, r"dropout is 0\.5, but reid has no classifier; set reid\.head_dropout"),
        ({"options": {"first_stride": 1.0}}, "options has 'first_stride', but reid only has 'last_stride'"),
        ({"options": {"last_stride": 3.0}}, r"options\.last_stride is 3, but must be 1 or 2"),
        ({"options": {"last_stride": 1.5}}, r"options\.last_stride is 1\.5, but must be 1 or 2"),
        ({"blocks": (2, 2, 2)}, "reid has 4 stages"),
    ],
)
def test_specs_that_it_can_not_have(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        on_meta(SPEC.replace(**change))


def test_published_weights_load_without_their_classifier(tmp_path: Path) -> None:
    """torchvision's file has 1000 classes, which an embedding has no use for."""
    file = tmp_path / "resnet18.pth"
    theirs = resnet18(weights=None).state_dict()
    torch.save(theirs, file)
    loaded = load_weights(file, FULL)
    assert set(theirs) - set(loaded) == {"fc.weight", "fc.bias"}
    build(FULL).load_state_dict(loaded)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in loaded.items())


def test_published_weights_may_be_older_than_the_norms_counters(tmp_path: Path) -> None:
    state = tiny.random_network(SPEC).state_dict()
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, tmp_path / "old.pth")
    loaded = load_weights(tmp_path / "old.pth", SPEC)
    assert loaded.keys() == state.keys()
    assert loaded["bn1.num_batches_tracked"] == 0
    assert torch.equal(loaded["bn1.running_var"], state["bn1.running_var"])
