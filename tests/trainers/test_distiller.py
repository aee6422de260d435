"""The teacher at work: its batch norm, its silence, and feature maps of other sizes."""

import copy
from typing import Literal

import pytest
import torch
from torch import nn

from compression.distillation import softened_kl
from compression.reduction import AXES, reduce
from compression.spec import NetworkSpec
from configs.schema import DistillationSettings
from tests.trainers import tiny
from trainers.backbones import Network, VideoNetwork, build
from trainers.distiller import Distiller, set_teacher_mode, stage_channels

Mode = Literal["train", "eval"]
Features = Literal["l2", "margin_relu"]

every_backbone = pytest.mark.parametrize("backbone", tiny.SPECS)
every_feature_loss = pytest.mark.parametrize("features", ["l2", "margin_relu"])


def with_dropout(backbone: str) -> VideoNetwork:
    network: VideoNetwork = tiny.random_network(tiny.SPECS[backbone].replace(dropout=0.5))
    return network


@every_backbone
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_teacher_mode_chooses_the_statistics_and_changes_none(backbone: str, mode: Mode) -> None:
    """Against a network in that mode without dropout; mean, variance and batch counter stay bit for bit."""
    network = with_dropout(backbone)
    reference = copy.deepcopy(network).train(mode == "train")
    reference.dropout.eval()
    before = copy.deepcopy(network.state_dict())
    clips = tiny.random_clips(network.spec)
    teacher = set_teacher_mode(network, mode)
    torch.testing.assert_close(teacher(clips), reference(clips).detach(), rtol=0, atol=0)
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)


@every_backbone
def test_the_modes_differ(backbone: str) -> None:
    clips = tiny.random_clips(tiny.SPECS[backbone])
    train, evaluate = (set_teacher_mode(with_dropout(backbone), mode)(clips) for mode in ("train", "eval"))
    assert not torch.allclose(train, evaluate, atol=1e-2)


def test_the_teacher_is_a_constant() -> None:
    """It has no gradient, is no parameter of the distiller, and is not saved with it."""
    student, teacher = tiny.random_network(tiny.SPEC, 0), tiny.random_network(tiny.SPEC, 1)
    distiller = Distiller(teacher, student, DistillationSettings(features="l2"))
    clips = tiny.random_clips(tiny.SPEC)
    with distiller.recorded(student) as maps:
        logits = student(clips)
    sum(distiller(logits, maps, clips).values()).backward()
    assert all(p.grad is not None for p in [*student.parameters(), *distiller.parameters()])
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(name.startswith("connectors.") for name in distiller.state_dict())


@pytest.mark.parametrize(
    ("settings", "factor", "reduction"),
    [
        (DistillationSettings(weight=0.7, temperature=3.0), 0.7, "class_sum"),
        (DistillationSettings(weight=0.7, source_alpha=500.0, temperature=3.0), 500.0, "element_mean"),
    ],
)
def test_the_weighted_kl_is_the_only_term_without_features(
    settings: DistillationSettings, factor: float, reduction: Literal["class_sum", "element_mean"]
) -> None:
    student, teacher = tiny.random_network(tiny.SPEC, 0).eval(), tiny.random_network(tiny.SPEC, 1)
    distiller = Distiller(teacher, student, settings)
    clips = tiny.random_clips(tiny.SPEC)
    with distiller.recorded(student) as maps:
        logits = student(clips)
    terms = distiller(logits, maps, clips)
    assert maps == {}
    assert list(terms) == ["kl"]
    expected = factor * softened_kl(logits, teacher(clips), temperature=3.0, reduction=reduction)
    torch.testing.assert_close(terms["kl"], expected)


@every_backbone
def test_what_is_recorded_enters_the_stages_last_activations(backbone: str) -> None:
    """After the activation it is what the network offers as the stage's feature map, though that works in place."""
    spec = tiny.SPECS[backbone]
    student = tiny.random_network(spec).eval()
    distiller = Distiller(tiny.random_network(spec), student, DistillationSettings(features="l2"))
    clips = tiny.random_clips(spec)
    with distiller.recorded(student) as maps:
        features = student.features(clips)
    assert maps.keys() == student.stage_ends().keys()
    assert min(tensor.min().item() for tensor in maps.values()) < 0
    torch.testing.assert_close({name: tensor.relu() for name, tensor in maps.items()}, {n: features[n] for n in maps})
    assert not any(module._forward_pre_hooks for module in student.modules())


@every_backbone
def test_stage_channels_are_those_of_the_maps(backbone: str) -> None:
    network = tiny.random_network(tiny.SPECS[backbone]).eval()
    maps = network.features(tiny.random_clips(network.spec))
    assert stage_channels(network.spec) == {name: tensor.shape[1] for name, tensor in maps.items()}


@every_feature_loss
@every_backbone
def test_a_network_costs_nothing_against_itself(backbone: str, features: Features) -> None:
    """With connectors that pass their input on."""
    teacher = tiny.random_network(tiny.SPECS[backbone])
    student = copy.deepcopy(teacher).train()
    distiller = Distiller(teacher, student, DistillationSettings(features=features))
    for connector in distiller.connectors.values():
        assert isinstance(connector, nn.Conv3d)
        nn.init.dirac_(connector.weight)
        nn.init.zeros_(connector.bias)  # type: ignore[arg-type]
    clips = tiny.random_clips(teacher.spec)
    with distiller.recorded(student) as maps:
        logits = student(clips)
    for name, term in distiller(logits, maps, clips).items():
        torch.testing.assert_close(term, torch.zeros(()), rtol=0, atol=1e-6, msg=name)


@every_feature_loss
@pytest.mark.parametrize("axis", AXES)
@every_backbone
def test_every_axis_learns_from_feature_maps(backbone: str, axis: str, features: Features) -> None:
    """Maps of other sizes are pooled, of other channel counts connected; one small step lowers the loss."""
    spec = tiny.DEEP[backbone]
    distiller, student, clips = set_up(spec, reduce(spec, axis), features)
    optimizer = torch.optim.SGD([*student.parameters(), *distiller.parameters()], lr=1e-4)

    def loss() -> torch.Tensor:
        with distiller.recorded(student) as maps:
            logits = student(clips[0])
        term: torch.Tensor = distiller(logits, maps, clips[1])["features"]
        return term

    before = loss()
    before.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert 0 < loss().item() < before.item()


def set_up(wide: NetworkSpec, narrow: NetworkSpec, features: Features) -> tuple[Distiller, Network, list[torch.Tensor]]:
    teacher = tiny.random_network(wide)
    student = build(narrow).train()
    settings = DistillationSettings(features=features)
    return Distiller(teacher, student, settings), student, [tiny.random_clips(narrow), tiny.random_clips(wide)]
