"""What a model needs when it is alone in a process: peak memory, energy per input, and how busy it keeps a GPU.

    python -m orchestrator.measure.probes.alone MODEL [--batch 1 --threads 1 --device cpu]

prints `Needs` as one line of JSON. Each model gets a fresh process: in one that has run others, memory is not its own.

Peak memory is what the process grows by while the model is loaded and run: weights, maps between layers, scratch
space, and what loading needs for a while. Before that, all libraries were imported and a much smaller network of the
same kind was built and run; without this rehearsal the libraries' own first use, 95 MB, hid what small models need.
On a GPU it is what PyTorch's allocator gave out there at most; the driver's context is not in it.
Energy and the GPU are looked at while the model runs over and over for two seconds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from compression.spec import NetworkSpec, Quantisation
from orchestrator.measure.probes.energy import NO_COUNTER, EnergyCounter, NoCounter, NvmlCounter, find_rapl
from orchestrator.measure.probes.gpu import GpuError, GpuSampler, gpu_handle
from orchestrator.measure.probes.loading import Device, load_on
from orchestrator.measure.probes.memory import PeakMemory
from orchestrator.measure.turns import Conditions, random_inputs, thread_count
from trainers.artefacts import format_of
from trainers.backbones import BACKBONES, build
from trainers.package import read_description

LOADED_RUNS = 3
"""Forward passes after which a model's memory does not grow further."""
REHEARSED: dict[str, Any] = {"width": 1 / 32, "blocks": (1, 1, 1, 1), "side": 16}
"""What makes a network tiny."""
LOOP_SECONDS = 2.0
"""How long a model runs for its energy and for the GPU to be looked at."""
PATIENCE_SECONDS = 900.0
"""After which a process that measures is given up."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What was found out; None where it could not be, and then `notes` says why."""

    peak_mb: float | None = None
    """Peak memory in MB, 1e6 bytes; see the module."""
    energy_mj: float | None = None
    """Millijoules per clip or image, of the whole package or GPU, idling included."""
    energy_source: str = NO_COUNTER
    """Which counter said so."""
    gpu_percent: float | None = None
    """Share of the time in which the GPU was at work, in percent."""
    gpu_mb: float | None = None
    """The most memory in use on the GPU, in MB, as `nvidia-smi` shows it: contexts and other processes included."""
    notes: tuple[str, ...] = ()
    """Why something was not measured."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Needs:
        """Read what the process printed."""
        return cls(**{**data, "notes": tuple(data["notes"])})


def measure_alone(path: Path, conditions: Conditions, device: Device) -> Needs:
    """Start a process for a model and read what it needs; a process that fails costs no more than these figures."""
    flags = {"batch": conditions.batch, "threads": conditions.threads, "device": device}
    options = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "orchestrator.measure.probes.alone", str(path.absolute()), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        if done.returncode == 0:
            return Needs.from_dict(json.loads(done.stdout.splitlines()[-1]))
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        reason = f"exit code {done.returncode}: {last}"
    except subprocess.TimeoutExpired:
        reason = f"it took more than {PATIENCE_SECONDS:.0f} s"
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
    return Needs(notes=(f"memory and energy were not measured, because the process for it failed ({reason})",))


def look(path: Path, conditions: Conditions, device: Device) -> Needs:
    """Measure a model in this process, which must not have run one before.

    Raises:
        UserError: no model.
    """
    notes: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(thread_count(conditions.threads))
        stack.enter_context(torch.inference_mode())
        nvml = _nvml(stack, notes) if device == "cuda" else None
        counter = _counter(nvml, device, notes)
        rehearse(format_of(path), read_description(path).spec)
        memory = _peak_memory(device, notes)
        network, _ = load_on(path, device, conditions.threads)
        inputs = random_inputs(network, conditions.batch)
        for _ in range(LOADED_RUNS):
            run_once(network, inputs)
        peak_mb = memory() if memory else None
        found = {}
        if counter or nvml:
            found = _run_on(lambda: run_once(network, inputs), conditions.batch, counter, nvml, notes)
    return Needs(peak_mb=peak_mb, notes=tuple(notes), **found)


def run_once(network: torch.nn.Module, inputs: torch.Tensor) -> None:
    """A forward pass that is over when this returns, on GPUs too."""
    network(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize()


def _nvml(stack: ExitStack, notes: list[str]) -> tuple[Any, Any] | None:
    try:
        return stack.enter_context(gpu_handle(torch.device("cuda", torch.cuda.current_device())))
    except GpuError as error:
        notes.append(f"GPU: {error}")
        return None


def _counter(nvml: tuple[Any, Any] | None, device: Device, notes: list[str]) -> EnergyCounter | None:
    if device == "cuda":
        if nvml is None:
            return None
        try:
            return NvmlCounter(*nvml)
        except OSError as error:
            notes.append(f"energy: {error}")
            return None
    counter = find_rapl()
    if isinstance(counter, NoCounter):
        notes.append(f"energy: {counter.reason}")
        return None
    return counter


def rehearse(kind: str, spec: NetworkSpec) -> None:
    """Use once what any model of a format uses, so that it is in memory: a tiny network, or another runtime's library.

    Args:
        kind: the format.
        spec: of the model; the tiny one has its backbone, and integers of the same kernels where it computes in them.
    """
    if kind.startswith("onnx"):
        importlib.import_module("onnxruntime")
        return
    quantisation = Quantisation(engine=spec.quantisation.engine) if spec.quantisation else None
    tiny = BACKBONES[spec.backbone].presets["tiny"].replace(**REHEARSED, quantisation=quantisation)
    with torch.device("meta"):
        build(tiny)  # loading does so; PyTorch imports much for it
    network = build(tiny).eval()
    network(random_inputs(network, 1))


def _peak_memory(device: Device, notes: list[str]) -> Callable[[], float] | None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return lambda: torch.cuda.max_memory_allocated() / 1e6
    try:
        return PeakMemory().growth_mb
    except OSError as error:
        notes.append(f"peak memory: this system does not tell ({error})")
        return None


def _run_on(
    run: Callable[[], None],
    batch: int,
    counter: EnergyCounter | None,
    nvml: tuple[Any, Any] | None,
    notes: list[str],
) -> dict[str, Any]:
    """Run a model for a while, and see what that takes."""
    found: dict[str, Any] = {}
    with _sampled(nvml, found, notes):
        if counter:
            counter.start()
        passes = run_for(LOOP_SECONDS, run)
        if counter:
            found["energy_mj"] = 1e3 * counter.joules() / (passes * batch)
            found["energy_source"] = counter.source
    return found


@contextmanager
def _sampled(nvml: tuple[Any, Any] | None, found: dict[str, Any], notes: list[str]) -> Iterator[None]:
    if nvml is None:
        yield
        return
    with GpuSampler(*nvml) as sampler:
        yield
    try:
        found |= {"gpu_percent": sampler.percent(), "gpu_mb": sampler.used_mb()}
    except GpuError as error:
        notes.append(f"GPU: {error}")


def run_for(seconds: float, run: Callable[[], None]) -> int:
    """Call something over and over until the time is up, and once at least; returns how often."""
    until = time.perf_counter() + seconds
    passes = 0
    while passes == 0 or time.perf_counter() < until:
        run()
        passes += 1
    return passes


def main(arguments: list[str] | None = None) -> None:
    """Print the needs of one model as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    for name in ("batch", "threads"):
        parser.add_argument(f"--{name}", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args(arguments)
    needs = look(given.model, Conditions(batch=given.batch, threads=given.threads), given.device)
    sys.stdout.write(json.dumps(asdict(needs)) + "\n")


if __name__ == "__main__":
    main()
