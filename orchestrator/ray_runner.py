"""Trials as Ray Tune trials: one Tuner per stage, in a Ray of our own or on a cluster.

Tune's own experiment folder is scratch: results come from the store, a trial resumes from its own checkpoint there,
and `Tuner.restore` is not used (it can't extend a finished experiment, and would be a second truth).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any, Self

# Before Ray is imported: no phoning home, no files beside ours, and Ctrl-C is ours to handle.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # whatever its name says: a Ray of our own listens on loopback alone
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
from orchestrator.blame import Event, nodes_at_fault, trials_at_fault
from orchestrator.failures import Action, Failure, Record
from orchestrator.observer import Observer
from orchestrator.ray_access import open_cluster, prepare_own_token, require_free_port
from orchestrator.ray_failures import cause_of_loss
from orchestrator.ray_watch import EPOCH, INCIDENT, RESULT, Watch
from orchestrator.runner import guarded, ignore
from orchestrator.store import Store
from trainers.incidents import Incident
from trainers.memory import halve
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
        wanted = [{"ray.io/node-id": f"!in({','.join(config['avoid'])})"}] if config["avoid"] else None
        return tune.PlacementGroupFactory([config["resources"]], bundle_label_selector=wanted)

    def setup(self, config: dict[str, Any]) -> None:
        """Take the trial; the work starts with the first step."""
        os.environ.pop("WORLD_SIZE", None)  # a launcher's, around Ray: this trial is one process
        self.trial = Trial.from_dict(config["trial"])
        self.reports = guarded(self.trial, Site.from_dict(config["site"]))
        self.has_told_where = False

    def __repr__(self) -> str:
        return self.trial.name

    def step(self) -> dict[str, Any]:
        """Train one epoch; the first step only tells where this is (see `ray_watch.py`), the last one the result."""
        if not self.has_told_where:
            self.has_told_where = True
            return {tune.result.DONE: False}
        try:
            report = next(self.reports)
        except StopIteration as end:
            return {RESULT: asdict(end.value), tune.result.DONE: True}
        told = {INCIDENT: report.to_dict()} if isinstance(report, Incident) else {EPOCH: report}
        return {**told, tune.result.DONE: False}

    def cleanup(self) -> None:
        """Release the trial's lock."""
        self.reports.close()


class RayRunner:
    """Trains stages on Ray: a cluster joined on entry (`address`), or one of our own; left on exit."""

    def __init__(
        self,
        site: Site,
        runtime: RuntimeSettings,
        observer: Observer,
        *,
        run: str,
        metadata: dict[str, str],
        failed: Record = ignore,
    ) -> None:
        self.site = site
        self.runtime = runtime
        self.observer = observer
        self.failed = failed
        self.run = run
        self.metadata = {"job_name": run, **metadata}
        self.history: list[Event] = []
        self.store = Store(site.store)
        self.scratch = site.store / run / "tune"

    def __enter__(self) -> Self:
        runtime = self.runtime
        if runtime.address is not None:
            open_cluster(runtime.address, allow_unauthenticated=runtime.allow_unauthenticated)
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
        prepare_own_token()
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
        avoided = self._nodes_at_fault()
        for attempt in range(1, STAGE_ATTEMPTS + 1):
            left = [t for t in trials if t.digest not in answers and self.store.result(t.digest) is None]
            if not left:
                break
            try:
                answers |= self._fit(f"{stage}-{attempt}", left, avoided)
            except (RuntimeError, tune.TuneError) as error:
                log.warning("Ray Tune gave up on stage %s, attempt %d: %s", stage, attempt, error)
                self._note_abort(error, last=attempt == STAGE_ATTEMPTS)
                if attempt == STAGE_ATTEMPTS:
                    raise RunError(
                        f"Ray Tune gave up on stage {stage} {attempt} times; the last time: {error}"
                    ) from error
            before, avoided = avoided, self._nodes_at_fault()
            again = self._tell_lost(answers, again=bool(avoided - before) and attempt < STAGE_ATTEMPTS)
            answers = {digest: result for digest, result in answers.items() if digest not in again}
        return [answers.get(trial.digest) or self._stored(stage, trial) for trial in trials]

    def _nodes_at_fault(self) -> frozenset[str]:
        """Addresses of the nodes to keep clear of."""
        alive = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
        return nodes_at_fault(self.history, alive)

    def _tell_lost(self, answers: dict[str, TrialResult], *, again: bool) -> set[str]:
        """Tell of the trials that the last Tuner gave up.

        Args:
            answers: all so far.
            again: whether a node turned out to be at fault, so that those it lost are to run elsewhere.

        Returns:
            Digests of those that do.
        """
        blamed, retried = trials_at_fault(self.history), set()
        for digest, loss in self.watch.lost.items():
            if digest not in answers or (again and digest not in blamed):  # the former where the Tuner was aborted
                retried.add(digest)
                self.failed(replace(loss, action="retried"))
            else:
                self.failed(replace(loss, text=answers[digest].reason))
                self.observer.trial_finished(answers[digest])
        return retried

    def _note_abort(self, error: Exception, *, last: bool) -> None:
        """Count what ended a whole Tuner; where that was want of memory, halve its trial's micro-batch."""
        cause, found = cause_of_loss(str(error)), self.watch.trial_of(error)
        if found is None:
            action: Action = "given up" if last else "retried"
            self.failed(Failure(trial=None, name=None, cause=cause, node=None, at_epoch=None, action=action))
            return
        trial, epoch, node = found
        folder = self.site.trial_folder(trial.digest)
        text = halve(trial, folder) if cause == "memory" and self.site.halve_on_oom else None
        self.failed(
            Failure(
                trial=trial.digest,
                name=trial.name,
                cause=cause,
                node=node,
                at_epoch=epoch,
                action="given up" if last else "halved" if text else "retried",
                text=text,
            )
        )

    def _stored(self, stage: str, trial: Trial) -> TrialResult:
        """The result that a trial left although its Tuner didn't say so."""
        if result := self.store.result(trial.digest):
            return result
        raise RunError(f"Ray Tune ended stage {stage} without a result of {trial.name}; give the same command again")

    def _fit(self, name: str, trials: Sequence[Trial], avoided: Collection[str]) -> dict[str, TrialResult]:
        """One Tuner over some trials, on other nodes than those to be avoided; what Tune lost for good is failed."""
        self.watch = Watch(self.observer, self.failed, self.history)
        nodes = ray.nodes() if avoided else []  # type: ignore[no-untyped-call]
        tuner = tune.Tuner(
            TrialActor,
            param_space={
                "trial": tune.grid_search([trial.to_dict() for trial in trials]),
                "site": self.site.to_dict(),
                "avoid": sorted(node["NodeID"] for node in nodes if node["NodeManagerAddress"] in avoided),
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
                callbacks=[self.watch],
            ),
        )
        answers: dict[str, TrialResult] = {}
        outcomes = tuner.fit()
        for outcome in (outcomes[i] for i in range(len(outcomes))):
            if outcome.error is not None:
                answers |= self._lost((outcome.config or {})["trial"], outcome.error)
            elif outcome.metrics and (data := outcome.metrics.get("trial_result")):
                answers[data["trial"]] = TrialResult(**data)
        return answers

    def _lost(self, data: dict[str, Any], error: Exception) -> dict[str, TrialResult]:
        """The result of a trial that Tune gave up; it is its own fault if it failed on several nodes."""
        trial = Trial.from_dict(data)
        at_fault = trial.digest in trials_at_fault(self.history)
        how = "failed on several nodes" if at_fault else f"lost {self.runtime.max_failures + 1} times"
        result = TrialResult(
            trial=trial.digest,
            name=trial.name,
            status="failed",
            reason=f"{how}: {str(error).strip().splitlines()[-1]}",
            transient=not at_fault,
            cause=cause_of_loss(error),
        )
        return {trial.digest: result}

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


def _trial_name(trial: Any) -> str:
    name: str = trial.config["trial"]["name"]
    return name
