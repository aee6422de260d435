"""The command line of sweeps: what stands in where nothing is said, and what a model folder brings with it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import UserError
from configs.loader import load_settings
from configs.schema import ClipSettings, DataSettings, DistillationSettings, ReidSettings, RunSettings
from orchestrator.cli import run
from orchestrator.commands import execution
from orchestrator.report.sweep import render_sweep, write_sweep_report
from orchestrator.sweep.sensitivity_file import read_layer_sparsity, sweep_command, write_layer_sparsity
from orchestrator.validation import data_of
from tests.orchestrator.sample_sweep import sensitivity_state
from trainers.backbones import BACKBONES
from trainers.package import Description

Captured = pytest.CaptureFixture[str]
RECORDED = {"source": "market1501", "path": "people", "split": 1, "max_quarantined": 0.25, "fingerprint": "f"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """The settings that the command line would have executed."""
    calls: list[RunSettings] = []
    monkeypatch.setattr(execution, "execute", lambda settings, algorithm, **_: calls.append(settings))
    return calls


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(settings: dict[str, Any]) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(settings))
        return str(path)

    return write_file


# Distillation

LOSSES = {
    "weight": {"weight": 3.0},
    "alpha": {"weight": 0.0, "source_alpha": 500.0},
    "features": {"weight": 0.0, "features": "l2"},
    "all": {"weight": 3.0, "source_alpha": 500.0, "features": "margin_relu", "feature_weight": 2.0},
}


@pytest.mark.parametrize("given", LOSSES.values(), ids=LOSSES)
def test_no_distill_switches_every_loss_off(given: dict[str, Any], write: Any, asked: list[RunSettings]) -> None:
    assert run(["sweep", "prune", "--config", write({"distillation": given}), "--no-distill"]) == 0
    off = {**given, "weight": 0.0, "source_alpha": None, "features": "none"}
    assert asked[0].distillation == DistillationSettings.model_validate(off)


@pytest.mark.parametrize("given", LOSSES.values(), ids=LOSSES)
def test_distill_takes_the_settings_losses(given: dict[str, Any], write: Any, asked: list[RunSettings]) -> None:
    assert run(["sweep", "prune", "--config", write({"distillation": given}), "--distill"]) == 0
    assert asked[0].distillation == DistillationSettings.model_validate(given)


def test_distill_without_any_loss_is_refused(write: Any, capsys: Captured, asked: list[RunSettings]) -> None:
    config = write({"distillation": {"weight": 0}})
    assert run(["sweep", "prune", "--config", config, "--distill"]) == 2
    assert "--distill is given, but the settings switch distillation off: distillation.weight is 0" in (
        capsys.readouterr().err
    )
    assert asked == []
    assert run(["sweep", "prune", "--config", config]) == 0
    assert run(["sweep", "prune", "--config", config, "--distill", "--set", "distillation.weight=1"]) == 0


# Model folders


@pytest.fixture
def reid(tmp_path: Path) -> Path:
    """A folder of a network that re-identifies, as far as the command line reads it."""
    reid = ReidSettings(average_precision="standard", margin=0.5, flip=False)
    return model_folder(tmp_path / "reid", "reid", Description(spec=spec_of("reid"), reid=reid, classes=("a", "b")))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A folder of a video classifier, likewise; its clips are cut from what is as large as they are."""
    clips = ClipSettings(resize=None, test=7)
    return model_folder(tmp_path / "video", "r2plus1d", Description(
        spec=spec_of("r2plus1d"), clips=clips, classes=("a", "b")
    ))  # fmt: skip


def spec_of(backbone: str) -> Any:
    return BACKBONES[backbone].presets["tiny"].replace(classes=2)


def model_folder(folder: Path, backbone: str, description: Description) -> Path:
    folder.mkdir()
    (folder / "network.json").write_text(json.dumps(description.to_dict()))
    data = RECORDED if backbone == "reid" else {**RECORDED, "source": "ucf101", "path": "videos", "split": 2}
    (folder / "metrics.json").write_text(json.dumps({"data": data}))
    return folder


def test_a_model_is_measured_as_it_was(reid: Path, video: Path, asked: list[RunSettings]) -> None:
    for folder in (reid, video):
        assert run(["sweep", "prune", "--model", str(folder)]) == 0
    of_reid, of_video = asked
    preset = load_settings("embedded-reid")
    assert preset.reid.margin == 0.3
    assert of_reid == preset.model_copy(
        update={
            "reid": ReidSettings(average_precision="standard", margin=0.5, flip=False),
            "data": DataSettings(source="market1501", path=Path("people"), max_quarantined=0.25),
            "teacher": preset.teacher.model_copy(update={"weights": reid}),
        }
    )
    assert load_settings("embedded-r2plus1d").clips.resize == 40
    assert of_video.clips == ClipSettings(resize=None, test=7)
    assert of_video.data == DataSettings(source="ucf101", path=Path("videos"), split=2, max_quarantined=0.25)
    assert of_video.train == load_settings("embedded-r2plus1d").train


def test_a_file_wins_over_the_model_key_by_key(reid: Path, write: Any, asked: list[RunSettings]) -> None:
    config = write({"data": {"max_quarantined": 0.5}, "reid": {"margin": 0.1}, "train": {"epochs": 9}})
    assert run(["sweep", "prune", "--model", str(reid), "--config", config]) == 0
    settings = asked[0]
    assert settings.network.backbone == "reid"
    assert settings.data == DataSettings(source="market1501", path=Path("people"), max_quarantined=0.5)
    assert settings.reid == ReidSettings(average_precision="standard", margin=0.1, flip=False)
    assert (settings.train.epochs, settings.train.batch) == (9, RunSettings().train.batch)


def test_overrides_win_over_the_model(reid: Path, asked: list[RunSettings]) -> None:
    assert run(["sweep", "prune", "--model", str(reid), "--set", "reid.margin=0.2", "--set", "data.path=there"]) == 0
    assert asked[0].reid == ReidSettings(average_precision="standard", margin=0.2, flip=False)
    assert asked[0].data == DataSettings(source="market1501", path=Path("there"), max_quarantined=0.25)


@pytest.mark.parametrize("by", ["file", "group", "override"])
def test_where_the_model_s_data_lies_says_nothing_of_another_source(
    by: str, reid: Path, write: Any, asked: list[RunSettings]
) -> None:
    if by == "override":
        arguments = ["--set", "data.source=synthetic-people"]
    elif by == "group":
        arguments = ["--set", "data={source: synthetic-people}"]
    else:
        arguments = ["--config", write({"data": {"source": "synthetic-people"}})]
    assert run(["sweep", "prune", "--model", str(reid), *arguments]) == 0
    assert asked[0].data == DataSettings(source="synthetic-people")


def test_a_file_of_the_same_source_needs_no_path(reid: Path, asked: list[RunSettings]) -> None:
    assert run(["sweep", "prune", "--model", str(reid), "--config", "market1501-reid"]) == 0
    assert asked[0].data.path == Path("people")
    assert asked[0].reid.erase == load_settings("market1501-reid").reid.erase == 0.5
    assert asked[0].train == load_settings("market1501-reid").train


def test_a_file_for_another_backbone_is_not_passed_over(reid: Path, asked: list[RunSettings]) -> None:
    assert run(["sweep", "prune", "--model", str(reid), "--config", "kinetics-slowfast"]) == 0
    assert asked[0].network.backbone == "slowfast"  # which the session refuses for this model


UNTOLD: dict[str, Any] = {
    "missing": None,
    "no data": {"name": "teacher"},
    "a list": [],
    "data is nothing": {"data": None},
    "no path": {"data": {key: value for key, value in RECORDED.items() if key != "path"}},
    "no share": {"data": {key: value for key, value in RECORDED.items() if key != "max_quarantined"}},
}


@pytest.mark.parametrize("content", UNTOLD.values(), ids=UNTOLD)
def test_a_model_that_names_no_data(
    content: Any, reid: Path, write: Any, capsys: Captured, asked: list[RunSettings]
) -> None:
    (reid / "metrics.json").write_text("" if content is None else json.dumps(content))
    expected = f"{reid} has no metrics.json to name its data; say which with --data SOURCE:DIR"
    assert run(["sweep", "prune", "--model", str(reid)]) == 2
    assert capsys.readouterr().err == f"error: {expected}\n"
    with pytest.raises(UserError, match=re.escape(expected)):
        data_of(reid, {"data.split": 1})
    assert run(["sweep", "prune", "--model", str(reid), "--config", write({"train": {"batch": 8}})]) == 2
    given = {"data": {"source": "market1501", "path": "there"}}
    assert run(["sweep", "prune", "--model", str(reid), "--config", write(given)]) == 0
    assert run(["sweep", "prune", "--model", str(reid), "--data", "market1501:there"]) == 0
    assert asked[0].data == asked[1].data == DataSettings(source="market1501", path=Path("there"))


# Sensitivity analyses


def test_an_analysis_takes_pruner_and_sparsities_from_the_file(write: Any, asked: list[RunSettings]) -> None:
    config = write({"sweep": {"pruners": ["l2"], "sparsity": [0.3]}})
    assert run(["sweep", "sensitivity", "--config", config]) == 0
    assert (asked[0].sweep.pruners, asked[0].sweep.sparsity) == (("l2",), (0.3,))
    assert run(["sweep", "sensitivity", "--config", config, "--pruner", "fpgm", "--sparsity", "0.6"]) == 0
    assert (asked[1].sweep.pruners, asked[1].sweep.sparsity) == (("fpgm",), (0.6,))


def test_an_analysis_has_defaults_of_its_own(write: Any, asked: list[RunSettings]) -> None:
    config = write({"sweep": {"max_drop": 1}})
    assert run(["sweep", "sensitivity", "--config", config]) == 0
    assert run(["sweep", "sensitivity"]) == 0
    assert run(["sweep", "sensitivity", "--set", "sweep.sparsity=[0.1]"]) == 0
    assert [settings.sweep.pruners for settings in asked] == [("l1",)] * 3
    assert [settings.sweep.sparsity for settings in asked] == [(0.25, 0.5, 0.75), (0.25, 0.5, 0.75), (0.1,)]
    assert [settings.sweep.max_drop for settings in asked] == [1, 2, 2]


def test_print_config_of_an_analysis_can_be_given_back(
    tmp_path: Path, capsys: Captured, asked: list[RunSettings]
) -> None:
    arguments = ["sweep", "sensitivity", "--pruner", "l2", "--cpus-per-trial", "2"]
    assert run([*arguments, "--print-config"]) == 0
    assert asked == []
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    run(arguments)
    run(["sweep", "sensitivity", "--config", str(tmp_path / "mine.yaml")])
    assert asked[0] == asked[1]
    assert asked[0].runtime.cpus_per_trial == 2


# What an analysis hands on


def analysis(weights: str | None) -> dict[str, Any]:
    state = sensitivity_state()
    return {**state, "config": {**state["config"], "teacher": {"weights": weights}}}


@pytest.mark.parametrize(
    ("weights", "model"),
    [
        (None, ["--model", "reid"]),
        ("runs/a b/models/agp-0.5", ["--model", "runs/a b/models/agp-0.5"]),
        ("r18.pth", ["--model", "reid", "--set", "teacher.weights=r18.pth"]),
    ],
)
def test_the_command_that_uses_an_analysis_names_its_network(
    weights: str | None, model: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "it's mine"
    command = sweep_command(analysis(weights), folder)
    assert shlex.split(command) == [
        "orchestrate", "sweep", "prune", *model, "--layer-sparsity", f"{folder}/sensitivity.yaml"
    ]  # fmt: skip


def test_the_command_is_understood(reid: Path, tmp_path: Path, asked: list[RunSettings]) -> None:
    state = analysis(str(reid))
    write_layer_sparsity(state, tmp_path / "mine")
    assert run(shlex.split(sweep_command(state, tmp_path / "mine"))[1:]) == 0
    assert asked[0].teacher.weights == reid
    assert asked[0].prune.max_sparsity == {layer["layer"]: layer["max_sparsity"] for layer in state["layers"]}


def test_the_file_reads_back_whatever_its_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "one\ntwo: [\u2028three"
    write_layer_sparsity(analysis(None), folder)
    expected = {layer["layer"]: layer["max_sparsity"] for layer in sensitivity_state()["layers"]}
    assert read_layer_sparsity(folder / "sensitivity.yaml") == expected


def test_the_page_names_the_folder_it_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.report.sweep.write_png", lambda _, path: path.touch())
    state = analysis("runs/first/models/teacher")
    written = write_sweep_report(state, tmp_path / "mine").read_text()
    assert f"<pre>{sweep_command(state, tmp_path / 'mine')}</pre>" in written
    elsewhere = Path("runs") / state["run"]
    assert f"<pre>{sweep_command(state, elsewhere)}</pre>" in render_sweep(state)


def test_help_says_what_stands_in(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["sweep", "sensitivity", "--help"]) == 0
    shown = capsys.readouterr().out
    for default in ("[default: reid]", "[default: l1]", "[default: 0.25,0.5,0.75]", "[default: ./runs]"):
        assert default in shown
