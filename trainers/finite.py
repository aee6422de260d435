"""Losses that are no numbers: a training ends with the first, and is not tried again."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.distributed import World


class NonFiniteLossError(ArithmeticError):
    """A loss or an output was NaN or infinite."""


def require_finite(losses: list[Tensor], world: World, epoch: int, last_step: int) -> None:
    """Raise, in all processes, for the first of some consecutive steps with a loss that is not finite in any.

    Args:
        losses: of the steps, one after the other; scalars on the device.
        world: the processes.
        epoch: counted from 0.
        last_step: number of the last of the steps, counted from 0.

    Raises:
        NonFiniteLossError: naming epoch and step, both counted from 1.
    """
    if not losses:
        return
    summed = world.sum(torch.stack(losses))
    bad = (~torch.isfinite(summed)).nonzero()
    if len(bad):
        first = int(bad[0])
        step = last_step - len(losses) + 1 + first
        raise NonFiniteLossError(
            f"the loss was {summed[first].item()} in epoch {epoch + 1}, step {step + 1}; "
            "a lower train.lr or a longer warm-up may help"
        )
