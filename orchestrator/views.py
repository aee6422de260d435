"""How a run of each kind is shown: `VIEWS`. Everything here works on a state alone, of a run under way or long over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from orchestrator.chain.table import chain_headline
from orchestrator.chain.terminal import print_chain, print_chain_state
from orchestrator.quantise.table import quantise_headline
from orchestrator.quantise.terminal import print_quantise, print_quantise_state
from orchestrator.report import headline
from orchestrator.report.chain import write_chain_report
from orchestrator.report.figure import Curves
from orchestrator.report.html import write_report
from orchestrator.report.quantise import write_quantise_report
from orchestrator.report.run_lineage import origins_of
from orchestrator.report.sweep import write_sweep_report
from orchestrator.report.transfer import write_transfer_report
from orchestrator.state import State
from orchestrator.store import Store
from orchestrator.sweep.sensitivity_file import write_layer_sparsity
from orchestrator.sweep.table import prune_headline, sensitivity_headline, summarise
from orchestrator.sweep.terminal import print_sensitivity, print_sweep
from orchestrator.terminal import print_family, print_state
from orchestrator.transfer.table import transfer_headline
from orchestrator.transfer.terminal import print_transfer


@dataclass(frozen=True)
class View:
    """One row of `VIEWS`."""

    write_report: Callable[[Store, State, Path], Path]
    """Writes report.html, report.png and whatever else a person reads into a folder; returns the page."""
    print_result: Callable[[Console, State, Path], None]
    """What a person is told at the end of a run; the path is the page's."""
    print_state: Callable[[Console, State], None]
    """The run in full."""
    title: str
    """What kind of run it is, for people."""
    headline: Callable[[State], str]
    """Its result in one sentence, or why there is none yet."""


def write_pas_report(store: Store, state: State, folder: Path) -> Path:
    """Report of a search by shrinkage, or of a teacher alone."""
    return write_report(state, curves_of(store, state), folder, origins_of(store, state))


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
    return write_sweep_report(state, folder, origins_of(store, state))


PAS = View(write_pas_report, print_family, print_state, "progressive architecture shrinkage", headline)

VIEWS: dict[str, View] = {
    "pas": PAS,
    "train": replace(PAS, title="a base network alone"),
    "sweep-prune": View(
        lambda store, state, folder: write_sweep_report(state, folder, origins_of(store, state)),
        print_sweep,
        lambda console, state: print_sweep(console, state, None),
        "pruner sweep",
        lambda state: prune_headline(state, summarise(state["cells"])),
    ),
    "sweep-sensitivity": View(
        write_sensitivity_report,
        print_sensitivity,
        lambda console, state: print_sensitivity(console, state, None),
        "sensitivity of single layers",
        sensitivity_headline,
    ),
    "sweep-qat": View(
        lambda store, state, folder: write_quantise_report(state, folder, origins_of(store, state)),
        print_quantise,
        print_quantise_state,
        "quantised to INT8",
        quantise_headline,
    ),
    "chain": View(
        lambda store, state, folder: write_chain_report(state, folder, origins_of(store, state)),
        print_chain,
        print_chain_state,
        "chain of steps",
        chain_headline,
    ),
    "transfer": View(
        lambda _, state, folder: write_transfer_report(state, folder),
        print_transfer,
        lambda console, state: print_transfer(console, state, None),
        "fine-tuned on other videos",
        transfer_headline,
    ),
}
