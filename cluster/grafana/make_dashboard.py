"""Write the Grafana dashboard: `python -m cluster.grafana.make_dashboard` in the checkout's root.

A metric's name has `ray_` before it where Ray exports it, and none in `metrics.prom`; queries take either. A series is
taken once, whoever told of it (`max by`): a driver that was started again is another worker to Ray. What vanishes with
the driver is shown with its last value in the time range (`last_over_time`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.telemetry.metrics import METRICS

DASHBOARD = Path(__file__).parent / "dashboards" / "orchestrate.json"
WIDTH = 24
"""Columns of Grafana's grid."""
SOURCE = {"type": "prometheus", "uid": "${source}"}
CHOSEN = 'run=~"$run"'

Panel = dict[str, Any]
Query = tuple[str, str]
"""PromQL, and the legend."""


def series(metric: str, *labels: str, matching: str = "") -> str:
    """A metric as it is now, once per value of some of its labels."""
    assert set(labels) <= set(METRICS[metric].labels), f"{metric} has no label among {labels}"
    return f"max by ({', '.join(('run', *labels))}) ({_selected(metric, matching)})"


def last(metric: str, *labels: str, matching: str = "") -> str:
    """A metric as it was last, likewise."""
    assert set(labels) <= set(METRICS[metric].labels), f"{metric} has no label among {labels}"
    return f"max by ({', '.join(('run', *labels))}) (last_over_time({_selected(metric, matching)}[$__range]))"


def _selected(metric: str, matching: str) -> str:
    return _named(metric, CHOSEN, *filter(None, [matching]))


def _named(metric: str, *matching: str) -> str:
    return "{" + ", ".join((f'__name__=~"(ray_)?{metric}"', *matching)) + "}"


def graph(title: str, queries: Sequence[Query], *, unit: str = "short", width: int = 8, stacked: bool = False) -> Panel:
    """Lines over time."""
    custom = {"fillOpacity": 20 if stacked else 0, "stacking": {"mode": "normal" if stacked else "none"}}
    return {
        **_panel("timeseries", title, queries, unit=unit, custom=custom),
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "gridPos": {"w": width, "h": 8},
    }


def figure(title: str, query: Query, *, unit: str = "short", width: int = 4) -> Panel:
    """One number per run."""
    return {
        **_panel("stat", title, [query], unit=unit, instant=True),
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "auto", "colorMode": "none"},
        "gridPos": {"w": width, "h": 4},
    }


def table(title: str, queries: Sequence[Query], *, by: str, width: int = 12) -> Panel:
    """A row per value of a label, a column per query, which the legend names."""
    letters = [chr(ord("A") + place) for place in range(len(queries))]
    names = {f"Value #{letter}": name for letter, (_, name) in zip(letters, queries, strict=True)}
    return {
        **_panel("table", title, queries, instant=True, format_="table"),
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
        ],
        "options": {"sortBy": [{"displayName": by}]},
        "gridPos": {"w": width, "h": 8},
    }


def scatter(title: str, across: Query, up: Query, *, width: int = 12) -> Panel:
    """A point per series: one value across, the other up."""
    names = {"Value #A": across[1], "Value #B": up[1]}
    return {
        **_panel("xychart", title, [across, up], instant=True, format_="table"),
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
        ],
        "options": {
            "mapping": "manual",
            "series": [
                {
                    "frame": {"matcher": {"id": "byIndex", "options": 0}},
                    "x": {"matcher": {"id": "byName", "options": across[1]}},
                    "y": {"matcher": {"id": "byName", "options": up[1]}},
                }
            ],
        },
        "gridPos": {"w": width, "h": 8},
    }


def _panel(
    kind: str,
    title: str,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    custom: Panel | None = None,
    instant: bool = False,
    format_: str = "time_series",
) -> Panel:
    return {
        "type": kind,
        "title": title,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "custom": custom or {}}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": instant,
                "range": not instant,
                "format": format_,
            }
            for place, (query, legend) in enumerate(queries)
        ],
    }


MEMBER_GMACS, MEMBER_ACCURACY = (
    last("orchestrate_member_gmacs", "member"),
    last("orchestrate_member_accuracy", "member"),
)
IN_TRAINING = f"{series('orchestrate_clips_per_second', 'trial')} > 0"
OVER = last("orchestrate_trials", "state", matching='state!~"pending|running"')
EPOCHS = [("orchestrate_epoch", "epoch"), ("orchestrate_epochs", "of"), ("orchestrate_loss", "loss")]
COSTS = [("orchestrate_accuracy", "accuracy"), ("orchestrate_gmacs", "GMACs"), ("orchestrate_params", "parameters")]

ROWS: dict[str, list[Panel]] = {
    "Search progress": [
        figure("Iteration", (last("orchestrate_iteration"), "{{run}}")),
        figure("Trials over", (f"sum by (run) ({OVER})", "{{run}}")),
        figure("Trials failed", (f"sum by (run) ({last('orchestrate_failures', 'cause')})", "{{run}}")),
        figure("Best accuracy", (f"max by (run) ({MEMBER_ACCURACY})", "{{run}}"), unit="percentunit"),
        figure("Smallest network, GMACs", (f"min by (run) ({MEMBER_GMACS} >= 0)", "{{run}}")),
        figure("Hours saved, of all", (
            f"sum by (run) ({last('orchestrate_core_seconds_saved')}) / sum by (run) "
            f"({last('orchestrate_core_seconds_saved')} + {last('orchestrate_core_seconds_used')})",
            "{{run}}",
        ), unit="percentunit"),
        graph("Trials by state", [(series("orchestrate_trials", "state"), "{{run}} {{state}}")], stacked=True),
        graph("Accuracy", [(series("orchestrate_accuracy", "trial"), "{{trial}}")], unit="percentunit"),
        graph("Loss", [(series("orchestrate_loss", "trial"), "{{trial}}")]),
        table("Trials", [
            (last(metric, "trial", "change"), name) for metric, name in (*EPOCHS, *COSTS)
        ], by="trial", width=WIDTH),
    ],
    "Pareto so far": [
        scatter("Accuracy against cost", (MEMBER_GMACS, "GMACs"), (MEMBER_ACCURACY, "accuracy")),
        table("What the run hands on", [
            (MEMBER_ACCURACY, "accuracy"),
            (MEMBER_GMACS, "GMACs"),
            (last("orchestrate_member_on_front", "member"), "on the front"),
        ], by="GMACs"),
    ],
    "Throughput": [
        graph("Clips per second", [(IN_TRAINING, "{{trial}}")], stacked=True, width=12),
        graph("Share of time spent waiting for data", [
            (f"{series('orchestrate_data_wait_share', 'trial')} and ({IN_TRAINING})", "{{trial}}"),
        ], unit="percentunit", width=12),
    ],
    "Failures by cause": [
        graph("Trials that did not finish", [
            (series("orchestrate_failures", "cause"), "{{run}} {{cause}}"),
        ], stacked=True, width=WIDTH),
    ],
    "Hours used and saved": [
        graph(f"{name}-hours", [
            (f"{series(f'orchestrate_{unit}_seconds_used')} / 3600", "{{run}} used"),
            (f"{series(f'orchestrate_{unit}_seconds_saved')} / 3600", "{{run}} answered from the store"),
        ], stacked=True, width=12)
        for unit, name in (("gpu", "GPU"), ("core", "Core"))
    ],
    "Machines": [
        graph("GPUs in use", [("sum by (instance) (ray_node_gpus_utilization) / 100", "{{instance}}")], width=6),
        graph("GPU memory", [
            ("sum by (instance) (ray_node_gram_used) * 1024 * 1024", "{{instance}}"),
        ], unit="bytes", width=6),
        graph("CPU", [("avg by (instance) (ray_node_cpu_utilization)", "{{instance}}")], unit="percent", width=6),
        graph("Memory", [("sum by (instance) (ray_node_mem_used_host)", "{{instance}}")], unit="bytes", width=6),
    ],
}  # fmt: skip
"""The dashboard's rows, and the panels of each."""


def dashboard() -> Panel:
    """The dashboard, as Grafana reads it."""
    return {
        "uid": "orchestrate",
        "title": "orchestrate",
        "tags": ["orchestrate", "ray"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "run",
                    "label": "Run",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": {"query": f"label_values({_named('orchestrate_trials')}, run)", "refId": "run"},
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": placed(ROWS),
    }


def placed(rows: dict[str, list[Panel]]) -> list[Panel]:
    """Panels with an id and a place each: side by side as far as the grid is wide, row below row."""
    panels: list[Panel] = []
    top = 0
    for title, of_row in rows.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}, "panels": []})
        left, top, height = 0, top + 1, 0
        for panel in of_row:
            size = panel["gridPos"]
            if left + size["w"] > WIDTH:
                left, top, height = 0, top + height, 0
            panels.append({**panel, "gridPos": {"x": left, "y": top, **size}})
            left, height = left + size["w"], max(height, size["h"])
        top += height
    return [{"id": number, **panel} for number, panel in enumerate(panels, start=1)]


def text() -> str:
    """The dashboard's file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text(), encoding="utf-8")
