"""Every shipped preset can be used, and states the recipe that it names."""

from __future__ import annotations

import json

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
import yaml

from configs.loader import PRESETS, embedded_preset, json_schema, load_settings, preset_names
from configs.schema import RunSettings


@pytest.fixture(params=preset_names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_preset_opens_with_the_command_that_runs_it(name: str) -> None:
    lines = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    backbone = load_settings(name).network.backbone
    commands = {
        True: [
            f"orchestrate pas --backbone {backbone}",
            f"orchestrate sweep prune --model {backbone}",
            f"orchestrate chain --config {name}",
        ],
        False: [f"orchestrate pas --config {name}", f"orchestrate sweep prune --config {name}"],
    }
    assert any(f"{lines[1]} ".startswith(f"#   {command} ") for command in commands["embedded" in name])


def test_a_preset_follows_the_json_schema(name: str) -> None:
    values = yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(values, json.loads(json_schema()), cls=jsonschema.Draft202012Validator)


def test_a_preset_s_network_builds(name: str) -> None:
    from trainers import backbones

    settings = load_settings(name)
    spec = backbones.preset(settings.network, classes=8)
    assert spec.backbone == settings.network.backbone
    with torch.device("meta"):
        network = backbones.build(spec)
        output = network.eval()(torch.empty(2, *spec.input_shape))
    width = spec.channels(512) if backbones.backbone(spec).task == "reid" else 8
    assert output.shape == (2, width)


@pytest.mark.parametrize("backbone", ["slowfast", "r2plus1d"])
def test_the_embedded_presets_shrink_their_backbone_on_data_made_on_the_spot(backbone: str) -> None:
    settings = load_settings(embedded_preset(backbone))
    assert settings.network.backbone == backbone
    assert settings.network.preset == "tiny"
    assert settings.data.source == "moving-digits"
    assert not settings.clips.flip  # the label is a direction
    assert settings.runtime == RunSettings().runtime


def test_the_embedded_preset_of_re_identification_needs_nothing_from_outside() -> None:
    settings = load_settings(embedded_preset("reid"))
    assert (settings.network.backbone, settings.network.preset) == ("reid", "tiny")
    assert settings.data.source == "synthetic-people"
    assert set(settings.search.axes) == {"s", "c", "l"}  # images have no frames to leave out
    assert settings.runtime == RunSettings().runtime


def test_embedded_presets_differ_in_the_backbone_alone() -> None:
    assert load_settings("embedded-r2plus1d") == load_settings("embedded", ["network.backbone=r2plus1d"])


def test_kinetics_r2plus1d_is_the_source_s_recipe() -> None:
    settings = load_settings("kinetics-r2plus1d")
    train, clips = settings.train, settings.clips
    assert (train.batch, train.lr, train.epochs) == (64 * 24, 0.96, 45)
    assert (train.schedule, train.step_epochs, train.warmup_epochs) == ("step", 10, 10)
    assert (train.momentum, train.weight_decay) == (0.9, 1e-4)
    assert (clips.resize, clips.train_crop, clips.train_short_side) == ((128, 171), 112, None)
    assert (clips.per_video, clips.test) == (3, 10)
    assert settings.teacher.train == train


def test_kinetics_slowfast_is_the_source_s_recipe() -> None:
    settings = load_settings("kinetics-slowfast")
    train, clips = settings.train, settings.clips
    assert (train.batch, train.lr, train.epochs) == (128 * 16, 1.6, 45)
    assert (train.schedule, train.warmup_epochs) == ("cosine", 5)
    assert (train.momentum, train.weight_decay) == (0.9, 1e-4)
    assert (clips.train_short_side, clips.train_crop, clips.resize) == ((256, 320), 224, 256)
    assert (clips.per_video, clips.test) == (3, 10)
    assert settings.teacher.train == train


@pytest.mark.parametrize("name", ["kinetics-r2plus1d", "kinetics-slowfast", "ucf101-r2plus1d"])
def test_presets_of_the_source_distil_and_search_as_it_does(name: str) -> None:
    settings = load_settings(name)
    assert settings.network.preset == "full"
    assert (settings.search.iterations, settings.search.warm_start_lr_divisor) == (5, 10)
    assert settings.search.axes == ("s", "t", "f", "c", "l")
    assert settings.search.factors == {}  # the source's
    assert (settings.distillation.temperature, settings.distillation.teacher_mode) == (5, "train")
    assert settings.distillation.features == "none"


def test_ucf101_starts_from_random_weights_on_the_first_split() -> None:
    settings = load_settings("ucf101-r2plus1d")
    assert settings.teacher.weights is None
    assert (settings.data.source, settings.data.split) == ("ucf101", 1)
    assert settings.search.control  # the last column of Table 6.9


def test_market1501_keeps_to_the_source_where_it_can() -> None:
    """Public code of E²TAD, as far as one rate and plain momentum allow; nobody stands in front, for want of masks."""
    settings = load_settings("market1501-reid")
    teacher = settings.teacher.train
    assert (teacher.epochs, teacher.lr, teacher.schedule, teacher.step_epochs) == (60, 0.05, "step", 40)
    assert (teacher.momentum, teacher.weight_decay, teacher.warmup_epochs) == (0.9, 5e-4, 5)
    assert settings.train == teacher.model_copy(update={"lr": 0.01})
    assert settings.reid.person_occlusion == 0
