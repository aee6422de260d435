"""What a job is, which one is meant, how its end becomes an exit code, and what a submission consists of."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from configs.errors import UserError
from configs.loader import load_settings
from configs.schema import RunSettings
from orchestrator import cli
from orchestrator.commands import execution
from orchestrator.jobs import arrival
from orchestrator.jobs.arrival import JOB_CONFIG, compare, require_same_code
from orchestrator.jobs.job import Job, at_work, find_job, latest_first
from orchestrator.jobs.submission import COMMANDS, SETTINGS_FILE, plan_submission
from orchestrator.jobs.terminal import print_jobs
from orchestrator.searches import SEARCHES

DAY = 86_400.0


def a_job(id_: str, **changes: Any) -> Job:
    known = {"status": "running", "submitted": True, "entrypoint": "orchestrate pas", "run": "mine", "algorithm": "pas"}
    return Job(id=id_, **{**known, "backbone": "slowfast", "runs": "/shared/runs", "started": 0.0, **changes})


def settings(*overrides: str) -> RunSettings:
    return load_settings("embedded", ["runtime.runs=/shared/runs", *overrides])


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("succeeded", 0, 0),
        ("stopped", None, 130),
        ("failed", 2, 2),
        ("failed", -9, 137),  # as a shell says it
        ("failed", None, 1),  # the driver never started
    ],
)
def test_the_exit_code_is_the_driver_s(status: str, driver: int | None, code: int) -> None:
    assert a_job("mine-1", status=status, exit_code=driver).as_exit_code == code


def test_a_job_is_found_by_its_id_and_a_run_by_its_last_job() -> None:
    jobs = [a_job("mine-1", started=1.0), a_job("mine-3", started=3.0), a_job("mine-2", started=2.0)]
    assert find_job(jobs, "mine-1").id == "mine-1"
    assert find_job(jobs, "mine").id == "mine-3"
    assert [job.id for job in latest_first(jobs)] == ["mine-3", "mine-2", "mine-1"]


@pytest.mark.parametrize(
    ("jobs", "name", "hint"),
    [
        ([a_job("mine-1")], "mien", "did you mean mine"),
        ([a_job("mine-1")], "xyz", "orchestrate jobs --all"),
        ([], "mine", "no jobs since its head was started"),
        ([a_job("03000000", submitted=False)], "mine", "started by hand"),
    ],
)
def test_a_name_that_means_no_job_is_refused_with_a_way_on(jobs: list[Job], name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        find_job(jobs, name)


def test_a_run_is_at_work_only_while_its_job_lasts_and_in_its_own_store() -> None:
    jobs = [a_job("mine-1", status="failed"), a_job("mine-2"), a_job("yours-1", run="yours", status="stopped")]
    assert at_work(jobs, "mine", "/shared/runs") == jobs[1]
    assert at_work(jobs, "mine", "/other/runs") is None
    assert at_work(jobs, "yours", "/shared/runs") is None


def test_every_search_has_a_command() -> None:
    assert COMMANDS.keys() == SEARCHES.keys()


@pytest.mark.parametrize("algorithm", sorted(COMMANDS.keys() - {"transfer"}))
def test_the_job_s_command_reads_the_very_settings_back(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever file, options and overrides they came from; `transfer` needs a store: see `test_transfer_command.py`."""
    given = settings("seed=3", "sweep.pruners=[fpgm]", "sweep.sparsity=[0.4]", "network.backbone=r2plus1d")
    submission = plan_submission(given, algorithm)
    (tmp_path / SETTINGS_FILE).write_text(submission.settings)
    monkeypatch.chdir(tmp_path)
    heard: list[tuple[RunSettings, str]] = []
    monkeypatch.setattr(execution, "execute", lambda read, name, **_: heard.append((read, name)))
    program, *arguments = submission.entrypoint.split()
    assert program == "orchestrate"
    assert cli.run(arguments) == 0
    runtime = given.runtime.model_copy(update={"name": submission.run, "address": "auto"})
    assert heard == [(given.model_copy(update={"runtime": runtime}), algorithm)]


def test_a_submission_s_id_is_the_run_s_name_and_a_lot() -> None:
    first, second = (plan_submission(settings("runtime.name=mine"), "pas") for _ in range(2))
    assert first.id.startswith("mine-")
    assert first.id != second.id
    assert first.metadata.keys() >= {"job_name", "algorithm", "backbone", "run", "commit"}
    assert first.metadata["job_name"] == first.metadata["run"] == "mine"
    assert all(isinstance(value, str) for value in first.metadata.values())


def test_the_id_of_a_long_name_still_does_as_a_file_s() -> None:
    assert len(plan_submission(settings(f"runtime.name={'x' * 300}"), "pas").id) < 80


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("runtime.runs=runs", "--runs a full path"),
        ("data.path=videos", "--data a full path"),
        ("teacher.weights=teacher.pth", "--teacher a full path"),
        ("runtime.runner=local", "leave --runner out"),
        ("runtime.address=10.0.0.1:6379", "leave --address out"),
    ],
)
def test_what_only_this_machine_understands_is_refused(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_submission(settings(override), "pas")


@pytest.mark.parametrize(
    ("there", "refused"),
    [
        ({"version": "0.1.0", "commit": "abc"}, None),
        ({"version": "0.2.0", "commit": "abc"}, "from version 0.2.0, but the cluster has version 0.1.0"),
        ({"version": "0.1.0", "commit": "def"}, "from commit def, but the cluster has commit abc"),
        ({"version": "0.1.0", "commit": "unknown"}, None),
        ({}, None),  # somebody else's job, e.g. KubeRay's
    ],
)
def test_other_code_is_refused_where_the_job_arrives(
    there: dict[str, str], refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "version", lambda _: "0.1.0")
    monkeypatch.setattr(arrival, "commit", lambda: "abc")
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"metadata": there, "runtime_env": {}}))
    if refused is None:
        require_same_code()
    else:
        with pytest.raises(UserError, match=refused):
            require_same_code()


def test_code_without_history_is_compared_by_version_alone() -> None:
    compare({"version": "0.1.0", "commit": "abc"}, {"version": "0.1.0", "commit": "unknown"})


def test_a_run_that_nobody_submitted_compares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    monkeypatch.setattr(arrival, "commit", lambda: pytest.fail("nobody asked"))
    require_same_code()


@pytest.mark.parametrize("columns", [80, 120])
def test_a_table_of_jobs_fits_and_shows_what_an_operator_looks_for(columns: int) -> None:
    """A job of today with its time, an older one with its day; a stranger's with its command."""
    now = 100 * DAY + DAY / 2
    jobs = [
        a_job("slowfast-pas-1a2b3c-9f86d0", run="slowfast-pas-1a2b3c", started=now - 3661),
        a_job("reid-qat-111111-000001", run="reid-qat-111111", algorithm="sweep-qat", status="failed",
              backbone="reid", started=now - 5 * DAY, ended=now - 4 * DAY),
        a_job("other", run=None, algorithm=None, backbone=None, entrypoint="python train.py", started=now - 9 * DAY),
    ]  # fmt: skip
    console = Console(file=io.StringIO(), width=columns)
    print_jobs(console, jobs, now)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]
    assert all(len(line) <= columns for line in lines)
    rows = [line for line in lines[2:] if not line.startswith("left out")]
    assert [row.split()[0] for row in rows] == ["slowfast-pas-1a2b3c-9f86d0", "reid-qat-111111-000001", "other"]
    assert "1 h 01 min" in rows[0]
    assert "failed" in rows[1]
    assert "1 d 00 h" in rows[1]
    assert "6 Apr" in rows[1]
    assert "python train.py" in rows[2]
    assert ("backbone" in lines[0].split()) == (columns == 120)
    assert any("backbone (--json has all)" in line for line in lines) == (columns == 80)
