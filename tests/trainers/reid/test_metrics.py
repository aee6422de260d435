"""Ranking metrics against rankings made by hand, a slow reference, and Market-1501's rules."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainers.reid import metrics
from trainers.reid.metrics import AveragePrecision, Embedded, Ranking, average_precisions, evaluate_ranking

WHO, CAMERA = 5, 1
"""The query of the rankings made by hand."""
RIGHT, WRONG, SEEN, NOBODY, DISTRACTOR = (WHO, 2), (7, 1), (WHO, CAMERA), (-1, 2), (0, 2)
"""Gallery images to it: identity, camera."""
EMPTY = Embedded(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))


def query(number: int = 1) -> Embedded:
    return Embedded(torch.tensor([[1.0, 0.0]] * number), torch.tensor([WHO] * number), torch.tensor([CAMERA] * number))


def ranked(*images: tuple[int, int]) -> Embedded:
    """A gallery whose images are less and less similar to the query, in this order."""
    angles = torch.linspace(0.1, 3, len(images))
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    identities, cameras = torch.tensor(images).T
    return Embedded(vectors, identities, cameras)


def shuffled(gallery: Embedded, seed: int = 0) -> Embedded:
    order = torch.randperm(len(gallery.identities), generator=torch.Generator().manual_seed(seed))
    return Embedded(gallery.vectors[order], gallery.identities[order], gallery.cameras[order])


def random_set(seed: int, images: int, identities: int = 6, cameras: int = 3) -> Embedded:
    generator = torch.Generator().manual_seed(seed)
    return Embedded(
        torch.randn(images, 4, generator=generator),
        torch.randint(-1, identities, (images,), generator=generator),
        torch.randint(1, cameras + 1, (images,), generator=generator),
    )


def slow(query: Embedded, gallery: Embedded, kind: AveragePrecision, count_unmatched: bool) -> Ranking | None:
    """The protocol word by word, one query after another; cosines as there, lest rounding swaps two of them."""
    similarities = F.normalize(query.vectors, dim=1) @ F.normalize(gallery.vectors, dim=1).T
    precisions: list[float] = []
    firsts: list[float] = []
    for cosines, who, camera in zip(similarities.tolist(), query.identities, query.cameras, strict=True):
        rank, hits, terms, first = 0, 0, [], math.inf
        for image in sorted(range(len(cosines)), key=lambda j: -cosines[j]):
            identity, by = gallery.identities[image], gallery.cameras[image]
            if identity == -1 or (identity == who and by == camera):
                continue
            rank += 1
            if identity == who and identity > 0:
                before = 1.0 if rank == 1 else hits / (rank - 1)
                hits += 1
                first = min(first, rank)
                terms.append(hits / rank if kind == "standard" else (before + hits / rank) / 2)
        if terms or count_unmatched:
            precisions.append(sum(terms) / max(1, len(terms)))
            firsts.append(first)
    if not any(math.isfinite(first) for first in firsts):
        return None
    places = range(1, len(gallery.identities) + 1)
    cmc = torch.tensor([sum(first <= place for first in firsts) / len(firsts) for place in places])
    return Ranking(map=sum(precisions) / len(precisions), cmc=cmc, queries=len(precisions))


@pytest.mark.parametrize(
    ("hits", "standard", "trapezoid"),
    [((0, 2), 0.833333, 0.791667), ((1,), 0.5, 0.25), ((3, 4), 0.325, 0.225), ((0,), 1.0, 1.0), ((0, 1, 2), 1.0, 1.0)],
)
def test_average_precision_by_hand(hits: tuple[int, ...], standard: float, trapezoid: float) -> None:
    """`specs/e2tad.md` 8.5; places counted from 0, of a ranking of five."""
    right = torch.tensor([[place in hits for place in range(5)]])
    everything = torch.ones_like(right)
    assert average_precisions(right, everything, "standard").item() == pytest.approx(standard, abs=1e-6)
    assert average_precisions(right, everything, "trapezoid").item() == pytest.approx(trapezoid, abs=1e-6)


@pytest.mark.parametrize(
    ("images", "places"),
    [
        ((RIGHT, WRONG, RIGHT, WRONG), (0, 2)),
        ((SEEN, RIGHT, WRONG, RIGHT, WRONG), (0, 2)),
        ((NOBODY, SEEN, RIGHT, SEEN, WRONG, NOBODY, RIGHT), (0, 2)),
        ((DISTRACTOR, RIGHT, DISTRACTOR), (1,)),
        ((WRONG, SEEN, WRONG, DISTRACTOR, NOBODY, RIGHT, RIGHT, SEEN), (3, 4)),
    ],
    ids=["plain", "junk first", "junk between", "distractors", "all kinds"],
)
def test_rankings_made_by_hand(images: tuple[tuple[int, int], ...], places: tuple[int, ...]) -> None:
    """Junk is taken out of the ranking, distractors stay in it; `places` are the right ones then, from 0."""
    expected = {(0, 2): (0.791667, 0.833333), (1,): (0.25, 0.5), (3, 4): (0.225, 0.325)}[places]
    gallery = shuffled(ranked(*images))
    for kind, precision in zip(("trapezoid", "standard"), expected, strict=True):
        result = evaluate_ranking(query(), gallery, average_precision=kind)  # type: ignore[arg-type]
        assert result.map == pytest.approx(precision, abs=1e-6)
        assert result.cmc.tolist() == [float(rank > places[0]) for rank in range(1, len(images) + 1)]
        assert result.queries == 1


def test_the_default_is_the_source_s_trapezoid() -> None:
    assert evaluate_ranking(query(), ranked(WRONG, RIGHT)).map == 0.25


def test_cmc_counts_the_first_right_image_of_each_query() -> None:
    """Three queries find theirs at ranks 1, 1 and 2, out of three images."""
    queries = Embedded(
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2]]), torch.tensor([1, 2, 2]), torch.tensor([1, 1, 1])
    )
    gallery = Embedded(
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([1, 2, 3]), torch.full((3,), 2)
    )
    result = evaluate_ranking(queries, gallery)
    torch.testing.assert_close(result.cmc, torch.tensor([2 / 3, 1.0, 1.0]))
    assert [result.at(rank) for rank in (1, 2, 3, 10)] == pytest.approx([2 / 3, 1, 1, 1])
    assert result.map == pytest.approx((1 + 1 + 0.25) / 3)


@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["trapezoid", "standard"]),
    count_unmatched=st.booleans(),
    images=st.integers(1, 40),
)
def test_it_equals_a_slow_one(seed: int, kind: AveragePrecision, count_unmatched: bool, images: int) -> None:
    queries, gallery = random_set(seed, 7), random_set(seed + 1, images)
    expected = slow(queries, gallery, kind, count_unmatched)
    if expected is None:
        with pytest.raises(ValueError, match="none of the 7 queries"):
            evaluate_ranking(queries, gallery, average_precision=kind, count_unmatched=count_unmatched)
        return
    result = evaluate_ranking(queries, gallery, average_precision=kind, count_unmatched=count_unmatched)
    assert result.map == pytest.approx(expected.map, abs=1e-6)
    assert result.queries == expected.queries
    torch.testing.assert_close(result.cmc, expected.cmc)


@pytest.mark.parametrize("pairs", [1, 60, 61, 180])
def test_portions_do_not_matter(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than one query at a time, one, and three: twenty queries, a gallery of sixty."""
    queries, gallery = random_set(0, 20), random_set(1, 60)
    whole = evaluate_ranking(queries, gallery)
    monkeypatch.setattr(metrics, "CELLS", pairs)
    portions = evaluate_ranking(queries, gallery)
    assert portions.map == pytest.approx(whole.map, abs=1e-6)
    assert torch.equal(portions.cmc, whole.cmc)


def test_queries_without_a_right_image_are_left_out_or_count_as_wrong() -> None:
    """One query finds its image at rank 1, the other's identity isn't there."""
    queries = Embedded(torch.eye(2), torch.tensor([WHO, 99]), torch.tensor([CAMERA, CAMERA]))
    left_out = evaluate_ranking(queries, ranked(RIGHT, WRONG))
    assert (left_out.map, left_out.at(1), left_out.queries) == (1.0, 1.0, 1)
    counted = evaluate_ranking(queries, ranked(RIGHT, WRONG), count_unmatched=True)
    assert (counted.map, counted.at(1), counted.at(2), counted.queries) == (0.5, 0.5, 0.5, 2)


@pytest.mark.parametrize("count_unmatched", [False, True])
@pytest.mark.parametrize(
    ("queries", "gallery"),
    [
        (query(2), ranked(SEEN, WRONG, NOBODY)),
        (query(2), EMPTY),
        (Embedded(torch.eye(2), torch.tensor([-1, 0]), torch.tensor([1, 1])), ranked(NOBODY, DISTRACTOR)),
    ],
    ids=["only junk", "no gallery", "queries of nobody"],
)
def test_without_any_right_image_there_is_no_accuracy(
    queries: Embedded, gallery: Embedded, count_unmatched: bool
) -> None:
    message = rf"none of the 2 queries .* among the {len(gallery.identities)} of the gallery; check identities"
    with pytest.raises(ValueError, match=message):
        evaluate_ranking(queries, gallery, count_unmatched=count_unmatched)


def test_without_queries_there_is_no_accuracy() -> None:
    with pytest.raises(ValueError, match="none of the 0 queries"):
        evaluate_ranking(EMPTY, ranked(RIGHT))


@pytest.mark.parametrize(("images", "precision"), [((RIGHT, WRONG), 1.0), ((WRONG, RIGHT), 0.25)])
def test_equally_similar_images_stay_in_the_gallery_s_order(images: Any, precision: float) -> None:
    identities, cameras = torch.tensor(images).T
    same = Embedded(torch.tensor([[3.0, 4.0], [3.0, 4.0]]), identities, cameras)
    assert evaluate_ranking(query(), same).map == precision


def test_only_directions_are_compared() -> None:
    queries, gallery = random_set(0, 20), random_set(1, 60)
    longer = Embedded(gallery.vectors * torch.linspace(0.1, 50, 60)[:, None], gallery.identities, gallery.cameras)
    assert evaluate_ranking(queries, longer).map == pytest.approx(evaluate_ranking(queries, gallery).map, abs=1e-6)


def test_a_vector_of_length_zero_is_similar_to_none() -> None:
    """Its cosine counts as 0: behind what is less than 90° away, before what is more."""
    identities, cameras = torch.tensor([WRONG, RIGHT, WRONG]).T
    gallery = Embedded(torch.tensor([[1.0, 1.0], [0.0, 0.0], [-1.0, 0.0]]), identities, cameras)
    assert evaluate_ranking(query(), gallery).map == 0.25


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["query", "gallery"])
def test_vectors_must_be_finite(value: float, which: str) -> None:
    sets = {"query": query(), "gallery": ranked(RIGHT, WRONG)}
    sets[which].vectors[0, 0] = value
    with pytest.raises(ValueError, match=f"{which} vectors are not all finite"):
        evaluate_ranking(sets["query"], sets["gallery"])


def test_half_precision_is_ranked_in_float32() -> None:
    queries, gallery = random_set(0, 20), random_set(1, 60)

    def rounded(images: Embedded, dtype: torch.dtype) -> Embedded:
        vectors: Tensor = images.vectors.bfloat16().to(dtype)
        return Embedded(vectors, images.identities, images.cameras)

    half, full = (
        evaluate_ranking(rounded(queries, dtype), rounded(gallery, dtype)) for dtype in (torch.bfloat16, torch.float32)
    )
    assert half.map == full.map
