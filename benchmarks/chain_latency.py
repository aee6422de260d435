"""What a chain saves at full size: the teacher, two reductions, half of the filters, INT8, side by side.

    python -m benchmarks.chain_latency [--backbone r2plus1d] [--reduce f,s] [--runs 20]

Random weights, batch 1, one thread: times only, no accuracy. The input is that of `int8_speed`.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from benchmarks.int8_speed import INPUTS, in_integers, random_network
from compression.quantisation.engines import default_engine
from compression.reduction import reduce
from configs.schema import Pruning
from orchestrator.latency import processor
from orchestrator.measure.turns import Conditions, time_in_turns
from trainers.backbones import Network
from trainers.pruning import Surgeon
from trainers.tasks.classification import Alone


def pruned(network: Network, sparsity: float) -> Network:
    """The same with the smallest filters of every layer gone; in place."""
    pruning = Pruning(pruner="l1", sparsity=sparsity)
    joined = Alone(network)
    Surgeon(network, pruning, seed=0).prune(joined, pruning)
    left = joined.student
    assert isinstance(left, Network)
    return left


def main() -> None:
    """Measure, and print a line per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="r2plus1d", choices=sorted(INPUTS))
    parser.add_argument("--reduce", default="f,s")
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    teacher = random_network(given.backbone)
    small = teacher.spec
    for axis in given.reduce.split(","):
        small = reduce(small, axis)
    shrunk, half = random_network(given.backbone, small), pruned(random_network(given.backbone, small), 0.5)
    networks = {
        "teacher": teacher,
        f"reduced by {given.reduce}": shrunk,
        "half of the filters": half,
        "INT8": in_integers(half, default_engine()),
    }
    times = time_in_turns(list(networks.values()), Conditions(runs=given.runs))
    first = statistics.median(times[0])
    print(f"{given.backbone} {teacher.spec.input_shape[1:]}, 1 thread of {processor()}, torch {torch.__version__}")
    for name, own in zip(networks, times, strict=True):
        median = statistics.median(own)
        print(f"{name:24} {median:8.2f} ms   {first / median:6.2f} times faster")


if __name__ == "__main__":
    main()
