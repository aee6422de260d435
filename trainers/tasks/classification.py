"""The task of telling classes of videos apart: cross-entropy on clips, distillation, multi-clip top-1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import ClipSettings, DistillationSettings, ReidSettings, TrainSettings
from trainers.backbones import BACKBONES, Network, fast_order
from trainers.data.cache import FrameCache
from trainers.data.clips import Batch, steps_per_epoch, train_batches
from trainers.data.manifest import Manifest
from trainers.data.quarantine import Quarantine
from trainers.data.transforms import normalise
from trainers.distiller import Distiller, set_teacher_mode
from trainers.evaluation import accuracy_of, video_probabilities
from trainers.package import Description, load_package
from trainers.tasks.base import DataManifest, Loss, Scores, Workplace

CACHE_BYTES = 512 * 2**20
"""Memory for decoded frames where no trial says otherwise."""


class Classification:
    """See `trainers.tasks.base.Task`."""

    heads: tuple[str, ...] = ()

    def __init__(self, place: Workplace, student: Network) -> None:
        assert place.trial.clips is not None
        self.place = place
        self.clips: ClipSettings = place.trial.clips
        self.backbone = BACKBONES[student.spec.backbone]
        self.manifest = Manifest.load(place.site.manifest_file(place.trial.data))
        self.cache = FrameCache(place.site.cache_mb * 2**20)
        listed = len(self.manifest.train) + len(self.manifest.val) + len(self.manifest.quarantined)
        self.quarantine = Quarantine(listed, place.site.max_quarantined, self.manifest.quarantined)
        self.distiller = self._distiller(student)
        self.distil = place.world.wrap(self.distiller) if self.distiller else None
        self.learnt = nn.ModuleDict({"distiller": self.distiller} if self.distiller else {})
        self.steps = 0
        if place.trial.train is not None:
            self.steps = steps_per_epoch(self.manifest, self.clips, place.trial.train.batch)

    def _distiller(self, student: Network) -> Distiller | None:
        trial = self.place.trial
        if trial.teacher is None or trial.distillation is None:
            return None
        teacher, _ = load_package(self.place.site.trial_folder(trial.teacher))
        distiller = Distiller(teacher, student, trial.distillation)
        fast_order(teacher.to(self.place.device))
        return distiller.to(self.place.device)

    @property
    def _train(self) -> TrainSettings:
        assert self.place.trial.train is not None, "a trial without a recipe is only evaluated"
        return self.place.trial.train

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See `Task.batches`."""
        place = self.place
        teacher = [self.distiller.teacher.spec] if self.distiller else []
        return train_batches(
            self.manifest,
            self.clips,
            [place.trial.network, *teacher],
            seed=place.trial.seed,
            epoch=epoch,
            batch=self._train.batch,
            micro_batch=self._train.micro_batch,
            rank=place.world.rank,
            world=place.world.size,
            loader_workers=place.site.loader_workers,
            cache=self.cache,
            quarantine=self.quarantine,
        )

    def loss(self, student: nn.Module, batch: Batch, progress: float) -> Loss:
        """See `Task.loss`."""
        device = self.place.device
        labels = batch.labels.to(device, non_blocking=True)
        inputs = [self._normalised(images) for images in batch.views]
        network = self.place.world.unwrap(student)
        assert isinstance(network, Network)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._train.precision == "bf16"):
            recorded = self.distiller.recorded(network) if self.distiller else nullcontext(dict[str, Tensor]())
            with recorded as features:
                logits = student(inputs[0])
            terms = {"ce": F.cross_entropy(logits.float(), labels)}
            if self.distil:
                terms.update(self.distil(logits, features, inputs[1]))
        return Loss(terms, (logits.argmax(-1) == labels).sum(), len(labels))

    def _normalised(self, images: Tensor) -> Tensor:
        clips = normalise(images.to(self.place.device, non_blocking=True), self.backbone.mean, self.backbone.std)
        return clips.contiguous(memory_format=torch.channels_last_3d)

    def settle(self) -> None:
        """See `Task.settle`."""
        if self.distiller:
            set_teacher_mode(self.distiller.teacher, "eval")

    def evaluate(self, student: Network, *, quick: bool) -> Scores:
        """See `Task.evaluate`: a quick look takes one clip per video."""
        place = self.place
        probabilities, labels = video_probabilities(
            student,
            self.manifest,
            self.clips,
            clips_per_video=1 if quick else None,
            device=student.device,
            world=place.world,
            loader_workers=place.site.loader_workers,
            cache=self.cache,
            quarantine=self.quarantine,
        )
        return scores_of(probabilities, labels)

    def joined(self, student: Network) -> nn.Module:
        """See `Task.joined`: the classifier is part of the network."""
        return Alone(student)

    def description(self, student: Network) -> Description:
        """See `Task.description`."""
        return Description(spec=student.spec, clips=self.clips, classes=tuple(self.manifest.classes))


def check_classification(
    recipes: Mapping[str, TrainSettings],
    distillation: DistillationSettings,
    reid: ReidSettings,
    manifest: DataManifest,
) -> None:
    """See `TaskKind.check`: every recipe and every distillation fits classes of videos."""


def score_classifier(
    network: Network, description: Description, manifest: DataManifest, max_quarantined: float, device: torch.device
) -> Scores:
    """Multi-clip accuracy of a network without a trial.

    Args:
        network: on the device.
        description: how its clips are cut.
        manifest: the videos.
        max_quarantined: largest share of them that may turn out unreadable.
        device: where the network is.

    Raises:
        UserError: more are unreadable.
    """
    assert isinstance(manifest, Manifest)
    assert description.clips is not None
    probabilities, labels = video_probabilities(
        network,
        manifest,
        description.clips,
        device=device,
        cache=FrameCache(CACHE_BYTES),
        quarantine=Quarantine(len(manifest.train) + len(manifest.val), max_quarantined),
    )
    return scores_of(probabilities, labels)


def scores_of(probabilities: Tensor, labels: Tensor) -> Scores:
    """Accuracies of class probabilities [video, label] against labels [video]."""
    accuracy = accuracy_of(probabilities, labels)
    return Scores(top1=accuracy.top1, top5=accuracy.top5, examples=len(labels), finite=accuracy.finite)


class Alone(nn.Module):
    """A student with nothing on top of it."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, inputs: Tensor) -> Tensor:
        """The student's output."""
        out: Tensor = self.student(inputs)
        return out
