"""The steps of a chain that start from a trained network, planned once there is one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from compression.cost import Cost
from compression.pruning.groups import GraphError
from compression.pruning.selection import PruningError
from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import PruneSettings, PruneStep, Pruning, QuantiseStep, RunSettings, SweepSettings
from orchestrator.chain.search import Quantising, Single
from orchestrator.driver import Workshop
from orchestrator.pas import Model
from orchestrator.planning import Planner, for_epochs
from orchestrator.quantise.driver import QuantiseDriver
from orchestrator.quantise.search import QuantiseSearch
from orchestrator.store import RunFolder, Store
from orchestrator.sweep.cells import Cell, prune_cells
from orchestrator.sweep.table import LABELS
from trainers.backbones import Network, build
from trainers.package import load_package
from trainers.pruning import Plan, foreseen, groups_of, known_scores
from trainers.tasks import Metric
from trainers.trial import Trial, TrialResult


class Bench:
    """A session as the driver of one step sees it (a `Workshop`): an earlier step's network is the teacher there."""

    def __init__(self, session: Workshop, network: NetworkSpec, teacher: Trial) -> None:
        self.session = session
        self.settings: RunSettings = session.settings
        self.network = network
        self.metric: Metric = session.metric
        self.planner: Planner = session.planner
        self.teacher = teacher
        self.store: Store = session.store
        self.run: RunFolder = session.run
        self.results: dict[str, TrialResult] = session.results

    @property
    def teacher_result(self) -> TrialResult:
        """See `Workshop`."""
        return self.results[self.teacher.digest]

    def cost(self, network: NetworkSpec) -> Cost:
        """See `Workshop`."""
        return self.session.cost(network)

    def untrained(self) -> Network:
        """See `Workshop`."""
        return build(self.network)


def quantise_driver(bench: Bench, step: QuantiseStep) -> QuantiseDriver:
    """The driver of `sweep qat`, for one way and the run's seed."""
    only = {"methods": (step.method,), "seeds": None}
    quantise = bench.settings.quantise.model_copy(update=only)
    bench.settings = bench.settings.model_copy(update={"quantise": quantise})
    return QuantiseDriver(bench)


def open_quantising(session: Workshop, step: QuantiseStep, number: int, model: Model, trial: Trial) -> Quantising:
    """Begin to quantise: which layers would be slower in integers is measured here.

    Args:
        session: the chain's.
        step: which way.
        number: of the step, counted from 1.
        model: the network of the step before.
        trial: the trial that trained it.

    Raises:
        UserError: it can't be quantised like that.
        RunError: every layer is slower in integers.
    """
    driver = quantise_driver(Bench(session, model.network, trial), step)
    try:
        driver.check()
    except UserError as error:
        raise UserError(f"chain.steps, step {number}, of the network that the steps before left: {error}") from error
    search = driver.start()
    assert isinstance(search, QuantiseSearch)
    return Quantising(search, driver.trial, model.cost)


def open_pruning(session: Workshop, step: PruneStep, number: int, model: Model) -> Single:
    """Plan the one trial of a step that prunes: it starts from the step before, and the chain's teacher teaches it.

    Args:
        session: the chain's.
        step: pruner and sparsity.
        number: of the step, counted from 1.
        model: the network of the step before.

    Raises:
        UserError: it can't be pruned like that, or nothing would go.
    """
    folder = session.store.trial_folder(model.trial)
    cell = planned_cell(session, step, number, load_package(folder)[0], folder)
    trial = replace(session.planner.cell_trial(cell), start=model.trial)
    if step.epochs is not None and trial.train is not None:
        trial = replace(trial, train=for_epochs(trial.train, step.epochs))
    return Single(trial, cell.cost, title_of(step), cell.notes)


def planned_cell(session: Workshop, step: PruneStep, number: int, network: Network, folder: Path | None = None) -> Cell:
    """The pruned network that a step would train, as a cell of a sweep.

    Args:
        session: settings and costs.
        step: pruner and sparsity.
        number: of the step, counted from 1.
        network: what is pruned.
        folder: of the package that it was read from; none: its weights are random and say nothing.

    Raises:
        UserError: it can't be pruned like that, or nothing would go.
    """
    where = f"chain.steps, step {number} ({title_of(step)})"
    settings = session.settings

    def plan(pruning: Pruning, seed: int) -> Plan:
        try:
            scores = partial(known_scores, folder, network, pruning) if folder else lambda: None
            return foreseen(network, pruning, seed, groups_of(network), scores)
        except (PruningError, GraphError) as error:
            raise UserError(f"{where}: {error}") from error

    wanted = SweepSettings(pruners=(step.pruner,), sparsity=(step.sparsity,))
    backbone = f"{network.spec.backbone}-step{number}"
    (cell,) = prune_cells(backbone, wanted, settings.prune, settings.seed, plan, session.cost)
    if not cell.reached:
        raise UserError(
            f"{where} would remove no filter: prune.exclude, prune.layers or prune.max_sparsity spares every layer, "
            "or the layers have too few filters; loosen them, or raise its sparsity"
        )
    return cell


def pruning_of(prune: PruneSettings, step: PruneStep) -> Pruning:
    """What a step removes."""
    return Pruning.model_validate({**prune.model_dump(), "pruner": step.pruner, "sparsity": step.sparsity})


def title_of(step: PruneStep) -> str:
    """What people call it: `AGP 0.5`."""
    return f"{LABELS[step.pruner]} {step.sparsity:g}"
