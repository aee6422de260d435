"""The teacher at work: what it adds to the loss of a student's training step.

Sources:
    [1] Deep video understanding … (PhD thesis), Eq. 6.5-6.7, Tables 6.7 and 6.8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compression.distillation import feature_l2, margin_relu_l2, softened_kl
from compression.spec import NetworkSpec
from configs.schema import DistillationSettings
from trainers.backbones import Network, describe

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Distiller(nn.Module):
    """Teacher, loss weights and, where feature maps are matched, the learnt connectors between channel counts.

    Only the connectors are parameters of this module: the teacher is a constant and is kept out of its state.
    """

    def __init__(self, teacher: Network, student: Network, settings: DistillationSettings) -> None:
        super().__init__()
        self.settings = settings
        self._teacher = [set_teacher_mode(teacher, settings.teacher_mode)]  # a list hides it from state_dict
        self.connectors = nn.ModuleDict()
        if settings.features != "none":
            wide, narrow = stage_channels(teacher.spec), stage_channels(student.spec)
            self.connectors.update(
                {_key(stage): nn.Conv3d(narrow[stage], wide[stage], 1) for stage in teacher.stage_ends()}
            )

    @property
    def teacher(self) -> Network:
        """The teacher, without gradients."""
        return self._teacher[0]

    @property
    def needs_features(self) -> bool:
        """Whether the student's stage outputs are wanted."""
        return self.settings.features != "none"

    @contextmanager
    def recorded(self, network: Network) -> Iterator[dict[str, Tensor]]:
        """Collect what enters the last activation of each stage while `network` runs; nothing where it isn't needed."""
        maps: dict[str, Tensor] = {}

        def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            # cloned, because the activation works in place
            return lambda _, inputs: maps.__setitem__(name, inputs[0].clone())

        ends = network.stage_ends() if self.needs_features else {}
        handles = [module.register_forward_pre_hook(record(name)) for name, module in ends.items()]
        try:
            yield maps
        finally:
            for handle in handles:
                handle.remove()

    def forward(
        self, student_logits: Tensor, student_features: dict[str, Tensor], teacher_clips: Tensor
    ) -> dict[str, Tensor]:
        """Terms to add to the cross-entropy, weighted.

        Args:
            student_logits: [clip, label].
            student_features: pre-activation stage outputs by name; empty unless `needs_features`.
            teacher_clips: the same clips as the teacher sees them, normalised [clip, channel, frame, height, width].

        Returns:
            `kl` and, where feature maps are matched, `features`; scalars.
        """
        with torch.no_grad(), self.recorded(self.teacher) as teacher_features:
            teacher_logits = self.teacher(teacher_clips)
        losses = {"kl": self._logit_loss(student_logits, teacher_logits)}
        if self.needs_features:
            losses["features"] = self.settings.feature_weight * self._feature_loss(student_features, teacher_features)
        return losses

    def _logit_loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        temperature = self.settings.temperature
        if self.settings.source_alpha is not None:
            kl = softened_kl(student_logits, teacher_logits, temperature=temperature, reduction="element_mean")
            return self.settings.source_alpha * kl
        return self.settings.weight * softened_kl(student_logits, teacher_logits, temperature=temperature)

    def _feature_loss(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        distance = feature_l2 if self.settings.features == "l2" else margin_relu_l2
        terms = []
        for stage, maps in teacher.items():
            matched = self.connectors[_key(stage)](student[stage])
            terms.append(distance(matched, F.adaptive_avg_pool3d(maps, matched.shape[2:])))
        return torch.stack(terms).mean()


def set_teacher_mode(teacher: Network, mode: str) -> Network:
    """Freeze a network; with `train` its batch norms use the batch's statistics and leave the stored ones alone.

    Dropout stays off in both modes: soft targets are not to be noisy.
    """
    teacher.eval().requires_grad_(False)
    for module in teacher.modules():
        if isinstance(module, BATCH_NORMS) and mode == "train":
            module.train()
            module.track_running_stats = False
    return teacher


def stage_channels(spec: NetworkSpec) -> dict[str, int]:
    """Channels of each stage's output."""
    return {stage.name: stage.channels for stage in describe(spec)}


def _key(stage: str) -> str:
    return stage.replace(".", "_")  # module names have no dots
