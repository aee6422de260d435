"""Metrics as gauges of Ray, which every node exports to Prometheus beside its own: `ray_orchestrate_…`.

Measured with Ray 2.60: a value shows at the port of the driver's node (`MetricsExportPort`) within 10 s, what is set
before Ray has started is lost, and all values vanish with the driver's process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import ray
from ray.util.metrics import Gauge

from orchestrator.telemetry.metrics import METRICS, Sample

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A metric's name, and its labels as pairs."""


class RayGauges:
    """A sink (`meter.py`): does nothing before Ray has started or after it has gone."""

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._shown: set[Series] = set()

    def write(self, samples: Sequence[Sample]) -> None:
        """Set every gauge; what is no longer said becomes NaN, since Ray forgets no series."""
        if not ray.is_initialized():
            return
        now = {(sample.metric, tuple(sample.labels.items())): sample.value for sample in samples}
        for series in self._shown - now.keys():
            self._set(series, math.nan)
        for series, value in now.items():
            self._set(series, value)
        self._shown = set(now)

    def _set(self, series: Series, value: float) -> None:
        name, labels = series
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, METRICS[name].help, tag_keys=METRICS[name].labels)
        self._gauges[name].set(value, dict(labels))
