"""A dashboard of Ray as far as `orchestrator/jobs` talks to it: the Jobs API of Ray 2.60 over made-up jobs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from aiohttp import web

METADATA = {"run": "mine", "algorithm": "pas", "backbone": "slowfast", "commit": "abc", "runs": "/shared/runs"}


def details(job: str, status: str = "RUNNING", **changes: Any) -> dict[str, Any]:
    """A submitted job as the API describes it."""
    return {
        "type": "SUBMISSION",
        "submission_id": job,
        "job_id": None,
        "status": status,
        "entrypoint": "orchestrate pas --config settings.yaml --address auto",
        "start_time": 1_000_000,
        "metadata": METADATA,
        **changes,
    }


@dataclass
class Dashboard:
    """What it has, and what it was told."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id."""
    token: str | None = None
    """Asked for, where given."""
    version: str = ray.__version__
    logs: list[tuple[str, bool]] = field(default_factory=list)
    """What each listener hears in turn, and whether its connection breaks then; the last one ends the job."""
    ends_as: str = "SUCCEEDED"
    faults: int = 0
    """Questions about one job that are answered with an error of its own, before it recovers."""
    url: str = ""
    submitted: list[dict[str, Any]] = field(default_factory=list)
    packages: list[bytes] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    listeners: int = 0

    @web.middleware
    async def guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        shown = request.headers.get("Authorization")
        if self.token is not None and shown is None:
            return web.Response(status=401, text="Unauthorized: Missing authentication token")
        if self.token is not None and shown != f"Bearer {self.token}":
            return web.Response(status=403, text="Forbidden: Invalid authentication token")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def get_version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": self.version})

    async def all(self, _: web.Request) -> web.Response:
        return web.json_response([*self.jobs.values()])

    async def one(self, request: web.Request) -> web.Response:
        job = request.match_info["job"]
        if self.faults:
            self.faults -= 1
            return web.Response(status=500, text="no agent yet")
        return web.json_response(self.jobs[job]) if job in self.jobs else web.Response(status=404, text="no such job")

    async def submit(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self.submitted.append(wanted)
        self.jobs[wanted["submission_id"]] = details(wanted["submission_id"], metadata=wanted["metadata"])
        return web.json_response({"job_id": wanted["submission_id"], "submission_id": wanted["submission_id"]})

    async def stop(self, request: web.Request) -> web.Response:
        self.stopped.append(request.match_info["job"])
        self.jobs[request.match_info["job"]]["status"] = "STOPPED"
        return web.json_response({"stopped": True})

    async def log(self, _: web.Request) -> web.Response:
        return web.json_response({"logs": "".join(text for text, _ in self.logs)})

    async def package(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.Response(status=404)
        self.packages.append(await request.read())
        return web.Response()

    async def tail(self, request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        text, breaks = self.logs[self.listeners]
        self.listeners += 1
        await answer.send_str(text)
        if breaks:
            assert request.transport is not None
            request.transport.close()
        elif self.listeners == len(self.logs):
            self.jobs[request.match_info["job"]]["status"] = self.ends_as
        return answer


@contextmanager
def serving(dashboard: Dashboard) -> Iterator[Dashboard]:
    """Serve it on a free port of loopback, from a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(_start(dashboard), loop).result()
    try:
        yield dashboard
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start(dashboard: Dashboard) -> web.AppRunner:
    app = web.Application(middlewares=[dashboard.guard])
    app.add_routes(
        [
            web.get("/api/version", dashboard.get_version),
            web.get("/api/jobs/", dashboard.all),
            web.post("/api/jobs/", dashboard.submit),
            web.get("/api/jobs/{job}", dashboard.one),
            web.post("/api/jobs/{job}/stop", dashboard.stop),
            web.get("/api/jobs/{job}/logs", dashboard.log),
            web.get("/api/jobs/{job}/logs/tail", dashboard.tail),
            web.route("*", "/api/packages/{protocol}/{name}", dashboard.package),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    dashboard.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return runner
