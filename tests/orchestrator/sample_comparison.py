"""Models of which only cost and accuracy matter, with a front that is known. The numbers are made up."""

from __future__ import annotations

import zlib
from typing import Any

from orchestrator.registry.model import StoredModel
from tests.orchestrator.sample_registry import stored, trial


def model(name: str, gmacs: float, top1: float, **changes: Any) -> StoredModel:
    """A model of which only cost and accuracy matter."""
    made = changes.pop("trial", trial(name, seed=zlib.crc32(name.encode())))
    fields = {"aliases": (f"run/{name}",), "latency": None, **changes}
    return stored(trial=made, gmacs=gmacs, top1=top1, **fields)


FAMILY = (
    model("base", 10.0, 0.90, kind="trained"),
    model("good", 5.0, 0.89),
    model("beaten", 6.0, 0.80, kind="pruned"),
    model("small", 1.0, 0.70, kind="quantised"),
)
"""The front is base, good, small, and bends at good."""
