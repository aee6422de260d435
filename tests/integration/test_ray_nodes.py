"""A node on which everything fails is avoided, and a training that fails everywhere is not tried for ever."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from compression.spec import NetworkSpec
from configs.schema import ClipSettings, RuntimeSettings
from trainers.site import Site
from trainers.trial import Trial, TrialResult

GOOD, BAD = "127.0.0.1", "127.0.0.2"
"""Addresses of two nodes on this machine."""
UNLUCKY = "seed5"
"""The trial that dies wherever it runs."""


@pytest.mark.integration
@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_nodes_and_trials_at_fault(tmp_path: Path) -> None:
    """In a process of its own, since Ray leaves its threads and settings in one."""
    told = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    lines = [line for line in told.stdout.splitlines() if line.startswith(("trial ", "failure ", "avoided "))]
    assert [line for line in lines if line.startswith("trial ")] == [
        *(f"trial seed{seed} finished on {GOOD}" for seed in range(5)),
        f"trial {UNLUCKY} failed on None",
    ], told.stdout
    assert f"avoided {BAD}" in lines
    assert all(" process " in line for line in lines if line.startswith("failure "))
    assert [line for line in lines if line.endswith("given up")] == [f"failure {UNLUCKY} process given up"]


def say(*words: str | None) -> None:
    """Write a line for the test."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")


def main(folder: Path) -> None:
    """Six trials on two nodes; says what came of them."""
    from orchestrator import ray_runner  # before Ray: it keeps the head on loopback, too
    from orchestrator.ray_watch import RESULT

    ray, cluster_utils = (importlib.import_module(name) for name in ("ray", "ray.cluster_utils"))

    class Dying(ray_runner.TrialActor):
        """Trains nothing: it dies, or says where it is."""

        def step(self) -> dict[str, Any]:
            if not self.has_told_where:
                return super().step()
            time.sleep(0.5)
            here = ray.util.get_node_ip_address()
            if here == BAD or self.trial.name == UNLUCKY:
                os.kill(os.getpid(), signal.SIGKILL)
            done = TrialResult(trial=self.trial.digest, name=self.trial.name, status="finished", reason=here)
            return {RESULT: asdict(done), "done": True}

    class Silent:
        """An observer."""

        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    memory = 80 * 2**20
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": memory})
    cluster.add_node(num_cpus=1, node_ip_address=BAD, object_store_memory=memory)
    ray.init(address=cluster.address, log_to_driver=False)
    ray_runner.TrialActor = Dying  # type: ignore[misc]
    network = NetworkSpec(backbone="slowfast", classes=8, clip_frames=8, side=16, blocks=(1, 1, 1, 1))
    trials = [
        Trial(name=f"seed{seed}", network=network, data="d", train=None, seed=seed, clips=ClipSettings())
        for seed in range(6)
    ]
    runner = ray_runner.RayRunner(
        Site(store=folder),
        RuntimeSettings(address=cluster.address, max_failures=2),
        Silent(),
        run="mine",
        metadata={},
        failed=lambda failure: say("failure", failure.name, failure.cause, failure.action),
    )
    for result in runner.train("stage", trials):
        say("trial", result.name, result.status, "on", result.reason if result.status == "finished" else None)
    say("avoided", *runner._nodes_at_fault())
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
