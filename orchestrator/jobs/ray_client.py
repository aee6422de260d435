"""The jobs of a cluster, through its dashboard: submit, list, stop, listen. Ray's errors become sentences here."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.dashboard.utils import ray_address_to_api_server_url
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from configs.errors import RunError, UserError
from orchestrator.jobs.job import Job, at_work
from orchestrator.jobs.submission import SETTINGS_FILE, Submission
from orchestrator.ray_access import ask, own_token, present_token, running_cluster, token_file
from trainers.files import write_text

for _chatty in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env"):
    logging.getLogger(_chatty).setLevel(logging.ERROR)  # Ray has set each to INFO, whatever the root logger says

ANSWER_SECONDS = (5.0, 60.0)
"""How long a dashboard may take to accept a connection, and to answer."""
STOP_SECONDS = 60
"""What a driver is given to save its state and write its report; Ray itself would kill it after 3 s."""
API_ADDRESS, ADDRESS = "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"
NOT_FOUND = 404


class RefusedError(RuntimeError):
    """The dashboard answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        lines = text.strip().splitlines()
        super().__init__(lines[-1] if lines else f"status {status}")
        self.status = status


class Jobs(JobSubmissionClient):
    """A dashboard that answered. Whatever goes wrong later is a `RefusedError` or an `OSError`."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": ANSWER_SECONDS, **options})  # Ray waits for ever

    def _raise_error(self, r: Any) -> None:
        raise RefusedError(r.status_code, r.text)

    @property
    def url(self) -> str:
        """Of the dashboard."""
        return str(self.get_address())

    def page(self, job: str) -> str:
        """URL of a job's page in the dashboard."""
        return f"{self.url}/#/jobs/{job}"

    def all(self) -> list[Job]:
        """Every job since the head was started."""
        return [Job.from_details(details) for details in self.list_jobs()]

    def one(self, job: str) -> Job:
        """What there is to say of a job now.

        Raises:
            RunError: the cluster has forgotten it.
        """
        try:
            return Job.from_details(self.get_job_info(job))
        except RefusedError as refused:
            if refused.status != NOT_FOUND:
                raise
            raise RunError(
                f"the cluster no longer knows job {job}: its head was started anew; "
                "the command that submitted it goes on where it stopped"
            ) from None

    def hand_over(self, submission: Submission) -> None:
        """Submit a run. Its driver is put on the head node, which lives as long as the cluster, even if no CPU is left.

        Raises:
            UserError: the cluster has another Ray, or is at work on that run.
            RunError: it does not take the job.
        """
        self._require_same_ray()
        try:
            if busy := at_work(self.all(), submission.run, submission.runs):
                raise UserError(
                    f"run {submission.run!r} is at work already, as job {busy.id}: "
                    f"`orchestrate logs {busy.id} --follow` follows it, `orchestrate stop {busy.id}` stops it"
                )
            with tempfile.TemporaryDirectory() as folder:
                write_text(Path(folder) / SETTINGS_FILE, submission.settings)
                self.submit_job(
                    submission_id=submission.id,
                    entrypoint=submission.entrypoint,
                    metadata=submission.metadata,
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},  # read by the job's supervisor
                    },
                )
        except (OSError, RuntimeError) as error:
            raise RunError(f"{self.url} did not take the job: {error}; look with `orchestrate jobs`") from error

    def listen(self, job: str) -> AsyncIterator[str]:
        """A job's log from its start, until the job is over or the connection is lost."""
        return self.tail_job_logs(job)

    def _require_same_ray(self) -> None:
        theirs = str(self._server_ray_version)
        if minor_version(theirs) != minor_version(ray.__version__):
            raise UserError(
                f"the cluster at {self.url} has Ray {theirs}, but here is Ray {ray.__version__}; "
                f"run `python -m pip install ray=={theirs}` here, or submit from one of its nodes"
            )


def connect(address: str) -> Jobs:
    """Reach a cluster's dashboard, with the user's token if it asks for one.

    Args:
        address: its URL or host:port; `auto`: what RAY_API_SERVER_ADDRESS or RAY_ADDRESS says, else the cluster that
            runs on this machine.

    Raises:
        UserError: none answers there, or it wants a token that isn't here.
    """
    url = dashboard_of_environment() if address == "auto" else as_url(address)
    try:
        return _open(url)
    except AuthenticationError:
        token = own_token()
    if token is None:
        raise UserError(
            f"the cluster at {url} asks for a token, and there is none here; copy the one that `ray get-auth-token` "
            f"prints on its head node to {token_file()}, with rights 600, or set RAY_AUTH_TOKEN"
        )
    try:
        return _open(url, headers={"Authorization": f"Bearer {token}"})
    except AuthenticationError:
        raise UserError(
            f"the cluster at {url} refuses the token that is here; replace it with the one that `ray get-auth-token` "
            "prints on its head node"
        ) from None


def as_url(address: str) -> str:
    """The URL of a dashboard.

    Raises:
        UserError: it is of another kind.
    """
    scheme, separator, _ = address.partition("://")
    if separator and scheme not in ("http", "https"):
        raise UserError(
            f"the cluster's address is {address!r}, but jobs go through its dashboard: give the URL of that, "
            "like http://head:8265, or auto"
        )
    return (address if separator else f"http://{address}").rstrip("/")


def dashboard_of_environment() -> str:
    """The dashboard that the environment names, or of the cluster that runs on this machine.

    Raises:
        UserError: there is no cluster, or none with a dashboard.
    """
    for name in (API_ADDRESS, ADDRESS):
        said = os.environ.get(name, "")
        if said and (name == API_ADDRESS or "://" in said):
            return as_url(said)
    try:
        where = running_cluster()
        refused = ask(where).refused
    except UserError as error:
        raise UserError(
            f"the cluster's address is 'auto', but {API_ADDRESS} is not set, and no cluster that {ADDRESS} names or "
            "that runs on this machine answers; give the dashboard's address, like http://head:8265"
        ) from error
    if refused:
        present_token(where)
    try:
        return str(ray_address_to_api_server_url(where))
    except ValueError as error:
        raise UserError(
            f"the cluster's address is 'auto', but the cluster at {where} has no dashboard, through which jobs go; "
            "start its head with `ray start --head --include-dashboard=true`"
        ) from error


def minor_version(version: str) -> list[str]:
    """`2.60.1` → 2, 60: what must be equal for a driver and its cluster to understand each other."""
    return version.split(".")[:2]


def _open(url: str, headers: dict[str, str] | None = None) -> Jobs:
    """A client whose dashboard has answered.

    Raises:
        UserError: nothing answers, or something else.
        AuthenticationError: it wants a token, or another one.
    """
    try:
        with _nothing_in_the_environment():
            return Jobs(url, headers=headers)
    except ConnectionError:
        raise UserError(
            f"the cluster's address is {url}, but nothing answers there; give the dashboard's address, mostly port "
            "8265 of the head node (which listens on loopback unless told otherwise: "
            "`ssh -L 8265:localhost:8265 HEAD`, `ray dashboard` or `kubectl port-forward` reach it)"
        ) from None
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(
            f"the cluster's address is {url}, but what answers there is no dashboard of Ray "
            f"({type(error).__name__}); its port is 8265 mostly (6379 is for nodes that join)"
        ) from error


@contextmanager
def _nothing_in_the_environment() -> Iterator[None]:
    """Ray would prefer what the environment says to the address that it is given."""
    hidden = {name: os.environ.pop(name) for name in (API_ADDRESS, ADDRESS) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
