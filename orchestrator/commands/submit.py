"""`--submit`: a command's run is handed to a cluster, and followed from here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from configs.errors import UserError
from configs.schema import RunSettings

if TYPE_CHECKING:
    from orchestrator.jobs.job import Job
    from orchestrator.jobs.ray_client import Jobs

INTERRUPTED = 130

SubmitOption = Annotated[
    str | None,
    typer.Option(
        "--submit",
        metavar="ADDRESS",
        help="Hand the run to a Ray cluster, through its dashboard: http://HEAD:8265, or auto.",
    ),
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="With --submit: don't follow the log.")]


def submit(settings: RunSettings, algorithm: str, address: str, *, wait: bool = True) -> int:
    """Hand a run to a cluster, and follow it to its end.

    Args:
        settings: of the run.
        algorithm: which row of `SEARCHES`.
        address: of the dashboard, as for `connect`.
        wait: follow the log.

    Returns:
        The exit code: the driver's own; 0 where nobody waits for it.

    Raises:
        UserError: the cluster can't be reached, or can't work with these settings.
        RunError: the cluster does not take the job, or is lost while it is followed.
    """
    from orchestrator.jobs.ray_client import connect
    from orchestrator.jobs.submission import plan_submission

    submission = plan_submission(settings, algorithm)
    jobs = connect(address)
    jobs.hand_over(submission)
    say(f"Submitted as job {submission.id}")
    say(f"Dashboard: {jobs.page(submission.id)}")
    if wait:
        return watch(jobs, submission.id)
    say(f"Follow it: orchestrate logs {submission.id} --follow --address {jobs.url}")
    return 0


def refuse_no_wait(*, wait: bool) -> None:
    """Refuse `--no-wait` where nothing is submitted.

    Raises:
        UserError: it is given.
    """
    if not wait:
        raise UserError("--no-wait is given without --submit, but a run of this process is waited for; leave it out")


def watch(jobs: Jobs, job: str) -> int:
    """Write a job's log until the job is over, and say how it ended.

    Returns:
        Its exit code; 130 on Ctrl-C, which the job does not notice.
    """
    from orchestrator.jobs.follow import follow

    try:
        ended = follow(jobs, job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        say(f"\nJob {job} goes on. Follow it again: orchestrate logs {job} --follow --address {jobs.url}")
        say(f"Stop it: orchestrate stop {job} --address {jobs.url}")
        return INTERRUPTED
    say(describe_end(ended))
    return ended.as_exit_code


def describe_end(job: Job) -> str:
    """How a job ended, in a sentence or two."""
    if job.status == "succeeded":
        return f"Job {job.id} succeeded."
    if job.status == "stopped":
        return f"Job {job.id} was stopped. The same command goes on where it stopped."
    if job.exit_code is not None:  # its log, which was shown, has the reason
        return f"Job {job.id} failed with exit code {job.as_exit_code}."
    return f"Job {job.id} failed: {job.message or 'the cluster does not say why'}"


def say(text: str) -> None:
    """A line of ours, beside the log of the job."""
    Console(stderr=True).print(Text(text), soft_wrap=True)
