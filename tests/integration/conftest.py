"""The command line in a process of its own, on a data set of tiny videos."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.orchestrator.scripted import SECONDS, make_digits

PATIENCE = 240.0
"""Seconds after which a run is taken to hang; a quiet machine needs a tenth."""


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture
def search(digits: Path) -> list[str]:
    """Arguments of a search of seconds, named `mine`."""
    overrides = [argument for override in SECONDS for argument in ("--set", override)]
    return ["pas", "--backbone", "slowfast", "--data", f"csv:{digits}", "--name", "mine", *overrides]


class Driver:
    """`orchestrate` at work, in a process group of its own."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.log = folder / "log.txt"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *arguments],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def descendants(self) -> list[psutil.Process]:
        """The processes that it has started, Ray's among them."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that happens while it works."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"ended early:\n{self.output}"
            assert time.monotonic() < deadline, f"nothing happened:\n{self.output}"
            time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[list[str]], Driver]]:
    """Starts `orchestrate` in `tmp_path`; whatever is left of it after the test is killed."""
    drivers: list[Driver] = []

    def start_driver(arguments: list[str]) -> Driver:
        drivers.append(Driver(arguments, tmp_path))
        return drivers[-1]

    yield start_driver
    for driver in drivers:
        if driver.process.poll() is None:
            for process in driver.descendants():
                process.kill()
            driver.process.kill()
            driver.process.wait()


def read_state(runs: Path) -> dict[str, Any]:
    """State of the run `mine`."""
    state: dict[str, Any] = json.loads((runs / "mine" / "state.json").read_text())
    return state


def accuracies(state: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Top-1 and top-5 of every network of a search, by name."""
    rows = [state["teacher"]]
    for iteration in state["iterations"]:
        rows += [*iteration["hypotheses"], *([iteration["control"]] if iteration["control"] else [])]
    return {row["name"]: (row["top1"], row["top5"]) for row in rows}
