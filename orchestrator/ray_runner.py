"""Trials as Ray Tune trials: one Tuner per stage, in a Ray of our own or on a cluster.

Tune's own experiment folder is scratch: results come from the store, a trial resumes from its own checkpoint there,
and `Tuner.restore` is not used (it can't extend a finished experiment, and would be a second truth).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import Any, Self

# Before Ray is imported: no phoning home, no files beside ours, and Ctrl-C is ours to handle.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}.items():
    os.environ.setdefault(_name, _value)

import ray
from ray import tune
from ray.job_config import JobConfig

from configs.errors import RunError, UserError
from configs.schema import RuntimeSettings
from orchestrator.observer import Observer
from orchestrator.runner import guarded
from orchestrator.store import Store
from trainers.loop import EpochMetrics
from trainers.site import Site
from trainers.trial import Trial, TrialResult

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 128 * 2**20
"""Ray's shared memory on one machine; trials exchange files, so the least that Ray takes comfortably."""
STAGE_ATTEMPTS = 3
"""Ray's memory monitor can abort a whole `fit()`: a new Tuner then takes what is left, so many times."""


class TrialActor(tune.Trainable):
    """One trial in a process of its own; its repr is the name that the Ray dashboard shows."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What a trial asks of Ray (`tune.with_resources` would hide this class behind a name of its own)."""
        return tune.PlacementGroupFactory([config["resources"]])

    def setup(self, config: dict[str, Any]) -> None:
        """Take the trial; the work starts with the first step."""
        os.environ.pop("WORLD_SIZE", None)  # a launcher's, around Ray: this trial is one process
        self.trial = Trial.from_dict(config["trial"])
        self.epochs: Generator[EpochMetrics, None, TrialResult] = guarded(self.trial, Site.from_dict(config["site"]))

    def __repr__(self) -> str:
        return self.trial.name

    def step(self) -> dict[str, Any]:
        """Train one epoch; the last step reports the result."""
        try:
            return {"epoch_metrics": next(self.epochs), tune.result.DONE: False}
        except StopIteration as end:
            return {"trial_result": asdict(end.value), tune.result.DONE: True}

    def cleanup(self) -> None:
        """Release the trial's lock."""
        self.epochs.close()


class _Progress(tune.Callback):
    """Passes on what trials report."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks to restore an experiment, which is never done here."""
        return {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """An epoch, or the end of a trial."""
        if metrics := result.get("epoch_metrics"):
            self.observer.epoch_finished(Trial.from_dict(trial.config["trial"]).digest, metrics)
        elif data := result.get("trial_result"):
            self.observer.trial_finished(TrialResult(**data))


class RayRunner:
    """Trains stages on Ray: a cluster joined on entry (`address`), or one of our own; left on exit."""

    def __init__(
        self, site: Site, runtime: RuntimeSettings, observer: Observer, *, run: str, metadata: dict[str, str]
    ) -> None:
        self.site = site
        self.runtime = runtime
        self.observer = observer
        self.run = run
        self.metadata = {"job_name": run, **metadata}
        self.store = Store(site.store)
        self.scratch = site.store / run / "tune"

    def __enter__(self) -> Self:
        runtime = self.runtime
        if runtime.address is not None:
            require_reachable(runtime.address)
            self._connect({"address": runtime.address})
        elif runtime.dashboard:
            require_free_port(runtime.dashboard_port)
        return self  # a Ray of our own is started with the first training: a finished search needs none

    def _connect(self, options: dict[str, Any]) -> None:
        """Start Ray here, or join a cluster.

        Raises:
            UserError: no cluster answers.
        """
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            context = ray.init(
                job_config=JobConfig(metadata=self.metadata),
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
        except (ConnectionError, ValueError) as error:
            raise UserError(
                f"runtime.address is {self.runtime.address!r}, but no Ray cluster answers there ({error}). "
                "Start one with `ray start --head`, or leave --address out to run in this process"
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray's own handler would exit without a word
        if context.dashboard_url:
            self.observer.message(f"Ray dashboard: http://{context.dashboard_url}")

    def _start(self) -> None:
        """Start Ray in this process, with what one machine needs."""
        options = {"address": "local", "object_store_memory": OBJECT_STORE_BYTES}
        if self.runtime.dashboard:
            options |= {"dashboard_port": self.runtime.dashboard_port, "dashboard_host": "127.0.0.1"}
        self._connect({**options, "include_dashboard": self.runtime.dashboard})

    def __exit__(self, *error: object) -> None:
        ray.shutdown()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def train(self, stage: str, trials: Sequence[Trial]) -> list[TrialResult]:
        """See `Runner.train`.

        Raises:
            UserError: a trial asks for more than the whole cluster has.
            RunError: Ray gave up on the stage for good.
        """
        if not ray.is_initialized():
            self._start()
        self._require_resources()
        answers: dict[str, TrialResult] = {}
        for attempt in range(1, STAGE_ATTEMPTS + 1):
            left = [t for t in trials if t.digest not in answers and self.store.result(t.digest) is None]
            if not left:
                break
            try:
                answers |= self._fit(f"{stage}-{attempt}", left)
            except (RuntimeError, tune.TuneError) as error:
                log.warning("Ray Tune gave up on stage %s, attempt %d: %s", stage, attempt, error)
                if attempt == STAGE_ATTEMPTS:
                    raise RunError(
                        f"Ray Tune gave up on stage {stage} {attempt} times; the last time: {error}"
                    ) from error
        return [answers.get(trial.digest) or self._stored(stage, trial) for trial in trials]

    def _stored(self, stage: str, trial: Trial) -> TrialResult:
        """The result that a trial left although its Tuner didn't say so."""
        if result := self.store.result(trial.digest):
            return result
        raise RunError(f"Ray Tune ended stage {stage} without a result of {trial.name}; give the same command again")

    def _fit(self, name: str, trials: Sequence[Trial]) -> dict[str, TrialResult]:
        """One Tuner over some trials; those that Tune lost for good come back as failed."""
        tuner = tune.Tuner(
            TrialActor,
            param_space={
                "trial": tune.grid_search([trial.to_dict() for trial in trials]),
                "site": self.site.to_dict(),
                "resources": {"CPU": self.runtime.cpus_per_trial, "GPU": self.runtime.gpus_per_trial},
            },
            tune_config=tune.TuneConfig(
                max_concurrent_trials=self.runtime.max_concurrent,
                reuse_actors=False,  # a reused actor keeps its old name and its GPU memory
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(self.scratch),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=self.runtime.max_failures),
                callbacks=[_Progress(self.observer)],
            ),
        )
        answers = {}
        outcomes = tuner.fit()
        for outcome in (outcomes[i] for i in range(len(outcomes))):
            if outcome.error is not None:
                trial = Trial.from_dict((outcome.config or {})["trial"])
                reason = f"lost {self.runtime.max_failures + 1} times: {str(outcome.error).strip().splitlines()[-1]}"
                answers[trial.digest] = TrialResult(
                    trial=trial.digest, name=trial.name, status="failed", reason=reason, transient=True
                )
                self.observer.trial_finished(answers[trial.digest])
            elif outcome.metrics and (data := outcome.metrics.get("trial_result")):
                answers[data["trial"]] = TrialResult(**data)
        return answers

    def _require_resources(self) -> None:
        """Refuse what could never be scheduled (Tune would wait for ever).

        Raises:
            UserError: naming the setting and what there is.
        """
        if self.runtime.address is not None:
            return  # a cluster may still grow
        have = ray.cluster_resources()  # type: ignore[no-untyped-call]
        for key, setting, wanted in (
            ("CPU", "runtime.cpus_per_trial", self.runtime.cpus_per_trial),
            ("GPU", "runtime.gpus_per_trial", self.runtime.gpus_per_trial),
        ):
            if wanted > have.get(key, 0):
                raise UserError(f"{setting} is {wanted:g}, but this machine has {have.get(key, 0):g}; lower it")


def machine_cpus() -> int:
    """CPUs that an in-process Ray would have."""
    return len(os.sched_getaffinity(0))


def require_free_port(port: int) -> None:
    """Refuse a dashboard port that is taken.

    Raises:
        UserError: another program listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"runtime.dashboard_port is {port}, but another program listens there; "
                "choose another with --dashboard-port, or leave --dashboard out"
            ) from error


def require_reachable(address: str, *, timeout_seconds: float = 5.0) -> None:
    """Refuse a cluster address at which nothing answers, before Ray tries for minutes.

    Raises:
        UserError: no host:port, or no connection.
    """
    if address == "auto":
        return
    host, separator, port = address.rpartition(":")
    if not separator or "/" in host or not port.isdigit():
        raise UserError(f"runtime.address is {address!r}, but must be `auto` or host:port, like 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=timeout_seconds).close()
    except OSError as error:
        raise UserError(
            f"runtime.address is {address!r}, but nothing answers there ({error}). Check host and port "
            "(`ray status` on the head node prints them), or leave --address out to run in this process"
        ) from error


def _trial_name(trial: Any) -> str:
    name: str = trial.config["trial"]["name"]
    return name
