"""What a terminal shows of jobs; readable from 80 columns on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.text import Text

from orchestrator.jobs.job import Job, latest_first
from orchestrator.report import UNKNOWN, duration
from orchestrator.terminal import plain_table

STYLES = {"running": "cyan", "succeeded": "green", "failed": "red", "stopped": "yellow"}
"""Colour of a status; pending has none."""
WIDE = 110
"""Columns from which on a run's name and backbone are shown too; a job's id starts with the former."""
ID_WIDTH = 32
"""Longer ids are broken where the terminal is narrow, shorter ones never."""


def print_jobs(console: Console, jobs: Sequence[Job], now: float) -> None:
    """Jobs, the last one on top; a stranger's with its command.

    Args:
        console: where to.
        jobs: in any order.
        now: seconds since 1970.
    """
    if not jobs:
        console.print(Text("No jobs yet."))
        return
    wide = console.width >= WIDE
    table = plain_table("job", *(["run", "backbone"] if wide else []), "status", "algorithm", ">started", ">time")
    table.columns[0].width = min(ID_WIDTH, max(len(job.id) for job in jobs))
    for job in latest_first(jobs):
        table.add_row(
            Text(job.id),
            *([Text(job.run or UNKNOWN), Text(job.backbone or UNKNOWN)] if wide else []),
            Text(job.status, STYLES.get(job.status, "dim")),
            Text(job.algorithm or UNKNOWN) if job.ours else Text(job.entrypoint, "dim"),
            moment(job.started, now),
            duration(job.seconds(now)),
        )
    console.print(table)
    if not wide:
        console.print(Text("left out for want of width: run, backbone (--json has all)", "dim"))


def moment(seconds: float | None, now: float) -> str:
    """A time of today as `14:05`, any other as its day, `3 Feb`; on this machine's clock."""
    if seconds is None:
        return UNKNOWN
    then = datetime.fromtimestamp(seconds)
    if then.date() == datetime.fromtimestamp(now).date():
        return f"{then:%H:%M}"
    return f"{then.day} {then:%b}"
