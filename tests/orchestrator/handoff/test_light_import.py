"""A detector imports the reader without what searches, data and training need: tried in a process that forbids it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.handoff.sample_package import write_package
from tests.trainers import tiny

ROOT = Path(__file__).parents[3]

FORBIDDEN = [
    *("ray", "av", "matplotlib", "fvcore", "nni", "torch_pruning", "onnx", "onnxruntime", "sklearn", "torchmetrics"),
    *("torchvision", "typer", "rich", "jinja2", "PIL", "yaml", "cryptography"),
    *("trainers.loop", "trainers.data", "trainers.tasks", "trainers.reid", "trainers.evaluation", "trainers.artefacts"),
    *("orchestrator.session", "orchestrator.cli", "orchestrator.registry", "orchestrator.store"),
    *("compression.pruning", "compression.distillation"),
]

PROCESS = """
import json, sys, time

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in FORBIDDEN):
            raise ImportError(f"{name} is not for the reader")

FORBIDDEN, folder = json.loads(sys.argv[1]), sys.argv[2]
sys.meta_path.insert(0, Forbidden())
started = time.perf_counter()
import torch
torch_seconds, with_torch = time.perf_counter() - started, set(sys.modules)
from orchestrator.handoff import load
seconds, added = time.perf_counter() - started, set(sys.modules) - with_torch
import numpy
model = load(folder, stages=["layer4", "layer2"])
inputs = model.preprocess(numpy.full((8, 24, 32, 3), 128, numpy.uint8))
maps = model.features(inputs)
print(json.dumps({
    "seconds": seconds,
    "torch_seconds": torch_seconds,
    "modules": sorted(added),
    "logits": list(model(inputs).shape),
    "dynamo": "torch._dynamo" in sys.modules,
    "maps": {name: list(map.shape) for name, map in maps.items()},
}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a consumer's process did, and what it imported for that."""
    folder = write_package(tmp_path_factory.mktemp("package") / "model")
    command = [sys.executable, "-c", PROCESS, json.dumps(FORBIDDEN), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_it_loads_prepares_and_computes(seen: dict[str, Any]) -> None:
    assert seen["logits"] == [1, len(tiny.CLASSES)]
    assert list(seen["maps"]) == ["layer4", "layer2"]


def test_no_compiler_is_imported_to_load_weights(seen: dict[str, Any]) -> None:
    """It takes seconds, and drawing random numbers on the meta device would ask for it."""
    assert not seen["dynamo"]


def test_few_modules_are_imported(seen: dict[str, Any]) -> None:
    """Counted, because seconds depend on who else uses the machine; they are printed (pytest -s)."""
    ours = {"orchestrator", "trainers", "compression", "configs"}
    own = [name for name in seen["modules"] if name.split(".")[0] in ours]
    others = {name.split(".")[0] for name in seen["modules"]} - ours - sys.stdlib_module_names
    sys.stdout.write(f"import: {seen['seconds']:.2f} s, of which torch {seen['torch_seconds']:.2f} s; {own}\n")
    assert len(own) <= 40, own
    libraries = {name for name in others if not name.startswith("_")}
    assert libraries <= {"torch", "numpy", "pydantic", "pydantic_core", "safetensors", "jaxtyping", "triton"} | {
        *("annotated_types", "typing_inspection", "typing_extensions"),  # of pydantic
    }


def test_the_process_does_forbid() -> None:
    """Or the tests above would say nothing."""
    planted = PROCESS.partition("started =")[0] + "import trainers.data.clips"
    command = [sys.executable, "-c", planted, json.dumps(FORBIDDEN), "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "ImportError: trainers.data is not for the reader" in done.stderr
