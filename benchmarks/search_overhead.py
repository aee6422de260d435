"""What a search costs beyond its trainings: whole commands, in turn, as ratios.

    python -m benchmarks.search_overhead [--rounds 2] [--set train.epochs=4 …]

Each round runs `orchestrate pas` into an empty folder, then the very same trainings by `benchmarks.bare_loop`; both
are timed as whole processes, start-up included. Target: a ratio of at most 1.15.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(*command: str) -> float:
    """Wall time of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(rounds: int, arguments: list[str]) -> list[tuple[float, float]]:
    """Seconds of the search and of the bare loop, per round."""
    pairs = []
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            search = seconds(
                "-m", "orchestrator", "pas", "--backbone", "slowfast", "--runs", folder, "--name", "bench", *arguments
            )
            bare = seconds("-m", "benchmarks.bare_loop", str(Path(folder) / "bench"))
        print(f"round {number}: search {search:.1f} s, bare loop {bare:.1f} s, ratio {search / bare:.3f}", flush=True)
        pairs.append((search, bare))
    return pairs


def main() -> None:
    """Measure, and print the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    known, arguments = parser.parse_known_args()
    pairs = measure(known.rounds, arguments)
    print(f"median ratio {statistics.median(search / bare for search, bare in pairs):.3f} over {len(pairs)} rounds")


if __name__ == "__main__":
    main()
