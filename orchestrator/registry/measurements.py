"""What was measured of a store's models, by digest: `<store>/registry/measurements.json`.

A model has its last latency and its last energy there, each with what it was measured under; both per clip or image, in
milliseconds and millijoules. `orchestrate measure --record` and `orchestrate best --measure` write it (`measuring.py`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import UserError
from orchestrator.registry.model import Measured
from orchestrator.store import Store
from trainers.files import exclusive, read_json, write_json

log = logging.getLogger(__name__)

FILE = "measurements.json"
LOCK_SECONDS = 10.0
"""Writing takes milliseconds; who waits longer than that waits for a process that hangs."""


def read_measurements(store: Store) -> dict[str, tuple[Measured | None, Measured | None]]:
    """Latency and energy by digest; a file that can't be read counts as empty, with a warning."""
    return {
        digest: (_measured(digest, entry, "latency"), _measured(digest, entry, "energy"))
        for digest, entry in _read(_file(store)).items()
    }


def record(store: Store, digest: str, *, latency: Measured | None = None, energy: Measured | None = None) -> None:
    """Take down what was measured of a model; what is none stays as it was.

    Raises:
        UserError: another process is writing, and does not come to an end.
    """
    given = {"latency": latency, "energy": energy}
    new = {
        kind: {"value": measured.value, "conditions": dict(measured.conditions)}
        for kind, measured in given.items()
        if measured is not None
    }
    try:
        lock = exclusive(
            store.registry_folder / "measurements.lock", what="measurements.json", wait_seconds=LOCK_SECONDS
        )
        with lock:
            known = _read(_file(store))
            earlier = known.get(digest)
            write_json(_file(store), {**known, digest: {**(earlier if isinstance(earlier, dict) else {}), **new}})
    except TimeoutError as error:
        raise UserError(f"{error}; try again") from None


def _file(store: Store) -> Path:
    return store.registry_folder / FILE


def _read(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if isinstance(found, dict):
        return found
    if path.exists():
        log.warning("%s can't be read: what was measured is forgotten, and has to be measured again", path)
    return {}


def _measured(digest: str, entry: Any, kind: str) -> Measured | None:
    """One measurement; none where there is none, or where it is no measurement."""
    if isinstance(entry, dict) and entry.get(kind) is None:
        return None
    try:
        found: Any = entry[kind]
        value, conditions = float(found["value"]), found["conditions"]
        if not (isinstance(conditions, Mapping) and 0 < value < math.inf):
            raise ValueError(found)
    except (KeyError, TypeError, ValueError):
        log.warning("the %s of model %s in %s is no measurement and is passed over", kind, digest, FILE)
        return None
    return Measured(value=value, conditions=dict(conditions))
