import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.quantise.terminal import SHOWN, print_quantise
from orchestrator.views import VIEWS
from tests.orchestrator.sample_quantise import (
    broken_sweep,
    candidate,
    empty_sweep,
    layer,
    quantise_state,
    rejected_sweep,
    running_sweep,
    video_sweep,
    without_result,
)

REPORT = Path("runs/reid/report.html")
STATES = (quantise_state, video_sweep, rejected_sweep, running_sweep, broken_sweep, empty_sweep)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_methods_stand_beside_the_original(console: Console) -> None:
    print_quantise(console, quantise_state(), None)
    lines = lines_of(written(console))
    for expected in (
        "network mAP points MB smaller ms faster gate",
        "FP32 93.4 2.81 2.85",
        "PTQ 91.9 ± 0.1 −1.5 0.730 3.8× 0.910 3.1× rejected",
        "QAT 93.2 ± 0.1 −0.2 0.730 3.8× 0.910 3.1× accepted",
    ):
        assert expected in lines


def test_result_says_what_is_in_float_what_was_rejected_and_where_to_read_more(console: Console) -> None:
    print_quantise(console, quantise_state(), REPORT)
    text = " ".join(written(console).split())
    for expected in (
        "reid-qat-1a2b3c4d · finished (QAT keeps",
        "PTQ rejected: loses 1.6 points of accuracy, more than the 1 allowed (--max-drop-points) (2 more such in",
        "QAT: 9 of 10 layers with weights in INT8",
        "float: stem.conv (slower in INT8: 0.31 ms against 0.24 ms)",
        "INT8 by QAT reaches 93.3 % mAP, 0.1 points below FP32",
        "Latency: median of 30 forward passes",
        "Models: runs/reid/models",
        "Report: runs/reid/report.html",
    ):
        assert expected in text


def test_failures_are_shown_with_their_reason(console: Console) -> None:
    print_quantise(console, broken_sweep(), REPORT)
    text = written(console)
    assert "reid-ptq failed: <out of memory> & [gone]" in text
    assert "reid-qat diverged: loss is nan in epoch 2" in text
    assert "Models:" not in text


def test_long_lists_are_cut(console: Console) -> None:
    state = quantise_state((0,))
    state["candidates"] += [without_result(candidate("qat", seed), "failed", "gone") for seed in range(1, SHOWN + 4)]
    left_out = [layer(f"conv{n}", precision="float", reason="because") for n in range(SHOWN + 2)]
    state["candidates"][1].update(layers=left_out, float_layers=[])
    print_quantise(console, state, None)
    text = written(console)
    assert text.count("failed: gone") == SHOWN
    assert "… and 3 more without a result" in text
    assert text.count("(because)") == SHOWN
    assert "… and 2 more in float" in text


def test_the_run_in_full_has_every_layer_of_the_chosen_network(console: Console) -> None:
    VIEWS["sweep-qat"].print_state(console, quantise_state())
    text = written(console)
    assert "QAT (reid-qat-seed2), layer by layer" in text
    lines = lines_of(text)
    assert "layer kind runs in dB INT8 ms float ms why in float" in lines
    assert "layer1.0.conv1 conv2d INT8 42 0.0200 0.0900" in lines
    assert "stem.conv conv2d float – 0.310 0.240 slower in INT8: 0.31 ms against 0.24 ms" in lines
    assert "runs/" not in text


@pytest.mark.parametrize("make", STATES)
@pytest.mark.parametrize("width", [80, 100])
def test_every_state_fits_the_terminal(make: Any, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    state = make()
    VIEWS["sweep-qat"].print_result(console, state, REPORT)
    VIEWS["sweep-qat"].print_state(console, state)
    text = written(console)
    assert state["status"] in text
    assert "None" not in text
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_no_number_is_cut_off_by_a_narrow_terminal() -> None:
    console = Console(file=io.StringIO(), width=80)
    state = quantise_state()
    state["candidates"] += [candidate("qat", seed, fallbacks=3, size_mb=126.4, latency_ms=123.4) for seed in (0, 1)]
    state["candidates"] += [without_result(candidate("qat", 2, fallbacks=3), "pending")]
    print_quantise(console, state, None)
    lines = lines_of(written(console))
    assert any(line.endswith("93.2 ± 0.1 (2/3) −0.3 126 0.02× 123 0.02× accepted") for line in lines), lines
