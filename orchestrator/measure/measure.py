"""`orchestrate measure`: what models cost on this machine, compared with the first of them.

Latencies of all models are taken in turns within one run; a ratio is the median over rounds of the ratio within a
round. What a model needs beside time is found out in a process of its own (`probes/alone.py`).

Units: ms, MB (1e6 bytes), mJ per clip or image.
"""

from __future__ import annotations

import importlib.metadata
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.errors import UserError
from orchestrator.latency import processor
from orchestrator.measure.probes.alone import measure_alone
from orchestrator.measure.probes.end_to_end import source_of, time_end_to_end
from orchestrator.measure.probes.loading import Device, load_on, require_device
from orchestrator.measure.turns import Conditions, speedup, time_in_turns
from trainers.artefacts import FORMATS, format_of, size_bytes

__all__ = ["Conditions", "Measurement", "circumstances", "measure_models", "time_in_turns"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one model costs. None is what was not measured; `notes` says why."""

    model: str
    """Its folder, as it was given."""
    format: str
    """`package`, or a key of `trainers.artefacts.FORMATS`."""
    precision: str
    """In what most of it computes: `int8` or `fp32`."""
    median_ms: float
    """Latency of a forward pass of a whole batch: median."""
    p95_ms: float
    """Latency that 95 % of the passes stay below."""
    per_second: float
    """Clips or images per second: batch / median."""
    speedup: float
    """How many times faster than the first model: median over rounds of the ratio; 1 of the first itself."""
    size_mb: float
    """Bytes of the files needed to run it."""
    times_smaller: float
    """Size of the first model over this one's."""
    peak_mb: float | None = None
    """Peak memory; see `probes/alone.py`."""
    energy_mj: float | None = None
    """Energy per clip or image, of the whole processor or GPU."""
    energy_source: str = "no counter"
    """`RAPL package-0`, `NVML`, or `no counter`."""
    gpu_percent: float | None = None
    """Utilisation of the GPU."""
    gpu_mb: float | None = None
    """Memory in use on the GPU."""
    end_to_end: dict[str, Any] | None = None
    """Medians from the file on: `decode_ms`, `clip_ms`, `network_ms`, `total_ms`; of one clip or image."""
    notes: tuple[str, ...] = ()
    """Why something was not measured."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "notes": list(self.notes)}


def measure_models(
    paths: Sequence[Path], conditions: Conditions, *, video: Path | None = None, device: Device = "cpu"
) -> list[Measurement]:
    """Measure models against the first of them.

    Args:
        paths: model folders, or folders that a model was exported to; the first is what the others are compared with.
        conditions: batch, threads, rounds.
        video: a video (of networks for images: an image) to go through from file to outputs; none: that is left out.
        device: where they run.

    Raises:
        UserError: no path, no model, no such device, or a video that can't be used.
    """
    if not paths:
        raise UserError("there is no model to measure; give at least one model folder")
    require_device(device)
    loaded = [load_on(path, device, conditions.threads) for path in paths]
    networks = [network for network, _ in loaded]
    sources = [source_of(video, description) for _, description in loaded] if video else []
    times = time_in_turns(networks, conditions)
    journeys = time_end_to_end(networks, sources, conditions) if sources else [None] * len(paths)
    sizes = [size_bytes(path) for path in paths]
    return [
        Measurement(
            model=str(path),
            format=(kind := format_of(path)),
            precision=FORMATS[kind].precision if kind in FORMATS else "fp32",
            **latency_of(taken, times[0], conditions.batch),
            size_mb=size / 1e6,
            times_smaller=sizes[0] / size,
            end_to_end=journey,
            **asdict(measure_alone(path, conditions, device)),
        )
        for path, taken, size, journey in zip(paths, times, sizes, journeys, strict=True)
    ]


def latency_of(times: Sequence[float], reference: Sequence[float], batch: int) -> dict[str, Any]:
    """`median_ms`, `p95_ms`, `per_second` and `speedup` of the times of some rounds.

    Args:
        times: milliseconds per round.
        reference: those of the model that it is compared with, in the same rounds.
        batch: clips or images per pass.
    """
    median = statistics.median(times)
    return {
        "median_ms": median,
        "p95_ms": float(np.quantile(times, 0.95)),
        "per_second": 1e3 * batch / median,
        "speedup": speedup(reference, times),
    }


def circumstances(conditions: Conditions, device: Device = "cpu") -> dict[str, Any]:
    """What a measurement was made under: machine, device, conditions, and versions of what ran the models."""
    machine = torch.cuda.get_device_name() if device == "cuda" else processor()
    versions = {"torch": torch.__version__, "onnxruntime": importlib.metadata.version("onnxruntime")}
    return {"machine": machine, "device": device, **conditions.to_dict(), **versions}
