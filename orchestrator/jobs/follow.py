"""Following a job's log to its end, over connections that may break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from aiohttp import ClientError

from configs.errors import RunError
from orchestrator.jobs.job import Job

QUIET_SECONDS = 120.0
"""After so long without a word the connection is made anew: one that a network cut does not say so."""
RECONNECTIONS = 10
"""Failures one after the other after which the cluster is given up: about two minutes."""
LONGEST_PAUSE = 15.0
"""Seconds between two attempts, at most."""


@runtime_checkable
class Source(Protocol):
    """Where logs come from; `ray_client.Jobs` in earnest."""

    def one(self, job: str) -> Job:
        """What there is to say of a job now."""
        ...

    def listen(self, job: str) -> AsyncIterator[str]:
        """Its log, from the start."""
        ...


@dataclass
class Transcript:
    """A log that is read from its start on every connection, and passed on once."""

    write: Callable[[str], None]
    """Takes what is new."""
    written: int = 0
    """Characters passed on."""
    position: int = 0
    """Characters read on this connection."""

    def rewind(self) -> None:
        """A new connection."""
        self.position = 0

    def take(self, text: str) -> None:
        """Pass on what was not heard before."""
        new = text[max(0, self.written - self.position) :]
        self.position += len(text)
        if new:
            self.write(new)
            self.written += len(new)


def follow(
    source: Source, job: str, write: Callable[[str], None], *, pause: Callable[[float], None] = time.sleep
) -> Job:
    """Pass on a job's log until the job is over.

    Args:
        source: the cluster.
        job: id.
        write: takes the log, piece by piece.
        pause: waits, for seconds.

    Returns:
        The job as it ended.

    Raises:
        RunError: the cluster is out of reach for minutes, or has forgotten the job; the job itself may go on.
    """
    transcript = Transcript(write)
    failures = 0
    while True:
        fault: Exception | None = None
        heard = transcript.written
        try:
            asyncio.run(_listen(source, job, transcript))
        except (ClientError, OSError, RuntimeError) as error:
            fault = error
        try:
            now = source.one(job)
        except RunError:
            raise
        except (OSError, RuntimeError) as error:  # out of reach, or a dashboard that is only just starting
            fault = error
        else:
            if now.over:
                return now
        failures = failures + 1 if fault and transcript.written == heard else 0
        if failures > RECONNECTIONS:
            raise RunError(
                f"the cluster is out of reach ({fault}); the job may go on: "
                f"`orchestrate logs {job} --follow` follows it again"
            ) from fault
        pause(min(2.0**failures, LONGEST_PAUSE))


async def _listen(source: Source, job: str, transcript: Transcript) -> None:
    """Read until the log ends, the connection breaks, or it has been quiet for long."""
    transcript.rewind()
    chunks = source.listen(job)
    async with aclosing(chunks):  # type: ignore[type-var]
        while True:
            try:
                text = await asyncio.wait_for(anext(chunks), QUIET_SECONDS)
            except (StopAsyncIteration, TimeoutError):
                return
            transcript.take(text)
