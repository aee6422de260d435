"""A head with its dashboard, token and all, to which runs are submitted: one ends, one is stopped.

Measured on two cores that eight programs shared: 90 and 143 s, 6 and 12 s of them until the head answered.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import typer
from typer.testing import CliRunner, Result

from configs.errors import UserError
from configs.loader import load_settings
from configs.schema import RunSettings
from orchestrator.commands.jobs import jobs, logs, stop
from orchestrator.commands.submit import submit
from orchestrator.jobs.ray_client import ADDRESS, API_ADDRESS, connect
from tests.integration.conftest import PATIENCE, read_state
from tests.orchestrator.scripted import SECONDS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning"),  # Ray's own call
]

app = typer.Typer()
for command in (jobs, logs, stop):
    app.command()(command)


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of the dashboard of a cluster on loopback that asks for a token, which this process does not have yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (API_ADDRESS, ADDRESS, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    port, client_port = free_port(), free_port()
    files = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: the paths of sockets are
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on loopback alone
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    options = {
        "node-ip-address": "127.0.0.1",
        "port": "0",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": str(port),
        "dashboard-agent-listen-port": "0",
        "ray-client-server-port": str(client_port),
        "num-cpus": "2",
        "object-store-memory": "80000000",
        "temp-dir": files,
    }
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(
            ["ray", "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())],
            env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "head.log").read_text()
        with pytest.raises(UserError, match="asks for a token, and there is none here"):
            connect(f"http://127.0.0.1:{port}")
        monkeypatch.setenv("RAY_AUTH_TOKEN", environment["RAY_AUTH_TOKEN"])
        yield f"http://127.0.0.1:{port}"
    finally:
        started = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in started:
            one.kill()
        process.wait()
        psutil.wait_procs(started, timeout=10)
        shutil.rmtree(files, ignore_errors=True)


def free_port() -> int:
    """Outside of the range from which Ray takes those of its workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def answers(port: int) -> bool:
    """Whether a dashboard knows of its jobs; without token, it says that it wants one."""
    try:
        connect(f"127.0.0.1:{port}").all()
    except UserError as error:
        return "asks for a token" in str(error)
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.2)


def training(digits: Path, runs: Path, *, epochs: int) -> RunSettings:
    """Settings of a network's training."""
    flags = {"data.source": "csv", "data.path": digits, "runtime.runs": runs, "runtime.name": "mine"}
    return load_settings("embedded", [*SECONDS, f"teacher.train.epochs={epochs}"], flags)


def test_a_run_is_submitted_followed_looked_at_and_stopped(
    head: str, digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def orchestrate(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--address", head], catch_exceptions=False)

    assert submit(training(digits, tmp_path / "short", epochs=1), "train", head) == 0
    shown = capfd.readouterr().out
    assert "trial finished: slowfast-teacher" in shown
    assert read_state(tmp_path / "short")["status"] == "finished"
    assert orchestrate("logs", "mine").stdout == shown
    (ended,) = json.loads(orchestrate("jobs", "--json").stdout)
    assert (ended["status"], ended["exit_code"], ended["run"], ended["algorithm"]) == ("succeeded", 0, "mine", "train")

    # The same name in another store, for hours
    runs = tmp_path / "long"
    assert submit(training(digits, runs, epochs=100_000), "train", head, wait=False) == 0
    wait_until(lambda: any(runs.glob("trials/*/metrics.jsonl")))
    assert orchestrate("stop", "mine").exit_code == 0
    assert read_state(runs)["status"] == "interrupted"  # SIGTERM, and time to obey it
    assert (runs / "mine" / "report.html").is_file()
    assert [job["status"] for job in json.loads(orchestrate("jobs", "--json").stdout)] == ["stopped", "succeeded"]
    assert orchestrate("logs", "mine", "--follow").exit_code == 130

    # What a driver refuses comes back with its exit code
    assert submit(training(tmp_path / "no-such-data", tmp_path / "none", epochs=1), "train", head) == 2
    assert "no-such-data" in capfd.readouterr().out
