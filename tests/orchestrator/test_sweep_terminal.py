import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.sweep.terminal import FAILURES_SHOWN, print_sensitivity, print_sweep
from tests.orchestrator.sample_sweep import (
    cell,
    empty_sensitivity,
    empty_sweep,
    running_sensitivity,
    running_sweep,
    sensitivity_state,
    small_sweep,
    sweep_state,
    unfinished,
)

REPORT = Path("runs/reid/report.html")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_of(text: str, start: str) -> list[str]:
    """The words of the first line that starts so."""
    return next(line for line in text.splitlines() if line.strip().startswith(start)).split()


def test_table_of_the_source_has_pruners_across_and_sparsities_down(console: Console) -> None:
    print_sweep(console, small_sweep(), None)
    text = written(console)
    assert line_of(text, "sparsity") == ["sparsity", "L1", "AGP"]
    assert line_of(text, "unpruned") == ["unpruned", "88.2", "88.2"]
    assert line_of(text, "0.3") == ["0.3", "85.5", "87.5"]


def test_costs_are_of_the_best_pruner_of_each_sparsity(console: Console) -> None:
    print_sweep(console, sweep_state(), None)
    lines = [" ".join(line.split()) for line in written(console).splitlines()]
    (found,) = [line for line in lines if line.startswith("0.5 AGP")]
    assert found == "0.5 AGP 83.7 ± 0.6 −4.5 0.00296 25 % 2.8 M 25 % 1.56 36 % ✓"


def test_result_ends_with_the_headline_and_where_to_read_more(console: Console) -> None:
    print_sweep(console, sweep_state(), REPORT)
    text = written(console)
    for expected in (
        "reid-sweep-1a2b3c4d · finished (142 of 144 cells done)",
        "reid-l1-0.9 failed: <out of memory> & [gone]",
        "reid-l2-0.8 diverged: loss is nan in epoch 2",
        "Note: layer1.0.conv1 keeps 1 of 8 filters",
        "AGP at sparsity 0.3 keeps mAP 86.9 %, 1.3 points below",
        "Models: runs/reid/models",
        "Report: runs/reid/report.html",
    ):
        assert expected in text


def test_paths_are_only_shown_of_what_was_written(console: Console) -> None:
    print_sweep(console, sweep_state(), None)
    print_sensitivity(console, sensitivity_state(), None)
    assert "runs/" not in written(console)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_accuracy_is_cut_off_by_a_narrow_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    state = sweep_state()
    state["cells"] += [
        {**cell("l1", sparsity, seed), "pruner": f"{name}-iterative"}
        for name in ("l1", "l2", "fpgm")
        for sparsity in (0.1, 0.5)
        for seed in (0, 1)
    ]
    print_sweep(console, state, None)
    tables = written(console).split("mAP in %")[0]
    assert tables.count("±") == 8 * 6 + 3 * 2
    assert tables.count("87.7 ± 0.6 ") >= 4
    for label in ("L1", "FPGM", "AGP", "scratch", "random", "L1 iterative", "FPGM iterative"):
        assert label in tables
    if width >= 80:
        words = " ".join(written(console).split())
        assert "sparsity pruner mAP points GMACs share params share" in words
        assert "0.9 AGP 71.0 ± 0.6 −17.2 0.000118 1.0 % 111.7 k 1.0 %" in words
    assert max(map(len, written(console).splitlines())) <= width


def test_many_failures_are_summed_up(console: Console) -> None:
    state = sweep_state()
    state["cells"] = [unfinished(row, "failed", "out of memory") for row in state["cells"]]
    print_sweep(console, state, None)
    text = written(console)
    assert text.count("failed: out of memory") == FAILURES_SHOWN
    assert f"… and {len(state['cells']) - FAILURES_SHOWN} more without a result" in text


def test_layers_are_shown_with_what_they_may_lose(console: Console) -> None:
    print_sensitivity(console, sensitivity_state(), REPORT)
    text = written(console)
    assert line_of(text, "layer ") == ["layer", "filters", "0.25", "0.5", "0.75", "0.9", "may", "lose"]
    assert line_of(text, "layer1.0.conv1") == ["layer1.0.conv1", "+1", "16", "3.4", "13.7", "30.9", "44.5", "0"]
    assert line_of(text, "layer1.1.conv1")[-2:] == ["failed", "0"]
    assert "Use: orchestrate sweep prune --model reid --layer-sparsity runs/reid/sensitivity.yaml\n" in text


@pytest.mark.parametrize("state", [running_sweep(), empty_sweep()], ids=["running", "failed"])
def test_unfinished_sweeps_are_shown(console: Console, state: dict[str, object]) -> None:
    print_sweep(console, state, REPORT)
    text = written(console)
    assert str(state["status"]) in text
    assert "Models:" not in text


@pytest.mark.parametrize("state", [running_sensitivity(), empty_sensitivity()], ids=["running", "failed"])
def test_unfinished_analyses_are_shown(console: Console, state: dict[str, object]) -> None:
    print_sensitivity(console, state, REPORT)
    text = written(console)
    assert str(state["status"]) in text
    assert "--layer-sparsity" not in text
