"""The one training loop: a trial in, metrics per epoch and a stored result out.

    open (build, inherit, resume)  →  train an epoch, save, report  →  …  →  evaluate  →  result.json, last

Everything random is a function of (seed, epoch), so a training that was killed and goes on from a checkpoint computes
on the CPU bit for bit what it would have computed undisturbed.

Sources:
    [1] Deep video understanding … (PhD thesis), sec. 6.1.4, 6.2.2; `specs/pas.md` section 4.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compression.quantisation.layers import QuantisationError
from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import TrainSettings
from trainers.backbones import IntegerNetwork, Network, VideoNetwork, build, fast_order
from trainers.checkpoint import Checkpoint, Progress, newest_checkpoint, save_checkpoint, tensors_of
from trainers.distributed import World, join_world
from trainers.files import exclusive, write_atomically
from trainers.finite import NonFiniteLossError, require_finite
from trainers.incidents import Cause, Incident
from trainers.memory import (
    StepTooLargeError,
    fitting,
    release_memory,
    remember_micro_batch,
    remembered_micro_batch,
    with_micro_batch,
)
from trainers.package import load_package, read_weights, save_package
from trainers.patience import attempts
from trainers.pruning import Surgeon, is_gradual, known_scores, pruning_before
from trainers.quantisation import NOISE_INPUTS, Quantiser, calibrate, write_layers
from trainers.results import read_result, write_metrics, write_result
from trainers.schedule import learning_rate
from trainers.site import Site
from trainers.tasks import Scores, StepBatch, Workplace, task_of
from trainers.trial import Status, Trial, TrialResult

log = logging.getLogger(__name__)

EpochMetrics = dict[str, Any]

HEADS_FILE = "heads.safetensors"
"""What was trained on top of a network, beside its package: a training that starts from it goes on with them."""

LOSS_CHECK_STEPS = 16
"""Losses are looked at this often, since each look makes a GPU wait; the first bad step is still named."""


def run_trial(trial: Trial, site: Site) -> Generator[EpochMetrics | Incident, None, TrialResult]:
    """Train a trial, or go on with it, or answer at once when the store knows its result.

    Out of memory, it goes on from its last checkpoint with half the micro-batch (`memory.py`); refused by the storage,
    it waits a while (`patience.py`).

    Yields:
        Metrics of each epoch as it is done: epoch, losses, train_top1, top1 (when evaluated), lr, seconds, …; and what
        it gets over, as it happens.

    Returns:
        The result, which is then also in the trial's folder, beside the network.

    Raises:
        UserError: the start or the teacher can't be used, or too many videos are unreadable.
        OSError: the store can't be written to.
    """
    torch.set_num_threads(max(1, site.threads))
    world = join_world()
    folder = site.trial_folder(trial.digest)
    lock = exclusive(folder / "lock", what=f"trial {trial.digest}")  # whoever trains it now does the work for us
    with lock if world.is_main else nullcontext():
        world.barrier()  # what is in the store is looked at under the lock, by all processes
        if result := read_result(folder):
            return replace(result, cached=True, name=trial.name)
        while True:
            training = Training(trial, site, world)
            try:
                yield from training.epochs()
                result = training.evaluated()
                break
            except NonFiniteLossError as error:
                result = training.result(status="diverged", reason=str(error), cause="non-finite")
                break
            except StepTooLargeError as error:
                incident = training.halve(error)
            del training
            release_memory()
            yield incident
        if world.is_main:
            yield from training.patiently(partial(training.store, result))
        world.barrier()
        return result


@dataclass
class _Sums:
    """Running sums over the steps of an epoch, kept on the device."""

    terms: dict[str, Tensor]
    correct: Tensor
    clips: Tensor
    waited: float = 0.0


class Training:
    """A trial under way: network, task, optimiser, and how far it has come."""

    def __init__(self, trial: Trial, site: Site, world: World) -> None:
        self.trial, self.site, self.world = trial, site, world
        self.folder = site.trial_folder(trial.digest)
        self.device = torch.device(site.device)
        checkpoint = newest_checkpoint(self.folder / "checkpoints") if trial.train else None
        self.progress = checkpoint.progress if checkpoint else Progress(0, [], 0.0)
        torch.manual_seed(trial.seed)
        student = self._origin()
        self.surgeon = Surgeon(student, trial.pruning, trial.seed) if trial.pruning else None
        if self.progress.network is not None:
            student = build(NetworkSpec.from_dict(self.progress.network))
        self.student = student.to(self.device)
        fast_order(self.student)
        self.micro_batch = remembered_micro_batch(self.folder)
        place = Workplace(trial=with_micro_batch(trial, self.micro_batch), site=site, world=world, device=self.device)
        self.kind = task_of(trial.network)
        self.task = self.kind.start(place, self.student)
        self._inherit_heads()
        self.quantiser = self._quantise(measured=checkpoint is not None)
        if self.surgeon and checkpoint is None and trial.pruning and not is_gradual(trial.pruning):
            self._prune_once(self.surgeon)
        if trial.train is not None:
            self._open(trial.train, checkpoint)

    def _origin(self) -> Network:
        """The network that training starts from; of a pruned one, before anything is cut."""
        trial = self.trial
        if (trial.pruning or trial.quantise) and trial.start is not None:
            origin = load_package(self.site.trial_folder(trial.start))[0]
            if trial.quantise and origin.spec != trial.network.floating:
                raise UserError(
                    f"{trial.name} quantises {trial.network.floating}, but trial {trial.start} is of another"
                )
            return origin
        student = build(trial.network)
        if trial.start is not None:
            weights = read_weights(self.site.trial_folder(trial.start))
            if trial.new_classifier:
                assert isinstance(student, VideoNetwork)
                weights |= {f"fc.{name}": tensor for name, tensor in student.fc.state_dict().items()}
            student.load_state_dict(weights)
        elif trial.weights_sha256 is not None:
            student.load_state_dict(read_weights(self.folder))
        return student

    def _inherit_heads(self) -> None:
        """Go on with what was trained on top of the network of `start`, as far as there is such a thing and it fits."""
        if self.trial.start is None:
            return
        path = self.site.trial_folder(self.trial.start) / HEADS_FILE
        wanted = self._heads().state_dict()
        if not wanted or not path.is_file():
            return
        found = load_file(path)
        if {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in wanted.items()}:
            self._heads().load_state_dict(found)

    def _heads(self) -> nn.ModuleDict:
        return nn.ModuleDict({name: self.task.learnt[name] for name in self.task.heads})

    def _prune_once(self, surgeon: Surgeon) -> None:
        assert self.trial.start is not None
        scores = known_scores(self.site.trial_folder(self.trial.start), self.student, surgeon.pruning)
        surgeon.prune(self.task.joined(self.student), surgeon.pruning, scores=scores)

    def _quantise(self, *, measured: bool) -> Quantiser | None:
        """Simulate integers in the student from here on, where the trial says so.

        Args:
            measured: whether a checkpoint has the ranges already.
        """
        trial, rule = self.trial, self.trial.network.quantisation
        if trial.quantise is None or rule is None:
            return None
        quantiser = Quantiser(self.student, rule, trial.quantise, learning=trial.train is not None)
        self.student = quantiser.simulated
        if not measured:
            calibrate(quantiser.simulated, self._calibration(trial.quantise.calibration))
        return quantiser

    def _calibration(self, examples: int) -> Iterator[Tensor]:
        return self.kind.calibration(self.task.description(self.student), self.task.manifest, examples)

    def _open(self, train: TrainSettings, checkpoint: Checkpoint | None) -> None:
        self.learnt = nn.ModuleDict({"student": self.student, **self.task.learnt})
        self.optimizer = torch.optim.SGD(
            self.learnt.parameters(), lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
        )
        if checkpoint:
            checkpoint.restore(self.learnt, self.optimizer)
            log.info("%s goes on after epoch %d", self.trial.name, self.progress.epoch)
        self.model = self.world.wrap(self.student)

    def _prune_on(self, train: TrainSettings, epoch: int) -> None:
        """What a gradual pruner takes before an epoch."""
        surgeon = self.surgeon
        if surgeon is None or not is_gradual(surgeon.pruning):
            return
        now = pruning_before(surgeon.pruning, epoch, train.epochs)
        if surgeon.prune(self.task.joined(self.student), now, optimizer=self.optimizer):
            self.model = self.world.wrap(self.student)

    def epochs(self) -> Generator[EpochMetrics | Incident, None, None]:
        """Train what is left, an epoch at a time; an epoch's metrics, and any checkpoint, precede its report."""
        train = self.trial.train
        if train is None:
            return
        for epoch in range(self.progress.epoch, train.epochs):
            started = time.perf_counter()
            self._prune_on(train, epoch)
            if self.quantiser:
                self.quantiser.before_epoch(epoch)
                if self.quantiser.simulated.norms_frozen:
                    self.task.settle()
            with fitting(self.trial, self.micro_batch, processes=self.world.size, halve=self.site.halve_on_oom):
                row = self._train_epoch(train, epoch)
            if train.evaluate_every and (epoch + 1) % train.evaluate_every == 0:
                row |= self._quick_scores(epoch + 1)
            seconds = time.perf_counter() - started
            row["seconds"] = round(seconds, 3)
            if self.micro_batch is not None:
                row["micro_batch"] = self.micro_batch
            history = [*self.progress.history, row]
            network = self.student.spec.to_dict() if self.trial.pruning else None
            self.progress = Progress(epoch + 1, history, self.progress.seconds + seconds, network)
            last = epoch + 1 == train.epochs
            if self.world.is_main and (last or (epoch + 1) % self.site.checkpoint_every == 0):
                yield from self.patiently(self._save)
            if self.world.is_main:
                yield from self.patiently(partial(write_metrics, self.folder, history))
            yield row

    def _save(self) -> None:
        save_checkpoint(self.folder / "checkpoints", self.progress, self.learnt, self.optimizer)

    def patiently(self, write: Callable[[], None]) -> Generator[Incident, None, None]:
        """Write to the store, which may be full or out of reach for a while."""
        for refusal in attempts(write, seconds=self.site.storage_patience_seconds):
            yield Incident(cause="storage", action="waited", at_epoch=self.progress.epoch, text=str(refusal))

    def halve(self, error: StepTooLargeError) -> Incident:
        """Let the next start take half as many clips at a time.

        Raises:
            StepTooLargeError: one process of several can't start again alone; all of them will, with what it noted.
        """
        remember_micro_batch(self.folder, error.micro_batch)
        if self.world.size > 1:
            raise error
        going_on = f"{error}: going on with {error.micro_batch}"
        return Incident(cause="memory", action="halved", at_epoch=self.progress.epoch, text=going_on)

    def _train_epoch(self, train: TrainSettings, epoch: int) -> EpochMetrics:
        torch.manual_seed(self.trial.seed * 1_000_003 + epoch)  # dropout; sampling has its own generator
        self.model.train()
        self.task.learnt.train()
        steps = self.task.steps
        sums = _Sums({}, torch.zeros((), device=self.device), torch.zeros((), device=self.device))
        pending: list[Tensor] = []
        started = time.perf_counter()
        lr, step = 0.0, 0
        for step, parts in itertools.groupby(self._batches(epoch, sums), lambda batch: batch.step):
            lr = learning_rate(train, epoch + (step + 0.5) / steps, base_lr=train.lr)
            pending.append(self._step(parts, lr, (epoch + step / steps) / train.epochs, sums))
            if len(pending) == LOSS_CHECK_STEPS:
                require_finite(pending, self.world, epoch, step)
                pending.clear()
        require_finite(pending, self.world, epoch, step)
        self.world.share_buffers(self.student)
        elapsed = time.perf_counter() - started
        totals = self.world.sum(torch.stack([sums.clips, sums.correct, *sums.terms.values()]))
        clips, correct, *terms = totals.tolist()
        means = {name: total / clips for name, total in zip(sums.terms, terms, strict=True)}
        return {
            "epoch": epoch + 1,
            "loss": sum(means.values()),
            **means,
            "train_top1": correct / clips,
            "top1": None,
            "lr": lr,
            "clips_per_second": round(clips / elapsed, 2),
            "data_wait": round(sums.waited / elapsed, 4),
        }

    def _batches(self, epoch: int, sums: _Sums) -> Generator[StepBatch, None, None]:
        """The epoch's batches; the time spent waiting for them goes into `sums`."""
        batches = self.task.batches(epoch)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            sums.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _step(self, parts: Iterable[StepBatch], lr: float, progress: float, sums: _Sums) -> Tensor:
        """One step of SGD over the micro-batches of a batch; returns the loss, detached."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for batch in parts:
            loss = self._loss(batch, progress, sums) * batch.share
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        self.optimizer.step()
        return torch.stack(losses).sum()

    def _loss(self, batch: StepBatch, progress: float, sums: _Sums) -> Tensor:
        """The loss of one forward pass, of whose terms `sums` takes note."""
        loss = self.task.loss(self.model, batch, progress)
        for name, term in loss.terms.items():
            sums.terms[name] = sums.terms.get(name, 0) + term.detach() * loss.items
        sums.correct += loss.correct
        sums.clips += loss.items
        return torch.stack(list(loss.terms.values())).sum()

    def _quick_scores(self, epoch: int) -> EpochMetrics:
        """Accuracies between two epochs, by the names of the metrics file."""
        scores = self._scores(epoch, quick=True)
        return {"top1": scores.top1} | ({} if scores.map is None else {"map": scores.map})

    def _scores(self, epoch: int, *, quick: bool) -> Scores:
        scores = self.task.evaluate(self.student, quick=quick)
        if not scores.finite:
            raise NonFiniteLossError(f"the network's outputs are not finite after epoch {epoch}")
        return scores

    def evaluated(self) -> TrialResult:
        """The result with the full accuracy.

        Raises:
            RuntimeError: pruning left another network than the trial is of.
        """
        if self.quantiser:
            self.student = self._converted(self.quantiser)
        if self.student.spec != self.trial.network:
            raise RuntimeError(f"{self.trial.name} was to leave {self.trial.network}, but left {self.student.spec}")
        started = time.perf_counter()
        scores = self._scores(self.progress.epoch, quick=False)
        seconds = self.progress.seconds + time.perf_counter() - started
        self.progress = replace(self.progress, seconds=seconds)
        return self.result(status="finished", scores=scores)

    def _converted(self, quantiser: Quantiser) -> IntegerNetwork:
        try:
            return quantiser.simulated.converted()
        except QuantisationError as error:
            raise NonFiniteLossError(f"the network can't be converted to integers: {error}") from error

    def result(
        self, *, status: Status, scores: Scores | None = None, reason: str | None = None, cause: Cause | None = None
    ) -> TrialResult:
        """A result with what is known so far."""
        return TrialResult(
            trial=self.trial.digest,
            name=self.trial.name,
            status=status,
            top1=scores.top1 if scores else None,
            top5=scores.top5 if scores else None,
            map=scores.map if scores else None,
            seconds=round(self.progress.seconds, 3),
            epochs=self.progress.epoch,
            reason=reason,
            cause=cause,
            micro_batch=self.micro_batch,
        )

    def store(self, result: TrialResult) -> None:
        """Write the network, then the result, which makes the trial count as done."""
        if result.status == "finished" and self.trial.keeps_network:
            save_package(self.folder, self.student, self.task.description(self.student))
            if self.trial.train is not None and (heads := tensors_of(self._heads())):
                write_atomically(self.folder / HEADS_FILE, lambda path: save_file(heads, path))
            if self.quantiser and isinstance(self.student, IntegerNetwork):
                inputs = self._calibration(NOISE_INPUTS)
                write_layers(self.folder, self.quantiser.layers(self.student, inputs))
        write_result(self.folder, self.trial, result, self.task.quarantine)
