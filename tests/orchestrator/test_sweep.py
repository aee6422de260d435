"""Sweeps as state machines: which cells there are, what they are called, and what becomes of their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from compression.cost import Cost
from compression.spec import NetworkSpec
from configs.errors import RunError
from configs.schema import PruneSettings, Pruning, SweepSettings
from orchestrator.sweep.cells import Cell, Sweep, largest_harmless, prune_cells, sensitivity_cells
from trainers.pruning import Plan
from trainers.trial import TrialResult

SPEC = NetworkSpec(backbone="reid", classes=3, clip_frames=1, side=16, blocks=(1, 1, 1, 1), aspect=2.0)
"""A network of one layer of 10 filters, as far as these tests go."""


def plan(pruning: Pruning, seed: int) -> Plan:
    """What is left of it."""
    left = 10 - int(10 * max([pruning.sparsity, *pruning.layers.values()]))
    notes = ("one is left",) if left == 1 else ()
    return Plan(SPEC.replace(kept={"conv1": left}) if left < 10 else SPEC, 1 - left / 10, notes)


def cost(network: NetworkSpec) -> Cost:
    return Cost(macs=10_000 * network.kept.get("conv1", 10), params=100 * network.kept.get("conv1", 10))


def cells(prune: dict[str, Any] | None = None, seed: int = 0, **sweep: Any) -> list[Cell]:
    asked = {"pruners": ["l1", "agp"], "sparsity": [0.5], **sweep}
    settings = SweepSettings.model_validate(asked)
    return prune_cells("reid", settings, PruneSettings.model_validate(prune or {}), seed, plan, cost)


def names(found: list[Cell]) -> list[str]:
    return [cell.name for cell in found]


# Cells of a pruner sweep


def test_cells_are_pruner_by_sparsity_by_seed_then_controls() -> None:
    found = cells(pruners=["agp", "l1"], sparsity=[0.9, 0.1], seeds=[0, 3], controls=["random", "scratch"])
    assert names(found) == [
        f"reid-{pruner}-{sparsity}{seed}"
        for pruner in ("agp", "l1", "random", "scratch")
        for sparsity in (0.1, 0.9)
        for seed in ("", "-seed3")
    ]
    assert [cell.control for cell in found] == [None] * 8 + ["random"] * 4 + ["scratch"] * 4
    assert all(cell.finetuned and cell.layer is None for cell in found)


def test_a_cell_says_what_is_left_of_the_network_and_what_it_costs() -> None:
    (cell,) = cells(pruners=["fpgm"], sparsity=[0.9])
    assert cell.network == SPEC.replace(kept={"conv1": 1})
    assert (cell.cost.macs, cell.cost.params) == (10_000, 100)
    assert cell.notes == ("one is left",)
    assert (cell.pruner, cell.sparsity, cell.seed) == ("fpgm", 0.9, 0)


def test_a_cell_is_pruned_as_the_settings_say() -> None:
    (cell,) = cells({"exclude": ["conv1"], "round_to": 4, "ramp": 0.25}, pruners=["agp"])
    assert cell.pruning == Pruning(pruner="agp", sparsity=0.5, exclude=("conv1",), round_to=4, ramp=0.25)


def test_nothing_removed_is_a_cell_too() -> None:
    """Sparsity 0 is the unpruned network after as much fine-tuning (E²TAD, Table 4)."""
    (cell,) = cells(pruners=["agp"], sparsity=[0])
    assert (cell.name, cell.network, cell.pruning.sparsity) == ("reid-agp-0", SPEC, 0)


def test_without_seeds_it_is_the_run_s() -> None:
    assert [(cell.name, cell.seed) for cell in cells(pruners=["l1"], seed=7)] == [("reid-l1-0.5", 7)]


def test_the_run_s_own_seed_is_not_in_the_name() -> None:
    """So that more seeds later give the first one's cells the same names."""
    found = cells(pruners=["l1"], seed=7, seeds=[0, 7])
    assert [(cell.name, cell.seed) for cell in found] == [("reid-l1-0.5-seed0", 0), ("reid-l1-0.5", 7)]


def test_the_engine_shows_where_it_chooses() -> None:
    found = cells({"engine": "nni"}, pruners=["l1"], controls=["scratch", "random"], seeds=[1])
    assert [(cell.name, cell.pruning.engine) for cell in found] == [
        ("reid-l1-0.5-nni-seed1", "nni"),
        ("reid-scratch-0.5-seed1", "own"),
        ("reid-random-0.5-seed1", "own"),
    ]


def test_scratch_has_the_architecture_of_the_first_pruner() -> None:
    found = cells(pruners=["fpgm", "agp"], controls=["scratch"], sparsity=[0.3])
    pruned, _, scratch = found
    assert scratch.pruning == pruned.pruning
    assert (scratch.pruner, scratch.control, scratch.network) == ("scratch", "scratch", pruned.network)


def test_random_pruning_is_not_done_twice() -> None:
    """As one of the pruners it is compared like them."""
    found = cells(pruners=["random", "l1"], controls=["random", "scratch"])
    assert [(cell.name, cell.control) for cell in found] == [
        ("reid-random-0.5", None),
        ("reid-l1-0.5", None),
        ("reid-scratch-0.5", "scratch"),
    ]


def test_each_seed_of_random_pruning_draws_its_own_filters() -> None:
    drawn: list[tuple[str, int]] = []

    def watched(pruning: Pruning, seed: int) -> Plan:
        drawn.append((pruning.pruner, seed))
        return plan(pruning, seed)

    settings = SweepSettings(pruners=("l1",), sparsity=(0.5,), seeds=(1, 2), controls=("random",))
    prune_cells("reid", settings, PruneSettings(), 0, watched, cost)
    assert drawn == [("l1", 1), ("l1", 2), ("random", 1), ("random", 2)]


# Cells of a sensitivity analysis


def sensitivity(prune: PruneSettings | None = None, **sweep: Any) -> list[Cell]:
    settings = SweepSettings.model_validate({"pruners": ["l2"], "sparsity": [0.5, 0.25], **sweep})
    return sensitivity_cells("reid", settings, prune or PruneSettings(), 4, ["conv1", "layer1.0.conv1"], plan, cost)


def test_layers_are_pruned_one_at_a_time_and_not_fine_tuned() -> None:
    found = sensitivity()
    assert names(found) == [
        "reid-l2-conv1-0.25",
        "reid-l2-conv1-0.5",
        "reid-l2-layer1.0.conv1-0.25",
        "reid-l2-layer1.0.conv1-0.5",
    ]
    assert [cell.layer for cell in found] == ["conv1"] * 2 + ["layer1.0.conv1"] * 2
    assert found[3].pruning == Pruning(pruner="l2", sparsity=0.0, layers={"layer1.0.conv1": 0.5})
    assert not any(cell.finetuned for cell in found)
    assert {(cell.seed, cell.control) for cell in found} == {(4, None)}


def test_a_layer_that_loses_nothing_is_the_unpruned_network_and_no_cell() -> None:
    assert [cell.sparsity for cell in sensitivity(sparsity=[0, 0.5])] == [0.5, 0.5]


def test_limits_meant_for_sweeps_do_not_limit_what_is_measured() -> None:
    limited = PruneSettings(layers={"conv1": 0.1}, max_sparsity={"*": 0.1}, round_to=2)
    for cell in sensitivity(limited):
        assert cell.pruning.layers == {cell.layer: cell.sparsity}
        assert cell.pruning.max_sparsity == {}
        assert cell.pruning.round_to == 2


# Results


def result(cell: Cell, top1: float | None = 0.5, **fields: Any) -> TrialResult:
    return TrialResult(trial=cell.name, name=cell.name, **{"status": "finished", "top1": top1, **fields})


def test_a_sweep_proposes_everything_once() -> None:
    found = cells()
    sweep = Sweep(found)
    assert sweep.propose() == found
    assert sweep.stop_reason is None
    told = [result(cell) for cell in found]
    sweep.tell(told)
    assert sweep.propose() == []
    assert sweep.results == told
    assert sweep.stop_reason == "2 of 2 cells done"


def test_it_proposes_again_until_it_is_told() -> None:
    sweep = Sweep(cells())
    assert sweep.propose() == sweep.propose() != []


def test_cells_that_failed_do_not_stop_the_others() -> None:
    found = cells(sparsity=[0.1, 0.5])
    sweep = Sweep(found)
    failed = result(found[0], None, status="failed", reason="no room")
    sweep.tell([failed, *(result(cell, 0.0) for cell in found[1:])])  # a top-1 of 0 is a result
    assert sweep.stop_reason == "3 of 4 cells done"


def test_identities_count_by_map() -> None:
    (cell,) = cells(pruners=["l1"])
    sweep = Sweep([cell])
    sweep.tell([result(cell, 0.0, map=0.0)])
    assert sweep.stop_reason == "1 of 1 cells done"


def test_when_every_cell_failed_each_is_listed() -> None:
    first, second = found = cells()
    sweep = Sweep(found)
    with pytest.raises(RunError) as error:
        sweep.tell(
            [
                result(first, None, status="diverged", reason="loss is nan in epoch 1"),
                result(second, None, status="failed"),
            ]
        )
    assert [line.rstrip() for line in str(error.value).splitlines()] == [
        "no cell of the sweep came out usable:",
        "  reid-l1-0.5                  diverged  loss is nan in epoch 1",
        "  reid-agp-0.5                 failed",
    ]
    assert sweep.propose() == []


def test_results_that_belong_to_other_cells_are_a_bug() -> None:
    sweep = Sweep(cells())
    with pytest.raises(ValueError, match="1 results for 2 cells"):
        sweep.tell([result(sweep.cells[0])])


# What a layer may lose

HARMLESS: list[tuple[str, list[tuple[float, float | None]], float]] = [
    ("none costs too much", [(0.25, 0.80), (0.5, 0.79)], 0.5),
    ("the first does", [(0.25, 0.70), (0.5, 0.60)], 0.0),
    ("the second does", [(0.25, 0.79), (0.5, 0.77)], 0.25),
    ("what comes back is luck", [(0.25, 0.79), (0.5, 0.60), (0.75, 0.80)], 0.25),
    ("exactly the limit, which 0.8 − 0.78 is a bit more than in binary", [(0.25, 0.78)], 0.25),
    ("gains", [(0.25, 0.90)], 0.25),
    ("one was not measured", [(0.25, 0.79), (0.5, None), (0.75, 0.79)], 0.25),
    ("nothing was", [], 0.0),
]


@pytest.mark.parametrize(("accuracies", "expected"), [row[1:] for row in HARMLESS], ids=[row[0] for row in HARMLESS])
def test_largest_harmless_sparsity(accuracies: list[tuple[float, float | None]], expected: float) -> None:
    assert largest_harmless(accuracies, 0.8, 2.0) == expected


@pytest.mark.parametrize(("max_drop", "expected"), [(0.0, 0.1), (1.0, 0.2), (5.0, 0.3)])
def test_the_more_a_layer_may_cost_the_more_it_may_lose(max_drop: float, expected: float) -> None:
    assert largest_harmless([(0.1, 0.8), (0.2, 0.79), (0.3, 0.75)], 0.8, max_drop) == expected


@pytest.mark.parametrize("make", [lambda: cells(), lambda: sensitivity()], ids=["prune", "sensitivity"])
def test_the_same_settings_give_the_same_cells(make: Callable[[], list[Cell]]) -> None:
    assert make() == make()
