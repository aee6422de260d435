"""The dashboard and what feeds it: the files are as made, and every query is of a metric that there is.

Prometheus' own check of queries and configuration is run where `promtool` is installed (Debian: prometheus).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import ray.dashboard.modules.metrics.dashboards.default_dashboard_panels as ray_panels
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cluster.grafana.make_dashboard import DASHBOARD, WIDTH, text
from orchestrator.telemetry.metrics import METRICS
from orchestrator.telemetry.prometheus import exposition
from tests.orchestrator.sample_telemetry import epoch, progress, row, state

GRAFANA = DASHBOARD.parents[1]
NAME = re.compile(r"orchestrate_\w+|ray_\w+")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def test_the_file_is_what_the_script_makes() -> None:
    assert DASHBOARD.read_text(encoding="utf-8") == text(), "python -m cluster.grafana.make_dashboard"


def test_every_query_is_of_metrics_that_are_exported() -> None:
    """Ours against what a run exposes; Ray's own against what its own dashboards ask for (a test of the integration
    scrapes a node)."""
    told = progress()
    told.stage_started([row("a")])
    told.epoch_finished("a", epoch(1, top1=0.5))
    told.found(state())
    exported = {family.name for family in text_string_to_metric_families(exposition(told.samples()))}
    assert exported == METRICS.keys()
    rays = set(NAME.findall(Path(ray_panels.__file__).read_text(encoding="utf-8")))
    asked = {name for query in queries() for name in NAME.findall(query.replace("(ray_)?", ""))}
    assert asked <= exported | rays
    assert exported <= asked, "a metric that no panel shows"


def test_labels_in_legends_are_those_of_the_query() -> None:
    for panel in panels():
        for target in panel.get("targets", []):
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
                assert any(label in labels.split(", ") for labels in grouped), target["expr"]


def test_panels_have_an_id_each_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    places = [panel["gridPos"] for panel in panels()]
    assert all(0 <= place["x"] <= WIDTH - place["w"] for place in places)
    for a, b in combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]


def test_the_rows_are_what_an_operator_looks_for() -> None:
    assert [panel["title"] for panel in panels() if panel["type"] == "row"] == [
        "Search progress",
        "Pareto so far",
        "Throughput",
        "Failures by cause",
        "Hours used and saved",
        "Machines",
    ]


def test_grafana_and_prometheus_find_each_other_on_loopback() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://localhost:9090"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/orchestrate.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    ours, _ = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = ours["file_sd_configs"]
    assert found["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_takes_configuration_queries_and_metrics(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:query{number}", "expr": query.replace("$__range", "6h").replace("$run", ".*")}
        for number, query in enumerate(queries())
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    told = progress()
    told.stage_started([row("a")])
    told.found(state())
    subprocess.run(["promtool", "check", "config", GRAFANA / "prometheus.yml"], check=True, capture_output=True)
    checked = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout
    taken = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition(told.samples()), text=True, capture_output=True, check=False
    )
    assert taken.returncode == 0, taken.stderr
