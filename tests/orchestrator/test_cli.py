"""The command line: what it passes on, what it prints, and its exit codes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import RunError, UserError
from configs.loader import load_settings
from configs.schema import ClipSettings, DataSettings, RunSettings
from orchestrator import __main__, cli, failures
from orchestrator.cli import run
from orchestrator.commands import execution
from orchestrator.commands import submit as submission
from orchestrator.jobs import arrival
from tests.orchestrator.scripted import Outcome, ScriptedSession, small_settings
from trainers.backbones import BACKBONES
from trainers.package import Description

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunSettings, str]]:
    """What the command line would have executed."""
    calls: list[tuple[RunSettings, str]] = []
    monkeypatch.setattr(execution, "execute", lambda settings, algorithm, **_: calls.append((settings, algorithm)))
    return calls


# From options to settings

OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--iterations", "3"], {"search": {"iterations": 3}}),
    (["--target-gmacs", "0.5"], {"search": {"target_gmacs": 0.5}}),
    (["--max-drop", "2"], {"search": {"max_drop": 2.0}}),
    (["--control"], {"search": {"control": True}}),
    (["--data", "ucf101:videos"], {"data": {"source": "ucf101", "path": Path("videos")}}),
    (["--data", "moving-digits"], {"data": {"source": "moving-digits", "path": None}}),
    (["--teacher", "model"], {"teacher": {"weights": Path("model")}}),
    (["--seed", "7"], {"seed": 7}),
    (["--name", "mine", "--runs", "there"], {"runtime": {"name": "mine", "runs": Path("there")}}),
    (["--cpus-per-trial", "2", "--gpus-per-trial", "0.5"], {"runtime": {"cpus_per_trial": 2, "gpus_per_trial": 0.5}}),
    (["--max-concurrent", "2", "--runner", "local"], {"runtime": {"max_concurrent": 2, "runner": "local"}}),
    (["--address", "auto"], {"runtime": {"address": "auto"}}),
    (["--dashboard", "--dashboard-port", "9000"], {"runtime": {"dashboard": True, "dashboard_port": 9000}}),
    (["--set", "train.lr=0.5", "--set", "search.axes=[s]"], {"train": {"lr": 0.5}, "search": {"axes": ("s",)}}),
]


@pytest.mark.parametrize(("arguments", "expected"), OPTIONS, ids=lambda value: " ".join(value))
def test_options_set_what_they_say_and_nothing_else(
    arguments: list[str], expected: dict[str, Any], asked: list[tuple[RunSettings, str]]
) -> None:
    assert run(["pas", *arguments]) == 0
    ((settings, algorithm),) = asked
    assert algorithm == "pas"
    default = load_settings("embedded")
    assert settings == RunSettings.model_validate(merged(default.model_dump(), expected))


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return base | {k: merged(base[k], v) if isinstance(v, dict) else v for k, v in over.items()}


def test_a_backbone_comes_with_its_embedded_preset(asked: list[tuple[RunSettings, str]]) -> None:
    for backbone, preset in (("slowfast", "embedded"), ("r2plus1d", "embedded-r2plus1d")):
        run(["pas", "--backbone", backbone])
        assert asked[-1][0] == load_settings(preset)


def test_train_takes_the_teacher_s_recipe(asked: list[tuple[RunSettings, str]]) -> None:
    run(["train", "--backbone", "slowfast", "--epochs", "3"])
    settings, algorithm = asked[0]
    assert algorithm == "train"
    assert settings.teacher.train.epochs == 3
    assert settings.train == load_settings("embedded").train


# Sweeps

SWEEP_OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--pruners", "l1,agp"], {"sweep": {"pruners": ("l1", "agp")}}),
    (["--sparsity", "0.3, 0.5,1e-2"], {"sweep": {"sparsity": (0.3, 0.5, 0.01)}}),
    (["--sparsity", "0"], {"sweep": {"sparsity": (0.0,)}}),
    (["--finetune-epochs", "3"], {"train": {"epochs": 3}}),
    (["--no-distill"], {"distillation": {"weight": 0.0}}),
    (["--distill"], {}),
    (["--seeds", "0,1,2"], {"sweep": {"seeds": (0, 1, 2)}}),
    (["--controls", "scratch,random"], {"sweep": {"controls": ("scratch", "random")}}),
    (["--engine", "nni"], {"prune": {"engine": "nni"}}),
    (["--scope", "global"], {"prune": {"scope": "global"}}),
    (["--data", "market1501:there"], {"data": {"source": "market1501", "path": Path("there")}}),
    (["--name", "mine", "--runs", "there"], {"runtime": {"name": "mine", "runs": Path("there")}}),
    (["--cpus-per-trial", "2", "--gpus-per-trial", "0.5"], {"runtime": {"cpus_per_trial": 2, "gpus_per_trial": 0.5}}),
    (["--max-concurrent", "2", "--runner", "local"], {"runtime": {"max_concurrent": 2, "runner": "local"}}),
    (["--address", "auto", "--seed", "7"], {"runtime": {"address": "auto"}, "seed": 7}),
    (["--set", "prune.exclude=[conv1]"], {"prune": {"exclude": ("conv1",)}}),
]


@pytest.mark.parametrize(("arguments", "expected"), SWEEP_OPTIONS, ids=lambda value: " ".join(value))
def test_options_of_a_sweep_set_what_they_say_and_nothing_else(
    arguments: list[str], expected: dict[str, Any], asked: list[tuple[RunSettings, str]]
) -> None:
    assert run(["sweep", "prune", *arguments]) == 0
    ((settings, algorithm),) = asked
    assert algorithm == "sweep-prune"
    default = load_settings("embedded-reid")
    assert settings == RunSettings.model_validate(merged(default.model_dump(), expected))


def test_an_analysis_takes_one_pruner(asked: list[tuple[RunSettings, str]]) -> None:
    assert run(["sweep", "sensitivity", "--model", "r2plus1d", "--pruner", "fpgm", "--max-drop", "1"]) == 0
    ((settings, algorithm),) = asked
    assert algorithm == "sweep-sensitivity"
    sweep = {"pruners": ("fpgm",), "sparsity": (0.25, 0.5, 0.75), "max_drop": 1.0}
    default = load_settings("embedded-r2plus1d")
    assert settings == RunSettings.model_validate(merged(default.model_dump(), {"sweep": sweep}))


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        ([], "embedded-reid"),
        (["--model", "slowfast"], "embedded"),
        (["--model", "r2plus1d"], "embedded-r2plus1d"),
        (["--config", "kinetics-r2plus1d"], "kinetics-r2plus1d"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_sweep_trains_what_it_prunes_unless_it_is_given(
    arguments: list[str], preset: str, asked: list[tuple[RunSettings, str]]
) -> None:
    assert run(["sweep", "prune", *arguments]) == 0
    assert asked[0][0] == load_settings(preset)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder, as far as the command line reads it."""
    spec = BACKBONES["r2plus1d"].presets["tiny"].replace(classes=2)
    description = Description(spec=spec, clips=ClipSettings(), classes=("left", "right"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/network.json").write_text(json.dumps(description.to_dict()))
    data = {"source": "folders", "path": "videos", "split": 2, "max_quarantined": 0.25, "fingerprint": "f", "val": 3}
    (tmp_path / "model/metrics.json").write_text(json.dumps({"data": data}))
    return tmp_path / "model"


@pytest.mark.parametrize("command", ["prune", "sensitivity"])
def test_a_model_folder_brings_its_backbone_and_its_data(
    command: str, model: Path, asked: list[tuple[RunSettings, str]]
) -> None:
    assert run(["sweep", command, "--model", str(model)]) == 0
    settings, _ = asked[0]
    assert settings.network.backbone == "r2plus1d"
    assert settings.teacher.weights == model
    assert settings.data == DataSettings(source="folders", path=Path("videos"), split=2, max_quarantined=0.25)
    assert settings.train == load_settings("embedded-r2plus1d").train


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("csv:there", DataSettings(source="csv", path=Path("there"))),
        ("moving-digits", DataSettings(source="moving-digits")),
    ],
    ids=["csv", "moving-digits"],
)
def test_other_data_can_be_given(
    given: str, expected: DataSettings, model: Path, asked: list[tuple[RunSettings, str]]
) -> None:
    assert run(["sweep", "prune", "--model", str(model), "--data", given]) == 0
    assert asked[0][0].data == expected


def test_a_model_that_names_no_data_needs_it_given(
    model: Path, capsys: Captured, asked: list[tuple[RunSettings, str]]
) -> None:
    (model / "metrics.json").unlink()
    assert run(["sweep", "prune", "--model", str(model)]) == 2
    assert "has no metrics.json to name its data; say which with --data SOURCE:DIR" in capsys.readouterr().err
    assert run(["sweep", "prune", "--model", str(model), "--data", "csv:there"]) == 0


def test_what_layers_may_lose_comes_from_a_file(tmp_path: Path, asked: list[tuple[RunSettings, str]]) -> None:
    path = tmp_path / "sensitivity.yaml"
    path.write_text("# comment\nprune:\n  max_sparsity:\n    layer1.0.conv1: 0.25\n    conv1: 0.0\n")
    assert run(["sweep", "prune", "--layer-sparsity", str(path)]) == 0
    assert asked[0][0].prune.max_sparsity == {"layer1.0.conv1": 0.25, "conv1": 0.0}


def test_print_config_of_a_sweep_can_be_given_back(
    tmp_path: Path, capsys: Captured, asked: list[tuple[RunSettings, str]]
) -> None:
    arguments = ["--pruners", "l2", "--seeds", "3,4", "--no-distill"]
    assert run(["sweep", "prune", *arguments, "--print-config"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    run(["sweep", "prune", *arguments])
    run(["sweep", "prune", "--config", str(tmp_path / "mine.yaml")])
    assert asked[0] == asked[1]


def test_print_config_can_be_given_back(tmp_path: Path, capsys: Captured, asked: list[tuple[RunSettings, str]]) -> None:
    arguments = ["--backbone", "r2plus1d", "--seed", "3", "--set", "search.factors={s: 1.2}"]
    assert run(["pas", *arguments, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["seed"] == 3
    (tmp_path / "mine.yaml").write_text(printed)
    run(["pas", *arguments])
    run(["pas", "--config", str(tmp_path / "mine.yaml")])
    assert asked[0] == asked[1]


# Reading runs


@pytest.fixture
def runs(digits: Path, tmp_path: Path) -> Path:
    """A folder with one finished run, `mine`."""
    settings = small_settings(digits, tmp_path, "runtime.name=mine", "search.iterations=1")
    ScriptedSession(settings, {"slowfast-pas1-side": Outcome(0.7)}).execute()
    return tmp_path


def test_show_prints_the_state(runs: Path, capsys: Captured) -> None:
    assert run(["show", "mine", "--runs", str(runs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((runs / "mine" / "state.json").read_text())
    assert run(["show", "mine", "--runs", str(runs)]) == 0
    assert "Iteration 1: side was chosen" in capsys.readouterr().out


def test_show_says_what_was_retried(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(failures, "retries", lambda state: f"2 retries of {state['run']}")
    assert run(["show", "mine", "--runs", str(runs)]) == 0
    assert capsys.readouterr().out.endswith("2 retries of mine\n")


def test_ls_lists_runs(runs: Path, capsys: Captured) -> None:
    assert run(["ls", "--runs", str(runs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"run": "mine", "status": "finished", "backbone": "slowfast", "seed": 0}
    ]
    assert run(["ls", "--runs", str(runs / "none")]) == 0
    assert "No runs yet." in capsys.readouterr().out


def test_report_is_written_again(runs: Path, capsys: Captured) -> None:
    assert run(["report", "mine", "--runs", str(runs)]) == 0
    page = runs / "mine" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert "PAS-1" in page.read_text()


def test_sweeps_are_shown_and_reported_like_searches(digits: Path, tmp_path: Path, capsys: Captured) -> None:
    overrides = ("runtime.name=mine", "network.backbone=r2plus1d", "sweep.pruners=[l1]", "sweep.sparsity=[0.5]")
    ScriptedSession(small_settings(digits, tmp_path, *overrides), algorithm="sweep-prune").execute()
    assert run(["show", "mine", "--runs", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [cell["name"] for cell in shown["cells"]] == ["r2plus1d-l1-0.5"]
    assert run(["show", "mine", "--runs", str(tmp_path)]) == 0
    assert "L1 at sparsity 0.5 keeps top-1 50.0 %" in capsys.readouterr().out
    assert run(["ls", "--runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"run": "mine", "status": "finished", "backbone": "r2plus1d", "seed": 0}
    ]
    assert run(["report", "mine", "--runs", str(tmp_path)]) == 0
    page = tmp_path / "mine" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert "L1 at sparsity 0.5" in page.read_text()


def test_schema_is_json(capsys: Captured) -> None:
    assert run(["schema"]) == 0
    assert "network" in json.loads(capsys.readouterr().out)["properties"]


# Exit codes


def stop_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(settings: RunSettings, algorithm: str, **_: object) -> None:
        raise error

    monkeypatch.setattr(execution, "execute", execute)


def test_a_failure_while_running_is_1(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    stop_with(RunError("nothing [usable] came out"), monkeypatch)
    assert run(["pas"]) == 1
    assert capsys.readouterr().err == "error: nothing [usable] came out\n"


def test_the_unexpected_is_1_and_says_how_to_see_more(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    stop_with(KeyError("lost"), monkeypatch)
    assert run(["pas"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: KeyError: 'lost'\n")
    assert "--debug" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_where_it_happened(place: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    stop_with(RunError("nothing came out"), monkeypatch)
    assert run(["--debug", "pas"] if place == "before" else ["pas", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_is_130_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, digits: Path, tmp_path: Path
) -> None:
    class Interrupted(ScriptedSession):
        def __init__(self, settings: RunSettings, observer: object, *, algorithm: str) -> None:
            super().__init__(settings, algorithm=algorithm)

        def _train_all(self, runner: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.session.Session", Interrupted)
    flags = ["--data", f"csv:{digits}", "--runs", str(tmp_path), "--name", "mine", "--set", "network.clip_frames=8"]
    assert run(["pas", *flags]) == 130
    assert re.search(r"Interrupted\. The same command goes on .*\(run mine\)", capsys.readouterr().out)
    assert json.loads((tmp_path / "mine" / "state.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize("arguments", [["pas", "--nonsense"], ["pas", "--iterations", "many"], ["nothing"]])
def test_a_command_line_that_makes_no_sense_is_2(arguments: list[str], capsys: Captured) -> None:
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_names_every_command(capsys: Captured) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("pas", "train", "sweep", "profile", "evaluate", "ls", "show", "report", "data", "schema"):
        assert re.search(rf"\b{command}\b", shown)


def test_python_3_14_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 to 3\.13.*PEP 784"):
        __main__.main()


# What every run goes through


def refuse(*_: object, **__: object) -> None:
    raise UserError("not so")


def test_a_run_is_submitted_and_ends_as_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, bool]] = []

    def submit(settings: RunSettings, algorithm: str, address: str, *, wait: bool) -> int:
        asked.append((algorithm, address, wait))
        return 7

    monkeypatch.setattr(submission, "submit", submit)
    assert run(["pas", "--submit", "http://head:8265", "--no-wait"]) == 7
    assert run(["train", "--submit", "auto"]) == 7
    assert asked == [("pas", "http://head:8265", False), ("train", "auto", True)]


def test_other_code_than_was_submitted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "require_same_code", refuse)
    assert run(["pas"]) == 2


def test_unsafe_versions_are_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "require_safe_versions", refuse)
    assert run(["schema"]) == 2
