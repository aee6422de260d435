"""The commands `orchestrate jobs`, `logs` and `stop`: runs that were handed to a cluster."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from configs.errors import RunError
from orchestrator.commands.options import JsonOption
from orchestrator.commands.submit import INTERRUPTED, describe_end, say, watch

if TYPE_CHECKING:
    from orchestrator.jobs.job import Job
    from orchestrator.jobs.ray_client import Jobs

GRACE_SECONDS = 30.0
"""What Ray may take beyond the driver's own time to stop: it polls, and writes down what it saw."""
POLL_SECONDS = 0.5

ClusterOption = Annotated[
    str,
    typer.Option(
        "--address",
        help="The cluster's dashboard: http://HEAD:8265, or auto: as RAY_API_SERVER_ADDRESS or RAY_ADDRESS says, "
        "else the cluster on this machine.",
    ),
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job, or a run's name: its last job.")]


def jobs(
    address: ClusterOption = "auto",
    everything: Annotated[bool, typer.Option("--all", help="Also jobs that are no runs of this program.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the runs that were handed to a cluster, since its head was started."""
    from orchestrator.jobs.job import latest_first
    from orchestrator.jobs.ray_client import connect
    from orchestrator.jobs.terminal import print_jobs

    found = latest_first([job for job in connect(address).all() if everything or job.ours])
    if as_json:
        typer.echo(json.dumps([job.to_dict() for job in found], indent=1))
    else:
        print_jobs(Console(), found, time.time())


def logs(
    job: JobArgument,
    follow: Annotated[
        bool, typer.Option("--follow", help="Until the job is over; exits with the job's own code.")
    ] = False,
    address: ClusterOption = "auto",
) -> None:
    """Show the log of a job."""
    cluster, found = find(address, job)
    if follow:
        raise typer.Exit(watch(cluster, found.id))
    typer.echo(cluster.get_job_logs(found.id), nl=False)


def stop(job: JobArgument, address: ClusterOption = "auto") -> None:
    """Stop a job, and wait until it has saved its state. The command that submitted it goes on where it stopped."""
    cluster, found = find(address, job)
    if found.over:
        say(f"Job {found.id} is over already: it {found.status}.")
        return
    try:
        with Console(stderr=True).status("stopping"):
            ended = stop_and_wait(cluster, found.id)
    except KeyboardInterrupt:
        say(f"Job {found.id} was told to stop, and will.")
        raise typer.Exit(INTERRUPTED) from None
    say(describe_end(ended))


def find(address: str, name: str) -> tuple[Jobs, Job]:
    """A cluster, and the job of it that is meant."""
    from orchestrator.jobs.job import find_job
    from orchestrator.jobs.ray_client import connect

    cluster = connect(address)
    return cluster, find_job(cluster.all(), name)


def stop_and_wait(cluster: Jobs, job: str) -> Job:
    """Stop a job, and wait for its end.

    Raises:
        RunError: it does not end.
    """
    from orchestrator.jobs.ray_client import STOP_SECONDS

    cluster.stop_job(job)
    patience = STOP_SECONDS + GRACE_SECONDS
    deadline = time.monotonic() + patience
    while not (now := cluster.one(job)).over:
        if time.monotonic() > deadline:
            raise RunError(f"job {job} was told to stop {patience:g} s ago, but is still {now.status}; see its log")
        time.sleep(POLL_SECONDS)
    return now
