"""Losses on the distances between a batch's vectors; vectors are brought to length 1 here.

Pure functions of tensors: which of them a training minimises, and with which weight, is the task's business.

Axes (named as in the annotations):  image: images in the batch,  channel: numbers of a vector,
positive, negative: pairs of images of one identity, and of two.
Units: distances and cosine similarities of vectors of length 1, so in [0, 2] and [-1, 1]; both are computed in
float32, also within a region of autocast.

Sources:
    [1] Hermans, Beyer, Leibe. In defense of the triplet loss for person re-identification. arXiv:1703.07737.
    [2] Sun et al. Circle loss: a unified perspective of pair similarity optimization. arXiv:2002.10857.
    [3] E²TAD's training code: circle loss over the batch's pairs, m = 0.25, γ = 32 (`specs/e2tad.md` 8.4).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def batch_hard_triplet(
    embeddings: Float[Tensor, "image channel"], identities: Int[Tensor, " image"], *, margin: float
) -> Float[Tensor, ""]:
    """Triplet loss of every image with its farthest positive and its nearest negative ([1], Eq. 5).

        L = mean_a [ max_p D(a, p) − min_n D(a, n) + m ]₊,   D Euclidean

    An image without any other of its identity, or without any of another one, is no anchor and not part of the mean.

    Args:
        embeddings: vectors of any length above 0, [image, channel].
        identities: whose image it is, any integers, [image].
        margin: m > 0, a distance.

    Returns:
        Scalar >= 0, in float32 whatever the vectors' dtype; 0, with a gradient of 0, where no image is an anchor.

    Raises:
        ValueError: `margin` is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin}, but must be > 0")
    unit = F.normalize(embeddings.float(), dim=1)
    # not by |a|² + |b|² − 2ab, which loses small distances; the gradient at distance 0 is 0
    distances = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    same = identities[:, None] == identities
    positive = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    farthest = distances.masked_fill(~positive, -math.inf).amax(1)
    nearest = distances.masked_fill(same, math.inf).amin(1)
    anchors = positive.any(1)  # without negatives there are none for any image, and all hinges are [−∞]₊ = 0
    return F.relu(farthest - nearest + margin).sum() / anchors.sum().clamp(min=1)


def circle_loss(
    embeddings: Float[Tensor, "image channel"],
    identities: Int[Tensor, " image"],
    *,
    margin: float,
    gamma: float,
) -> Float[Tensor, ""]:
    """Circle loss over all pairs of the batch, each counted once ([2], Eq. 6; [3]).

    [3] divides it by the number of images; a weight of 1 / images does that.

    Args:
        embeddings: vectors of any length above 0, [image, channel].
        identities: whose image it is, any integers, [image].
        margin: m in [0, 1), see `circle_of_pairs`.
        gamma: γ > 0.

    Returns:
        Scalar >= 0, in float32; 0, with a gradient of 0, where all images or no two are of one identity.

    Raises:
        ValueError: `margin` or `gamma` is out of range.
    """
    unit = F.normalize(embeddings.float(), dim=1)
    first, second = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    with torch.autocast(unit.device.type, enabled=False):  # which multiplies in half precision, whatever it is given
        similarities = (unit @ unit.T)[first, second]
    same = identities[first] == identities[second]
    return circle_of_pairs(similarities[same], similarities[~same], margin=margin, gamma=gamma)


def circle_of_pairs(
    positives: Float[Tensor, " positive"], negatives: Float[Tensor, " negative"], *, margin: float, gamma: float
) -> Float[Tensor, ""]:
    """Circle loss of given similarities.

        L = ln(1 + Σ_n exp(γ α_n (s_n − m)) · Σ_p exp(−γ α_p (s_p − 1 + m)))
        α_p = [1 + m − s_p]₊,   α_n = [s_n + m]₊,   both constants to the gradient

    Written as softplus of two log-sum-exps, which don't overflow.

    Args:
        positives: s_p, cosine similarities of pairs of one identity, [positive].
        negatives: s_n, of pairs of two identities, [negative].
        margin: m in [0, 1): positives are wanted above 1 − m, negatives below m.
        gamma: γ > 0, no unit: how much the worst pairs outweigh the others.

    Raises:
        ValueError: `margin` or `gamma` is out of range.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin is {margin}, but must be in [0, 1)")
    if not gamma > 0:
        raise ValueError(f"gamma is {gamma}, but must be > 0")
    positive_weight = F.relu(1 + margin - positives.detach())
    negative_weight = F.relu(negatives.detach() + margin)
    too_far = torch.logsumexp(-gamma * positive_weight * (positives - (1 - margin)), 0)
    too_near = torch.logsumexp(gamma * negative_weight * (negatives - margin), 0)
    return F.softplus(too_far + too_near)
