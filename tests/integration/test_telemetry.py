"""What an operator's Prometheus sees of a search on Ray."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.grafana.make_dashboard import DASHBOARD
from orchestrator.telemetry.metrics import METRICS

ONLY_WITH_A_GPU = {"ray_node_gpus_utilization", "ray_node_gram_used"}

SEARCH = """
import json, sys, time, urllib.request
from pathlib import Path
import ray
from rich.console import Console
from orchestrator.session import Session
from orchestrator.telemetry.fan import Fan
from orchestrator.telemetry.watching import watched
from orchestrator.terminal import PlainLines
from tests.orchestrator.scripted import Listener, small_settings

class Scraper(Listener):
    stages = 0

    def epoch_finished(self, digest, metrics):
        pass

    def stage_finished(self, summary):
        self.stages += 1
        deadline = time.monotonic() + 60
        while self.stages == 2 and time.monotonic() < deadline:  # Ray gathers every 10 s
            node = ray.nodes()[0]
            address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(address, timeout=5) as answer:
                text = answer.read().decode()
            Path(sys.argv[3]).write_text(text)
            if 'member="PAS-1"' in text and "ray_node_mem_used_host" in text:
                return
            time.sleep(0.5)

overrides = ["search.iterations=1", "runtime.name=mine", "runtime.runner=ray"]
settings = small_settings(Path(sys.argv[1]), Path(sys.argv[2]), *overrides)
with watched(settings, "pas", PlainLines(Console())) as observer:
    Session(settings, Fan(observer, [("scraping fails", Scraper())])).execute()
"""


@pytest.mark.integration
@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_search_on_ray_shows_at_the_metrics_port_of_its_node(digits: Path, tmp_path: Path) -> None:
    """Every metric of ours, with the values that `metrics.prom` keeps; and those of Ray that the dashboard asks for."""
    runs, scraped = tmp_path / "runs", tmp_path / "scrape.txt"
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, digits, runs, scraped], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The run goes on without" not in done.stdout
    node = values(scraped)
    kept = values(runs / "mine" / "metrics.prom")
    assert {name for name, *_ in kept} == METRICS.keys()
    assert {(f"ray_{name}", *labels): value for (name, *labels), value in kept.items()}.items() <= node.items()
    asked = set(re.findall(r"ray_node_\w+", DASHBOARD.read_text())) - ONLY_WITH_A_GPU
    assert asked <= {name for name, *_ in node}


def values(path: Path) -> dict[tuple[str, ...], float]:
    """Values by metric and our labels; networks of the same cost would be one."""
    ours = ("run", "trial", "change", "member", "state", "cause")
    return {
        (sample.name, *(sample.labels[label] for label in ours if label in sample.labels)): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
