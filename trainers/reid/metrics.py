"""How well a gallery ranked by similarity answers queries: mean average precision and CMC, by Market-1501's protocol.

Of the gallery, images that show nobody (identity -1), and those of the query's identity that the query's own camera
took, are *junk*: they are taken out of the query's ranking, neither right nor wrong. Identity 0 is a *distractor*: it
is ranked, and never right.

Axes (named as in the annotations):  image: images of one set,  query, gallery: images of either set,
channel: numbers of a vector,  rank: places of a ranking, the first being 1.
Units: fractions.

Sources:
    [1] Zheng et al. Scalable person re-identification: a benchmark. ICCV 2015 (Market-1501: junk, distractors).
    [2] E²TAD's evaluation code: AP by trapezoids (`specs/e2tad.md` 8.5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

JUNK, DISTRACTOR = -1, 0
"""Identities that are none."""
CELLS = 2**20
"""Pairs of query and gallery image that are ranked at a time: about 0.2 GB of sorting."""

AveragePrecision = Literal["trapezoid", "standard"]


@dataclass(frozen=True)
class Embedded:
    """Images as their vectors, and what is known of them."""

    vectors: Float[Tensor, "image channel"]
    """Vectors of any length; they are compared by the cosine. One of length 0 is similar to none (0)."""
    identities: Int[Tensor, " image"]
    """Whom they show: > 0, or `JUNK` or `DISTRACTOR`."""
    cameras: Int[Tensor, " image"]
    """Which camera took them."""


@dataclass(frozen=True)
class Ranking:
    """How well the queries were answered."""

    map: float
    """Mean average precision over the counted queries."""
    cmc: Float[Tensor, " rank"]
    """Share of the counted queries with a right image at this rank or before; [0] is rank 1."""
    queries: int
    """Queries that were counted."""

    def at(self, rank: int) -> float:
        """CMC at a rank (from 1); beyond the gallery's end that at its end."""
        return self.cmc[min(rank, len(self.cmc)) - 1].item()


def evaluate_ranking(
    query: Embedded,
    gallery: Embedded,
    *,
    average_precision: AveragePrecision = "trapezoid",
    count_unmatched: bool = False,
) -> Ranking:
    """Rank the gallery for every query, most similar first, equally similar ones in the gallery's order.

    Queries are taken in portions: memory grows with the gallery alone. Time grows with queries × gallery.

    Args:
        query: the queries.
        gallery: what is searched, on the same device.
        average_precision: `trapezoid` is the area under the precision-recall curve ([2]), `standard` the mean of
            the precisions at the right images.
        count_unmatched: whether a query that has no right image in the gallery counts as one answered wrongly ([2]);
            else it is left out.

    Raises:
        ValueError: no query has a right image in the gallery, or a vector is not finite.
    """
    for name, images in (("query", query), ("gallery", gallery)):
        if not images.vectors.isfinite().all():
            raise ValueError(f"{name} vectors are not all finite, so they can't be ranked; was the training stable?")
    precisions, first_ranks = [], []
    for right, ranked in _rankings(query, gallery):
        usable = right.any(1)
        right, ranked = right[usable], ranked[usable]
        precisions.append(average_precisions(right, ranked, average_precision))
        first_ranks.append(1 + (ranked & (right.cumsum(1) == 0)).sum(1))
    precision = torch.cat([torch.zeros(0), *(values.cpu() for values in precisions)])
    matched, total = len(precision), len(query.identities)
    if not matched:
        raise ValueError(
            f"none of the {total} queries has an image of its identity, taken by another camera, among the "
            f"{len(gallery.identities)} of the gallery; check identities and cameras in the file names"
        )
    counted = total if count_unmatched else matched
    firsts = torch.bincount(torch.cat(first_ranks).cpu() - 1, minlength=len(gallery.identities))
    cmc = (firsts.cumsum(0).double() / counted).float()
    return Ranking(map=precision.double().sum().item() / counted, cmc=cmc, queries=counted)


def average_precisions(
    right: Bool[Tensor, "query rank"], ranked: Bool[Tensor, "query rank"], kind: AveragePrecision
) -> Float[Tensor, " query"]:
    """Average precision of each ranking; k_i is the rank of the i-th right image once junk is taken out.

        standard   AP = (1/n) Σ_i  i / k_i
        trapezoid  AP = (1/n) Σ_i  ½ [ (i − 1) / (k_i − 1) + i / k_i ],   the first fraction being 1 at k_i = 1

    Args:
        right: which places of the ranking, junk included, hold a right image; at least one per query.
        ranked: which places count, not being junk.
        kind: see above.
    """
    hits, places = right.cumsum(1).double(), ranked.cumsum(1).double()
    precision = hits / places.clamp(min=1)
    if kind == "trapezoid":
        before = torch.where(places > 1, (hits - 1) / (places - 1).clamp(min=1), 1.0)
        precision = (before + precision) / 2
    return ((precision * right).sum(1) / right.sum(1)).float()


def _rankings(query: Embedded, gallery: Embedded) -> Iterator[tuple[Tensor, Tensor]]:
    """For portions of the queries: which places of their rankings are right, and which are not junk."""
    wanted, offered = F.normalize(query.vectors.float(), dim=1), F.normalize(gallery.vectors.float(), dim=1)
    portion = max(1, CELLS // max(1, len(offered)))
    for start in range(0, len(wanted), portion):
        rows = slice(start, start + portion)
        order = (wanted[rows] @ offered.T).argsort(dim=1, descending=True, stable=True)
        same = query.identities[rows, None] == gallery.identities
        seen = query.cameras[rows, None] == gallery.cameras
        junk = (same & seen) | (gallery.identities == JUNK)
        right = same & ~junk & (gallery.identities != DISTRACTOR)
        yield right.gather(1, order), ~junk.gather(1, order)
