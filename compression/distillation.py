"""Knowledge distillation losses for networks that classify or embed.

Pure functions of tensors: no model, optimiser or config is touched here. `trainers/loop.py` decides when a loss
applies; this module only says what it is.

Axes (named as in the annotations):  clip: clips in the batch,  label: classes,  image: images in the batch,
channel, wide: numbers of the student's vector, and of the teacher's.
Units: losses are in nats. They are computed in float32, also within a region of autocast.

Sources:
    [1] Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. arXiv:1503.02531.
    [2] Deep video understanding … (PhD thesis), Eq. 6.5-6.7, Tables 6.7 and 6.8.
    [3] Heo et al. A Comprehensive Overhaul of Feature Distillation. arXiv:1904.01866 (margin ReLU).
    [4] Passalis, Tefas. Learning deep representations with probabilistic knowledge transfer. arXiv:1803.10837.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Reduction = Literal["class_sum", "element_mean"]


def softened_kl(
    student_logits: Float[Tensor, "clip label"],
    teacher_logits: Float[Tensor, "clip label"],
    *,
    temperature: float,
    reduction: Reduction = "class_sum",
) -> Float[Tensor, ""]:
    """KL divergence from the student's softened labels to the teacher's.

        L = T² · mean_clip Σ_label p_t (ln p_t − ln p_s),   p = softmax(z / T)

    T² keeps the gradient's size independent of T, so the temperature can be searched without re-tuning the
    learning rate ([1], sec. 2). `element_mean` divides by the number of labels as well: that is how the source's
    α = 500 must be read, since on the class sum it would drown the cross-entropy (`specs/pas.md` section 4).

    Args:
        student_logits: z_s, [clip, label]; receives the gradient.
        teacher_logits: z_t, [clip, label]; a constant, its gradient is cut here.
        temperature: T > 0, no unit; 1 is the plain KL divergence.
        reduction: `class_sum` sums over labels, `element_mean` averages over them.

    Returns:
        Scalar >= 0, in float32 whatever the logits' dtype.

    Raises:
        ValueError: `temperature` is not positive.
    """
    if not temperature > 0:  # also rejects NaN
        raise ValueError(f"temperature is {temperature}, but must be > 0 (1 is plain KL divergence)")
    log_student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    kl = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    labels = 1 if reduction == "class_sum" else student_logits.shape[-1]
    return kl * temperature**2 / labels


def feature_l2(
    student: Float[Tensor, "clip channel *map"], teacher: Float[Tensor, "clip channel *map"]
) -> Float[Tensor, ""]:
    """Mean squared difference of two feature maps of equal shape ([2], Table 6.7 "+MSE")."""
    return F.mse_loss(student.float(), teacher.detach().float())


def margin_relu_l2(
    student: Float[Tensor, "clip channel *map"], teacher: Float[Tensor, "clip channel *map"]
) -> Float[Tensor, ""]:
    """Partial L2 distance to the teacher's pre-activation after a margin ReLU ([3], Eq. 3-4).

        target = max(z_t, m),   m = mean of the teacher's negative responses in that channel
        L = mean of (z_s − target)²  except where  z_s <= target <= 0

    Where the teacher is silent (target <= 0) and the student is more silent still, nothing needs to be learnt.

    Args:
        student: z_s, [clip, channel, …]; receives the gradient.
        teacher: z_t, the same shape; a constant.
    """
    teacher = teacher.detach().float()
    student = student.float()
    others = [dim for dim in range(teacher.dim()) if dim != 1]
    negative = teacher < 0
    count = negative.sum(dim=others, keepdim=True).clamp(min=1)
    margin = (teacher * negative).sum(dim=others, keepdim=True) / count
    target = torch.maximum(teacher, margin)
    needed = ~((student <= target) & (target <= 0))
    return ((student - target) ** 2 * needed).mean()


def similarity_kl(
    student: Float[Tensor, "image channel"], teacher: Float[Tensor, "image wide"], *, temperature: float
) -> Float[Tensor, ""]:
    """KL divergence from the student's neighbourhoods to the teacher's: who is how similar to whom in the batch.

        p_j|i = softmax over j ≠ i of cos(x_i, x_j) / T
        L = T² · mean_i Σ_j p_t(j|i) (ln p_t(j|i) − ln p_s(j|i))

    That is [4]'s loss, whose vectors may differ in length between student and teacher, with another kernel: theirs is
    (1 + cos) / 2, normalised by its sum, and has no temperature. The softmax lets T choose how much the nearest count;
    T² keeps the gradient's size from falling with it, as in `softened_kl`. Cosines lie in [-1, 1], so that at T >= 1
    the softmax is nearly flat and the loss tends to half the variance, over j, of the cosines' differences.

    Args:
        student: the student's vectors, of any length above 0, [image, channel]; receives the gradient.
        teacher: the teacher's, of the same images, [image, wide]; a constant.
        temperature: T > 0, no unit.

    Returns:
        Scalar >= 0, in float32 whatever the vectors' dtype; 0 for fewer than 3 images, which have no neighbourhoods
        that could differ.

    Raises:
        ValueError: `temperature` is not positive.
    """
    return softened_kl(_other_cosines(student), _other_cosines(teacher), temperature=temperature)


def _other_cosines(vectors: Float[Tensor, "image channel"]) -> Float[Tensor, "image other"]:
    """Cosine of each vector with every other, without itself."""
    unit = F.normalize(vectors.float(), dim=1)
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    with torch.autocast(unit.device.type, enabled=False):  # which multiplies in half precision, whatever it is given
        cosines = unit @ unit.T
    return cosines[others].reshape(len(unit), len(unit) - 1)
