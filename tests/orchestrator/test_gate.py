"""The gate: slower or worse than allowed is rejected, and nothing else is."""

from __future__ import annotations

import math

import pytest

from orchestrator.gate import judge, within


def test_faster_and_within_the_limit_is_accepted() -> None:
    verdict = judge(speedup=4.1, drop_points=0.3, max_drop_points=1.0)
    assert (verdict.accepted, verdict.reasons, verdict.unjudged) == (True, (), ())
    assert verdict.describe() == "accepted"


@pytest.mark.parametrize(
    ("speedup", "reason"),
    [
        (0.5, "100 % slower than its FP32 original"),
        (0.8, "25 % slower than its FP32 original"),
        (1 / 1.02, "2 % slower than its FP32 original"),
        (0.99999, "0.001 % slower than its FP32 original"),
    ],
)
def test_slower_than_the_original_is_rejected(speedup: float, reason: str) -> None:
    """By hand: with a speed-up of r it takes 1/r − 1 longer."""
    verdict = judge(speedup=speedup, drop_points=0.0, max_drop_points=1.0)
    assert (verdict.accepted, verdict.reasons) == (False, (reason,))
    assert verdict.describe() == f"rejected: {reason}"


@pytest.mark.parametrize("drop", [1.01, 1.2, 50.0])
def test_a_greater_loss_than_allowed_is_rejected(drop: float) -> None:
    verdict = judge(speedup=4.0, drop_points=drop, max_drop_points=1.0)
    assert not verdict.accepted
    (reason,) = verdict.reasons
    digits = {1.01: "1.01", 1.2: "1.2", 50.0: "50.0"}[drop]
    assert reason == f"loses {digits} points of accuracy, more than the 1 allowed (--max-drop-points)"


def test_both_faults_are_named() -> None:
    verdict = judge(speedup=0.5, drop_points=3.0, max_drop_points=0.5)
    assert len(verdict.reasons) == 2
    assert verdict.describe().startswith("rejected: 100 % slower than its FP32 original; loses 3.0 points")


def test_the_limits_themselves_are_allowed() -> None:
    """As fast as the original is not slower, and rounding of fractions is no loss: 93 % − 92 % is 1 point."""
    drop = 100 * (0.93 - 0.92)
    assert drop > 1  # 1.0000000000000009
    assert judge(speedup=1.0, drop_points=drop, max_drop_points=1.0).accepted
    assert judge(speedup=1.0, drop_points=0.0, max_drop_points=0.0).accepted


def test_a_gain_is_no_loss() -> None:
    assert judge(speedup=1.5, drop_points=-2.0, max_drop_points=0.0).accepted


def test_what_was_not_measured_is_not_judged_and_that_is_said() -> None:
    verdict = judge(speedup=2.0, drop_points=None, max_drop_points=1.0)
    assert (verdict.accepted, verdict.unjudged) == (True, ("accuracy",))
    assert verdict.describe() == "accepted (accuracy not measured)"
    verdict = judge(speedup=None, drop_points=None, max_drop_points=1.0)
    assert verdict.describe() == "accepted (latency and accuracy not measured)"
    assert not judge(speedup=0.9, drop_points=None, max_drop_points=1.0).accepted
    assert not judge(speedup=None, drop_points=1.1, max_drop_points=1.0).accepted


def test_what_is_no_number_is_rejected() -> None:
    assert not judge(speedup=math.nan, drop_points=0.0, max_drop_points=1.0).accepted
    assert not judge(speedup=2.0, drop_points=math.nan, max_drop_points=1.0).accepted
    assert not within(math.nan, 1.0)


@pytest.mark.parametrize("limit", [-0.1, math.nan])
def test_a_limit_is_not_negative(limit: float) -> None:
    with pytest.raises(ValueError, match="must be >= 0"):
        judge(speedup=2.0, drop_points=0.0, max_drop_points=limit)


def test_it_is_json() -> None:
    verdict = judge(speedup=0.8, drop_points=None, max_drop_points=1.0)
    assert verdict.to_dict() == {
        "accepted": False, "reasons": ["25 % slower than its FP32 original"], "unjudged": ["accuracy"],
    }  # fmt: skip
