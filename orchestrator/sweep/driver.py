"""How a session drives pruner sweeps and sensitivity analyses: the cells are planned on the teacher's own network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from compression.pruning.groups import ChannelGroup, GraphError
from compression.pruning.nni_engine import load_nni
from compression.pruning.selection import PruningError, PruningRule, layer_sparsities
from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import PruneSettings, Pruning
from orchestrator import state as states
from orchestrator.driver import Search, TrainDriver, Workshop
from orchestrator.latency import conditions, remembered_latencies
from orchestrator.models import model_name
from orchestrator.sweep.cells import (
    SCRATCH,
    SENSITIVITY_PRUNERS,
    Cell,
    Sweep,
    largest_harmless,
    prune_cells,
    sensitivity_cells,
)
from orchestrator.sweep.table import pareto_front
from trainers.backbones import Network
from trainers.package import load_package
from trainers.pruning import Plan, foreseen, groups_of, is_gradual, known_scores
from trainers.trial import Trial


class SweepDriver(TrainDriver):
    """`orchestrate sweep prune`."""

    independent = True

    def __init__(self, session: Workshop) -> None:
        super().__init__(session)
        self.cells: list[Cell] = []
        self.trials: dict[str, Trial] = {}
        self.digests: dict[str, str] = {}
        self._trained: Network | None = None
        self.scores: dict[str, dict[str, Tensor] | None] = {}
        self.latencies: dict[NetworkSpec, float] = {}
        self.groups: tuple[ChannelGroup, ...] | None = None

    def check(self) -> None:
        """See `Driver`.

        Raises:
            UserError: settings that don't go together, layers that the network does not have.
        """
        settings = self.session.settings
        gradual = [name for name in settings.sweep.pruners if is_gradual(_cell_pruning(settings.prune, name))]
        if gradual and settings.prune.scope == "global":
            raise UserError(
                f"prune.scope is global, but {', '.join(gradual)} cut in steps, for which it must be known beforehand "
                "what is left of each layer; set prune.scope=local, or sweep one-shot pruners"
            )
        if settings.distillation.features != "none":
            raise UserError(
                f"distillation.features is {settings.distillation.features}, but feature maps of pruned networks have "
                "other channels at every step; set distillation.features=none"
            )
        several = len(settings.sweep.pruners) > 1
        if several and settings.prune.scope == "global" and SCRATCH in settings.sweep.controls:
            raise UserError(
                "sweep.controls has scratch, but with prune.scope=global every pruner leaves another architecture to "
                "train from scratch; sweep one pruner at a time, or set prune.scope=local"
            )
        most = max(settings.sweep.sparsity)
        if most > 0 and not any(plan.reached for plan in self._try_plans()):
            raise UserError(
                f"no cell loses a filter at sparsity {most:g}: prune.exclude or prune.max_sparsity spares every layer, "
                "or the layers have too few filters; loosen them, or raise sweep.sparsity"
            )

    def _try_plans(self) -> list[Plan]:
        """Ask for every cell on random weights: what is wrong is the same with trained ones.

        Raises:
            UserError: a cell can't be pruned like that, or there is no such engine here.
        """
        if self.session.settings.prune.engine == "nni":
            try:
                load_nni()
            except PruningError as error:
                raise UserError(f"prune: {error}") from error
        network, sweep = self.session.untrained(), self.session.settings.sweep
        wanted = [(pruner, sparsity) for pruner in sweep.pruners for sparsity in sweep.sparsity]
        return [
            self._plan(network, _cell_pruning(self.session.settings.prune, *cell), seed=self.session.settings.seed)
            for cell in wanted
        ]

    def start(self) -> Search | None:
        """See `Driver`."""
        self.cells = self.plan_cells(self.teacher)
        self.trials = {cell.name: self.session.planner.cell_trial(cell) for cell in self.cells}
        self.digests = {name: trial.digest for name, trial in self.trials.items()}
        self.search = Sweep(self.cells)
        return self.search

    def plan_cells(self, network: Network) -> list[Cell]:
        """All cells, of a network with the teacher's architecture."""
        session = self.session
        settings = session.settings
        return prune_cells(
            session.network.backbone,
            settings.sweep,
            settings.prune,
            settings.seed,
            lambda pruning, seed: self._plan(network, pruning, seed),
            session.cost,
        )

    @property
    def teacher(self) -> Network:
        """The trained network that is pruned."""
        if self._trained is None:
            self._trained = load_package(self.session.store.trial_folder(self.session.teacher.digest))[0]
        return self._trained

    def _plan(self, network: Network, pruning: Pruning, seed: int) -> Plan:
        """What would be left of the teacher.

        Raises:
            UserError: it can't be pruned like that, or not at all.
        """
        try:
            if self.groups is None:
                self.groups = groups_of(network)
            return foreseen(network, pruning, seed, self.groups, lambda: self._scores(network, pruning))
        except (PruningError, GraphError) as error:
            raise UserError(f"prune: {error}") from error

    def _scores(self, network: Network, pruning: Pruning) -> dict[str, Tensor] | None:
        """The trained teacher's importances, read once per pruner; of random weights, none are kept."""
        if network is not self._trained:
            return None
        if pruning.pruner not in self.scores:
            folder = self.session.store.trial_folder(self.session.teacher.digest)
            self.scores[pruning.pruner] = known_scores(folder, network, pruning)
        return self.scores[pruning.pruner]

    def trial(self, proposal: Cell) -> Trial:
        """See `Driver`."""
        return self.trials[proposal.name] if proposal.name in self.trials else self.session.planner.cell_trial(proposal)

    def stage_name(self, proposed: Sequence[Cell]) -> str:
        """See `Driver`."""
        return "sweep"

    def verdict(self, proposed: Sequence[Cell]) -> str:
        """See `Driver`."""
        assert self.search is not None
        return self.search.stop_reason or ""

    def conclude(self) -> None:
        """Measure latencies, now that no trial runs beside them."""
        networks = [self.session.network, *(cell.network for cell in self.cells)]
        self.latencies = remembered_latencies(networks, self.session.run.path / "latency.json")

    def measured(self, network: NetworkSpec) -> dict[str, Any]:
        """See `Driver`."""
        return {"latency_ms": self.latencies.get(network)}

    def found(self) -> dict[str, Any]:
        """See `Driver`."""
        cells = [self._cell_state(cell) for cell in self.cells]
        front = pareto_front(cells)
        for cell in cells:
            cell["pareto"] = cell["trial"] in front
            exported = cell["pareto"] and self.search is not None and self.search.stop_reason
            cell["path"] = f"models/{model_name(cell['name'])}" if exported else None
        return {"cells": cells, "latency": conditions() if self.latencies else None}

    def _cell_state(self, cell: Cell) -> dict[str, Any]:
        trial = self.trials[cell.name]
        return {
            "pruner": cell.pruner,
            "sparsity": cell.sparsity,
            "engine": cell.pruning.engine,
            "control": cell.control,
            "seed": cell.seed,
            "layer": cell.layer,
            "finetune_epochs": trial.train.epochs if trial.train else 0,
            **self.measured(cell.network),
            "notes": list(cell.notes),
            "reached": cell.reached,
            **states.trial_state(trial, cell.cost, self.session.results.get(self.digests[cell.name])),
        }


class SensitivityDriver(SweepDriver):
    """`orchestrate sweep sensitivity`: one layer at a time, evaluated without fine-tuning."""

    def check(self) -> None:
        """See `Driver`.

        Raises:
            UserError: a pruner that needs training, layers that the network does not have.
        """
        sweep = self.session.settings.sweep
        if len(sweep.pruners) != 1 or sweep.pruners[0] not in SENSITIVITY_PRUNERS:
            raise UserError(
                f"sweep.pruners is {', '.join(sweep.pruners)}, but a sensitivity analysis takes one of "
                f"{', '.join(SENSITIVITY_PRUNERS)}; choose with --pruner"
            )
        if not any(sweep.sparsity):
            raise UserError("sweep.sparsity is 0, but then no layer loses anything; give at least one above 0")
        self._try_plans()
        if not self.prunable:
            raise UserError(
                f"prune.exclude is {list(self.session.settings.prune.exclude)}, which leaves no layer to be pruned; "
                "exclude fewer"
            )

    def plan_cells(self, network: Network) -> list[Cell]:
        """A cell per layer and sparsity."""
        session = self.session
        settings = session.settings
        return sensitivity_cells(
            session.network.backbone,
            settings.sweep,
            settings.prune,
            settings.seed,
            [group.name for group in self.prunable],
            lambda pruning, seed: self._plan(network, pruning, seed),
            session.cost,
        )

    @property
    def prunable(self) -> list[ChannelGroup]:
        """Groups of layers that are not excluded."""
        if self.groups is None:
            self.groups = groups_of(self.teacher)
        rule = PruningRule(importance="l1", exclude=self.session.settings.prune.exclude)
        sparsities = layer_sparsities(self.groups, rule, 0.5)
        return [group for group in self.groups if sparsities[group.name] > 0]

    def stage_name(self, proposed: Sequence[Cell]) -> str:
        """See `Driver`."""
        return "sensitivity"

    def conclude(self) -> None:
        """Nothing: networks that nobody keeps need no latency."""

    def found(self) -> dict[str, Any]:
        """See `Driver`: cells, and the same by layer."""
        cells = [self._cell_state(cell) for cell in self.cells]
        max_drop = self.session.settings.sweep.max_drop
        layers = []
        for group in self.prunable if self.cells else []:
            points = [cell for cell in cells if cell["layer"] == group.name]
            baseline = self.session.teacher_result.accuracy or 0.0
            measured = [(point["sparsity"], point[self.session.metric]) for point in points if point["reached"]]
            layers.append(
                {
                    "layer": group.name,
                    "coupled": list(group.layers),
                    "channels": group.channels,
                    "points": [
                        {key: point[key] for key in ("sparsity", "top1", "map", "status", "gmacs", "params", "trial")}
                        for point in points
                    ],
                    "max_sparsity": largest_harmless(measured, baseline, max_drop),
                }
            )
        return {"cells": cells, "layers": layers, "max_drop": max_drop, "latency": None}


def _cell_pruning(prune: PruneSettings, pruner: str, sparsity: float = 0.5) -> Pruning:
    return Pruning.model_validate({**prune.model_dump(), "pruner": pruner, "sparsity": sparsity})
