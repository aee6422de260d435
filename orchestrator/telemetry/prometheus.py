"""Metrics as a text file that Prometheus reads, by way of node_exporter's textfile collector.

runs/NAME/metrics.prom is replaced as a whole, and stays when the run is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from orchestrator.telemetry.metrics import METRICS, Sample
from trainers.files import write_text

METRICS_FILE = "metrics.prom"


class PrometheusFile:
    """A sink (`meter.py`): the file in a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE

    def write(self, samples: Sequence[Sample]) -> None:
        """Replace the file.

        Raises:
            OSError: it can't be written.
        """
        write_text(self.path, exposition(samples))


def exposition(samples: Sequence[Sample]) -> str:
    """Samples in Prometheus' text format, version 0.0.4.

    Args:
        samples: those of one metric one after the other.
    """
    lines = []
    for metric, of_metric in groupby(samples, lambda sample: sample.metric):
        lines += [f"# HELP {metric} {METRICS[metric].help}", f"# TYPE {metric} gauge"]
        lines += [f"{metric}{{{_labels(sample)}}} {sample.value!r}" for sample in of_metric]
    return "".join(f"{line}\n" for line in lines)


def _labels(sample: Sample) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
