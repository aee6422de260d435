"""What a real Ray listens on, and how real clusters with and without token are met."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ray_access import is_loopback

pytestmark = [pytest.mark.integration, pytest.mark.cluster, pytest.mark.timeout(300)]

OWN_RAY = """
import json, os, sys
from pathlib import Path
import psutil
from configs.schema import RuntimeSettings
from orchestrator.observer import Observer
from orchestrator.ray_runner import RayRunner
from trainers.site import Site

class Silent(Observer):
    def message(self, text): pass

store = Path(sys.argv[1])
runtime = RuntimeSettings(dashboard=True, dashboard_port=int(sys.argv[2]))
with RayRunner(Site(store=store), runtime, Silent(), run="mine", metadata={}) as runner:
    runner.train("nothing", [])
    driver = psutil.Process()
    found = {
        f"{process.name()}:{connection.laddr.port}": connection.laddr.ip
        for process in [driver, *driver.children(recursive=True)]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
print(json.dumps(found))
"""

CLUSTER = """
set -euo pipefail
mount -t proc proc /proc
ip link set lo up
ip link add far type veth peer name near
ip addr add 10.77.0.1/24 dev far
ip link set far up
ip link set near up
mkdir -p /tmp/ray
mount -t tmpfs ray /tmp/ray  # where Ray notes which clusters run here: other ones are not to be seen
if [ "$1" = token ]; then ray get-auth-token --generate >&2; fi
RAY_AUTH_MODE=$1 ray start --head --node-ip-address=10.77.0.1 --num-cpus=1 --object-store-memory=80000000 >&2
exec python -c '
import json
from configs.errors import UserError
from orchestrator.ray_access import open_cluster
import ray

def meet(address):
    try:
        open_cluster(address)
        ray.init(address, log_to_driver=False, logging_level="ERROR")
        return str(ray.cluster_resources()["CPU"])
    except UserError as error:
        return str(error)
    finally:
        ray.shutdown()

print(json.dumps([meet(address) for address in ("10.77.0.1:6379", "127.0.0.1:6379", "auto")]))
'
"""
"""A head node alone in network, process and mount namespaces of its own, and three ways to join it. (`ray stop` outside
of such a namespace would stop every Ray of the machine; here the kernel ends what is left.)"""


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def environment(home: Path) -> dict[str, str]:
    """No word of Ray's, no token, and this environment's programs first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    root = Path(__file__).resolve().parents[2]
    return {**kept, "HOME": str(home), "PATH": programs, "PYTHONPATH": str(root), "RAY_USAGE_STATS_ENABLED": "0"}


def last_line(command: list[str], home: Path) -> Any:
    """What a program prints last, as JSON."""
    done = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def meetings(mode: str, home: Path) -> list[str]:
    """What comes of joining a cluster by its address, through loopback, and as `auto`."""
    isolated = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*isolated, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make network namespaces")
    answers: list[str] = last_line([*isolated, "bash", "-c", CLUSTER, "cluster", mode], home)
    return answers


def test_a_ray_of_our_own_listens_on_loopback_alone(tmp_path: Path, unused_port: int) -> None:
    """Dashboard, GCS, raylet, agents and metrics: left to itself, Ray 2.60 puts most of them on every address."""
    listening = last_line([sys.executable, "-c", OWN_RAY, str(tmp_path / "runs"), str(unused_port)], tmp_path)
    assert {"gcs_server", "raylet"} <= {name.split(":")[0] for name in listening}
    assert any(name.endswith(f":{unused_port}") for name in listening)
    open_to_others = {
        name: address for name, address in listening.items() if not is_loopback(address.removeprefix("::ffff:"))
    }
    assert open_to_others == {}
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


def test_a_cluster_without_token_is_refused_however_it_is_reached(tmp_path: Path) -> None:
    """Also through loopback: the nodes' own addresses count."""
    for address, answer in zip(
        ("10.77.0.1:6379", "127.0.0.1:6379", "auto"), meetings("disabled", tmp_path), strict=True
    ):
        assert f"runtime.address is '{address}', but the cluster there (node 10.77.0.1) obeys whoever" in answer


def test_a_cluster_with_token_is_joined_with_it(tmp_path: Path) -> None:
    assert meetings("token", tmp_path) == ["1.0", "1.0", "1.0"]
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
