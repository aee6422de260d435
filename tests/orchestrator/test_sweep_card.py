"""The card of a pruned model, from a made-up sweep."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from configs.schema import Pruning
from orchestrator.report.sweep_card import cell_card
from tests.orchestrator.sample_sweep import small_sweep, sweep_state


def record(scope: str = "local", **trial: Any) -> dict[str, Any]:
    """`result.json` of a cell, as far as a card reads it."""
    pruning = Pruning(pruner="agp", sparsity=0.5, scope=scope).model_dump(mode="json")  # type: ignore[arg-type]
    recipe = {"pruning": pruning, "train": {"epochs": 4}, "distillation": {"weight": 1.0}, "reid": {"margin": 0.3}}
    return {"trial": {**recipe, "clips": None, **trial}, "versions": {"orchestrate": "0.1.0", "torch": "2.15.0"}}


def row(state: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(cell for cell in state["cells"] if cell["name"] == name)
    return {**found, "reached": 0.498}


@pytest.fixture
def card() -> str:
    state = sweep_state()
    return cell_card(row(state, "reid-agp-0.5"), state, record())


def test_it_opens_with_what_the_model_is(card: str) -> None:
    what = card.split("\n\n")[:2]
    assert what[0] == "# reid-agp-0.5"
    assert what[1] == (
        "A reid network that embeds images for re-identification. Pruner agp, asked for sparsity 0.5 "
        "of each layer, removed 49.8 % of all filters: gone, not masked. Engine: own. Epochs of fine-tuning: 4."
    )


def test_in_global_scope_layers_lose_different_shares() -> None:
    state = sweep_state()
    card = cell_card(row(state, "reid-agp-0.5"), state, record("global"))
    assert "asked for sparsity 0.5 of the network, removed 49.8 % of all filters" in card
    assert "each layer" not in card.split("## Use")[0]


def test_its_numbers_stand_beside_the_unpruned_network_s(card: str) -> None:
    """By hand: 1 − 0.5² of the multiply-adds and parameters are gone."""
    cell = row(sweep_state(), "reid-agp-0.5")
    assert (cell["map"], cell["gmacs"], cell["params"]) == (0.8422, 0.00296, 2_791_728)
    table = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", card, re.M))
    assert table["mAP"] == "84.2 % | 88.2 %"
    assert table["GMACs per input"] == "0.00296 | 0.0118"
    assert table["parameters"] == "2.8 M | 11.2 M"
    assert table["latency"] == f"{4.31 * (0.15 + 0.85 / 4):.2f} ms | 4.31 ms"
    assert "−4.0 points of mAP against the unpruned network, with 25 % of its multiply-adds and 25 %" in card


def test_it_says_how_latency_was_measured(card: str) -> None:
    assert "Latency: median of 30 forward passes of one input, one thread of Little CPU @ 1.00GHz." in card


def test_a_classifier_is_described_as_one() -> None:
    state = small_sweep()
    card = cell_card(row(state, "reid-agp-0.5"), state, record(clips={"test": 10}, reid=None))
    assert "A r2plus1d network that classifies videos." in card
    assert "| top-1 |" in card
    assert "mAP" not in card


def test_what_was_not_measured_is_left_open() -> None:
    state = small_sweep()
    card = cell_card(row(state, "reid-agp-0.5"), state, record())
    assert "| latency | – | – |" in card
    assert "forward passes" not in card


def test_it_says_where_the_model_comes_from(card: str) -> None:
    state = sweep_state()
    for told in (
        "- run: `reid-sweep-1a2b3c4d`",
        "- trial: `agp-0.5-0-cell`, seed 0",
        "- teacher: `reid-teacher`, trial `00000000000000aa`",
        f"- data: {state['data']['source']}, fingerprint `{state['data']['fingerprint']}`",
        f"- left out: {len(state['data']['quarantined'])} unreadable files",
        "- versions: orchestrate 0.1.0, torch 2.15.0",
    ):
        assert told in card


def test_its_recipe_is_the_trial_s_own(card: str) -> None:
    (block,) = re.findall(r"```json\n(.*?)\n```", card, re.S)
    recipe = json.loads(block)
    assert recipe == {key: value for key, value in record()["trial"].items() if value}
    assert list(recipe) == ["pruning", "train", "distillation", "reid"]


def test_its_seed_is_the_cell_s() -> None:
    state = sweep_state()
    assert ", seed 2" in cell_card(row(state, "reid-agp-0.5-seed2"), state, record())


def test_it_warns_that_the_data_chose_the_model(card: str) -> None:
    assert "expect slightly less on new data" in card


def test_it_ends_with_a_line_break_and_has_no_gaps(card: str) -> None:
    assert card.endswith("```\n")
    assert "\n\n\n" not in card
    assert "None" not in card
