"""A run in MLflow: one parent run for the search, and one child for each trial.

Runs are found again by their tags, the search by its name and the digest of what makes it this search, a trial by its
own digest. A trial's last epoch is among its metrics: what comes after it is what is lacking. Settings are written when
a search is first seen, since MLflow's parameters can't change; the commit of the last start is a tag.

Only the client is needed here (the package mlflow-skinny), and a tracking server or another place that it can reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from orchestrator.observer import TrialRow
from orchestrator.telemetry.logs import final_scalars, scalars
from trainers.loop import EpochMetrics
from trainers.trial import TrialResult

EXPERIMENT = "orchestrate"
BATCH = 100
"""Values per request; MLflow takes so many parameters, and more metrics."""
LONGEST = 500
"""Characters of a parameter that every server takes."""
PAGE = 1000
"""Runs per request."""
TRIAL_TAG, STATUS_TAG = "orchestrate.trial", "orchestrate.status"
FOR_GOOD = ("finished", "diverged")
"""Statuses of trials whose result is in the store; another may come out differently the next time."""
ENDS = {"finished": "FINISHED", "interrupted": "KILLED", "running": "KILLED"}
"""How MLflow calls the end of a run; every other is FAILED."""


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """What MLflow is told of a search."""

    name: str
    """Of the run."""
    digest: str
    """Of all settings that make it this search and no other."""
    params: Mapping[str, str]
    """All settings, by dotted path."""
    tags: Mapping[str, str]
    """What else a person may look for: algorithm, backbone, commit."""


@dataclass(kw_only=True)
class _Child:
    """A trial's run."""

    id: str
    epochs: int
    """Epochs that are in it."""
    ended: bool
    """Whether its result is in it, for good."""
    running: bool
    """Whether MLflow takes it to be under way."""


class MlflowLog:
    """A `Log` at a tracking server. Nothing is asked of it before there is something to log."""

    def __init__(self, uri: str | None, search: SearchRecord, *, status: Callable[[], str]) -> None:
        """Keep a search in MLflow.

        Args:
            uri: of the tracking server; none: as MLflow itself finds it (MLFLOW_TRACKING_URI).
            search: what is kept.
            status: the run's status when it is over.
        """
        self.uri, self.search, self._status = uri, search, status
        self._client: Any = None
        self._parent = ""
        self._children: dict[str, _Child] = {}

    def update(self, trial: TrialRow, epochs: Sequence[EpochMetrics], result: TrialResult | None) -> None:
        """See `Log`.

        Raises:
            MlflowException: the server does not answer, or refuses.
        """
        self._begin()
        child = self._children.get(trial.digest)
        if child is None:
            child = self._children[trial.digest] = self._new_child(trial)
        if child.ended:
            return
        if not child.running:
            self._client.update_run(child.id, status="RUNNING")
            child.running = True
        for epoch in epochs[child.epochs :]:
            self._log(child.id, {**scalars(epoch), "epoch": epoch["epoch"]}, epoch["epoch"])
            child.epochs = epoch["epoch"]
        if result is not None:
            self._end(child, result)

    def _end(self, child: _Child, result: TrialResult) -> None:
        """Log a result; one that may be another with the next start is only told of."""
        child.ended = result.status in FOR_GOOD
        if child.ended:
            self._log(child.id, final_scalars(result), result.epochs)
        told = {STATUS_TAG: result.status, "orchestrate.reason": result.reason or ""}
        self._client.log_batch(child.id, tags=[RunTag(key, value) for key, value in told.items()])
        self._client.set_terminated(child.id, ENDS.get(result.status, "FAILED"))
        child.running = False

    def close(self) -> None:
        """See `Log`."""
        if self._client is not None:
            self._client.set_terminated(self._parent, ENDS.get(self._status(), "FAILED"))

    def _begin(self) -> None:
        """Find the search and its trials, or make it."""
        if self._client is not None:
            return
        client = mlflow.MlflowClient(tracking_uri=self.uri)
        experiment = _experiment(client)
        known = {"orchestrate.run": self.search.name, "orchestrate.search": self.search.digest}
        found = list(_runs(client, experiment, known))
        if found:
            parent = found[0].info.run_id
            client.update_run(parent, status="RUNNING")
            client.log_batch(parent, tags=[RunTag(key, value) for key, value in self.search.tags.items()])
        else:
            tags = {**known, **self.search.tags}
            parent = client.create_run(experiment, tags=tags, run_name=self.search.name).info.run_id
            params = [Param(key, value[:LONGEST]) for key, value in self.search.params.items()]
            for start in range(0, len(params), BATCH):
                client.log_batch(parent, params=params[start : start + BATCH])
        self._children = {
            run.data.tags[TRIAL_TAG]: _Child(
                id=run.info.run_id,
                epochs=int(run.data.metrics.get("epoch", 0)),
                ended=run.data.tags.get(STATUS_TAG) in FOR_GOOD,
                running=False,
            )
            for run in _runs(client, experiment, {"mlflow.parentRunId": parent})
        }
        self._experiment, self._parent, self._client = experiment, parent, client

    def _new_child(self, trial: TrialRow) -> _Child:
        tags = {"mlflow.parentRunId": self._parent, TRIAL_TAG: trial.digest, **self.search.tags}
        run = self._client.create_run(self._experiment, tags=tags, run_name=trial.name).info.run_id
        params = {"name": trial.name, "epochs": trial.epochs, "gmacs": trial.gmacs, "params": trial.params}
        self._client.log_batch(run, params=[Param(key, str(value)) for key, value in params.items()])
        return _Child(id=run, epochs=0, ended=False, running=True)

    def _log(self, run: str, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in values.items()])


def _experiment(client: Any) -> str:
    """Id of our experiment; made when it is missing."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(client.create_experiment(EXPERIMENT))
        except MlflowException:  # another search has made it at this moment
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    return str(found.experiment_id)


def _runs(client: Any, experiment: str, tags: Mapping[str, str]) -> Iterator[Any]:
    """Runs with some tags, oldest first."""
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    token = None
    while True:
        page = client.search_runs(
            [experiment], wanted, ViewType.ACTIVE_ONLY, PAGE, ["attributes.start_time ASC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return
