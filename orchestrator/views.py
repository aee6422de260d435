"""How a run of each kind is shown: `VIEWS`. Everything here works on a state alone, of a run under way or long over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestrator.chain.terminal import print_chain, print_chain_state
from orchestrator.quantise.terminal import print_quantise, print_quantise_state
from orchestrator.report.chain import write_chain_report
from orchestrator.report.figure import Curves
from orchestrator.report.html import write_report
from orchestrator.report.quantise import write_quantise_report
from orchestrator.report.sweep import write_sweep_report
from orchestrator.state import State
from orchestrator.store import Store
from orchestrator.sweep.sensitivity_file import write_layer_sparsity
from orchestrator.sweep.terminal import print_sensitivity, print_sweep
from orchestrator.terminal import print_family, print_state


@dataclass(frozen=True)
class View:
    """One row of `VIEWS`."""

    write_report: Callable[[Store, State, Path], Path]
    """Writes report.html, report.png and whatever else a person reads into a folder; returns the page."""
    print_result: Callable[[Console, State, Path], None]
    """What a person is told at the end of a run; the path is the page's."""
    print_state: Callable[[Console, State], None]
    """The run in full."""


def write_pas_report(store: Store, state: State, folder: Path) -> Path:
    """Report of a search by shrinkage, or of a teacher alone."""
    return write_report(state, curves_of(store, state), folder)


def curves_of(store: Store, state: State) -> Curves:
    """Metrics per epoch of every trial that a state names, by digest."""
    trials = [state["teacher"]]
    for iteration in state["iterations"]:
        trials += iteration["hypotheses"] + ([iteration["control"]] if iteration["control"] else [])
    return {trial["trial"]: store.metrics(trial["trial"]) for trial in trials}


def write_sensitivity_report(store: Store, state: State, folder: Path) -> Path:
    """Report of a sensitivity analysis, and what it found as settings that a sweep reads."""
    if state["layers"] and state["status"] == "finished":
        write_layer_sparsity(state, folder)
    return write_sweep_report(state, folder)


PAS = View(write_pas_report, print_family, print_state)

VIEWS: dict[str, View] = {
    "pas": PAS,
    "train": PAS,
    "sweep-prune": View(
        lambda _, state, folder: write_sweep_report(state, folder),
        print_sweep,
        lambda console, state: print_sweep(console, state, None),
    ),
    "sweep-sensitivity": View(
        write_sensitivity_report, print_sensitivity, lambda console, state: print_sensitivity(console, state, None)
    ),
    "sweep-qat": View(
        lambda _, state, folder: write_quantise_report(state, folder), print_quantise, print_quantise_state
    ),
    "chain": View(lambda _, state, folder: write_chain_report(state, folder), print_chain, print_chain_state),
}
