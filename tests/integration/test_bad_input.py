"""Bad input: an exit code, one message (where, what it is, what it must be, what to do), and nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from compression.spec import NetworkSpec
from configs.schema import ClipSettings, ReidSettings
from orchestrator.cli import run
from tests.integration.conftest import read_state
from tests.orchestrator.scripted import SECONDS, small_settings
from trainers import checkpoint
from trainers.backbones import BACKBONES, Network, build, preset
from trainers.incidents import Incident
from trainers.loop import EpochMetrics, run_trial
from trainers.package import Description, save_package
from trainers.site import Site
from trainers.trial import Trial, TrialResult

Captured = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture
def refused(search: list[str], tmp_path: Path, capsys: Captured) -> Refused:
    """Runs a search with more arguments, which must be refused; returns the message."""

    def refuse(*more: str, runs: Path = tmp_path / "runs") -> str:
        return refusal([*search, "--runner", "local", "--runs", str(runs), *more], runs, capsys)

    return refuse


def refusal(arguments: list[str], runs: Path, capsys: Captured) -> str:
    """The one message with which a command line is refused; nothing is left of it."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("error:") == 1
    assert "Traceback" not in err
    harmless = ("lock", "probes-")  # what is remembered of video files is whole, and true whatever the settings
    left = [path for path in runs.rglob("*") if path.is_file() and not path.name.startswith(harmless)]
    assert left == [], "something half-written"
    return err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--backbone", "slofast"],
            ["network.backbone is 'slofast'", "one of slowfast, r2plus1d", "did you mean slowfast?"],
        ),
        (["--set", "search.axes=[s, x]"], ["search.axes.1 is 'x'", "one of s, t, f, c, l"]),
        (["--set", "search.factor.s=1.2"], ["`search.factor` is not a key of", "did you mean `search.factors`?"]),
        (["--set", "train.epochs=0"], ["train.epochs is 0", "must be greater than 0"]),
        (["--set", "train.warmup_epochs=1"], ["train.warmup_epochs is 1", "below epochs (1)", "lower it"]),
        (["--set", "train.lr"], ["'train.lr'", "must be path=value"]),
        (["--set", "clips.resize=9"], ["clips.resize", "9 pixels", "crop has 16", "raise clips.resize or lower"]),
        (["--set", "network.clip_frames=99"], ["99 frames", "longer than every video", "has 10", "set network."]),
        (["--config", "embeded"], ["'embeded'", "existing YAML file or a preset", "did you mean embedded?"]),
        (["--data", "cvs:videos"], ["data.source is 'cvs'", "did you mean csv?"]),
        (["--runner", "slurm"], ["runtime.runner is 'slurm'", "one of ray, local"]),
        (["--name", "trials"], ["runtime.name is 'trials'", "belongs to the store", "choose another --name"]),
        (["--name", "a/b"], ["runtime.name is 'a/b'", "must be"]),
        (["--teacher", "nowhere.safetensors"], ["teacher.weights", "nowhere.safetensors", "does not exist; give"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_wrong_settings(arguments: list[str], told: list[str], refused: Refused) -> None:
    message = refused(*arguments)
    for part in told:
        assert part in message


def test_every_wrong_setting_is_told_at_once(refused: Refused) -> None:
    message = refused("--set", "train.epochs=0", "--set", "search.axes=[]", "--seed", "-1")
    assert all(setting in message for setting in ("train.epochs", "search.axes", "seed"))


# Data


def test_missing_data(refused: Refused, tmp_path: Path) -> None:
    assert f"data.path is {tmp_path}/nowhere, but there is no such folder" in refused(
        "--data", f"csv:{tmp_path}/nowhere"
    )


def test_empty_data(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    assert "videos/train.csv can't be read (No such file or directory)" in refused("--data", f"csv:{tmp_path}/videos")
    for name in ("train.csv", "val.csv"):
        (tmp_path / "videos" / name).touch()
    assert "videos lists no training video" in refused("--data", f"csv:{tmp_path}/videos")


def test_broken_videos_are_named(refused: Refused, digits: Path, tmp_path: Path) -> None:
    data = tmp_path / "videos"
    shutil.copytree(digits, data)
    (data / "videos" / "train-left-000.mp4").write_bytes(b"")
    (data / "videos" / "val-up-001.mp4").unlink()
    message = refused("--data", f"csv:{data}")
    assert "2 of 48 files can't be used, but data.max_quarantined allows a share of 0.02" in message
    assert "videos/train-left-000.mp4: is empty (0 bytes)" in message
    assert "videos/val-up-001.mp4: does not exist" in message


# Teachers


@pytest.fixture
def package(digits: Path, tmp_path: Path) -> Path:
    """A model folder of a small SlowFast that tells three classes apart."""
    spec = preset(small_settings(digits, tmp_path).network, classes=3)
    description = Description(spec=spec, clips=ClipSettings(), classes=("left", "right", "up"))
    save_package(tmp_path / "model", build(spec), description)
    return tmp_path / "model"


def test_a_teacher_of_other_classes(refused: Refused, package: Path) -> None:
    assert f"{package} tells 3 classes apart, but the data has 8; use the data" in refused("--teacher", str(package))
    weights = package / "model.safetensors"
    assert f"{weights} tells 3 classes apart, but the data has 8; use the data" in refused("--teacher", str(weights))


def test_a_teacher_that_is_no_safetensors_file(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"PK\x03\x04 something else")
    assert f"{path} can't be read as weights" in refused("--teacher", str(path))


def test_a_teacher_of_another_architecture(refused: Refused, package: Path) -> None:
    message = refused("--teacher", str(package / "model.safetensors"), "--set", "network.width=0.125")
    assert "holds the weights of another network than this slowfast" in message
    assert "Check network.backbone, network.preset and network.width" in message
    message = refused("--teacher", str(package), "--set", "network.backbone=r2plus1d")
    assert "is a slowfast, but network.backbone is r2plus1d" in message


# Sweeps


@pytest.fixture
def sweep_refused(digits: Path, tmp_path: Path, capsys: Captured) -> Refused:
    """Runs a sweep over a small R(2+1)D with more arguments, which must be refused; returns the message."""

    def refuse(*more: str, command: str = "prune", model: str | Path = "r2plus1d", data: str = f"csv:{digits}") -> str:
        runs = tmp_path / "runs"
        overrides = [argument for override in SECONDS for argument in ("--set", override)]
        base = ["sweep", command, "--model", str(model), "--data", data, "--name", "mine", *overrides]
        return refusal([*base, "--runner", "local", "--runs", str(runs), *more], runs, capsys)

    return refuse


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--sparsity", "0.5,1"], ["sweep.sparsity.1 is 1", "less than 1"]),
        (["--sparsity=-0.1"], ["sweep.sparsity.0 is -0.1", "greater than or equal to 0"]),
        (["--sparsity", "nan"], ["sweep.sparsity.0 is 'nan'", "finite number"]),
        (["--sparsity", "half"], ["sweep.sparsity.0 is 'half'", "must be a number"]),
        (["--sparsity", "[0.3,0.5]"], ["sweep.sparsity.0 is '[0.3'", "must be a number"]),
        (["--sparsity", "0.5,"], ["sweep.sparsity.1 is None", "must be a number"]),
        (["--sparsity", "0.5,0.50"], ["sweep.sparsity is [0.5, 0.5]", "name each once"]),
        (["--pruners", "l1,fgpm"], ["sweep.pruners.1 is 'fgpm'", "one of l1, l2, fpgm, agp", "did you mean fpgm?"]),
        (["--controls", "scrach"], ["sweep.controls.0 is 'scrach'", "did you mean scratch?"]),
        (["--seeds", "0,-1"], ["sweep.seeds.1 is -1", "greater than or equal to 0"]),
        (["--engine", "nny"], ["prune.engine is 'nny'", "did you mean nni?"]),
        (["--set", "prune.max_sparsity={stem.0: 1.5}"], ["prune.max_sparsity.stem.0 is 1.5", "less than 1"]),
        (
            ["--set", "prune.layers={layer1.0.conv1.0.4: 0.5}"],
            ["prune: layers names 'layer1.0.conv1.0.4'", "no layer that can be pruned", "mean layer1.0.conv1.0.3"],
        ),
        (
            ["--set", "prune.exclude=['layer9.*']"],
            ["prune: exclude names 'layer9.*'", "no layer that can be pruned", "layer"],
        ),
        (
            ["--set", "prune.max_sparsity={stem.1: 0.5}"],
            ["prune: max_sparsity names 'stem.1'", "did you mean stem.", "stem.0"],
        ),
        (["--scope", "global", "--pruners", "l1,agp"], ["prune.scope is global, but agp", "set prune.scope=local"]),
        (
            ["--scope", "global", "--engine", "nni", "--pruners", "l1"],
            ["engine nni prunes with scope local", "or engine own"],
        ),
        (["--set", "distillation.features=l2"], ["distillation.features is l2", "set distillation.features=none"]),
        (["--set", "prune.exclude=['*']"], ["no cell loses a filter at sparsity", "prune.exclude"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_wrong_settings_of_a_sweep(arguments: list[str], told: list[str], sweep_refused: Refused) -> None:
    message = sweep_refused(*arguments)
    for part in told:
        assert part in message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--sparsity", "0"], "sweep.sparsity is 0, but then no layer loses anything"),
        (["--set", "prune.exclude=['*']"], "prune.exclude is ['*'], which leaves no layer to be pruned"),
        (
            ["--set", "sweep.pruners=[agp]"],
            "sweep.pruners is agp, but a sensitivity analysis takes one of l1, l2, fpgm",
        ),
    ],
    ids=["nothing", "no layer", "gradual"],
)
def test_wrong_settings_of_an_analysis(arguments: list[str], told: str, sweep_refused: Refused) -> None:
    assert told in sweep_refused(*arguments, command="sensitivity")


def test_a_model_that_does_not_exist(sweep_refused: Refused, tmp_path: Path) -> None:
    message = sweep_refused(model=tmp_path / "nowhere")
    assert f"--model is '{tmp_path}/nowhere', but there is no such folder; give a model folder like runs/" in message
    assert "slowfast, r2plus1d, reid" in message


def test_a_model_that_is_something_else(sweep_refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty is no model folder: it needs a readable network.json" in sweep_refused(
        model=tmp_path / "empty"
    )
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file is no model folder" in sweep_refused(model=tmp_path / "file")


def test_a_model_of_other_classes(sweep_refused: Refused, package: Path) -> None:
    assert f"{package} tells 3 classes apart, but the data has 8" in sweep_refused(model=package)


def test_images_for_a_network_that_is_fed_clips(sweep_refused: Refused, package: Path) -> None:
    for model in (package, "r2plus1d"):
        message = sweep_refused(model=model, data="synthetic-people")
        assert "data.source is synthetic-people, but " in message
        assert "needs one of moving-digits, csv, ucf101, hmdb51, folders; say which with --data" in message


def test_clips_for_a_network_that_is_fed_images(sweep_refused: Refused, tmp_path: Path) -> None:
    spec = BACKBONES["reid"].presets["tiny"].replace(classes=2)
    save_package(tmp_path / "reid", build(spec), Description(spec=spec, reid=ReidSettings(), classes=("a", "b")))
    told = "but reid needs one of synthetic-people, market1501; say which with --data"
    assert f"data.source is csv, {told}" in sweep_refused(model=tmp_path / "reid")
    assert f"data.source is moving-digits, {told}" in sweep_refused(model=tmp_path / "reid", data="moving-digits")


@pytest.mark.parametrize(
    "content",
    [b"", b"prune: 3", b"prune:\n  max_sparsity:", b"prune:\n  max_sparsity: 0.5", b"- 1", b"a: [", b"\xff"],
    ids=repr,
)
def test_a_file_that_is_no_sensitivity(content: bytes, sweep_refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.yaml"
    path.write_bytes(content)
    message = sweep_refused("--layer-sparsity", str(path))
    assert f"--layer-sparsity {path} has no prune.max_sparsity; give the sensitivity.yaml" in message


def test_a_sensitivity_that_cannot_be_read(sweep_refused: Refused, tmp_path: Path) -> None:
    assert "nowhere.yaml can't be read (No such file or directory)" in sweep_refused(
        "--layer-sparsity", str(tmp_path / "nowhere.yaml")
    )
    assert f"{tmp_path} can't be read (Is a directory)" in sweep_refused("--layer-sparsity", str(tmp_path))


def test_a_sensitivity_of_another_network(sweep_refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("prune:\n  max_sparsity:\n    layer1.0.conv1: 0.5\n")
    message = sweep_refused("--layer-sparsity", str(tmp_path / "other.yaml"))
    assert "max_sparsity names 'layer1.0.conv1', but no layer that can be pruned matches it; did you mean" in message


def test_nni_that_is_not_installed(sweep_refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nni", None)
    for command in ("prune", "sensitivity"):
        message = sweep_refused("--engine", "nni", command=command)
        assert "prune: engine nni needs NNI 3.0, which can't be imported" in message
        assert "or choose engine own" in message


class Undecided(nn.Sequential):
    """What it computes depends on the values that it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else x  # type: ignore[no-untyped-call]


def test_a_network_that_cannot_be_traced(sweep_refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    row = BACKBONES["r2plus1d"]

    def broken(spec: NetworkSpec) -> Network:
        network = row.network(spec)
        network.layer2 = Undecided(*network.get_submodule("layer2").children())
        return network

    monkeypatch.setitem(BACKBONES, "r2plus1d", replace(row, network=broken))
    message = sweep_refused()
    assert "prune: layer2 (Undecided) can't be traced: " in message
    assert "its forward must be differentiable operations" in message


# Places


def test_a_place_that_cannot_be_written_to(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refused(runs=tmp_path / "file" / "runs")
    assert "nothing can be written there (Not a directory); give a folder that you own with --runs DIR" in message


def test_an_occupied_dashboard_port(refused: Refused) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        message = refused("--runner", "ray", "--dashboard", "--dashboard-port", port)
    assert f"runtime.dashboard_port is {port}, but another program listens there; choose another" in message


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1"])
def test_an_address_where_no_cluster_is(address: str, refused: Refused) -> None:
    message = refused("--runner", "ray", "--address", address)
    assert f"runtime.address is '{address}', but" in message
    assert ("must be `auto` or host:port" if address == "nonsense" else "nothing answers there") in message


def test_a_refused_address_leaves_a_finished_run_as_it_was(search: list[str], tmp_path: Path) -> None:
    command = [*search, "--iterations", "1", "--runs", str(tmp_path)]
    assert run([*command, "--runner", "local"]) == 0
    before = read_state(tmp_path)
    assert run([*command, "--address", "127.0.0.1:1"]) == 2
    assert read_state(tmp_path) == before


def test_other_settings_under_the_same_name(search: list[str], tmp_path: Path, capsys: Captured) -> None:
    command = [*search, "--iterations", "1", "--runs", str(tmp_path), "--runner", "local"]
    assert run(command) == 0
    capsys.readouterr()
    assert run([*command, "--seed", "1"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: run 'mine' holds a search with other settings (seed was 0, is 1). Choose another")


# Failures after the input was accepted


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(
    search: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    command = [*search, "--iterations", "1", "--runs", str(tmp_path), "--runner", "local"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_disk)
        assert run([*command, "--set", "runtime.storage_patience_seconds=0"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "slowfast-teacher: [Errno 28] No space left on device" in message
    assert "Once the cause is gone, the same command goes on" in message
    assert "Traceback" not in message
    assert read_state(tmp_path)["status"] == "failed"
    assert [path for path in tmp_path.rglob("*") if ".tmp" in path.name or path.name == "result.json"] == []
    assert run(command) == 0
    assert read_state(tmp_path)["stats"]["trained"] == 3


def test_all_hypotheses_failing_ends_with_a_table(
    search: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fail(trial: Trial, site: Site) -> Generator[EpochMetrics | Incident, None, TrialResult]:
        if "pas1" in trial.name:
            raise MemoryError(f"no room for {trial.name}")
        return run_trial(trial, site)

    monkeypatch.setattr("orchestrator.runner.run_trial", fail)
    assert run([*search, "--runs", str(tmp_path), "--runner", "local"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: no hypothesis of iteration 1 came out usable:",
        "  slowfast-pas1-side           failed    MemoryError: no room for slowfast-pas1-side",
        "  slowfast-pas1-channels       failed    MemoryError: no room for slowfast-pas1-channels",
    ]
    assert [row["status"] for row in read_state(tmp_path)["iterations"][0]["hypotheses"]] == ["failed", "failed"]
