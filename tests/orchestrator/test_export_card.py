"""The card of an exported file, from made-up numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from orchestrator.report.export_card import HOW, SNIPPETS, export_card, lost_points, size, times

Rows = list[dict[str, Any]]
LAYERS: Rows = [
    {"name": "conv1", "kind": "conv2d", "precision": "float", "reason": "for accuracy: 2.0 points were lost"},
    {"name": "layer1.0.conv1", "kind": "conv2d", "precision": "int8", "reason": None},
    {"name": "add_relu", "kind": "add", "precision": "int8", "reason": None},
]


def numbers(**other: Any) -> dict[str, Any]:
    """`metrics.json` of an export that is accepted."""
    return {
        "verdict": {"accepted": True, "reasons": [], "unjudged": []},
        "name": "agp-0.5",
        "backbone": "reid",
        "format": "int8",
        "map": 0.8382,
        "top1": 0.9,
        "top5": 0.99,
        "latency_ms": 1.5,
        "p95_ms": 1.75,
        "size_mb": 11.2,
        "fp32": {"map": 0.8422, "top1": 0.91, "top5": 0.99, "latency_ms": 6.0, "p95_ms": 6.5, "size_mb": 44.0},
        "speedup": 4.0,
        "smaller": 44.0 / 11.2,
        "metric": "map",
        "drop_points": 0.4,
        "max_drop_points": 1.0,
        "model": "../..",
        "model_sha256": 4 * "0123456789abcdef",
        "original": "../../../teacher",
        "calibration": 64,
        "returned": [],
        "notes": ["computed by small kernels"],
        "conditions": {"machine": "Little CPU @ 1.00GHz", "batch": 1, "threads": 1, "runs": 50},
        "versions": {"torch": "2.15.0"},
        "data": {"source": "market1501", "fingerprint": "ab12"},
        **other,
    }


REJECTED = {
    "verdict": {
        "accepted": False,
        "reasons": ["25 % slower than its FP32 original", "loses 4.0 points of accuracy"],
        "unjudged": [],
    }
}


def test_a_rejected_file_says_so_before_all_else() -> None:
    card = export_card(numbers(**REJECTED), [])
    assert card.startswith("# **rejected**: agp-0.5 as int8\n")
    opening = card.split("| | this file")[0]
    assert "**rejected**: do not deploy this file." in opening
    assert "- 25 % slower than its FP32 original\n- loses 4.0 points of accuracy\n" in opening


def test_an_accepted_file_does_not() -> None:
    card = export_card(numbers(), LAYERS)
    assert card.startswith("# agp-0.5 as int8\n\nA reid network that embeds images for re-identification: computes in")
    assert "rejected" not in card
    assert "Accepted: nothing that was measured here speaks against deploying it." in card


def test_its_numbers_stand_beside_the_original_s() -> None:
    card = export_card(numbers(), [])
    table = dict(re.findall(r"^\| ([^|]+) \| (.+ \| .+) \|$", card, re.M))
    assert table["size"] == "11.2 MB | 44 MB"
    assert table["latency, median"] == "1.50 ms | 6.00 ms"
    assert table["latency, 95th percentile"] == "1.75 ms | 6.50 ms"
    assert table["mAP"] == "83.8 % | 84.2 %"
    assert table["rank-1"] == "90.0 % | 91.0 %"
    assert "4.00× as fast as the original in FP32 PyTorch, 3.93× smaller, −0.4 points of mAP." in card


def test_it_says_under_which_conditions() -> None:
    assert "50 forward passes of one input with one thread of Little CPU @ 1.00GHz" in export_card(numbers(), [])
    busy = numbers(conditions={"machine": "CPU", "batch": 8, "threads": 4, "runs": 20})
    assert "20 forward passes of 8 inputs with 4 threads of CPU" in export_card(busy, [])


def test_it_lists_what_computes_in_integers_and_what_not_and_why() -> None:
    card = export_card(numbers(returned=[{"layer": "conv1", "reason": "…"}]), LAYERS)
    assert "2 of 3 layers compute in INT8." in card
    assert "| `conv1` | conv2d | float | for accuracy: 2.0 points were lost |" in card
    assert "| `layer1.0.conv1` | conv2d | int8 | – |" in card
    assert "because too much accuracy was lost: `conv1`." in card
    assert "measured on 64 training examples" in card
    assert "- computed by small kernels" in card


def test_what_was_not_measured_is_left_out() -> None:
    unjudged = {"accepted": True, "reasons": [], "unjudged": ["accuracy"]}
    given = numbers(verdict=unjudged, drop_points=None, calibration=None, notes=[], format="onnx")
    without = {key: value for key, value in given.items() if key not in ("map", "top1", "top5", "data")}
    card = export_card(without, [])
    assert "Not measured, and so not judged: accuracy." in card
    assert "mAP" not in card
    assert "## How it was made" not in card
    assert "- data: none\n" in card


@pytest.mark.parametrize("name", HOW)
def test_it_says_how_the_file_is_run(name: str) -> None:
    card = export_card(numbers(format=name), [])
    (snippet,) = re.findall(r"```python\n(.*?)\n```", card, re.S)
    compile(snippet, "card", "exec")
    assert snippet == SNIPPETS[name]
    assert "orchestrate measure ../../../teacher ." in card


@pytest.mark.parametrize(
    ("ratio", "text"), [(4.123, "4.12×"), (17.04, "17.0×"), (1.0, "1.00×"), (0.87, "0.87×"), (0.99996, "0.9999×")]
)
def test_ratios_say_on_which_side_of_one_they_are(ratio: float, text: str) -> None:
    assert times(ratio) == text


def test_sizes_and_losses_in_words() -> None:
    assert (size(3.93), size(1.0), size(0.8)) == ("3.93× smaller", "1.00× smaller", "1.25× larger")
    assert [lost_points(drop) for drop in (0.42, -0.42, 0.04, -0.04)] == ["−0.4", "+0.4", "0.0", "0.0"]
