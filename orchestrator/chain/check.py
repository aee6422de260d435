"""What is refused of a chain before anything is trained: all of it is done once to networks with random weights."""

from __future__ import annotations

from compression.pruning.nni_engine import load_nni
from compression.pruning.selection import PruningError
from configs.errors import UserError
from configs.schema import PasStep, PruneSettings, PruneStep, QuantiseStep
from orchestrator.chain.steps import Bench, planned_cell, pruning_of, quantise_driver
from orchestrator.driver import Workshop
from orchestrator.pas import Model, PasSearch
from trainers.backbones import build
from trainers.pruning import is_gradual


def check_chain(session: Workshop) -> None:
    """Refuse what can't be done.

    What `pas` leaves is not known before; the steps after it are tried on the teacher's architecture.

    Raises:
        UserError: settings that don't go together, layers that the network does not have, a step without effect.
    """
    settings = session.settings
    steps = settings.chain.steps
    changing = [step.step for step in steps if not isinstance(step, PasStep)]
    if changing and settings.distillation.features != "none":
        raise UserError(
            f"distillation.features is {settings.distillation.features}, but chain.steps has {changing[0]}, after "
            "which feature maps have other channels, or none; set distillation.features=none"
        )
    network = session.network
    for number, step in enumerate(steps, start=1):
        match step:
            case PasStep():
                check_shrinks(session)
            case PruneStep():
                check_pruner(settings.prune, step)
                network = planned_cell(session, step, number, build(network)).network
            case QuantiseStep():
                quantise_driver(Bench(session, network, session.teacher), step).check()


def check_shrinks(session: Workshop) -> None:
    """Refuse a search that could not even begin.

    Raises:
        UserError: no axis of the settings changes the network.
    """
    network = session.network
    teacher = Model(network=network, cost=session.cost(network), trial="", accuracy=0.0, top5=0.0)
    axes = session.settings.search.axes
    if not PasSearch(teacher, session.settings.search, session.cost).propose():
        raise UserError(
            f"chain.steps has pas, but search.axes is {', '.join(axes)}, along which this network can't be made "
            "smaller; add axes, or leave pas out"
        )


def check_pruner(prune: PruneSettings, step: PruneStep) -> None:
    """Refuse pruners that can't work as asked, or not here.

    Raises:
        UserError: a pruner that cuts in steps over the whole network at once; NNI where there is none.
    """
    if prune.scope == "global" and is_gradual(pruning_of(prune, step)):
        raise UserError(
            f"prune.scope is global, but {step.pruner} in chain.steps cuts in steps, for which it must be known "
            "beforehand what is left of each layer; set prune.scope=local, or choose a one-shot pruner"
        )
    if prune.engine == "nni":
        try:
            load_nni()
        except PruningError as error:
            raise UserError(f"prune: {error}") from error
