"""Rounding to 8 bits: the grid, its gradient, and the ranges, against values worked out by hand."""

import pytest
import torch
from torch import Tensor

from compression.quantisation.rounding import AVERAGING, SMALLEST_STEP, MovingRange, Rounding, WeightRange


def activations() -> MovingRange:
    return MovingRange(torch.quint8, torch.per_tensor_affine, 0, 255)


def weights() -> WeightRange:
    return WeightRange(torch.qint8, torch.per_channel_symmetric, -128, 127)


def after(rounding: Rounding, *tensors: Tensor) -> Rounding:
    """The rounding with the range of these tensors, which no longer moves."""
    for tensor in tensors:
        rounding(tensor)
    rounding.enable_observer(False)
    return rounding


def test_range_of_activations_by_hand() -> None:
    """From −1 to 3 there are 255 steps of 4/255, and zero is the 64th number: 1 / (4/255) = 63.75."""
    rounding = after(activations(), torch.tensor([-1.0, 0.5, 3.0]))
    assert rounding.scale.item() == pytest.approx(4 / 255)
    assert rounding.zero_point.item() == 64


def test_values_inside_the_range_move_by_half_a_step_at_most_and_others_to_its_ends() -> None:
    rounding = after(activations(), torch.tensor([-1.0, 3.0]))
    step, zero = rounding.scale.item(), rounding.zero_point.item()
    inside = torch.linspace(-zero * step, (255 - zero) * step, 999)
    assert (rounding(inside) - inside).abs().max() <= step / 2 * (1 + 1e-5)
    ends = rounding(torch.tensor([-50.0, 50.0]))
    torch.testing.assert_close(ends, torch.tensor([-zero * step, (255 - zero) * step]))


@pytest.mark.parametrize("low", [-3.0, -0.01, 0.0, 0.4])
def test_zero_stays_zero(low: float) -> None:
    """Padding is zeros; the range is widened to hold them where all values are above."""
    rounding = after(activations(), torch.tensor([low, 5.0]))
    assert rounding(torch.zeros(3)).tolist() == [0, 0, 0]
    assert 0 <= rounding.zero_point.item() <= 255


def test_results_lie_on_the_grid() -> None:
    rounding = after(activations(), torch.tensor([-1.0, 3.0]))
    integers = rounding(torch.linspace(-2, 4, 100)) / rounding.scale + rounding.zero_point
    torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-4)
    assert integers.min() >= -1e-4
    assert integers.max() <= 255 + 1e-4


def test_gradient_is_one_inside_the_range_and_zero_outside() -> None:
    rounding = after(activations(), torch.tensor([-1.0, 3.0]))
    x = torch.tensor([-1.5, -0.9, 0.0, 1.234, 2.9, 3.5], requires_grad=True)
    rounding(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_scale_of_weights_is_the_largest_magnitude_over_127_and_a_half() -> None:
    """Per output channel: of [0.2, −0.51] it is 0.51 / 127.5 = 0.004."""
    rounding = after(weights(), torch.tensor([[0.2, -0.51], [1.02, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(rounding.scale, torch.tensor([0.004, 0.008, SMALLEST_STEP]))
    assert rounding.zero_point.tolist() == [0, 0, 0]
    torch.testing.assert_close(
        rounding(torch.tensor([[0.0021, -0.51], [1.02, 0.0], [0.0, 0.0]])),
        torch.tensor([[0.004, -0.512], [1.016, 0.0], [0.0, 0.0]]),
    )


def test_range_of_weights_follows_the_weights_at_once() -> None:
    rounding = after(weights(), torch.full((1, 2), 255.0), torch.full((1, 2), 127.5))
    assert rounding.scale.item() == 1


def test_range_of_activations_is_a_moving_average() -> None:
    rounding = after(activations(), torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 2.0]))
    assert isinstance(rounding, MovingRange)
    assert rounding.min_val.item() == pytest.approx(-AVERAGING)
    assert rounding.max_val.item() == pytest.approx(1 + AVERAGING)


def test_tensors_that_share_a_range_have_the_range_of_them_all() -> None:
    """A map up to 10 and what it is pooled to: averaged over both, the map would be cut off at 10.1 / 2."""
    rounding = activations()
    rounding.tensors = 2
    for _ in range(3):
        rounding(torch.tensor([0.0, 10.0]))
        rounding(torch.tensor([0.0, 0.2]))
    assert rounding.max_val.item() == 10


def test_a_pass_that_was_broken_off_is_forgotten() -> None:
    rounding = activations()
    rounding.tensors = 2
    for peak in (1.0, 1.0, 500.0):
        rounding(torch.tensor([peak]))
    rounding.enable_observer(True)
    for peak in (1.0, 1.0):
        rounding(torch.tensor([peak]))
    assert rounding.max_val.item() == 1


def test_constant_zeros_have_a_scale() -> None:
    rounding = after(activations(), torch.zeros(4))
    assert rounding.scale.item() == pytest.approx(SMALLEST_STEP)
    assert rounding(torch.zeros(4)).tolist() == [0, 0, 0, 0]


def test_nan_is_passed_on() -> None:
    """So that training notices it."""
    rounding = activations()
    assert rounding(torch.tensor([1.0, float("nan")])).isnan().any()


def test_what_is_switched_off_changes_nothing() -> None:
    rounding = after(activations(), torch.tensor([0.0, 1.0]))
    rounding.enable_fake_quant(False)
    x = torch.tensor([0.1234, 77.0])
    assert torch.equal(rounding(x), x)
    assert isinstance(rounding, MovingRange)
    assert rounding.max_val.item() == 1


def test_half_precision_stays_half_precision() -> None:
    rounding = after(activations(), torch.tensor([0.0, 1.0]))
    assert rounding(torch.rand(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_state_of_weights_can_be_loaded_before_any_was_seen() -> None:
    before, twin = after(weights(), torch.randn(6, 3)), weights()
    twin.load_state_dict(before.state_dict())
    assert torch.equal(twin.scale, before.scale)
    assert bool(twin.measured)


def test_batches_of_calibration_count_alike_in_any_order() -> None:
    """The mean of the ends, (1 + 2 + 9) / 3; when it is trained, the newest counts for little again."""
    batches = [torch.tensor([-low, high]) for low, high in ((3.0, 1.0), (0.0, 2.0), (0.0, 9.0))]
    for order in (batches, batches[::-1]):
        rounding = activations()
        rounding.enable_fake_quant(False)
        after(rounding, *order)
        assert (rounding.min_val.item(), rounding.max_val.item()) == pytest.approx((-1, 4))
    rounding.enable_fake_quant(True)
    rounding.enable_observer(True)
    rounding(torch.tensor([0.0, 104.0]))
    assert rounding.max_val.item() == pytest.approx(5)


def test_calibrating_again_starts_afresh() -> None:
    rounding = activations()
    rounding.enable_fake_quant(False)
    after(rounding, torch.tensor([0.0, 9.0]))
    rounding.enable_observer(True)
    after(rounding, torch.tensor([0.0, 1.0]))
    assert rounding.max_val.item() == 1


def test_a_range_of_7_bits_leaves_the_other_half_to_what_is_beyond() -> None:
    """From 0 to 127 in steps of 1; 200.4 has an integer of 8 bits, 300 has none."""
    rounding = after(MovingRange(torch.quint8, torch.per_tensor_affine, 0, 127), torch.tensor([0.0, 127.0]))
    assert rounding.scale.item() == 1
    assert rounding(torch.tensor([126.6, 200.4, 300.0])).tolist() == [127, 200, 255]
