"""Losses on distances: values worked by hand, brute-force references, and batches without pairs."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainers.reid.losses import batch_hard_triplet, circle_loss, circle_of_pairs

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "triplet": lambda vectors, identities: batch_hard_triplet(vectors, identities, margin=0.3),
    "circle": lambda vectors, identities: circle_loss(vectors, identities, margin=0.25, gamma=32.0),
}
both_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def at_degrees(*angles: float) -> Tensor:
    """Vectors of length 1 in the plane; two that are φ apart have distance 2 sin(φ/2) and cosine cos φ."""
    radians = torch.tensor(angles).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1)


def batch(seed: int, images: int = 12, identities: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 5, generator=generator), torch.randint(identities, (images,), generator=generator)


def slow_triplet(vectors: Tensor, identities: Tensor, margin: float) -> float:
    unit = [v / v.norm() for v in vectors.double()]
    losses = []
    for a in range(len(unit)):
        distances = [(float((unit[a] - v).norm()), bool(identities[a] == identities[j])) for j, v in enumerate(unit)]
        positives = [d for j, (d, same) in enumerate(distances) if same and j != a]
        negatives = [d for d, same in distances if not same]
        if positives and negatives:
            losses.append(max(0.0, max(positives) - min(negatives) + margin))
    return sum(losses) / len(losses) if losses else 0.0


def slow_circle(vectors: Tensor, identities: Tensor, margin: float, gamma: float) -> float:
    unit = [v / v.norm() for v in vectors.double()]
    wanted = unwanted = 0.0
    for i, j in itertools.combinations(range(len(unit)), 2):
        s = float(unit[i] @ unit[j])
        if identities[i] == identities[j]:
            wanted += math.exp(-gamma * max(0.0, 1 + margin - s) * (s - 1 + margin))
        else:
            unwanted += math.exp(gamma * max(0.0, s + margin) * (s - margin))
    return math.log(1 + wanted * unwanted)


def test_triplet_by_hand() -> None:
    """Identity 0 at 0° and 60°, identity 1 at 90° and 100°; distances 2 sin(φ/2), margin 0.3.

    | anchor | farthest positive   | nearest negative    | hinge        |
    |     0° | 60° apart: 1        | 90° apart: √2       | 0            |
    |    60° | 60° apart: 1        | 30° apart: 2 sin 15° | 1.3 − 0.5176 |
    |    90° | 10° apart: 2 sin 5° | 30° apart: 2 sin 15° | 0            |
    |   100° | 10° apart: 2 sin 5° | 40° apart: 2 sin 20° | 0            |
    """
    loss = batch_hard_triplet(at_degrees(0, 60, 90, 100), torch.tensor([0, 0, 1, 1]), margin=0.3)
    assert loss.item() == pytest.approx((1.3 - 2 * math.sin(math.radians(15))) / 4, rel=1e-6)


def test_the_only_image_of_an_identity_is_no_anchor_but_a_negative() -> None:
    """Without the third image there would be no negative; with it as an anchor the mean would be over three."""
    loss = batch_hard_triplet(at_degrees(0, 60, 90), torch.tensor([7, 7, 3]), margin=0.3)
    assert loss.item() == pytest.approx((1.3 - 2 * math.sin(math.radians(15))) / 2, rel=1e-6)


@given(seed=st.integers(0, 2**32), identities=st.integers(1, 12), margin=st.floats(0.05, 1))
def test_triplet_equals_a_slow_one(seed: int, identities: int, margin: float) -> None:
    vectors, labels = batch(seed, identities=identities)
    loss = batch_hard_triplet(vectors, labels, margin=margin)
    assert loss.item() == pytest.approx(slow_triplet(vectors, labels, margin), abs=1e-5)


def test_small_distances_are_not_lost() -> None:
    """0.01° is a distance of 1.745e-4, whose square is lost in float32 when it is 2 − 2 cos."""
    loss = batch_hard_triplet(at_degrees(0, 0.01, 180), torch.tensor([0, 0, 1]), margin=2.0)
    assert loss.item() == pytest.approx(math.radians(0.01) + 2 - 2, abs=1e-6)


def test_gradient_pulls_the_positive_and_pushes_the_negative() -> None:
    """A step against it brings 60° nearer to 0° and farther from 90°."""
    vectors = at_degrees(0, 60, 90, 100).requires_grad_()
    batch_hard_triplet(vectors, torch.tensor([0, 0, 1, 1]), margin=0.3).backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None
    first, second, third, fourth = vectors.detach() - 0.1 * vectors.grad
    angles = [math.degrees(math.atan2(float(v[1]), float(v[0]))) for v in (first, second, third, fourth)]
    assert angles[0] > 0
    assert angles[1] < 60
    assert angles[2] > 90
    assert angles[3] == pytest.approx(100, abs=1e-3)


def test_equal_vectors_have_a_finite_gradient() -> None:
    """All distances are 0, where the square root's slope is infinite; each anchor then costs the margin."""
    vectors = torch.ones(4, 3, requires_grad=True)
    loss = batch_hard_triplet(vectors, torch.tensor([0, 0, 1, 1]), margin=0.3)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0.3)
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"), [([0.9, 0.8], [0.1, 0.3], 1.010980), ([0.75], [0.25], math.log(2))]
)
def test_circle_by_hand(positives: list[float], negatives: list[float], expected: float) -> None:
    """`specs/e2tad.md` 8.4; at s_p = 1 − m and s_n = m both exponents are 0, so L = ln(1 + 1·1)."""
    loss = circle_of_pairs(torch.tensor(positives), torch.tensor(negatives), margin=0.25, gamma=32.0)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_circle_counts_each_pair_once() -> None:
    """Angles 0° and 90°, of one identity, and 60°: s_p = 0, s_n = 0.5 and cos 30°."""
    loss = circle_loss(at_degrees(0, 90, 60), torch.tensor([5, 5, 2]), margin=0.25, gamma=4.0)
    expected = circle_of_pairs(torch.tensor([0.0]), torch.tensor([0.5, 0.75**0.5]), margin=0.25, gamma=4.0)
    torch.testing.assert_close(loss, expected)


@given(seed=st.integers(0, 2**32), identities=st.integers(1, 12), gamma=st.floats(0.5, 16))
def test_circle_equals_a_slow_one(seed: int, identities: int, gamma: float) -> None:
    vectors, labels = batch(seed, identities=identities)
    loss = circle_loss(vectors, labels, margin=0.25, gamma=gamma)
    assert loss.item() == pytest.approx(slow_circle(vectors, labels, 0.25, gamma), rel=1e-4, abs=1e-6)


def test_circle_weights_are_constants() -> None:
    """At s_p = s_n = ½ both α are ¾ and both exponents 4 · ¾ · ¼, so dL/ds = ∓4 · ¾ · σ(1.5)."""
    positives, negatives = torch.tensor([0.5], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    circle_of_pairs(positives, negatives, margin=0.25, gamma=4.0).backward()  # type: ignore[no-untyped-call]
    slope = 3 / (1 + math.exp(-1.5))
    torch.testing.assert_close(positives.grad, torch.tensor([-slope]))
    torch.testing.assert_close(negatives.grad, torch.tensor([slope]))


def test_circle_does_not_overflow() -> None:
    """The exponents, 64 · 2.25 · 1.75 and 64 · 1.25 · 0.75, are far above what float32 can exponentiate."""
    loss = circle_of_pairs(torch.tensor([-1.0]), torch.tensor([1.0]), margin=0.25, gamma=64.0)
    assert loss.item() == pytest.approx(64 * (2.25 * 1.75 + 1.25 * 0.75))


@both_losses
@pytest.mark.parametrize("identities", [[3, 3, 3, 3], [0, 1, 2, 3], [8]], ids=["one", "no two", "single"])
def test_without_pairs_of_both_kinds_nothing_is_learnt(
    loss: Callable[[Tensor, Tensor], Tensor], identities: list[int]
) -> None:
    vectors = torch.randn(len(identities), 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    result = loss(vectors, torch.tensor(identities))
    result.backward()  # type: ignore[no-untyped-call]
    assert result.item() == 0
    assert vectors.grad is not None
    assert torch.equal(vectors.grad, torch.zeros_like(vectors))


@both_losses
def test_lengths_do_not_matter(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    vectors, identities = batch(0)
    scaled = vectors * torch.linspace(0.1, 10, len(vectors))[:, None]
    torch.testing.assert_close(loss(scaled, identities), loss(vectors, identities), rtol=1e-5, atol=1e-6)


@both_losses
def test_images_have_no_order_and_identities_no_meaning(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    vectors, identities = batch(1)
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))
    other = loss(vectors[order], 100 - 7 * identities[order])
    torch.testing.assert_close(other, loss(vectors, identities))


@both_losses
def test_half_precision_is_summed_in_float32(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    vectors, identities = batch(2)
    result = loss(vectors.bfloat16(), identities)
    assert result.dtype == torch.float32
    assert torch.equal(result, loss(vectors.bfloat16().float(), identities))


@both_losses
def test_autocast_changes_no_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    vectors, identities = batch(2)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(vectors, identities)
    assert result.dtype == torch.float32
    assert torch.equal(result, loss(vectors, identities))


@both_losses
def test_what_is_not_finite_shows(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The training loop looks for it in the loss."""
    vectors, identities = batch(3)
    vectors[0, 0] = math.nan
    assert loss(vectors, identities).isnan()


@pytest.mark.parametrize("margin", [0.0, -0.1, math.nan])
def test_triplet_margins_must_be_positive(margin: float) -> None:
    with pytest.raises(ValueError, match=r"margin is .* must be > 0"):
        batch_hard_triplet(*batch(0), margin=margin)


@pytest.mark.parametrize(
    ("margin", "gamma", "message"),
    [(1.0, 32.0, r"margin is 1\.0, .* in \[0, 1\)"), (-0.1, 32.0, "margin is -0"), (0.25, 0.0, r"gamma is .* > 0")],
)
def test_circle_settings_out_of_range(margin: float, gamma: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        circle_loss(*batch(0), margin=margin, gamma=gamma)
