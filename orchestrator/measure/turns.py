"""Timing things that take turns, so that a machine that is slower for a while is slower for all of them.

Every round runs each thing once; the order rotates from round to round, so that none always runs in the caches and at
the clock rate that the same other one left behind. Ratios of two are taken within a round.

Units: milliseconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from trainers.backbones import Network, fast_order, in_fast_order

Stopwatch = Callable[[Callable[[], object]], float]
"""Does something once and says how many milliseconds it took."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is measured, and how often.

    Raises:
        UserError: a number is too small.
    """

    batch: int = 1
    """Clips or images in one forward pass."""
    threads: int = 1
    """Threads that share one operation; only one operation runs at a time."""
    runs: int = 50
    """Rounds that count."""
    warm_up: int = 5
    """Rounds before them, which do not."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < (least := 0 if name == "warm_up" else 1):
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} is {value}, but must be at least {least}; give {flag} {least} or more")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def time_in_turns(networks: Sequence[Network], conditions: Conditions) -> list[list[float]]:
    """Milliseconds of each forward pass of each network, in evaluation mode and on random inputs.

    The time of a convolution does not depend on the values, so random ones do. Weights and inputs are put into the
    order in memory in which evaluation has them too. A network stays on its device.

    Returns:
        One list per network, in the order of rounds: times at the same place in two lists were taken side by side.
    """
    modules = [fast_order(network.eval()) for network in networks]
    inputs = [random_inputs(network, conditions.batch) for network in networks]
    watches = [stopwatch(given.device) for given in inputs]
    calls = [_forward(module, given) for module, given in zip(modules, inputs, strict=True)]
    with thread_count(conditions.threads), torch.inference_mode():
        return take_turns(calls, conditions, watches)


def take_turns(
    calls: Sequence[Callable[[], object]], conditions: Conditions, watches: Sequence[Stopwatch] | None = None
) -> list[list[float]]:
    """Milliseconds of each call of each function; a round calls each once, its first is the last of the next round.

    Args:
        calls: what is timed.
        conditions: how many rounds; threads are the caller's affair.
        watches: what each is timed with; none: the wall clock.
    """
    watches = watches or [wall_clock] * len(calls)
    times: list[list[float]] = [[] for _ in calls]
    for round_number in range(conditions.warm_up + conditions.runs):
        for place in range(len(calls)):
            which = (round_number + place) % len(calls)
            times[which].append(watches[which](calls[which]))
    return [taken[conditions.warm_up :] for taken in times]


def speedup(reference: Sequence[float], times: Sequence[float]) -> float:
    """How many times as fast something is as a reference that it took turns with: median over rounds of the ratio."""
    return statistics.median(there / here for there, here in zip(reference, times, strict=True))


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Let PyTorch share an operation among so many threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_inputs(network: Network, batch: int) -> Tensor:
    """Inputs [batch, *network.spec.input_shape] between 0 and 1 on the network's device, in the fast order."""
    return in_fast_order(torch.rand(batch, *network.spec.input_shape)).to(network.device)


def stopwatch(device: torch.device) -> Stopwatch:
    """What times calls on a device: events on a GPU, where calls return before work is done; else the wall clock."""
    return cuda_events if device.type == "cuda" else wall_clock


def wall_clock(call: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def cuda_events(call: Callable[[], object]) -> float:
    """Milliseconds between the GPU's starting on a call's work and its finishing it."""
    torch.cuda.synchronize()
    started, finished = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    started.record()
    call()
    finished.record()
    finished.synchronize()
    return float(started.elapsed_time(finished))


def _forward(module: torch.nn.Module, inputs: Tensor) -> Callable[[], object]:
    return lambda: module(inputs)
