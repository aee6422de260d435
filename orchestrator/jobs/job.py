"""A job as an operator thinks of it: a run at work on a cluster, or one that was."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from configs.errors import UserError
from orchestrator.jobs.submission import COMMANDS

OVER = ("succeeded", "stopped", "failed")
"""Statuses that don't change any more; the others are pending and running."""
STOPPED_EXIT, UNKNOWN_EXIT = 130, 1
BY_SIGNAL = 128
"""A shell's exit code of a program that a signal ended: 128 and the signal's number."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a cluster says of one job."""

    id: str
    """Of the submission; of a driver that somebody started by hand, Ray's own number."""
    status: str
    """pending, running, succeeded, stopped or failed."""
    submitted: bool
    """Whether it was submitted; Ray neither keeps the log of another driver nor can it stop one."""
    entrypoint: str
    """Its command."""
    run: str | None = None
    """Name of the run; like the next ones, none where it is a stranger's."""
    algorithm: str | None = None
    """What it does, as in `SEARCHES`."""
    backbone: str | None = None
    """Of its network."""
    commit: str | None = None
    """Of the checkout that it was submitted from."""
    runs: str | None = None
    """Folder of the store."""
    started: float | None = None
    """When, in seconds since 1970."""
    ended: float | None = None
    """When, in seconds since 1970; none: not yet."""
    exit_code: int | None = None
    """Of the driver, as Ray took it down: the negative number of a signal that ended it."""
    message: str | None = None
    """What Ray says of the end of a job that failed."""

    @classmethod
    def from_details(cls, details: Any) -> Job:
        """From Ray's `JobDetails`, whose times are in milliseconds."""
        metadata = details.metadata or {}
        return cls(
            id=details.submission_id or details.job_id,
            status=details.status.value.lower(),
            submitted=details.submission_id is not None,
            entrypoint=details.entrypoint,
            started=details.start_time / 1000 if details.start_time else None,
            ended=details.end_time / 1000 if details.end_time else None,
            exit_code=details.driver_exit_code,
            message=details.message,
            **{key: metadata.get(key) for key in ("run", "algorithm", "backbone", "commit", "runs")},
        )

    @property
    def ours(self) -> bool:
        """Whether it is a run of this program."""
        return self.run is not None and self.algorithm in COMMANDS

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in OVER

    @property
    def as_exit_code(self) -> int:
        """Of a command that followed it to its end: the driver's own, where Ray knows it."""
        if self.status == "succeeded":
            return 0
        if self.status == "stopped":
            return STOPPED_EXIT
        if not self.exit_code:
            return UNKNOWN_EXIT
        return self.exit_code if self.exit_code > 0 else BY_SIGNAL - self.exit_code

    def seconds(self, now: float) -> float | None:
        """How long it took, or has been at work until now."""
        return None if self.started is None else (self.ended or now) - self.started

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def latest_first(jobs: Sequence[Job]) -> list[Job]:
    """Jobs, the one that started last at the top."""
    return sorted(jobs, key=lambda job: job.started or 0.0, reverse=True)


def at_work(jobs: Sequence[Job], run: str, runs: str) -> Job | None:
    """The job that works on a run of a store now, if there is one."""
    return next((job for job in jobs if job.run == run and job.runs == runs and not job.over), None)


def find_job(jobs: Sequence[Job], name: str) -> Job:
    """The job that is meant: by its id, else the last one of a run.

    Raises:
        UserError: there is none, or it is no submitted one.
    """
    mine = [job for job in latest_first(jobs) if job.ours]
    found = next((job for job in jobs if job.id == name), None) or next((job for job in mine if job.run == name), None)
    if found is None:
        raise UserError(f"{name!r} is no job or run of this cluster; {_instead(jobs, mine, name)}")
    if not found.submitted:
        raise UserError(
            f"{name!r} was started by hand, not submitted: its log and Ctrl-C are where it was started; "
            "next time, start it with --submit"
        )
    return found


def _instead(jobs: Sequence[Job], mine: Sequence[Job], name: str) -> str:
    """What a name that is none may have meant."""
    known = dict.fromkeys([*(job.run for job in mine if job.run), *(job.id for job in jobs)])
    if close := difflib.get_close_matches(name, known):
        return f"did you mean {' or '.join(close)}?"
    return "`orchestrate jobs --all` lists what there is" if jobs else "it has had no jobs since its head was started"
