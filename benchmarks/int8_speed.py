"""How much faster and smaller the full-size networks get in integers: FP32 eager against INT8, side by side.

    python -m benchmarks.int8_speed [--networks r2plus1d,slowfast] [--runs 20] [--threads 1] [--isa AVX2]

Random weights, inputs as normalised clips, batch 1; how many times faster is the median over rounds of the ratio within
a round. `--isa` holds oneDNN's kernels of both to an older instruction set (`ONEDNN_MAX_CPU_ISA`, which must be in the
environment before torch is imported, so that this starts itself again).
Target on one thread: at least 4 times faster and 3.9 times smaller with VNNI, 3 times faster with AVX2.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import torch
from safetensors.torch import save
from torch import Tensor, nn

from compression.quantisation.torch_ao import default_engine
from compression.spec import NetworkSpec, Quantisation
from orchestrator.latency import processor
from orchestrator.measure.measure import latency_of
from orchestrator.measure.turns import Conditions, take_turns, thread_count
from trainers.backbones import (
    BACKBONES,
    IntegerNetwork,
    Network,
    SimulatedNetwork,
    build,
    fast_order,
    in_fast_order,
)
from trainers.checkpoint import tensors_of

ISA = "ONEDNN_MAX_CPU_ISA"
INPUTS = {"r2plus1d": {"clip_frames": 8, "side": 56}, "slowfast": {"side": 64}}
"""What of the full preset is changed: sizes at which a run takes a fraction of a second."""
CALIBRATION = 2
"""Random inputs on which ranges are measured; clips are normalised, and so have values on both sides of 0 as these."""


def random_network(backbone: str, spec: NetworkSpec | None = None) -> Network:
    """A network in evaluation mode, full-size if no spec is given; fresh ones have residual blocks that are zero, these
    have not."""
    torch.manual_seed(0)
    network = build(spec or BACKBONES[backbone].presets["full"].replace(**INPUTS[backbone]))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def in_integers(network: Network, engine: str) -> IntegerNetwork:
    """The same network in INT8, with ranges from random inputs."""
    simulated = SimulatedNetwork(network, Quantisation(engine=engine), learning=False)
    simulated.measure_ranges()
    torch.manual_seed(1)
    with torch.no_grad():
        for _ in range(CALIBRATION):
            simulated(normal_inputs(network))
    return simulated.converted()


def normal_inputs(network: Network) -> Tensor:
    """One input like a normalised clip, in the order in memory that evaluation uses."""
    return in_fast_order(torch.randn(1, *network.spec.input_shape))


def time_both(networks: Sequence[Network], conditions: Conditions) -> list[list[float]]:
    """Milliseconds of each pass of each network, which take turns, on the same input."""
    inputs = normal_inputs(networks[0])
    modules = [fast_order(network.eval()) for network in networks]
    with thread_count(conditions.threads), torch.inference_mode():
        return take_turns([partial(module, inputs) for module in modules], conditions)


def compare(backbone: str, conditions: Conditions, engine: str) -> str:
    """One network's ratios, as a line."""
    floating = random_network(backbone)
    integers = in_integers(floating, engine)
    smaller = len(save(tensors_of(floating))) / len(save(integers.state_dict()))
    times = time_both([floating, integers], conditions)
    fp32, int8 = map(statistics.median, times)
    faster = latency_of(times[1], times[0], batch=1)["speedup"]
    least_fp32, least_int8 = map(min, times)  # what other programs took of the processor is not in these
    shape = "×".join(map(str, floating.spec.input_shape[1:]))
    return (
        f"{backbone} {shape}: FP32 {fp32:.1f} ms, INT8 {int8:.1f} ms, {faster:.2f} times faster "
        f"(quickest passes: {least_fp32:.1f} and {least_int8:.1f} ms, {least_fp32 / least_int8:.2f}), "
        f"{smaller:.2f} times smaller"
    )


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(INPUTS))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engine", default=default_engine())
    parser.add_argument("--isa")
    given = parser.parse_args()
    if given.isa and os.environ.get(ISA) != given.isa:
        command = [sys.executable, "-m", "benchmarks.int8_speed", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, env={**os.environ, ISA: given.isa}, check=False).returncode)
    conditions = Conditions(runs=given.runs, threads=given.threads, warm_up=2)
    held = f", held to {os.environ[ISA]}" if ISA in os.environ else ""
    print(
        f"{processor()}{held}, {given.threads} thread(s), engine {given.engine}, torch {torch.__version__}", flush=True
    )
    for backbone in given.networks.split(","):
        print(compare(backbone, conditions, given.engine), flush=True)


if __name__ == "__main__":
    main()
