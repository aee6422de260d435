"""The backbones against their tables, torchvision's network, and the promises of `Network` and `VideoNetwork`."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torchvision.models.video import r2plus1d_18

from compression.reduction import AXES, ReductionError, reduce
from compression.spec import Factors, NetworkSpec
from configs.schema import NetworkSettings
from trainers.backbones import (
    BACKBONES,
    FeatureStage,
    InputContract,
    Network,
    VideoNetwork,
    build,
    describe,
    input_contract,
    preset,
)

FULL = {name: row.presets["full"] for name, row in BACKBONES.items()}
TINY = {name: row.presets["tiny"].replace(classes=5) for name, row in BACKBONES.items()}

every_backbone = pytest.mark.parametrize("backbone", BACKBONES)
every_video_backbone = pytest.mark.parametrize("backbone", [name for name, spec in FULL.items() if not spec.aspect])
every_axis_of_each = pytest.mark.parametrize(
    ("backbone", "axis"),
    [(name, axis) for name, spec in FULL.items() for axis in AXES if not spec.aspect or axis in "scl"],
)
"""Images have no frames to drop."""


def clips(spec: NetworkSpec, number: int = 1) -> torch.Tensor:
    """Clips, or images, of noise."""
    return torch.randn(number, *spec.input_shape, generator=torch.Generator().manual_seed(0))


def on_meta(spec: NetworkSpec) -> Network:
    with torch.device("meta"):
        return build(spec).eval()


def randomise_norms(network: nn.Module) -> None:
    """Statistics and scales as after a training; fresh ones would hide a batch norm in the wrong place."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            statistics = module.state_dict(keep_vars=True)
            nn.init.normal_(statistics["running_mean"], std=0.1)
            nn.init.uniform_(statistics["running_var"], 0.5, 1.5)


def test_r2plus1d_computes_what_torchvision_does() -> None:
    torch.manual_seed(0)
    reference = r2plus1d_18(weights=None).eval()
    randomise_norms(reference)
    network = build(FULL["r2plus1d"]).eval()
    network.load_state_dict(reference.state_dict())
    x = torch.randn(1, 3, 6, 20, 20)
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(x))


def test_r2plus1d_is_initialised_as_in_torchvision() -> None:
    """The same distribution for every tensor: standard deviations agree within sampling error."""
    torch.manual_seed(0)
    reference, network = r2plus1d_18(weights=None).state_dict(), build(FULL["r2plus1d"]).state_dict()
    assert reference.keys() == network.keys()
    for name, tensor in reference.items():
        if tensor.dim() > 1:
            torch.testing.assert_close(network[name].std(), tensor.std(), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("name", "slow", "fast"),
    [
        ("stem", (64, 4, 64), (8, 32, 64)),
        ("res2", (256, 4, 64), (32, 32, 64)),
        ("res3", (512, 4, 32), (64, 32, 32)),
        ("res4", (1024, 4, 16), (128, 32, 16)),
        ("res5", (2048, 4, 8), (256, 32, 8)),
    ],
)
def test_slowfast_sizes_are_those_of_the_table(name: str, slow: tuple[int, ...], fast: tuple[int, ...]) -> None:
    """Channels × frames × side after each stage, for 64 frames of 256² (Feichtenhofer et al., Table 1)."""
    spec = FULL["slowfast"]
    maps = on_meta(spec).features(clips(spec).to("meta"))
    assert maps[f"{name}.slow"].shape[1:4] == slow
    assert maps[f"{name}.fast"].shape[1:4] == fast


def test_slowfast_temporal_kernels_are_those_of_the_table() -> None:
    """The slow path convolves over time in res4 and res5 only, the fast path everywhere; spatial kernels never do."""
    state = on_meta(FULL["slowfast"]).state_dict()
    first = {
        path: [state[f"res{n}.{path}.1.a.conv.weight"].shape[2] for n in (2, 3, 4, 5)] for path in ("slow", "fast")
    }
    assert first == {"slow": [1, 1, 3, 3], "fast": [3, 3, 3, 3]}
    assert {tuple(v.shape[2:]) for k, v in state.items() if k.endswith(".b.conv.weight")} == {(1, 3, 3)}


@every_video_backbone
def test_logits_are_the_head_of_the_features(backbone: str) -> None:
    network = build(TINY[backbone]).eval()
    assert isinstance(network, VideoNetwork)
    x = clips(TINY[backbone], 2)
    features = network.features(x)
    assert tuple(features) == network.stages
    assert set(network.pooled) <= set(network.stages)
    assert network(x).shape == (2, 5)
    torch.testing.assert_close(network(x), network.head(features), rtol=0, atol=0)


def test_the_classifier_sees_the_slow_path_first() -> None:
    network = build(TINY["slowfast"]).eval()
    assert isinstance(network, VideoNetwork)
    features = network.features(clips(TINY["slowfast"]))
    pooled = torch.cat([features[name].mean((2, 3, 4)) for name in ("res5.slow", "res5.fast")], 1)
    torch.testing.assert_close(network.head(features), network.fc(pooled))


def test_the_two_paths_see_their_own_frames() -> None:
    """Strides 4 and 2: frame 4 reaches both paths, frame 2 the slow one only laterally, frame 1 neither."""
    spec = TINY["slowfast"].replace(options={"slow_stride": 4.0, "fast_stride": 2.0, "fast_width": 0.5})
    network = build(spec).eval()
    x = clips(spec)
    before = network.features(x)

    def changed(frame: int) -> set[str]:
        other = x.clone()
        other[:, :, frame] += 1
        return {name for name, map_ in network.features(other).items() if not torch.equal(map_, before[name])}

    assert changed(1) == set()
    assert changed(2) == set(network.stages) - {"stem.slow"}
    assert changed(4) == set(network.stages)


@every_backbone
def test_every_weight_takes_part(backbone: str) -> None:
    """A parameter without a gradient would be a layer that is built but not connected."""
    torch.manual_seed(0)
    network = build(TINY[backbone])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.ones_(module.weight)  # residual blocks start as identities, which keeps gradients out of them
    loss = nn.functional.cross_entropy(network(clips(TINY[backbone], 4)), torch.arange(4))
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    assert [name for name, gradient in zip(names, gradients, strict=True) if not gradient.any()] == []


@every_axis_of_each
def test_every_reduction_runs_down_to_the_end_of_its_axis(backbone: str, axis: str) -> None:
    spec = TINY[backbone]
    for _ in range(6):
        try:
            spec = reduce(spec, axis)
        except ReductionError:
            break
        network = on_meta(spec)
        outputs = 5 if isinstance(network, VideoNetwork) else describe(spec)[-1].channels
        assert network(clips(spec).to("meta")).shape == (1, outputs)
    assert build(spec).eval()(clips(spec)).isfinite().all()


@every_axis_of_each
def test_weights_keep_their_shapes_where_the_axis_says_so(backbone: str, axis: str) -> None:
    def shapes(spec: NetworkSpec) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in on_meta(spec).state_dict().items()}

    spec = TINY[backbone]
    assert (shapes(reduce(spec, axis)) == shapes(spec)) == AXES[axis].keeps_weights


@pytest.mark.parametrize("frames", [1, 2, 7, 16, 17, 33, 63])
def test_the_paths_meet_whatever_the_clip_length(frames: int) -> None:
    """⌈F/16⌉ slow frames, ⌈F/2⌉ fast ones, and a lateral stride of 8 that maps one number onto the other."""
    spec = FULL["slowfast"].replace(clip_frames=frames, side=32)
    maps = on_meta(spec).features(clips(spec).to("meta"))
    assert maps["res5.slow"].shape[2] == math.ceil(frames / 16)
    assert maps["res5.fast"].shape[2] == math.ceil(frames / 2)


@every_backbone
def test_every_convolution_follows_the_channel_factor_and_the_rounding(backbone: str) -> None:
    """Stem and factorised middle channels included."""
    full = on_meta(FULL[backbone])
    spec = FULL[backbone].replace(factors=Factors(c=1.4), round_to=8)
    for (name, wide), narrow in zip(full.named_modules(), on_meta(spec).modules(), strict=True):
        if isinstance(wide, nn.Conv3d):
            assert isinstance(narrow, nn.Conv3d)
            assert narrow.out_channels == spec.channels(wide.out_channels), name


@every_backbone
def test_tiny_has_the_full_network_s_stages_and_some_blocks_to_drop(backbone: str) -> None:
    assert [stage.name for stage in describe(TINY[backbone])] == [stage.name for stage in describe(FULL[backbone])]
    assert min(TINY[backbone].blocks) >= 2


@every_video_backbone
def test_described_strides_give_the_sizes_of_the_maps(backbone: str) -> None:
    """Also for sizes that are no multiples: 46 pixels, 13 frames."""
    spec = TINY[backbone].replace(clip_frames=13, side=46)
    maps = on_meta(spec).features(clips(spec).to("meta"))
    for stage in describe(spec):
        channels, frames, height, width = maps[stage.name].shape[1:]
        assert channels == stage.channels
        assert frames == math.ceil(13 / stage.temporal_stride)
        assert height == width == math.ceil(46 / stage.spatial_stride)


def test_described_stages_by_hand() -> None:
    first, *_, last = describe(FULL["r2plus1d"])
    assert first == FeatureStage(name="stem", channels=64, temporal_stride=1, spatial_stride=2)
    assert last == FeatureStage(name="layer4", channels=512, temporal_stride=8, spatial_stride=16)
    assert describe(FULL["slowfast"].replace(factors=Factors(c=1.4)))[-2] == FeatureStage(
        name="res5.slow", channels=1463, temporal_stride=16, spatial_stride=32
    )


def test_input_contract_of_a_reduced_network() -> None:
    contract = input_contract(FULL["slowfast"].replace(factors=Factors(s=1.4, t=2.0, f=2.0)))
    assert isinstance(contract, InputContract)
    assert (contract.fps, contract.frames, contract.side) == (30, 16, 183)
    assert contract.frame_indices == tuple(range(0, 32, 2))
    assert contract.mean == (0.45, 0.45, 0.45)
    assert dataclasses.asdict(contract)["layout"] == "clip channel frame height width"


@every_backbone
@pytest.mark.parametrize("size", ["full", "tiny"])
def test_presets_take_the_given_fields_only(backbone: str, size: str) -> None:
    base = BACKBONES[backbone].presets[size]
    assert base.backbone == backbone
    plain = NetworkSettings.model_validate({"backbone": backbone, "preset": size})
    assert preset(plain, classes=8) == base.replace(classes=8)
    changes = {"side": 48, "clip_frames": 8, "width": 0.25, "dropout": 0.1, "round_to": 8}
    assert preset(plain.model_copy(update=changes), classes=8) == base.replace(classes=8, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "c3d"}, "backbone is 'c3d', but must be one of slowfast, r2plus1d, reid"),
        ({"blocks": (2, 2, 2)}, "slowfast has 4 stages"),
        ({"options": {}}, "slowfast needs"),
        ({"options": {"slow_stride": 4.0, "fast_stride": 1.0, "fast_width": 0.5, "alpha": 8.0}}, "alpha"),
        ({"options": {"slow_stride": 4.0, "fast_stride": 3.0, "fast_width": 0.5}}, "a multiple of the fast one"),
        ({"options": {"slow_stride": 0.0, "fast_stride": 1.0, "fast_width": 0.5}}, "slow_stride is 0"),
        ({"options": {"slow_stride": 4.5, "fast_stride": 1.5, "fast_width": 0.5}}, "whole numbers"),
        ({"options": {"slow_stride": 4.0, "fast_stride": 1.0, "fast_width": 0.0}}, "fast_width is 0,"),
    ],
)
def test_specs_that_no_network_can_have(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        on_meta(TINY["slowfast"].replace(**change))
