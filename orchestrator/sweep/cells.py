"""Pruner sweeps as pure state machines: which networks are tried, and what one layer may lose.

No clock, no files, no Ray, no tensors: what a pruner would leave of the network is asked of a function. All cells of a
sweep are independent of one another and are proposed at once; a sweep with more pruners, sparsities or seeds proposes
the old cells again, which the store knows.

Sources:
    [1] Hu, Wu et al. E²TAD: an energy-efficient tracking-based action detector; Tables 3 and 4, `specs/e2tad.md` 16.
    [2] Li et al. Pruning filters for efficient ConvNets. arXiv:1608.08710 (sensitivity of single layers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from compression.cost import Cost
from compression.spec import NetworkSpec
from configs.errors import RunError
from configs.schema import PruneSettings, Pruning, SweepSettings
from trainers.pruning import Plan
from trainers.trial import TrialResult

SCRATCH = "scratch"
"""In place of a pruner: the same architecture from random weights."""
RANDOM = "random"
"""The pruner that chooses filters by lot."""
SENSITIVITY_PRUNERS = ("l1", "l2", "fpgm")
"""Pruners whose choice is made at once, by what filters are."""

Control = Literal["scratch", "random"]
PlanOf = Callable[[Pruning, int], Plan]
"""What a pruner would leave of the sweep's network, with a seed."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network of a sweep."""

    pruner: str
    """Key of `PRUNERS`, or `scratch`."""
    sparsity: float
    """As asked for: the share of filters removed per layer (or in all)."""
    seed: int
    """Seed of its fine-tuning."""
    control: Control | None
    """What it is a control of; none: a real cell."""
    pruning: Pruning
    """What is removed; of `scratch`, what gives the architecture."""
    network: NetworkSpec
    cost: Cost
    reached: float
    """Share of all filters that are gone."""
    notes: tuple[str, ...]
    """Where the pruner could not do as asked."""
    name: str
    """What an operator reads, e.g. `reid-agp-0.5`."""
    finetuned: bool = True
    """Whether it is trained after pruning, or only evaluated."""
    layer: str | None = None
    """The only layer that is pruned, in a sensitivity analysis."""


class Sweep:
    """Proposes cells once, and takes their results."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = list(cells)
        self.results: list[TrialResult | None] = [None] * len(self.cells)
        self.stop_reason: str | None = None

    def propose(self) -> list[Cell]:
        """All cells; nothing once their results are known."""
        return [] if self.stop_reason else list(self.cells)

    def tell(self, results: Sequence[TrialResult]) -> None:
        """Take the results, in the order of the proposal.

        Raises:
            RunError: every cell failed; lists what happened to each.
        """
        if len(results) != len(self.cells):
            raise ValueError(f"{len(results)} results for {len(self.cells)} cells")
        self.results = list(results)
        done = sum(result.accuracy is not None for result in results)
        self.stop_reason = f"{done} of {len(self.cells)} cells done"
        if not done:
            reasons = "\n".join(f"  {r.name:<28} {r.status:<9} {r.reason or ''}" for r in results)
            raise RunError(f"no cell of the sweep came out usable:\n{reasons}")


def prune_cells(
    backbone: str,
    sweep: SweepSettings,
    prune: PruneSettings,
    seed: int,
    plan: PlanOf,
    cost: Callable[[NetworkSpec], Cost],
) -> list[Cell]:
    """Pruner × sparsity × seed, then the controls; in that order.

    Args:
        backbone: for the names.
        sweep: which cells.
        prune: what pruners may take.
        seed: the run's, where the sweep names none; other seeds show in the names.
        plan: what would be left.
        cost: of what is left.
    """
    controls = [control for control in sweep.controls if control == SCRATCH or RANDOM not in sweep.pruners]
    pruners: list[tuple[str, Control | None]] = [(pruner, None) for pruner in sweep.pruners]
    pruners += [(control, control) for control in controls]
    cells = []
    for pruner, control in pruners:
        for sparsity in sorted(sweep.sparsity):
            for number in sweep.seeds or (seed,):
                by = sweep.pruners[0] if pruner == SCRATCH else pruner
                engine = prune.engine if pruner not in (SCRATCH, RANDOM) else "own"
                asked = {**prune.model_dump(), "engine": engine, "pruner": by, "sparsity": sparsity}
                pruning = Pruning.model_validate(asked)
                left = plan(pruning, number)
                name = f"{backbone}-{pruner}-{sparsity:g}"
                name += "-nni" if engine == "nni" else ""
                cells.append(
                    Cell(
                        pruner=pruner,
                        sparsity=sparsity,
                        seed=number,
                        control=control,
                        pruning=pruning,
                        network=left.network,
                        cost=cost(left.network),
                        reached=left.reached,
                        notes=left.notes,
                        name=name if number == seed else f"{name}-seed{number}",
                    )
                )
    return cells


def sensitivity_cells(
    backbone: str,
    sweep: SweepSettings,
    prune: PruneSettings,
    seed: int,
    layers: Sequence[str],
    plan: PlanOf,
    cost: Callable[[NetworkSpec], Cost],
) -> list[Cell]:
    """Layer × sparsity: each prunes one layer (with those it is coupled to), and is evaluated without fine-tuning.

    Args:
        backbone: for the names.
        sweep: its first pruner and its sparsities.
        prune: engine, rounding.
        seed: of the run.
        layers: what is pruned, one at a time.
        plan: as for `prune_cells`.
        cost: likewise.
    """
    pruner = sweep.pruners[0]
    cells = []
    for layer in layers:
        for sparsity in sorted(sweep.sparsity):
            if sparsity == 0:
                continue
            asked = {**prune.model_dump(exclude={"layers", "max_sparsity"}), "layers": {layer: sparsity}}
            pruning = Pruning.model_validate({**asked, "pruner": pruner, "sparsity": 0.0})
            left = plan(pruning, seed)
            cells.append(
                Cell(
                    pruner=pruner,
                    sparsity=sparsity,
                    seed=seed,
                    control=None,
                    pruning=pruning,
                    network=left.network,
                    cost=cost(left.network),
                    reached=left.reached,
                    notes=left.notes,
                    name=f"{backbone}-{pruner}-{layer}-{sparsity:g}",
                    finetuned=False,
                    layer=layer,
                )
            )
    return cells


def largest_harmless(accuracies: Sequence[tuple[float, float | None]], baseline: float, max_drop: float) -> float:
    """The largest sparsity up to which a layer costs no more than `max_drop` points.

    Args:
        accuracies: (sparsity, accuracy) in ascending order of sparsity; none: not measured.
        baseline: accuracy of the unpruned network, a fraction.
        max_drop: percentage points.

    Returns:
        0 where the smallest sparsity already costs more. A sparsity beyond the first that costs more does not count:
        accuracy that comes back is luck.
    """
    harmless = 0.0
    for sparsity, accuracy in accuracies:
        if accuracy is None or round(100 * (baseline - accuracy), 6) > max_drop:
            break
        harmless = sparsity
    return harmless
