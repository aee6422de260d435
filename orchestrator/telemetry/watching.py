"""Who else watches a run, besides the person at the terminal: what the settings and the machine ask for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from configs.errors import UserError
from configs.schema import RunSettings
from orchestrator.identity import default_name, identity
from orchestrator.observer import Observer
from orchestrator.state import commit
from orchestrator.store import RunFolder, Store
from orchestrator.telemetry.fan import Fan
from orchestrator.telemetry.logs import Log, Logger
from orchestrator.telemetry.meter import Meter, Sink
from orchestrator.telemetry.metrics import Progress
from orchestrator.telemetry.prometheus import METRICS_FILE, PrometheusFile

LOGS = ("tensorboard", "mlflow")
MLFLOW_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""A server that is down must not hold up the run (MLflow's own patience is minutes); and no phoning home. Set before
MLflow is imported, as far as the user has not."""


@contextmanager
def watched(settings: RunSettings, algorithm: str, shown: Observer, logs: Sequence[str] = ()) -> Iterator[Observer]:
    """An observer for a session: what is shown, metrics, and logs; the last values are written when the block ends.

    Args:
        settings: of the run.
        algorithm: row of `SEARCHES`.
        shown: what a person sees; hears everything first.
        logs: `tensorboard`, `mlflow` or `mlflow:URI`.

    Raises:
        UserError: a log that there is not, or whose package is missing; before anything is written.
    """
    store = Store(settings.runtime.runs)
    run = store.run(settings.runtime.name or default_name(settings, algorithm))
    meter = Meter(
        Progress(
            run.path.name,
            algorithm=algorithm,
            backbone=settings.network.backbone,
            gpus_per_trial=settings.runtime.gpus_per_trial,
            cpus_per_trial=settings.runtime.cpus_per_trial,
        ),
        list(_sinks(settings, run)),
        state=run.read_state,
        tell=shown.message,
    )
    loggers = [
        Logger(f"--log {_without_password(log)} fails", _open(log, settings, algorithm, run), store, tell=shown.message)
        for log in dict.fromkeys(logs)
    ]
    try:
        yield Fan(shown, [("metrics fail", meter), *(("a log fails", logger) for logger in loggers)])
    finally:
        meter.close()
        for logger in loggers:
            logger.close()


def _sinks(settings: RunSettings, run: RunFolder) -> Iterator[tuple[str, Sink]]:
    yield f"{METRICS_FILE} can't be written", PrometheusFile(run.path)
    if settings.runtime.runner == "ray":
        from orchestrator.telemetry.ray_gauges import RayGauges  # Ray takes a second to import

        yield "metrics can't be given to Ray", RayGauges()


def _open(log: str, settings: RunSettings, algorithm: str, run: RunFolder) -> Log:
    """The log that a value of `--log` names.

    Raises:
        UserError: there is none of that name, or its package is missing.
    """
    kind, _, uri = log.partition(":")
    if kind not in LOGS or (kind == "tensorboard" and uri):
        raise UserError(f"--log is {log!r}, but must be tensorboard, mlflow or mlflow:URI")
    if kind == "tensorboard":
        from orchestrator.telemetry.tensorboard_log import TensorBoardLog

        return TensorBoardLog(run.path)
    if find_spec("mlflow") is None:
        raise UserError(f"--log is {log!r}, but MLflow's client is not installed; run `pip install mlflow-skinny`")
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from orchestrator.telemetry.mlflow_log import MlflowLog, SearchRecord

    record = SearchRecord(
        name=run.path.name,
        digest=hashlib.sha256(json.dumps(identity(settings, algorithm), sort_keys=True).encode()).hexdigest()[:16],
        params=dict(_flat(settings.model_dump(mode="json"))),
        tags={
            "orchestrate.algorithm": algorithm,
            "orchestrate.backbone": settings.network.backbone,
            "orchestrate.commit": commit(),
        },
    )
    return MlflowLog(uri or None, record, status=_status_of(run))


def _status_of(run: RunFolder) -> Callable[[], str]:
    def status() -> str:
        state = run.read_state()
        return str(state["status"]) if state else "failed"

    return status


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested dictionaries by dotted path, as text."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def _without_password(log: str) -> str:
    """A value of `--log` as it may be shown: an address can have a password in it."""
    kind, separator, uri = log.partition(":")
    parts = urlsplit(uri)
    return f"{kind}{separator}{parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()}"
