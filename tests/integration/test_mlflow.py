"""A search in a real MLflow tracking server; skipped where the packages `mlflow-skinny` and `mlflow` are missing."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator.telemetry.logs import Logger
from orchestrator.telemetry.watching import MLFLOW_ENVIRONMENT
from tests.orchestrator.sample_telemetry import epoch, prepared_store, result, row, store_epochs

pytestmark = [
    pytest.mark.integration,
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow-skinny is not installed"),
    pytest.mark.filterwarnings("ignore"),  # MLflow's own, of packages that it finds old
]

START_SECONDS = 120.0


@contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """A tracking server on loopback, with all that it keeps in a folder; its address."""
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    with (folder / "server.txt").open("a") as log:
        process = subprocess.Popen(
            [*command, f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/files"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{address}/health"):
            assert process.poll() is None, (folder / "server.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(find_spec("sqlalchemy") is None, reason="mlflow, whose server this is, is not installed")
@pytest.mark.timeout(300)
def test_a_search_is_a_parent_with_a_child_per_trial_and_no_point_twice(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of reach at first; then a driver is killed, another one goes on, and a third has all from the store."""
    for name, value in MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    import mlflow

    store = prepared_store(tmp_path)
    told: list[str] = []
    status = "running"

    def logger(tell: Callable[[str], None]) -> Logger:
        from orchestrator.telemetry.mlflow_log import MlflowLog, SearchRecord

        record = SearchRecord(name="mine", digest="0123", params={"seed": "0"}, tags={"orchestrate.commit": "abc"})
        made = Logger("--log mlflow fails", MlflowLog(address, record, status=lambda: status), store, tell=tell)
        made.stage_started("teacher", [row("a"), row("b")])
        return made

    address = f"http://127.0.0.1:{port}"
    store_epochs(store, "a", [epoch(1)])
    without = logger(told.append)
    without.epoch_finished("a", epoch(1))
    without.close()
    (warning,) = told
    assert warning.startswith("--log mlflow fails")

    with server(tmp_path, port):
        killed = logger(pytest.fail)
        killed.epoch_finished("a", epoch(1))
        killed.trial_finished(result("b", status="failed", reason="No space left", transient=True))
        status = "finished"
        store_epochs(store, "a", [epoch(1), epoch(2)])
        store_epochs(store, "b", [epoch(1)])
        for _ in range(2):
            resumed = logger(pytest.fail)
            resumed.epoch_finished("a", epoch(2))
            resumed.trial_finished(result("a"))
            resumed.trial_finished(result("b", status="diverged", reason="the loss was nan"))
            resumed.close()

        client = mlflow.MlflowClient(address)
        experiment = client.get_experiment_by_name("orchestrate")
        runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        assert sorted(runs) == ["mine", "net-a", "net-b"]
        parent, a, b = runs["mine"], runs["net-a"], runs["net-b"]
        assert (parent.info.status, a.info.status, b.info.status) == ("FINISHED", "FINISHED", "FAILED")
        assert parent.data.params == {"seed": "0"}
        assert a.data.tags["mlflow.parentRunId"] == b.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert a.data.tags["orchestrate.trial"] == "a"
        assert [point.step for point in client.get_metric_history(a.info.run_id, "loss")] == [1, 2]
        assert [point.value for point in client.get_metric_history(a.info.run_id, "final_top1")] == [0.75]
        assert [point.step for point in client.get_metric_history(b.info.run_id, "loss")] == [1]
        assert b.data.tags["orchestrate.reason"] == "the loss was nan"
