"""Unlearning the camera: the network is trained against a classifier that tells cameras apart from its vectors.

    min over network and identity head,  max over camera classifier:   L_identity − λ · L_camera        ([3], sec. 10)

The classifier so minimises its own cross-entropy L_camera, and the network maximises it. Two ways to do both:

- *reversal* ([1]): one backward pass; between network and classifier the gradient is multiplied by −λ.
- *alternating* ([2]): the classifier learns for some steps while the network rests, then the network makes a step
  against the classifier as it is. A cross-entropy that is maximised has no bound, so the network minimises another one
  instead: that of the classifier's answer to all cameras being equally likely, which has its minimum ln V there.

Axes (named as in the annotations):  image: images in the batch,  channel: numbers of a vector,  view: cameras.
Units: losses are in nats; λ has none.

Sources:
    [1] Ganin, Lempitsky. Unsupervised domain adaptation by backpropagation. arXiv:1409.7495.
    [2] Wu et al. Towards privacy-preserving visual recognition via adversarial training. arXiv:1807.08379.
    [3] E²TAD (`specs/e2tad.md` 10); its λ, classifier and schedule are not given and were decided there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

HIDDEN = 128
"""Width of the camera classifier."""
STEEPNESS = 10.0
"""Of the rise of λ ([1], sec. 4)."""
UNKNOWN = -1
"""Camera of an image of which it is not known."""


class _Reversal(torch.autograd.Function):
    """Identity whose gradient is multiplied by −λ."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None


def reverse_gradient(x: Float[Tensor, "*shape"], weight: float) -> Float[Tensor, "*shape"]:
    """The same tensor, whose gradient will be multiplied by −λ on its way back.

    Args:
        x: any tensor.
        weight: λ >= 0; with 0 nothing flows back.

    Raises:
        ValueError: `weight` is negative: the network would help the classifier.
    """
    _check_not_negative("weight", weight)
    reversed_: Tensor = _Reversal.apply(x, weight)
    return reversed_


def reversal_weight(progress: float, largest: float) -> float:
    """λ at a point of the training: 0 at first, when the vectors say little, and soon its largest value ([1]).

        λ(p) = λ_max (2 / (1 + e^(−10 p)) − 1)

    Args:
        progress: p, share of the training done, in [0, 1].
        largest: λ_max >= 0.

    Raises:
        ValueError: either is out of range.
    """
    _check_not_negative("largest", largest)
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}, but is a share of the training, in [0, 1]")
    return largest * (2 / (1 + math.exp(-STEEPNESS * progress)) - 1)


class CameraClassifier(nn.Module):
    """Tells cameras apart: Linear(channels → 128) → ReLU → Linear(128 → cameras).

    Args:
        channels: length of the vectors.
        cameras: their number V >= 2.

    Raises:
        ValueError: there is nothing to tell apart.
    """

    def __init__(self, channels: int, cameras: int) -> None:
        super().__init__()
        if cameras < 2:
            raise ValueError(f"there is {cameras} camera, but telling cameras apart needs 2; leave the adversary out")
        self.hidden = nn.Linear(channels, HIDDEN)
        self.relu = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(HIDDEN, cameras)

    def forward(self, vectors: Float[Tensor, "image channel"]) -> Float[Tensor, "image view"]:
        """Logits of the cameras."""
        logits: Tensor = self.classifier(self.relu(self.hidden(vectors)))
        return logits


def camera_loss(
    logits: Float[Tensor, "image view"],
    cameras: Int[Tensor, " image"],
    *,
    weights: Float[Tensor, " view"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of the camera classifier over the images whose camera is known; ln V where it knows nothing.

    Args:
        logits: its outputs, [image, view].
        cameras: 0 … V − 1, or -1 where unknown, [image].
        weights: of the cameras, see `camera_weights`; none: every image counts the same.

    Returns:
        Scalar >= 0, in float32; 0, with a gradient of 0, where no camera is known.
    """
    known = (cameras != UNKNOWN).float()
    share = known if weights is None else known * weights[cameras.clamp(min=0)]
    losses = F.cross_entropy(logits.float(), cameras, ignore_index=UNKNOWN, reduction="none")
    return (share * losses).sum() / share.sum().clamp(min=torch.finfo(share.dtype).tiny)


def camera_weights(cameras: Sequence[int], count: int) -> Float[Tensor, " view"]:
    """Weights that make every camera of a data set count the same, however many images it took.

        w_v = N / (V · N_v),   0 of a camera without images

    Args:
        cameras: camera of each image, 0 … V − 1, or -1 where unknown.
        count: V, number of cameras.
    """
    known = torch.tensor([camera for camera in cameras if camera != UNKNOWN], dtype=torch.long)
    taken = torch.bincount(known, minlength=count)
    return torch.where(taken > 0, len(known) / (count * taken.clamp(min=1)), 0.0)


def train_against(
    classifier: CameraClassifier,
    embeddings: Float[Tensor, "image channel"],
    cameras: Int[Tensor, " image"],
    *,
    steps: int,
    lr: float,
    weights: Float[Tensor, " view"] | None = None,
) -> Float[Tensor, ""]:
    """A turn of the alternating training: the classifier learns, then it is what the network is to confuse ([2]).

    The classifier takes plain gradient steps (no momentum, no decay) on the vectors as they are. What is returned
    takes it for a constant. Everything is in float32, also within a region of autocast: that would keep half-precision
    copies of the parameters, so that every step would have the gradient of the first.

    Args:
        classifier: changed in place; no other optimiser should change it.
        embeddings: the network's vectors, which receive the returned term's gradient only, [image, channel].
        cameras: 0 … V − 1, or -1 where unknown, [image].
        steps: k >= 1 gradient steps of the classifier.
        lr: their learning rate, > 0.
        weights: as of `camera_loss`.

    Returns:
        `confusion` of the classifier, to be minimised by the network, times λ; in float32.

    Raises:
        ValueError: `steps` or `lr` is not positive.
    """
    if steps < 1 or not lr > 0:
        raise ValueError(f"steps is {steps} and lr is {lr}, but both must be > 0")
    with torch.autocast(embeddings.device.type, enabled=False):
        vectors = embeddings.float()
        for _ in range(steps):
            _descend(classifier, vectors.detach(), cameras, lr, weights)
        constants = {name: parameter.detach().clone() for name, parameter in classifier.named_parameters()}
        return confusion(torch.func.functional_call(classifier, constants, (vectors,)))


def _descend(
    classifier: CameraClassifier,
    vectors: Float[Tensor, "image channel"],
    cameras: Int[Tensor, " image"],
    lr: float,
    weights: Float[Tensor, " view"] | None,
) -> None:
    """One step of plain gradient descent of the classifier."""
    parameters = list(classifier.parameters())
    with torch.enable_grad():
        loss = camera_loss(classifier(vectors), cameras, weights=weights)
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=lr)


def confusion(logits: Float[Tensor, "image view"]) -> Float[Tensor, ""]:
    """Cross-entropy from equally likely cameras to the classifier's answer, mean over images.

    L = −mean_image (1/V) Σ_view ln p_view   >= ln V,  with equality where the answer says nothing
    """
    return -F.log_softmax(logits.float(), dim=1).mean()


def cameras_follow_identities(identities: Sequence[int], cameras: Sequence[int]) -> bool:
    """Whether each identity was seen by one camera only, so that whoever unlearns cameras unlearns identities.

    Args:
        identities: identity of each training image.
        cameras: its camera, in the same order, -1 where unknown.

    Returns:
        False as well where there are fewer than two cameras, which no adversary is trained against.
    """
    pairs = {pair for pair in zip(identities, cameras, strict=True) if pair[1] != UNKNOWN}
    seen = {identity for identity, _ in pairs}
    return len({camera for _, camera in pairs}) > 1 and len(pairs) == len(seen)


def _check_not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}, but must be a finite number >= 0")
