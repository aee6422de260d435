import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.chain.terminal import print_chain
from orchestrator.views import VIEWS
from tests.orchestrator.sample_chain import (
    broken_chain,
    chain_state,
    empty_chain,
    running_chain,
    short_chain,
    starting_chain,
    video_chain,
)
from tests.orchestrator.test_quantise_terminal import lines_of, written

REPORT = Path("runs/reid/report.html")
STATES = (chain_state, video_chain, short_chain, running_chain, starting_chain, broken_chain, empty_chain)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def test_every_step_is_a_row(console: Console) -> None:
    print_chain(console, chain_state(), None)
    lines = lines_of(written(console))
    for expected in (
        "step mAP points in all GMACs params MB smaller ms faster",
        "teacher 93.4 0.00553 702.1 k 2.81 2.85",
        "PAS-2 (c, l) 93.0 −0.4 −0.4 0.000985 155.8 k 0.624 4.5× 1.02 2.8×",
        "INT8 by QAT 91.3 −0.6 −2.1 0.000251 39.4 k 0.0571 49× 0.260 11× accepted",
    ):
        assert expected in lines


def test_a_narrow_terminal_is_shown_fewer_columns_but_no_number_in_part() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_chain(console, video_chain(), None)
    lines = lines_of(written(console))
    assert "step top-1 points in all GMACs MB ms faster" in lines
    assert "INT8 by QAT 90.7 −1.2 −2.7 0.000251 0.0571 0.260 11× rejected" in lines


def test_result_says_what_happened_and_where_to_read_more(console: Console) -> None:
    print_chain(console, video_chain(), REPORT)
    text = " ".join(written(console).split())
    for expected in (
        "slowfast-chain-1a2b3c4d · finished (3 of 3 steps done)",
        "INT8 by QAT rejected: loses 1.2 points of accuracy, more than the 1 allowed (--max-drop-points)",
        "INT8 by QAT: 9 of 10 layers with weights in INT8",
        "float: stem.conv (excluded)",
        "Note: AGP 0.5: layer1.0.conv1 keeps 1 of 8 filters where 0.5 leaves 0.8",
        "PAS-2 (s, s), AGP 0.5, INT8 by QAT: 90.7 % top-1 at 0.260 ms per clip",
        "Models: runs/reid/models",
        "Report: runs/reid/report.html",
    ):
        assert expected in text


def test_a_broken_step_is_shown_with_its_reason(console: Console) -> None:
    print_chain(console, broken_chain(), REPORT)
    text = written(console)
    assert "reid-prune diverged: loss is <nan> in epoch 2" in text
    assert "AGP 0.5 – – – 0.000251 39.4 k – – – – diverged" in lines_of(text)


def test_the_run_in_full_has_every_layer(console: Console) -> None:
    VIEWS["chain"].print_state(console, chain_state())
    text = written(console)
    assert "INT8 by QAT, layer by layer" in text
    assert "layer4.0.conv2 conv2d INT8 32" in lines_of(text)


@pytest.mark.parametrize("make", STATES)
@pytest.mark.parametrize("width", [80, 100])
def test_every_state_fits_the_terminal(make: Any, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    state = make()
    VIEWS["chain"].print_result(console, state, REPORT)
    VIEWS["chain"].print_state(console, state)
    text = written(console)
    assert state["status"] in text
    assert "None" not in text
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
