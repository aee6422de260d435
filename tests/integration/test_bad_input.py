"""Bad input: an exit code, one message (where, what it is, what it must be, what to do), and nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from configs.schema import ClipSettings
from orchestrator.cli import run
from tests.integration.conftest import read_state
from tests.orchestrator.scripted import small_settings
from trainers import checkpoint
from trainers.backbones import build, preset
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
        assert run([*search, "--runner", "local", "--runs", str(runs), *more]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("error:") == 1
        assert "Traceback" not in err
        harmless = ("lock", "probes-")  # what is remembered of video files is whole, and true whatever the settings
        left = [path for path in runs.rglob("*") if path.is_file() and not path.name.startswith(harmless)]
        assert left == [], "something half-written"
        return err

    return refuse


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
        assert run(command) == 1
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
    def fail(trial: Trial, site: Site) -> Generator[EpochMetrics, None, TrialResult]:
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
