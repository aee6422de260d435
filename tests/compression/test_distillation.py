"""Distillation losses against numbers worked by hand, limits and identities."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression.distillation import Reduction, feature_l2, margin_relu_l2, similarity_kl, softened_kl

TEACHER = torch.tensor([[math.log(3), 0.0]])
"""Softmax 3/4, 1/4."""
STUDENT = torch.zeros(1, 2)
"""Softmax 1/2, 1/2."""
KL = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
"""Of the two, in nats: 0.1308."""

both_reductions = pytest.mark.parametrize("reduction", ["class_sum", "element_mean"])


def logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("reduction", "labels"), [("class_sum", 1), ("element_mean", 2)])
def test_kl_by_hand(reduction: Reduction, labels: int) -> None:
    loss = softened_kl(STUDENT, TEACHER, temperature=1.0, reduction=reduction)
    assert loss.item() == pytest.approx(KL / labels, rel=1e-6)


def test_temperature_divides_the_logits_and_its_square_multiplies_the_loss() -> None:
    """Logits twice as large at T = 2 have the same softened labels."""
    assert softened_kl(STUDENT, 2 * TEACHER, temperature=2.0).item() == pytest.approx(4 * KL, rel=1e-6)


def test_kl_is_averaged_over_clips() -> None:
    """The second clip's student agrees with its teacher and adds nothing."""
    student, teacher = torch.cat([STUDENT, TEACHER]), torch.cat([TEACHER, TEACHER])
    assert softened_kl(student, teacher, temperature=1.0).item() == pytest.approx(KL / 2, rel=1e-6)


def test_the_default_weight_is_the_source_alpha_at_400_classes() -> None:
    student, teacher = logits(0, 3, 400), logits(1, 3, 400)
    class_sum = 1.25 * softened_kl(student, teacher, temperature=5.0)
    element_mean = 500 * softened_kl(student, teacher, temperature=5.0, reduction="element_mean")
    torch.testing.assert_close(class_sum, element_mean, rtol=1e-6, atol=0)


@both_reductions
def test_equal_logits_cost_nothing(reduction: Reduction) -> None:
    """Equal up to a constant per clip, which softmax does not see."""
    z = logits(0, 4, 7)
    shifted = z + torch.arange(4.0)[:, None]
    loss = softened_kl(shifted, z, temperature=3.0, reduction=reduction)
    torch.testing.assert_close(loss, torch.zeros(()), rtol=0, atol=1e-6)


@given(st.integers(0, 2**32), st.floats(0.5, 20))
def test_kl_is_never_negative(seed: int, temperature: float) -> None:
    assert softened_kl(logits(seed, 2, 5), logits(seed + 1, 2, 5), temperature=temperature).item() > -1e-6


@pytest.mark.parametrize("temperature", [50.0, 200.0])
def test_gradient_tends_to_logit_matching(temperature: float) -> None:
    """As T grows the gradient tends to (z_s − z_t) / labels for zero-mean logits (Hinton et al., eq. 4)."""
    student, teacher = (z - z.mean(-1, keepdim=True) for z in (logits(2, 1, 10), logits(3, 1, 10)))
    student.requires_grad_()
    softened_kl(student, teacher, temperature=temperature).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 10, rtol=0, atol=2 / temperature)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: softened_kl(s, t, temperature=2.0),
        lambda s, t: similarity_kl(s, t, temperature=2.0),
        feature_l2,
        margin_relu_l2,
    ],
)
def test_only_the_student_has_a_gradient(loss) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    student, teacher = logits(0, 3, 3).requires_grad_(), logits(1, 3, 3).requires_grad_()
    loss(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("loss", [softened_kl, similarity_kl])
def test_temperature_must_be_positive(loss, temperature: float) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    with pytest.raises(ValueError, match="must be > 0"):
        loss(STUDENT, TEACHER, temperature=temperature)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: softened_kl(s, t, temperature=5.0),
        lambda s, t: similarity_kl(s, t, temperature=0.5),
        feature_l2,
        margin_relu_l2,
    ],
)
def test_half_precision_is_summed_in_float32(loss) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    student, teacher = logits(0, 4, 50).bfloat16(), logits(1, 4, 50).bfloat16()
    result = loss(student, teacher)
    assert result.dtype == torch.float32
    assert torch.equal(result, loss(student.float(), teacher.float()))


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: softened_kl(s, t, temperature=5.0),
        lambda s, t: similarity_kl(s, t, temperature=0.5),
        feature_l2,
        margin_relu_l2,
    ],
)
def test_autocast_changes_no_loss(loss) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    student, teacher = logits(0, 4, 50), logits(1, 4, 50)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(student, teacher)
    assert result.dtype == torch.float32
    assert torch.equal(result, loss(student, teacher))


def test_feature_l2_by_hand() -> None:
    """Differences 1, 0, 2, 3: (1 + 0 + 4 + 9) / 4."""
    student = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    teacher = torch.tensor([[[0.0, 2.0], [1.0, 1.0]]])
    assert feature_l2(student, teacher).item() == 3.5


def test_margin_relu_by_hand() -> None:
    """One channel; the teacher's negative responses −1 and −3 have mean m = −2.

    | z_t | target max(z_t, m) | z_s | counts | squared difference |
    |   4 |                  4 |   1 | yes    | 9                  |
    |  −1 |                 −1 |  −5 | no: z_s <= target <= 0      |
    |  −1 |                 −1 |   0 | yes    | 1                  |
    |  −3 |                 −2 |  -1 | yes    | 1                  |
    with the second −1 the mean is m = −5/3, so the last target is −5/3 and its square 4/9.
    """
    teacher = torch.tensor([[[4.0, -1.0, -1.0, -3.0]]])
    student = torch.tensor([[[1.0, -5.0, 0.0, -1.0]]])
    assert margin_relu_l2(student, teacher).item() == pytest.approx((9 + 0 + 1 + 4 / 9) / 4)


def in_plane(*angles: float) -> torch.Tensor:
    """Vectors at these angles, in degrees; the cosine of two is that of the angle between them."""
    radians = torch.tensor(angles).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1)


def test_similarity_by_hand() -> None:
    """Teacher at 0°, 90°, 180°: cosines 0 to the neighbours and −1 across. Student at 0°, 0°, 90°: 1, 0 and 0.

    With T = 1, p = softmax over the two others:
    | image | teacher's cosines | student's | KL                          |
    |     1 | (0, −1)           | (1, 0)    | 0: equal but for a constant |
    |     2 | (0, 0)            | (1, 0)    | ½ ln(½ / σ(1)) + ½ ln(½ / σ(−1)) |
    |     3 | (−1, 0)           | (0, 0)    | σ(−1) ln 2σ(−1) + σ(1) ln 2σ(1)  |
    """
    more, less = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
    second = 0.5 * math.log(0.5 / more) + 0.5 * math.log(0.5 / less)
    third = less * math.log(2 * less) + more * math.log(2 * more)
    loss = similarity_kl(in_plane(0, 0, 90), in_plane(0, 90, 180), temperature=1.0)
    assert loss.item() == pytest.approx((second + third) / 3, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 5.0])
def test_turned_scaled_and_longer_vectors_have_the_same_neighbourhoods(temperature: float) -> None:
    """Each vector has a scale of its own; the teacher's are longer by two zeros and then turned in 6 dimensions."""
    student = logits(0, 5, 4)
    turn, _ = torch.linalg.qr(logits(1, 6, 6))
    teacher = torch.nn.functional.pad(student, (0, 2)) @ turn * torch.linspace(0.2, 9, 5)[:, None]
    same = similarity_kl(student, teacher, temperature=temperature)
    torch.testing.assert_close(same, torch.zeros(()), rtol=0, atol=1e-5)
    assert similarity_kl(student, logits(2, 5, 6), temperature=temperature) > 0.01


@given(st.integers(0, 2**32), st.floats(0.05, 20))
def test_similarity_is_never_negative(seed: int, temperature: float) -> None:
    assert similarity_kl(logits(seed, 4, 3), logits(seed + 1, 4, 5), temperature=temperature).item() > -1e-4


def test_similarity_tends_to_half_the_variance_of_the_cosines_differences() -> None:
    """As T grows: over the three others of each of four images, mean over images."""
    student, teacher = logits(4, 4, 3), logits(5, 4, 6)
    cosines = [torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1) for x in (student, teacher)]
    others = (cosines[1] - cosines[0])[~torch.eye(4, dtype=torch.bool)].reshape(4, 3)
    expected = others.var(1, unbiased=False).mean() / 2
    torch.testing.assert_close(similarity_kl(student, teacher, temperature=50.0), expected, rtol=0.03, atol=0)


def test_similarity_gradient_moves_a_vector_to_its_teacher_s_neighbour() -> None:
    """To the teacher image 1 is near 2 (10°), to the student near 3 (20°); a step brings it nearer to 2 than it was."""
    student = in_plane(0, 60, -20).requires_grad_()
    loss = similarity_kl(student, in_plane(0, 10, 120), temperature=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    moved = student.detach() - 0.05 * student.grad
    angle = torch.atan2(moved[:, 1], moved[:, 0]).rad2deg()
    assert (angle[1] - angle[0]) < 60
    assert (angle[0] - angle[2]) > 20
    assert similarity_kl(moved, in_plane(0, 10, 120), temperature=0.5) < loss


@pytest.mark.parametrize("images", [1, 2])
def test_fewer_than_three_images_have_no_neighbourhoods_that_differ(images: int) -> None:
    student = logits(0, images, 3).requires_grad_()
    loss = similarity_kl(student, logits(1, images, 5), temperature=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))
