"""The plan of a sweep: every cell with its cost, and nothing trained."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from configs.errors import UserError
from configs.schema import RunSettings
from orchestrator.sweep.plan import print_cells
from tests.orchestrator.scripted import ScriptedSession
from tests.orchestrator.test_sweep_session import sweep_settings


def printed(settings: RunSettings) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    print_cells(console, settings)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def row(lines: list[str], name: str) -> list[str]:
    return next(line.split() for line in lines if line.split()[:1] == [name])


def test_every_cell_is_listed_and_none_trained(digits: Path, tmp_path: Path) -> None:
    lines = printed(sweep_settings(digits, tmp_path, "runtime.name=mine", "sweep.controls=[scratch]", "train.epochs=3"))
    assert lines[0] == "Plan of run mine: 6 cells, all pruned from r2plus1d-teacher."
    names = [line.split()[0] for line in lines if line.startswith(" r2plus1d-")]
    assert names == [f"r2plus1d-{pruner}-{cut}" for pruner in ("l1", "agp", "scratch") for cut in (0.25, 0.5)]
    # 6 × 3 epochs of cells and 1 of the teacher; 8 classes of 4 training videos
    assert lines[-1] == "L1, AGP: 19 trial-epochs over 32 training examples."
    assert [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("probes-")] == []


def test_costs_are_those_of_the_sweep(digits: Path, tmp_path: Path) -> None:
    """As a run has them: 8 418 of 31 653 parameters, 197 088 of 497 536 multiply-adds."""
    lines = printed(sweep_settings(digits, tmp_path))
    assert row(lines, "r2plus1d-l1-0.5")[1:] == ["0.000197", "40", "%", "8.4", "k", "27", "%", "1"]
    session = ScriptedSession(sweep_settings(digits, tmp_path), algorithm="sweep-prune")
    (cell,) = (cell for cell in session.execute()["cells"] if cell["name"] == "r2plus1d-l1-0.5")
    assert (cell["params"], round(cell["gmacs"] * 1e9)) == (8_418, 197_088)
    more = printed(sweep_settings(digits, tmp_path, "sweep.pruners=[l1, l2]", "sweep.sparsity=[0.5]"))
    assert [row(more, f"r2plus1d-{pruner}-0.5")[-1] for pruner in ("l1", "l2")] == ["stored", "1"]


def test_what_depends_on_trained_weights_cannot_be_planned(digits: Path, tmp_path: Path) -> None:
    settings = sweep_settings(digits, tmp_path, "prune.scope=global", "sweep.pruners=[l1]")
    with pytest.raises(UserError, match=r"prune\.scope is global, but .* trained weights; leave out --dry-run"):
        printed(settings)


def test_input_is_checked_as_the_run_itself_would(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exclude names 'stam', but no layer that can be pruned matches it"):
        printed(sweep_settings(digits, tmp_path, "prune.exclude=[stam]"))
