"""What was changed at a step of a model's way, in words: `side ÷ 1.4`, `AGP at sparsity 0.5`, `INT8 by QAT`."""

from __future__ import annotations

import math

from compression.reduction import AXES
from orchestrator.quantise.search import METHODS
from orchestrator.registry.model import StoredModel
from orchestrator.sweep.table import LABELS


def change(model: StoredModel, parent: StoredModel | None) -> str:
    """What was done to a parent to get a model.

    Args:
        model: what came of it.
        parent: the network that it started from, or learnt from; none: not in this store.
    """
    parts = [*_axes(model, parent), *_method(model)]
    if parent is not None and parent.trial.seed != model.trial.seed:
        parts.append(f"seed {model.trial.seed}")
    return ", ".join(parts) or ("trained further" if parent else "changed in a way that is not known here")


def _axes(model: StoredModel, parent: StoredModel | None) -> list[str]:
    """Axes along which it shrank, with their factors."""
    if parent is None:
        return []
    before, after = (one.trial.network.factors.as_dict() for one in (parent, model))
    return [
        f"{axis.name} ÷ {after[letter] / before[letter]:.3g}"
        for letter, axis in AXES.items()
        if not math.isclose(before[letter], after[letter])
    ]


def _method(model: StoredModel) -> list[str]:
    """What was done to it besides."""
    trial = model.trial
    if trial.quantise is not None and trial.network.quantisation is not None:
        method = METHODS["ptq" if trial.train is None else "qat"]
        return [f"INT8 by {method} ({trial.network.quantisation.engine})"]
    if trial.pruning is not None:
        return [f"{LABELS.get(trial.pruning.pruner, trial.pruning.pruner)} at sparsity {trial.pruning.sparsity:g}"]
    if model.kind == "transferred":
        return [f"fine-tuned on {model.data_source or 'other data'}"]
    if model.kind == "imported":
        return ["the same weights, given as a file"]
    return []
