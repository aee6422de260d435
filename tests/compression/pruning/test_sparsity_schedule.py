"""Schedules of gradual pruning against the source's values, and the pruners that use them."""

from collections.abc import Callable
from typing import get_args

import pytest

from compression.pruning.importance import IMPORTANCES, RANDOM
from compression.pruning.pruners import PRUNERS
from compression.pruning.schedule import agp_sparsity, linear_sparsity
from configs.schema import PrunerName

Schedule = Callable[..., float]

LONG = {0: 0.01, 10: 0.21931, 20: 0.35847, 30: 0.44181, 40: 0.48364, 50: 0.49826, 59: 0.5}
SHORT = [0, 0.14883, 0.26475, 0.35185, 0.41427, 0.45610, 0.48148, 0.49451, 0.49931, 0.5]
"""`specs/e2tad.md` 16.2: n = 59 from 0.01 to 0.5, and n = 9 from 0 to 0.5."""


@pytest.mark.parametrize(("step", "sparsity"), LONG.items())
def test_cubic_values_of_the_source(step: int, sparsity: float) -> None:
    assert agp_sparsity(step, steps=59, initial=0.01, final=0.5) == pytest.approx(sparsity, abs=1e-5)


def test_cubic_values_of_the_source_from_zero() -> None:
    found = [agp_sparsity(step, steps=9, initial=0.0, final=0.5) for step in range(10)]
    assert found == pytest.approx(SHORT, abs=1e-5)


def test_nni_s_cubic_is_the_same_from_zero() -> None:
    """NNI 3.0: ratio 1 − (1 − k/N)³ of the final sparsity."""
    found = [agp_sparsity(step, steps=5, initial=0.0, final=0.5) for step in range(6)]
    assert found == pytest.approx([0, 0.244, 0.392, 0.468, 0.496, 0.5])


def test_linear_by_hand() -> None:
    found = [linear_sparsity(step, steps=4, initial=0.1, final=0.5) for step in range(5)]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("schedule", [agp_sparsity, linear_sparsity])
def test_ends_are_exact_and_hold(schedule: Schedule) -> None:
    assert [schedule(step, steps=3, initial=0.1, final=0.7) for step in (3, 4, 100)] == [0.7] * 3
    assert schedule(-1, steps=3, initial=0.1, final=0.7) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", [agp_sparsity, linear_sparsity])
@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(schedule: Schedule, steps: int) -> None:
    with pytest.raises(ValueError, match=r"steps is .*must be > 0"):
        schedule(0, steps=steps, initial=0.0, final=0.5)


def test_the_pruners_are_those_of_the_settings() -> None:
    assert set(PRUNERS) == set(get_args(PrunerName))
    assert {pruner.importance for pruner in PRUNERS.values()} == {*IMPORTANCES, RANDOM}
    assert PRUNERS["agp"].schedule == "cubic"
    assert {name for name, pruner in PRUNERS.items() if pruner.schedule == "linear"} == {
        name for name in PRUNERS if name.endswith("-iterative")
    }
