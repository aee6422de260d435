"""`orchestrate export`: a model as a file to be deployed, measured against its floating-point original first.

MODEL → (calibrated, quantised) → written beside its place → timed in turns with the original, scored, weighed
      → gate → metrics.json, card.md → renamed into place, whole
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.export.fallback import Quantised, quantise_within
from orchestrator.export.request import (
    CARD_FILE,
    FILES,
    ExportRequest,
    Original,
    load_model,
    needs_calibration,
    original_of,
    require_target,
)
from orchestrator.export.staging import whole_folder
from orchestrator.gate import Verdict, judge
from orchestrator.measure.measure import circumstances, latency_of, time_in_turns
from orchestrator.models import METRICS_FILE
from orchestrator.report.export_card import export_card
from orchestrator.validation import Validation
from trainers.artefacts import FORMATS, load_artefact, size_bytes
from trainers.backbones import Network
from trainers.files import read_json, sha256_of, write_json, write_text
from trainers.package import WEIGHTS_FILE, Description
from trainers.quantisation import read_layers, write_layers
from trainers.results import versions
from trainers.tasks import task_of

COMPARED = 16
"""Training examples on which a file with integers is compared with the INT8 model that it was made from."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What came of it."""

    folder: Path
    """The folder written."""
    verdict: Verdict
    """What the gate says."""
    numbers: dict[str, Any]
    """What `metrics.json` has."""

    def to_dict(self) -> dict[str, Any]:
        """The documented JSON form: `metrics.json`, and where it is."""
        return {"folder": str(self.folder), **self.numbers}


def export_model(request: ExportRequest, say: Callable[[str], None] = lambda _: None) -> Export:
    """Write a model in a format, and judge the file by what is measured of it here.

    The folder is written whatever the verdict, which its card and `metrics.json` open with. After an error there is
    nothing, or the export that was there before.

    Args:
        request: what is asked for.
        say: told what is being done.

    Raises:
        UserError: no model, no original, no data, or a network that the format can't hold.
        RunError: the outputs of the original or of the file are not finite numbers.
    """
    require_target(request)
    network, description = load_model(request)
    original = original_of(request, network, description)
    validation = None
    if request.accuracy or needs_calibration(request, description):
        validation = Validation.open(request.model, description, request.data)
    scored = validation if request.accuracy else None
    if scored:
        say("accuracy of the original")
        scores = scored.scores(original.network, original.description, original.folder)
        original = dataclasses.replace(original, scores=scores)
    with whole_folder(request.target, files=FILES) as folder:
        made = write_artefact(request, folder, network, description, original, validation, say)
        rows = measure_both(request, original, folder, scored, say)
        numbers = numbers_of(request, description, original, validation, rows, made)
        verdict = judge(
            speedup=numbers["speedup"], drop_points=numbers["drop_points"], max_drop_points=request.max_drop_points
        )
        numbers = {"verdict": verdict.to_dict(), **numbers}
        write_json(folder / METRICS_FILE, numbers)
        write_text(folder / CARD_FILE, export_card(numbers, read_layers(folder)))
    return Export(folder=request.target, verdict=verdict, numbers=numbers)


@dataclass(frozen=True)
class Made:
    """How an artefact was made."""

    notes: tuple[str, ...] = ()
    """What its writer has to say."""
    quantised: Quantised | None = None
    """How its network was quantised, where that was done here."""


def write_artefact(
    request: ExportRequest,
    folder: Path,
    network: Network,
    description: Description,
    original: Original,
    validation: Validation | None,
    say: Callable[[str], None],
) -> Made:
    """Fill `folder` with model file and description; for `int8` also with `layers.json`."""
    inputs, quantised = [], None
    layers = read_layers(request.model)
    if needs_calibration(request, description):
        assert validation is not None
        say(f"calibrating on {request.calibration} training examples")
        inputs = validation.calibration(description, request.calibration)
    elif validation is not None and request.format == "onnx-int8":
        inputs = validation.calibration(description, COMPARED)
    if inputs and request.format == "int8":
        say("quantising")
        quantised = quantise_within(
            network,
            inputs,
            drop_from(original, validation, description) if request.accuracy else None,
            max_drop_points=request.max_drop_points,
            max_fallbacks=request.max_fallbacks,
        )
        layers = quantised.layers(network)
        network, description = quantised.network, dataclasses.replace(description, spec=quantised.network.spec)
    say(f"writing {request.format}")
    notes = FORMATS[request.format].write(network, description, folder, inputs)
    if request.format == "int8" and layers:
        write_layers(folder, layers)
    return Made(tuple(notes), quantised)


def drop_from(
    original: Original, validation: Validation | None, description: Description
) -> Callable[[Network], float]:
    """Measures what a network loses against the original, in points."""
    assert validation is not None
    metric = task_of(description.spec).metric

    def drop(candidate: Network) -> float:
        scores = validation.scores(candidate, description, original.folder)
        return 100 * (original.scores[metric] - scores[metric])

    return drop


def measure_both(
    request: ExportRequest,
    original: Original,
    folder: Path,
    validation: Validation | None,
    say: Callable[[str], None],
) -> tuple[dict[str, float], dict[str, float]]:
    """Latency, size and accuracy of the original and of the file in `folder`, as it was written."""
    conditions = request.conditions
    say(f"timing both, {conditions.runs} runs in turns")
    timed = [load_artefact(path, threads=conditions.threads)[0] for path in (original.folder, folder)]
    times = time_in_turns(timed, conditions)
    first, second = (
        row_of(latency_of(each, times[0], conditions.batch), path)
        for each, path in zip(times, (original.folder, folder), strict=True)
    )
    if validation is None:
        return first, second
    say("accuracy of the file")
    exported, description = load_artefact(folder)
    return first | original.scores, second | validation.scores(exported, description, request.target)


def row_of(latency: dict[str, float], path: Path) -> dict[str, float]:
    """What is said of a file or its original beside accuracy, in ms and MB; latency as `orchestrate measure` has it."""
    return {
        "latency_ms": latency["median_ms"],
        "p95_ms": latency["p95_ms"],
        "speedup": latency["speedup"],
        "size_mb": size_bytes(path) / 1e6,
    }


def numbers_of(
    request: ExportRequest,
    description: Description,
    original: Original,
    validation: Validation | None,
    rows: tuple[dict[str, float], dict[str, float]],
    made: Made,
) -> dict[str, Any]:
    """What `metrics.json` says but for the verdict."""
    first, second = rows
    metric = task_of(description.spec).metric
    here = request.target.absolute()
    recorded = read_json(request.model / METRICS_FILE) or {}
    data = validation.record() if validation else recorded.get("data")
    return {
        "name": recorded.get("name", request.model.absolute().name),
        "backbone": description.spec.backbone,
        "format": request.format,
        **second,
        "fp32": first,
        "smaller": first["size_mb"] / second["size_mb"],
        "metric": metric,
        "drop_points": 100 * (first[metric] - second[metric]) if request.accuracy else None,
        "max_drop_points": request.max_drop_points,
        "model": os.path.relpath(request.model.absolute(), here),
        "model_sha256": sha256_of(request.model / WEIGHTS_FILE),
        "original": os.path.relpath(original.folder.absolute(), here),
        "calibration": request.calibration if needs_calibration(request, description) else None,
        "returned": [
            {"layer": one.layer, "reason": one.reason} for one in (made.quantised.returned if made.quantised else ())
        ],
        "notes": list(made.notes),
        "conditions": circumstances(request.conditions),
        "versions": versions(),
        **({"data": data} if data else {}),
    }
