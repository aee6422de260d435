"""The task of re-identification: vectors that are close for images of one identity and far for others.

The network is trained with an identity classifier on top of it, by triplets or circles of its vectors, perhaps against
a camera classifier and perhaps after a teacher's similarities; it is measured by how it ranks a gallery.

    images → network → vectors → identity head → cross-entropy                  "identity"
                            ├──→ batch-hard triplets, circles                   "triplet", "circle"
                            ├──→ camera classifier, reversed or in turn         "camera"
                            └──→ similarities, beside the teacher's             "similarity"

Sources:
    [1] E²TAD (technical report of LPCVC-2021's winner); `specs/e2tad.md` sections 8 to 10.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compression.distillation import similarity_kl
from configs.errors import UserError
from configs.schema import DistillationSettings, ReidSettings, TrainSettings
from trainers.backbones import BACKBONES, Network
from trainers.backbones.reid import ReidNetwork
from trainers.data.crop_sampling import check_batch, steps_per_epoch
from trainers.data.crops import IdentityBatch, ImageCache, evaluation_batches, normalise_images, train_batches
from trainers.data.identities import Crop, IdentityManifest
from trainers.data.quarantine import Quarantine
from trainers.distiller import set_teacher_mode
from trainers.package import Description, load_package
from trainers.reid.adversary import (
    CameraClassifier,
    camera_loss,
    camera_weights,
    cameras_follow_identities,
    reversal_weight,
    reverse_gradient,
    train_against,
)
from trainers.reid.heads import IdentityHead, Joined
from trainers.reid.losses import batch_hard_triplet, circle_loss
from trainers.reid.metrics import Embedded, evaluate_ranking
from trainers.tasks.base import DataManifest, Loss, Scores, Workplace

log = logging.getLogger(__name__)

EVALUATION_BATCH = 64
"""Images per forward pass; a constant, so that every evaluation of a network sums in the same order."""


class ReidTask:
    """See `trainers.tasks.base.Task`.

    Raises:
        UserError: settings that don't fit each other, the data, or this task.
    """

    heads: tuple[str, ...] = ("identity",)

    def __init__(self, place: Workplace, student: Network) -> None:
        assert isinstance(student, ReidNetwork)
        assert place.trial.reid is not None
        if place.world.size > 1:
            raise UserError(
                f"{place.world.size} processes would share a batch, but triplets are sought in the whole of it; "
                "re-identification trains in one process per hypothesis, start it without torchrun"
            )
        self.place = place
        self.reid: ReidSettings = place.trial.reid
        self.manifest = IdentityManifest.load(place.site.manifest_file(place.trial.data))
        self.cache = ImageCache(place.site.cache_mb * 2**20)
        self.quarantine = Quarantine(self.manifest.listed, place.site.max_quarantined, self.manifest.quarantined)
        self.teacher = self._load_teacher()
        self.identity, self.camera = self._build_heads(student)
        self.learnt = nn.ModuleDict({"identity": self.identity, **({"camera": self.camera} if self.camera else {})})
        self.steps = 0
        if place.trial.train is not None:
            check_recipe(place.trial.train, self.reid, self.manifest)
            self._warn_of_missing_masks()
            self.steps = steps_per_epoch(self.manifest, place.trial.train.batch)

    def _load_teacher(self) -> Network | None:
        trial = self.place.trial
        if trial.teacher is None or trial.distillation is None:
            return None
        check_distillation(trial.distillation)
        if trial.distillation.weight == 0:
            return None
        teacher, _ = load_package(self.place.site.trial_folder(trial.teacher))
        if not isinstance(teacher, ReidNetwork):
            raise UserError(
                f"the teacher is a {teacher.spec.backbone}, which gives no vectors of images to learn from; "
                "take a network that re-identifies"
            )
        set_teacher_mode(teacher, trial.distillation.teacher_mode)
        return teacher.to(self.place.device).to(memory_format=torch.channels_last)

    def _build_heads(self, student: ReidNetwork) -> tuple[IdentityHead, CameraClassifier | None]:
        identity = IdentityHead(
            student.channels,
            len(self.manifest.classes),
            width=self.reid.head_width,
            dropout=self.reid.head_dropout,
        )
        identity.to(self.place.device)
        cameras = self.manifest.cameras
        if self.reid.adversary == "none":
            return identity, None
        if len(cameras) < 2:
            log.warning("%s has one camera only, so there is none to unlearn: no adversary", self.manifest.root)
            return identity, None
        numbers = [cameras.index(crop.camera) for crop in self.manifest.train]
        if cameras_follow_identities([crop.identity for crop in self.manifest.train], numbers):
            log.warning(
                "%s: every identity was seen by one camera only, so unlearning cameras unlearns identities; "
                "set reid.adversary to none",
                self.manifest.root,
            )
        self.camera_weights = camera_weights(numbers, len(cameras)).to(self.place.device)
        return identity, CameraClassifier(student.channels, len(cameras)).to(self.place.device)

    def _warn_of_missing_masks(self) -> None:
        if self.reid.person_occlusion > 0 and not any(crop.mask for crop in self.manifest.train):
            log.warning(
                "reid.person_occlusion is %g, but %s has no masks of persons, so nobody is put in front of anybody; "
                "set it to 0, or add masks/",
                self.reid.person_occlusion,
                self.manifest.root,
            )

    @property
    def _train(self) -> TrainSettings:
        assert self.place.trial.train is not None, "a trial without a recipe is only evaluated"
        return self.place.trial.train

    def batches(self, epoch: int) -> Iterator[IdentityBatch]:
        """See `Task.batches`."""
        place = self.place
        return train_batches(
            self.manifest,
            self.reid,
            [place.trial.network, *([self.teacher.spec] if self.teacher else [])],
            seed=place.trial.seed,
            epoch=epoch,
            batch=self._train.batch,
            loader_workers=place.site.loader_workers,
            cache=self.cache,
            quarantine=self.quarantine,
        )

    def loss(self, student: nn.Module, batch: IdentityBatch, progress: float) -> Loss:
        """See `Task.loss`."""
        device = self.place.device
        identities = batch.identities.to(device, non_blocking=True)
        images = [self._normalised(view) for view in batch.views]
        with torch.autocast(device.type, torch.bfloat16, enabled=self._train.precision == "bf16"):
            vectors = student(images[0])
            logits = self.identity(vectors).float()
            wanted = None if self.teacher is None else self._teacher_vectors(self.teacher, images[1])
        vectors = vectors.float()
        terms = self._metric_terms(vectors, logits, identities)
        if self.camera is not None:
            cameras = batch.cameras.to(device, non_blocking=True)
            terms["camera"] = self._camera_term(self.camera, vectors, cameras, progress)
        if wanted is not None:
            terms["similarity"] = self._similarity_term(vectors, wanted)
        return Loss(terms, (logits.argmax(-1) == identities).sum(), len(identities))

    def _metric_terms(self, vectors: Tensor, logits: Tensor, identities: Tensor) -> dict[str, Tensor]:
        reid, terms = self.reid, {}
        if reid.identity_weight:
            terms["identity"] = reid.identity_weight * F.cross_entropy(logits, identities)
        if reid.triplet_weight:
            terms["triplet"] = reid.triplet_weight * batch_hard_triplet(vectors, identities, margin=reid.margin)
        if reid.circle_weight:
            circle = circle_loss(vectors, identities, margin=reid.circle_margin, gamma=reid.circle_gamma)
            terms["circle"] = reid.circle_weight * circle / len(identities)  # as the source divides it
        return terms

    def _camera_term(self, camera: CameraClassifier, vectors: Tensor, cameras: Tensor, progress: float) -> Tensor:
        weight = reversal_weight(progress, self.reid.adversary_weight)
        if self.reid.adversary == "reversal":
            return camera_loss(camera(reverse_gradient(vectors, weight)), cameras, weights=self.camera_weights)
        steps, lr = self.reid.adversary_steps, self._train.lr
        return weight * train_against(camera, vectors, cameras, steps=steps, lr=lr, weights=self.camera_weights)

    @torch.no_grad()
    def _teacher_vectors(self, teacher: Network, images: Tensor) -> Tensor:
        vectors: Tensor = teacher(images)
        return vectors.float()

    def _similarity_term(self, vectors: Tensor, wanted: Tensor) -> Tensor:
        distillation = self.place.trial.distillation
        assert distillation is not None
        return distillation.weight * similarity_kl(vectors, wanted, temperature=distillation.temperature)

    def _normalised(self, images: Tensor) -> Tensor:
        backbone = BACKBONES[self.place.trial.network.backbone]
        return normalise_images(images.to(self.place.device, non_blocking=True), backbone.mean, backbone.std)

    def settle(self) -> None:
        """See `Task.settle`."""
        if self.teacher is not None:
            set_teacher_mode(self.teacher, "eval")

    def evaluate(self, student: Network, *, quick: bool) -> Scores:
        """See `Task.evaluate`: a quick look does without the images' mirrors."""
        place = self.place
        return score_network(
            student,
            self.manifest,
            self.reid,
            quick=quick,
            device=student.device,
            loader_workers=place.site.loader_workers,
            cache=self.cache,
            quarantine=self.quarantine,
        )

    def joined(self, student: Network) -> nn.Module:
        """See `Task.joined`."""
        return Joined(student, self.identity, self.camera)

    def description(self, student: Network) -> Description:
        """See `Task.description`."""
        return Description(spec=student.spec, reid=self.reid, classes=self.manifest.classes)


def check_reid(
    recipes: Mapping[str, TrainSettings],
    distillation: DistillationSettings,
    reid: ReidSettings,
    manifest: DataManifest,
) -> None:
    """See, before anything is trained, that settings fit the task and the data.

    Args:
        recipes: those of the run's trainings, by the dotted names of their groups (`train`, `teacher.train`).
        distillation: what is learnt from a teacher; nothing asked for fits as well.
        reid: the task's settings.
        manifest: an `IdentityManifest`.

    Raises:
        UserError: they don't fit.
    """
    assert isinstance(manifest, IdentityManifest)
    for group, train in recipes.items():
        check_recipe(train, reid, manifest, group=group)
    check_distillation(distillation)


def check_recipe(train: TrainSettings, reid: ReidSettings, manifest: IdentityManifest, *, group: str = "train") -> None:
    """See that a recipe fits the task.

    Args:
        train: the recipe.
        reid: the task's settings.
        manifest: the data.
        group: dotted name of the recipe's group of settings, for messages.

    Raises:
        UserError: it doesn't.
    """
    if train.micro_batch is not None:
        raise UserError(
            f"{group}.micro_batch is {train.micro_batch}, but triplets are sought in the whole batch; leave it out "
            f"and lower {group}.batch if memory is short"
        )
    check_batch(manifest, train.batch, reid.images, group=group)


def check_distillation(distillation: DistillationSettings) -> None:
    """See that a teacher's similarities are all that is asked for.

    Raises:
        UserError: something else is.
    """
    if distillation.features != "none":
        raise UserError(
            f"distillation.features is {distillation.features}, but re-identification is distilled from the "
            "similarities of vectors alone; set it to none"
        )
    if distillation.source_alpha is not None:
        raise UserError(
            f"distillation.source_alpha is {distillation.source_alpha:g}, but it weighs the labels of a classifier; "
            "leave it out and set distillation.weight"
        )


def score_reid(
    network: Network, description: Description, manifest: DataManifest, max_quarantined: float, device: torch.device
) -> Scores:
    """How well a network ranks a data set's gallery, without a trial.

    Args:
        network: in any mode; it is left in evaluation mode.
        description: how it is measured.
        manifest: an `IdentityManifest`.
        max_quarantined: largest share of images that may be unreadable.
        device: where the network is.

    Raises:
        UserError: nothing can be found, or too many images are unreadable.
    """
    assert isinstance(manifest, IdentityManifest)
    quarantine = Quarantine(manifest.listed, max_quarantined, manifest.quarantined)
    return score_network(network, manifest, description.reid or ReidSettings(), device=device, quarantine=quarantine)


def score_network(
    network: Network,
    manifest: IdentityManifest,
    reid: ReidSettings,
    *,
    quick: bool = False,
    device: torch.device | str = "cpu",
    loader_workers: int = 0,
    cache: ImageCache | None = None,
    quarantine: Quarantine | None = None,
) -> Scores:
    """How well a network ranks the gallery for the queries.

    Args:
        network: in any mode; it is left in evaluation mode.
        manifest: the data.
        reid: whether mirrors count, and which average precision is meant.
        quick: without mirrors.
        device: where the network is.
        loader_workers: decoding processes; 0 decodes ahead in a thread.
        cache: decoded images kept in memory.
        quarantine: takes the images that can't be decoded; they are left out.

    Raises:
        UserError: nothing can be found, or too many images are unreadable.
    """
    sets = [
        embed(
            network,
            manifest.root,
            crops,
            mirrors=reid.flip and not quick,
            device=device,
            loader_workers=loader_workers,
            cache=cache,
            quarantine=quarantine,
        )
        for crops in (manifest.query, manifest.gallery)
    ]
    if not all(bool(torch.isfinite(embedded.vectors).all()) for embedded in sets):
        return Scores(top1=0.0, top5=0.0, map=0.0, examples=0, finite=False)
    try:
        ranking = evaluate_ranking(
            *sets, average_precision=reid.average_precision, count_unmatched=reid.count_unmatched
        )
    except ValueError as error:
        raise UserError(f"{manifest.root}: {error}") from error
    return Scores(top1=ranking.at(1), top5=ranking.at(5), map=ranking.map, examples=ranking.queries)


@torch.no_grad()
def embed(
    network: Network,
    root: Path,
    crops: Sequence[Crop],
    *,
    mirrors: bool,
    device: torch.device | str = "cpu",
    loader_workers: int = 0,
    cache: ImageCache | None = None,
    quarantine: Quarantine | None = None,
) -> Embedded:
    """A network's vectors of some images, of length 1.

    Args:
        network: in any mode; it is left in evaluation mode.
        root: what the images' paths start from.
        crops: the images.
        mirrors: add the vector of each image's mirror.
        device: as for `score_network`.
        loader_workers: likewise.
        cache: likewise.
        quarantine: likewise.
    """
    backbone = BACKBONES[network.spec.backbone]
    network.eval()
    vectors, indices = [], []
    batches = evaluation_batches(
        root,
        crops,
        network.spec,
        batch=EVALUATION_BATCH,
        loader_workers=loader_workers,
        cache=cache,
        quarantine=quarantine,
    )
    for images, places in batches:
        inputs = normalise_images(images.to(device), backbone.mean, backbone.std)
        summed = network(inputs) + network(inputs.flip(-1)) if mirrors else network(inputs)
        vectors.append(F.normalize(summed.float(), dim=1))
        indices.append(places)
    seen = [crops[index] for index in torch.cat(indices).tolist()] if indices else []
    return Embedded(
        torch.cat(vectors) if vectors else torch.empty(0, 1, device=device),
        torch.tensor([crop.identity for crop in seen], dtype=torch.long, device=device),
        torch.tensor([crop.camera for crop in seen], dtype=torch.long, device=device),
    )
