"""What trials left in a store: those that are models, and those that say so but are damaged.

Looking is cheap, a millisecond per trial: weights are measured, not hashed. A file that was cut off, or of which a part
was not copied, is found; whoever hands a model on compares the hash as well.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.store import Store
from trainers.backbones import BACKBONES
from trainers.files import read_json
from trainers.package import NETWORK_FILE, WEIGHTS_FILE
from trainers.results import RESULT_FILE
from trainers.trial import Trial, TrialResult

HEADER_LENGTH = 8
"""Bytes at the start of a safetensors file that say how long its header is."""


@dataclass(frozen=True)
class Damage:
    """A trial of the store that says it is finished, but whose files are missing, truncated or unreadable."""

    digest: str
    """Name of its folder."""
    reason: str
    """What is wrong, as a clause that names the file."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished trial whose network is there."""

    trial: Trial
    result: TrialResult
    weights_sha256: str
    """Of the weights file, as the result has it."""
    weights_bytes: int
    """Its size."""

    @property
    def digest(self) -> str:
        """Of the trial, as it was when it ran."""
        return self.result.trial


def read_trials(store: Store) -> tuple[dict[str, Record], list[Damage]]:
    """All models of a store by digest, in the order of digests, and what is damaged."""
    records, damaged = {}, []
    for folder in sorted(store.root.glob("trials/[!.]*")):
        found = read_trial(folder)
        if isinstance(found, Record):
            records[found.digest] = found
        elif found is not None:
            damaged.append(found)
    return records, damaged


def read_trial(folder: Path) -> Record | Damage | None:
    """What a trial's folder holds; none where it is no model: half-trained, failed, or not worth keeping."""
    digest = folder.name
    try:
        if not (folder / RESULT_FILE).is_file():
            return None
        stored = read_json(folder / RESULT_FILE)
        if stored is None:
            return Damage(digest, f"{RESULT_FILE} is no JSON")
        if stored["result"]["status"] != "finished" or stored["weights_sha256"] is None:
            return None
        found = _record(stored)
        if found.result.trial != digest:
            return Damage(digest, f"{RESULT_FILE} is that of trial {found.result.trial}")
        fault = _fault(found) or package_fault(folder)
        return Damage(digest, fault) if fault else _with_size(found, folder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Damage(digest, f"{RESULT_FILE} describes no trial that this version knows: {said}")
    except OSError as error:
        return Damage(digest, f"{Path(error.filename or folder).name} can't be read: {error.strerror}")


def package_fault(folder: Path) -> str | None:
    """What is wrong with the network of a folder as far as names and sizes tell; none: nothing."""
    if read_json(folder / NETWORK_FILE) is None:
        return f"{NETWORK_FILE} is {'no JSON' if (folder / NETWORK_FILE).is_file() else 'missing'}"
    weights = folder / WEIGHTS_FILE
    return weights_fault(weights) if weights.is_file() else f"{WEIGHTS_FILE} is missing"


def weights_fault(path: Path) -> str | None:
    """What is wrong with the size of a safetensors file: it must be what its header says; none: nothing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH), "little")
        if HEADER_LENGTH + length > size:
            return f"{path.name} is truncated: it has {size:,} bytes, which is less than its header"
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            return f"{path.name} is no safetensors file"
    wanted = HEADER_LENGTH + length + max(ends, default=0)
    if size == wanted:
        return None
    return f"{path.name} {'is truncated' if size < wanted else 'is too long'}: {size:,} bytes instead of {wanted:,}"


def _record(stored: dict[str, Any]) -> Record:
    return Record(
        trial=Trial.from_dict(stored["trial"]),
        result=TrialResult(**stored["result"]),
        weights_sha256=stored["weights_sha256"],
        weights_bytes=0,
    )


def _with_size(record: Record, folder: Path) -> Record:
    return Record(
        trial=record.trial,
        result=record.result,
        weights_sha256=record.weights_sha256,
        weights_bytes=(folder / WEIGHTS_FILE).stat().st_size,
    )


def _fault(record: Record) -> str | None:
    """What this version can't do with a trial."""
    backbone = record.trial.network.backbone
    if backbone not in BACKBONES:
        return f"its backbone is {backbone!r}, but this version knows {', '.join(BACKBONES)}"
    if record.result.accuracy is None:
        return f"{RESULT_FILE} has no accuracy"
    for name in ("top1", "top5", "map"):
        value: Any = getattr(record.result, name)  # as it stands in the file
        if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
            return f"{RESULT_FILE} has {value!r} as {name}, which is no number"
    return None
