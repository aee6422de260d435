"""Which settings make a search this search and no other, and the name that follows from them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from configs.errors import UserError
from configs.schema import RunSettings

EXTENDABLE = {
    "search": ("iterations", "target_gmacs", "max_drop", "control"),
    "sweep": ("pruners", "sparsity", "seeds", "controls", "max_drop"),
    "quantise": ("methods", "seeds", "max_drop_points", "max_fallbacks"),
    "transfer": ("models", "splits", "seeds"),
}
"""Settings that may change from one start to the next: they only decide how far the same search goes."""

UNUSED = {
    "pas": ("prune", "sweep", "quantise", "chain", "transfer"),
    "train": ("prune", "sweep", "quantise", "chain", "transfer"),
    "sweep-prune": ("search", "quantise", "chain", "transfer"),
    "sweep-sensitivity": ("search", "train", "distillation", "quantise", "chain", "transfer"),
    "sweep-qat": ("search", "prune", "sweep", "chain", "transfer"),
    "chain": ("sweep", "transfer"),
    "transfer": ("network", "teacher", "distillation", "search", "prune", "sweep", "quantise", "chain"),
}
"""Groups of settings that an algorithm does not look at."""


def identity(settings: RunSettings, algorithm: str) -> dict[str, Any]:
    """All settings that determine results, as JSON; without where it runs and how far it goes."""
    kept = settings.model_dump(mode="json", exclude={"runtime": True, "data": {"max_quarantined"}})
    for group, keys in EXTENDABLE.items():
        for key in keys:
            kept[group].pop(key)
    if algorithm == "sweep-sensitivity":
        kept["sweep"]["pruner"] = settings.sweep.pruners[0]
    if algorithm == "transfer":
        kept["transfer"]["base"] = next(iter(settings.transfer.models.values()), None)
        kept["data"].pop("split")  # those of `transfer.splits`, which may become more
    if kept["network"]["aspect"] is None:
        kept["network"].pop("aspect")  # runs made before images were known keep their name
    for group in (*UNUSED[algorithm], "clips" if settings.network.backbone == "reid" else "reid"):
        kept.pop(group)
    return {"algorithm": algorithm, **kept}


def default_name(settings: RunSettings, algorithm: str) -> str:
    """`slowfast-pas-1a2b3c`: the same settings come back to the same run."""
    text = json.dumps(identity(settings, algorithm), sort_keys=True)
    return f"{settings.network.backbone}-{algorithm}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def require_same_identity(state: dict[str, Any] | None, settings: RunSettings, algorithm: str) -> None:
    """Refuse to continue a run with settings that make it another search.

    Raises:
        UserError: names what differs.
    """
    if state is None:
        return
    before, now = _flat(state["identity"]), _flat(identity(settings, algorithm))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        shown = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed[:5])
        raise UserError(
            f"run {state['run']!r} holds a search with other settings ({shown}). "
            "Choose another --name; trials that both share are not trained twice"
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries by dotted path."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}
