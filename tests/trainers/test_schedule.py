"""Learning rates at the moments where a schedule changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import TrainSettings
from trainers.schedule import learning_rate

STEP = TrainSettings(epochs=45, schedule="step", step_epochs=10, warmup_epochs=10)
"""The source's recipe of R(2+1)D-18."""
COSINE = TrainSettings(epochs=45, schedule="cosine", warmup_epochs=5)
"""The source's recipe of SlowFast-4×16-R50."""


@pytest.mark.parametrize(
    ("progress", "lr"),
    [
        (0.0, 0.0),
        (5.0, 0.48),
        (9.99, 0.95904),
        (10.0, 0.96),
        (19.99, 0.96),
        (20.0, 0.096),
        (30.0, 0.0096),
        (45.0, 0.00096),
    ],
)
def test_step_schedule(progress: float, lr: float) -> None:
    assert learning_rate(STEP, progress, base_lr=0.96) == pytest.approx(lr)


@pytest.mark.parametrize(("progress", "lr"), [(0.0, 0.0), (2.5, 0.8), (5.0, 1.6), (25.0, 0.8), (45.0, 0.0)])
def test_cosine_schedule(progress: float, lr: float) -> None:
    """Half of the base rate midway between warm-up and end, nothing left at the end."""
    assert learning_rate(COSINE, progress, base_lr=1.6) == pytest.approx(lr)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_without_warm_up_the_first_step_has_the_full_rate(schedule: str) -> None:
    train = TrainSettings.model_validate({"epochs": 4, "schedule": schedule, "warmup_epochs": 0})
    assert learning_rate(train, 0.0, base_lr=0.3) == 0.3


@given(st.floats(0, 44.999))
def test_cosine_has_no_jump(progress: float) -> None:
    """It climbs by base_lr / 5 per epoch at most, and falls by π/80 · base_lr at most."""
    here, there = (learning_rate(COSINE, p, base_lr=1.0) for p in (progress, progress + 0.001))
    assert -0.001 * 3.1416 / 80 <= there - here <= 0.001 / 5 + 1e-12


@given(st.floats(10, 45), st.floats(10, 45))
def test_step_never_climbs_after_the_warm_up(some: float, other: float) -> None:
    early, late = sorted((some, other))
    assert learning_rate(STEP, late, base_lr=1.0) <= learning_rate(STEP, early, base_lr=1.0)
