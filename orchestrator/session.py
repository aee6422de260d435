"""A run from settings to report: data, teacher, search, models. Every step can be cut off and done again.

Which search it is, is a row of `SEARCHES` (`searches.py`); the session knows the steps that all have in common.

A search is replayed from its first step every time. Each trial that it proposes is looked up in the store: finished,
its result is the answer; half-trained, it goes on; unknown, it is trained. So running again resumes, and more
iterations extend.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from compression.cost import Cost, measure_cost
from compression.spec import NetworkSpec
from configs.errors import RunError, UserError
from configs.loader import resolved_yaml
from configs.schema import RunSettings, TrainSettings
from orchestrator import state as states
from orchestrator.failures import Failure, FailureLog
from orchestrator.identity import default_name, identity, require_same_identity
from orchestrator.interruption import stop_if_wished
from orchestrator.models import export_models, remove_stale_models
from orchestrator.observer import Observer, TrialRow
from orchestrator.planning import Planner, place_teacher_weights, with_classes_of
from orchestrator.report import METRICS
from orchestrator.runner import LocalRunner, Runner, refuse_transient, run_stage
from orchestrator.searches import SEARCHES
from orchestrator.state import State
from orchestrator.store import Store
from orchestrator.views import VIEWS
from trainers.backbones import Network, build
from trainers.files import write_text
from trainers.patience import written_patiently
from trainers.site import Site
from trainers.tasks import task_of
from trainers.trial import Trial, TrialResult

log = logging.getLogger(__name__)


class Session:
    """One run of any row of `SEARCHES`."""

    def __init__(self, settings: RunSettings, observer: Observer, *, algorithm: str = "pas") -> None:
        self.settings = settings
        self.observer = observer
        self.algorithm = algorithm
        self.store = Store(settings.runtime.runs)
        self.name = settings.runtime.name or default_name(settings, algorithm)
        self.run = self.store.run(self.name)
        self.results: dict[str, TrialResult] = {}
        self.failures = FailureLog(self.run)
        self.costs: dict[NetworkSpec, Cost] = {}
        self.driver = SEARCHES[algorithm](self)
        self.versions = states.versions()
        self.started = time.monotonic()

    def open(self) -> None:
        """Check the input and read the data; nothing is trained yet.

        Raises:
            UserError: whatever is wrong with settings, data, teacher or folder.
        """
        settings = self.settings
        require_device(settings)
        self.store.prepare()
        require_same_identity(self.run.read_state(), settings, self.algorithm)
        network, self.manifest = self.driver.begin()
        self.kind = task_of(network)
        self.metric = self.kind.metric
        self.network = with_classes_of(network, self.manifest, settings)
        self.planner = Planner(settings, self.manifest, self.network)
        self.teacher = self.driver.teacher_trial()
        self.kind.check(self._recipes(), settings.distillation, settings.reid, self.manifest)
        if settings.teacher.weights and self.driver.needs_teacher:
            place_teacher_weights(self.store, self.teacher, settings.teacher.weights)
        self.driver.check()

    def _recipes(self) -> dict[str, TrainSettings]:
        """Recipes by which something will be trained, by the names of their settings."""
        settings, recipes = self.settings, {}
        if settings.teacher.weights is None and self.driver.needs_teacher:
            recipes["teacher.train"] = settings.teacher.train
        if self.algorithm not in ("train", "sweep-sensitivity"):
            recipes["train"] = settings.train
        return recipes

    def execute(self) -> State:
        """Do the run, or what is left of it.

        Returns:
            The final state, which is also in the run's folder, with the report and the models.

        Raises:
            UserError: as `open`; also another driver at work on this run.
            RunError: the teacher or every hypothesis of an iteration failed.
        """
        self.open()
        with self.run.locked():
            with self._runner() as runner:  # first: an address or port that is refused leaves the run as it was
                self._note_lost_driver()
                self.manifest.save(self.store.manifest_file(self.manifest.fingerprint))
                write_text(self.run.path / "config.yaml", resolved_yaml(self.settings))
                self.run.log("started", commit=self.versions["commit"])
                with self._giving_up():
                    self._train_all(runner)
            with self._giving_up():
                self.driver.conclude()
                export_models(self.store, self.run, self._save())
                final = self._publish("finished")
            remove_stale_models(self.run, final)
            self.run.log("finished", reason=final["stop_reason"], **final["stats"])
            return final

    def _note_lost_driver(self) -> None:
        """A run that nobody is at, and that says it is running, lost its driver (the lock is ours by now)."""
        known = self.run.read_state()
        if known and known["status"] == "running":
            self.failures.add(
                Failure(trial=None, name=None, cause="driver", node=None, at_epoch=None, action="resumed")
            )

    def _train_all(self, runner: Runner) -> None:
        self._save()
        if self.driver.needs_teacher:
            self._train_teacher(runner)
        search = self.driver.start()
        while search and (proposed := search.propose()):
            self._save()
            trials = [self.driver.trial(proposal) for proposal in proposed]
            results = self._stage(runner, self.driver.stage_name(proposed), trials)
            if not self.driver.independent:
                refuse_transient(results)  # a choice without them would be another choice next time
            search.tell(results)
            verdict = self.driver.verdict(proposed)
            export_models(self.store, self.run, self._save())
            self.observer.stage_finished(verdict)
            refuse_transient(results)

    def _train_teacher(self, runner: Runner) -> None:
        (result,) = self._stage(runner, "teacher", [self.teacher])
        refuse_transient([result])
        if result.status != "finished":
            raise RunError(f"the teacher {result.status}: {result.reason}\nSee {self.store.trial_folder(result.trial)}")
        export_models(self.store, self.run, self._save())
        self.observer.stage_finished(f"{METRICS[self.metric]} {result.accuracy:.3f}")

    def _stage(self, runner: Runner, stage: str, trials: Sequence[Trial]) -> list[TrialResult]:
        """Results of some trials; all are in the state, whoever told of them."""
        self.observer.stage_started(stage, [self._row(trial) for trial in trials])
        results = run_stage(runner, self.store, self, stage.replace("iteration ", "iter-").replace(" ", "-"), trials)
        self.results |= {result.trial: result for result in results}
        stop_if_wished()
        return results

    # The session watches its own runner: it keeps what it hears and passes it on (an `Observer`).

    def stage_started(self, stage: str, trials: Sequence[TrialRow]) -> None:
        """See `Observer`."""
        self.observer.stage_started(stage, trials)

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        """See `Observer`."""
        stop_if_wished()
        self.observer.epoch_finished(digest, metrics)

    def trial_finished(self, result: TrialResult) -> None:
        """See `Observer`. The state on disk follows every result, for `show` and for reports of unfinished runs."""
        self.results[result.trial] = result
        patience = self.settings.runtime.storage_patience_seconds
        written_patiently(lambda: self._note(result), seconds=patience, tell=self.observer.message)
        self.observer.trial_finished(result)

    def _note(self, result: TrialResult) -> None:
        self.run.link_trial(result.name, self.store.trial_folder(result.trial))
        self.failures.flush()
        self._save()
        self.run.log("trial", name=result.name, trial=result.trial, status=result.status, accuracy=result.accuracy)

    def trial_disturbed(self, failure: Failure) -> None:
        """Something went wrong with a trial; one that ends by it is told of as finished, too."""
        stop_if_wished()
        self.failures.add(failure)
        if failure.action != "given up":
            self.observer.message(str(failure))

    def stage_finished(self, summary: str) -> None:
        """See `Observer`."""
        self.observer.stage_finished(summary)

    def message(self, text: str) -> None:
        """See `Observer`."""
        self.observer.message(text)

    def _runner(self) -> Runner:
        runtime = self.settings.runtime
        site = Site(
            store=self.store.root,
            device="cuda" if runtime.gpus_per_trial > 0 else "cpu",
            threads=max(1, int(runtime.cpus_per_trial)),
            checkpoint_every=runtime.checkpoint_every,
            loader_workers=runtime.loader_workers,
            cache_mb=runtime.cache_mb,
            max_quarantined=self.settings.data.max_quarantined,
            halve_on_oom=runtime.halve_on_oom,
            storage_patience_seconds=runtime.storage_patience_seconds,
        )
        if runtime.runner == "local":
            return LocalRunner(site, self, failed=self.trial_disturbed)
        from orchestrator.ray_runner import RayRunner  # Ray takes a second to import

        metadata = {"algorithm": self.algorithm, "backbone": self.network.backbone, "run": self.name}
        return RayRunner(site, runtime, self, run=self.name, metadata=metadata, failed=self.trial_disturbed)

    @property
    def teacher_result(self) -> TrialResult:
        """What came of the teacher, once it is trained."""
        return self.results[self.teacher.digest]

    def untrained(self) -> Network:
        """The teacher's architecture with random weights."""
        return build(self.network)

    def cost(self, network: NetworkSpec) -> Cost:
        """C(·), measured once per network."""
        if network not in self.costs:
            self.costs[network] = measure_cost(network, build)
        return self.costs[network]

    def _row(self, trial: Trial) -> TrialRow:
        cost = self.cost(trial.network)
        epochs = trial.train.epochs if trial.train else 0
        return TrialRow(
            name=trial.name,
            digest=trial.digest,
            epochs=epochs,
            gmacs=cost.gmacs,
            params=cost.params,
            metric=self.metric,
        )

    def state(self, status: str, reason: str | None = None) -> State:
        """What there is to say now."""
        search = self.driver.search
        runtime = self.settings.runtime
        return {
            "run": self.name,
            "algorithm": self.algorithm,
            "backbone": self.network.backbone,
            "metric": self.metric,
            "status": status,
            "stop_reason": reason or (search.stop_reason if search else None),
            "seed": self.settings.seed,
            "data": states.data_state(self.settings, self.manifest),
            "versions": self.versions,
            "identity": identity(self.settings, self.algorithm),
            "config": self.settings.model_dump(mode="json"),
            "teacher": {
                **states.trial_state(self.teacher, self.cost(self.network), self.results.get(self.teacher.digest)),
                **self.driver.measured(self.network),
            },
            **self.driver.found(),
            **self.failures.state(),
            "stats": states.statistics(self.results.values(), time.monotonic() - self.started, runtime.cpus_per_trial),
        }

    def _save(self, status: str = "running", reason: str | None = None) -> State:
        current = self.state(status, reason)
        self.run.write_state(current)
        return current

    def _publish(self, status: str, reason: str | None = None) -> State:
        """State and report, of a run that is over or was cut off; its models are there already."""
        current = self.state(status, reason)
        VIEWS[self.algorithm].write_report(self.store, current, self.run.path)
        self.run.write_state(current)
        return current

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Whatever stops the block, the run is left with an end."""
        try:
            yield
        except BaseException as error:
            self._give_up(error)
            raise

    def _give_up(self, error: BaseException) -> None:
        """Leave the best state and report that can be left; the error itself is told by whoever caught it."""
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        try:
            self._publish("interrupted" if stopped else "failed", None if stopped else str(error))
        except OSError as second:
            log.warning("the state of run %s could not be written: %s", self.name, second)


def require_device(settings: RunSettings) -> None:
    """Refuse GPUs that this process would need and does not have (Ray knows its own).

    Raises:
        UserError: `--runner local` with GPUs, and no CUDA device; or a launcher of several processes around this one.
    """
    runtime = settings.runtime
    if runtime.runner == "local" and runtime.gpus_per_trial > 0 and not torch.cuda.is_available():
        raise UserError(
            f"runtime.gpus_per_trial is {runtime.gpus_per_trial:g}, but PyTorch finds no CUDA device here; set it to 0"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but a search is one process, which spreads its own trials; "
            "start it once, without torchrun"
        )
