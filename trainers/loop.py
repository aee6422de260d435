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
from collections.abc import Generator, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import TrainSettings
from trainers.backbones import BACKBONES, VideoNetwork, build
from trainers.checkpoint import Progress, load_checkpoint, save_checkpoint
from trainers.data.cache import FrameCache
from trainers.data.clips import Batch, steps_per_epoch, train_batches
from trainers.data.manifest import Manifest
from trainers.data.quarantine import Quarantine
from trainers.data.transforms import normalise
from trainers.distiller import Distiller
from trainers.distributed import World, join_world
from trainers.evaluation import Accuracy, accuracy_of, video_probabilities
from trainers.files import exclusive
from trainers.package import Description, load_package, read_weights, save_package
from trainers.results import read_result, write_metrics, write_result
from trainers.schedule import learning_rate
from trainers.site import Site
from trainers.trial import Status, Trial, TrialResult

log = logging.getLogger(__name__)

EpochMetrics = dict[str, Any]

LOSS_CHECK_STEPS = 16
"""Losses are looked at this often, since each look makes a GPU wait; the first bad step is still named."""


class NonFiniteLossError(ArithmeticError):
    """A loss or an output was NaN or infinite."""


def run_trial(trial: Trial, site: Site) -> Generator[EpochMetrics, None, TrialResult]:
    """Train a trial, or go on with it, or answer at once when the store knows its result.

    Yields:
        Metrics of each epoch as it is done: epoch, losses, train_top1, top1 (when evaluated), lr, seconds, …

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
        training = Training(trial, site, world)
        try:
            yield from training.epochs()
            result = training.evaluated()
        except NonFiniteLossError as error:
            result = training.result(status="diverged", reason=str(error))
        if world.is_main:
            training.store(result)
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
    """A trial under way: networks, optimiser, data, and how far it has come."""

    def __init__(self, trial: Trial, site: Site, world: World) -> None:
        self.trial, self.site, self.world = trial, site, world
        self.folder = site.trial_folder(trial.digest)
        self.device = torch.device(site.device)
        self.manifest = Manifest.load(site.manifest_file(trial.data))
        self.cache = FrameCache(site.cache_mb * 2**20)
        listed = len(self.manifest.train) + len(self.manifest.val) + len(self.manifest.quarantined)
        self.quarantine = Quarantine(listed, site.max_quarantined, self.manifest.quarantined)
        self.student = self._student()
        self.distiller = self._distiller()
        self.progress = Progress(0, [], 0.0)
        if trial.train is not None:
            self._open(trial.train)

    def _student(self) -> VideoNetwork:
        torch.manual_seed(self.trial.seed)
        student = build(self.trial.network)
        if self.trial.start is not None:
            student.load_state_dict(read_weights(self.site.trial_folder(self.trial.start)))
        elif self.trial.weights_sha256 is not None:
            student.load_state_dict(read_weights(self.folder))
        return student.to(self.device).to(memory_format=torch.channels_last_3d)

    def _distiller(self) -> Distiller | None:
        if self.trial.teacher is None or self.trial.distillation is None:
            return None
        teacher, _ = load_package(self.site.trial_folder(self.trial.teacher))
        distiller = Distiller(teacher, self.student, self.trial.distillation)
        teacher.to(self.device).to(memory_format=torch.channels_last_3d)
        return distiller.to(self.device)

    def _open(self, train: TrainSettings) -> None:
        learnt = nn.ModuleDict({"student": self.student, **({"distiller": self.distiller} if self.distiller else {})})
        self.learnt = learnt
        self.optimizer = torch.optim.SGD(
            learnt.parameters(), lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
        )
        self.progress = load_checkpoint(self.folder / "checkpoints", learnt, self.optimizer) or self.progress
        if self.progress.epoch:
            log.info("%s goes on after epoch %d", self.trial.name, self.progress.epoch)
        self.model = self.world.wrap(self.student)
        self.distil = self.world.wrap(self.distiller) if self.distiller else None

    def epochs(self) -> Generator[EpochMetrics, None, None]:
        """Train what is left, an epoch at a time; an epoch's metrics, and any checkpoint, precede its report."""
        train = self.trial.train
        if train is None:
            return
        for epoch in range(self.progress.epoch, train.epochs):
            started = time.perf_counter()
            row = self._train_epoch(train, epoch)
            if train.evaluate_every and (epoch + 1) % train.evaluate_every == 0:
                row["top1"] = self._accuracy(epoch + 1, clips_per_video=1).top1
            seconds = time.perf_counter() - started
            row["seconds"] = round(seconds, 3)
            history = [*self.progress.history, row]
            self.progress = Progress(epoch + 1, history, self.progress.seconds + seconds)
            last = epoch + 1 == train.epochs
            if self.world.is_main and (last or (epoch + 1) % self.site.checkpoint_every == 0):
                save_checkpoint(self.folder / "checkpoints", self.progress, self.learnt, self.optimizer)
            if self.world.is_main:
                write_metrics(self.folder, history)
            yield row

    def _train_epoch(self, train: TrainSettings, epoch: int) -> EpochMetrics:
        torch.manual_seed(self.trial.seed * 1_000_003 + epoch)  # dropout; sampling has its own generator
        self.model.train()
        steps = steps_per_epoch(self.manifest, self.trial.clips, train.batch)
        sums = _Sums({}, torch.zeros((), device=self.device), torch.zeros((), device=self.device))
        pending: list[Tensor] = []
        started = time.perf_counter()
        lr, step = 0.0, 0
        for step, parts in itertools.groupby(self._batches(train, epoch, sums), lambda batch: batch.step):
            lr = learning_rate(train, epoch + (step + 0.5) / steps, base_lr=train.lr)
            pending.append(self._step(train, parts, lr, sums))
            if len(pending) == LOSS_CHECK_STEPS:
                self._check_finite(pending, epoch, step)
                pending.clear()
        self._check_finite(pending, epoch, step)
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

    def _batches(self, train: TrainSettings, epoch: int, sums: _Sums) -> Generator[Batch, None, None]:
        """The epoch's micro-batches; the time spent waiting for them goes into `sums`."""
        views = [self.trial.network] + ([self.distiller.teacher.spec] if self.distiller else [])
        batches = train_batches(
            self.manifest,
            self.trial.clips,
            views,
            seed=self.trial.seed,
            epoch=epoch,
            batch=train.batch,
            micro_batch=train.micro_batch,
            rank=self.world.rank,
            world=self.world.size,
            loader_workers=self.site.loader_workers,
            cache=self.cache,
            quarantine=self.quarantine,
        )
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            sums.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _step(self, train: TrainSettings, parts: Iterable[Batch], lr: float, sums: _Sums) -> Tensor:
        """One step of SGD over the micro-batches of a batch; returns the loss, detached."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for batch in parts:
            loss = self._loss(train, batch, sums) * batch.share
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        self.optimizer.step()
        return torch.stack(losses).sum()

    def _loss(self, train: TrainSettings, batch: Batch, sums: _Sums) -> Tensor:
        """Cross-entropy and distillation of one forward pass, which `sums` takes note of."""
        labels = batch.labels.to(self.device, non_blocking=True)
        inputs = [self._normalised(images) for images in batch.views]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            recorded = self.distiller.recorded(self.student) if self.distiller else nullcontext(dict[str, Tensor]())
            with recorded as features:
                logits = self.model(inputs[0])
            terms = {"ce": F.cross_entropy(logits.float(), labels)}
            if self.distil:
                terms.update(self.distil(logits, features, inputs[1]))
        for name, term in terms.items():
            sums.terms[name] = sums.terms.get(name, 0) + term.detach() * len(labels)
        sums.correct += (logits.argmax(-1) == labels).sum()
        sums.clips += len(labels)
        return torch.stack(list(terms.values())).sum()

    def _check_finite(self, losses: list[Tensor], epoch: int, last_step: int) -> None:
        """Raise, in all processes, for the first of some consecutive steps with a loss that is not finite in any.

        Raises:
            NonFiniteLossError: naming epoch and step, both counted from 1.
        """
        if not losses:
            return
        summed = self.world.sum(torch.stack(losses))
        bad = (~torch.isfinite(summed)).nonzero()
        if len(bad):
            first = int(bad[0])
            step = last_step - len(losses) + 1 + first
            raise NonFiniteLossError(
                f"the loss was {summed[first].item()} in epoch {epoch + 1}, step {step + 1}; "
                "a lower train.lr or a longer warm-up may help"
            )

    def _normalised(self, images: Tensor) -> Tensor:
        backbone = BACKBONES[self.trial.network.backbone]
        clips = normalise(images.to(self.device, non_blocking=True), backbone.mean, backbone.std)
        return clips.contiguous(memory_format=torch.channels_last_3d)  # 1.2-1.5 times faster, on CPUs too

    def _accuracy(self, epoch: int, clips_per_video: int | None = None) -> Accuracy:
        probabilities, labels = video_probabilities(
            self.student,
            self.manifest,
            self.trial.clips,
            clips_per_video=clips_per_video,
            device=self.device,
            world=self.world,
            loader_workers=self.site.loader_workers,
            cache=self.cache,
            quarantine=self.quarantine,
        )
        accuracy = accuracy_of(probabilities, labels)
        if not accuracy.finite:
            raise NonFiniteLossError(f"the network's outputs are not finite after epoch {epoch}")
        return accuracy

    def evaluated(self) -> TrialResult:
        """The result with the full multi-clip accuracy."""
        started = time.perf_counter()
        accuracy = self._accuracy(self.progress.epoch)
        seconds = self.progress.seconds + time.perf_counter() - started
        self.progress = replace(self.progress, seconds=seconds)
        return self.result(status="finished", accuracy=accuracy)

    def result(self, *, status: Status, accuracy: Accuracy | None = None, reason: str | None = None) -> TrialResult:
        """A result with what is known so far."""
        return TrialResult(
            trial=self.trial.digest,
            name=self.trial.name,
            status=status,
            top1=accuracy.top1 if accuracy else None,
            top5=accuracy.top5 if accuracy else None,
            seconds=round(self.progress.seconds, 3),
            epochs=self.progress.epoch,
            reason=reason,
        )

    def store(self, result: TrialResult) -> None:
        """Write the network, then the result, which makes the trial count as done."""
        if result.status == "finished":
            description = Description(
                spec=self.trial.network, clips=self.trial.clips, classes=tuple(self.manifest.classes)
            )
            save_package(self.folder, self.student, description)
        write_result(self.folder, self.trial, result, self.quarantine)
