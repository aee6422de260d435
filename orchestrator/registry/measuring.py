"""Measuring models of a store here, and taking it down: what `best --measure` and `measure --record` do.

Units: milliseconds and millijoules per clip or image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from orchestrator import latency as latencies
from orchestrator.export.request import is_export
from orchestrator.measure.measure import Measurement, circumstances
from orchestrator.measure.probes.loading import Device
from orchestrator.measure.turns import Conditions
from orchestrator.models import METRICS_FILE
from orchestrator.registry.measurements import record
from orchestrator.registry.model import Measured
from orchestrator.store import Store
from trainers.files import read_json, sha256_of
from trainers.package import WEIGHTS_FILE
from trainers.results import RESULT_FILE
from trainers.site import trial_folder


def measure_latencies(store: Store, digests: Sequence[str]) -> dict[str, Measured]:
    """Measure the latency of some models here, in turns, and take it down.

    Raises:
        UserError: a model's folder is no package.
    """
    under = latencies.conditions()
    taken = latencies.measure_trial_latencies({digest: store.trial_folder(digest) for digest in digests})
    found = {digest: Measured(value=ms, conditions=under) for digest, ms in taken.items()}
    for digest, measured in found.items():
        record(store, digest, latency=measured)
    return found


def record_rows(
    owners: Sequence[tuple[Store, str]], rows: Sequence[Measurement], conditions: Conditions, device: Device
) -> None:
    """Take down what `orchestrate measure` found.

    Args:
        owners: whose they are, see `owner_of`.
        rows: what was found, in the same order.
        conditions: what it was measured under.
        device: likewise.
    """
    under = conditions_of(conditions, device)
    for (store, digest), row in zip(owners, rows, strict=True):
        energy = None
        if row.energy_mj is not None:
            energy = Measured(value=row.energy_mj, conditions={**under, "counter": row.energy_source})
        record(store, digest, latency=Measured(value=row.median_ms / conditions.batch, conditions=under), energy=energy)


def conditions_of(conditions: Conditions, device: Device) -> dict[str, Any]:
    """The conditions of a measurement with the keys of `latency.conditions`, by which measurements are compared."""
    asked = {"batch": conditions.batch, "threads": conditions.threads, "runs": conditions.runs}
    here = {**latencies.conditions(), **asked}
    if device == "cuda":
        return {**here, "machine": circumstances(conditions, device)["machine"], "isa": "CUDA"}
    return here


def owner_of(folder: Path) -> tuple[Store, str]:
    """Store and digest of the model that a folder holds: a trial's folder, or a model folder of a run.

    Raises:
        UserError: it is in no store, or is something exported from a model, which is another file with other times.
    """
    if is_export(folder):
        raise UserError(
            f"{folder} was exported from a model, but --record takes down what models themselves cost; give the folder "
            "of the model, or leave --record out"
        )
    place = folder.expanduser().resolve()
    numbers = read_json(place / METRICS_FILE)
    digest = str(numbers.get("trial")) if isinstance(numbers, dict) else place.name
    for root in place.parents:
        stored = read_json(trial_folder(root, digest) / RESULT_FILE)
        if isinstance(stored, dict) and _has_weights(place, stored.get("weights_sha256")):
            return Store(root), digest
    raise UserError(
        f"{folder} is no model of a store, but --record takes down measurements of those only: of RUNS/trials/DIGEST "
        "and RUNS/NAME/models/…, with the weights that the trial has; leave --record out"
    )


def _has_weights(folder: Path, sha256: str | None) -> bool:
    weights = folder / WEIGHTS_FILE
    return sha256 is not None and weights.is_file() and sha256_of(weights) == sha256
