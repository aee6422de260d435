"""Learning-rate schedules, as pure functions of training progress.

Sources:
    [1] Deep video understanding … (PhD thesis), sec. 6.2.2 (warm-up, then steps of /10 or a cosine).
"""

from __future__ import annotations

import math

from configs.schema import TrainSettings


def learning_rate(train: TrainSettings, progress: float, *, base_lr: float) -> float:
    """Learning rate at a moment of the training.

    Linear warm-up from zero to `base_lr` over `warmup_epochs`; from there on a tenth after every `step_epochs`,
    or half a cosine that reaches zero with the last step.

    Args:
        train: the recipe.
        progress: epochs done so far, fractions included, in [0, train.epochs].
        base_lr: learning rate after the warm-up.
    """
    if progress < train.warmup_epochs:
        return base_lr * progress / train.warmup_epochs
    since_warmup = progress - train.warmup_epochs
    if train.schedule == "step":
        return float(base_lr * 0.1 ** math.floor(since_warmup / train.step_epochs))
    return base_lr * 0.5 * (1 + math.cos(math.pi * since_warmup / (train.epochs - train.warmup_epochs)))
