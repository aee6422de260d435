"""Pruning a network in training: at once before the first epoch, or step by step between epochs.

The network is cut for real, never masked: each epoch after a cut is cheaper than the one before. What sits on top of
the network (a classifier of identities) loses its inputs with it, and the optimiser keeps its momentum for the filters
that are left.

Sources:
    [1] Zhu, Gupta. To prune, or not to prune. arXiv:1710.01878 (gradual pruning).
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from compression.cost import empty_input
from compression.pruning.engine import choose_filters
from compression.pruning.groups import ChannelGroup, find_groups
from compression.pruning.importance import RANDOM, group_scores
from compression.pruning.pruners import PRUNERS
from compression.pruning.removal import cut
from compression.pruning.schedule import agp_sparsity, linear_sparsity
from compression.pruning.selection import Choice, PruningRule, kept_after
from compression.spec import NetworkSpec
from configs.schema import Pruning
from trainers.backbones import Network, fast_order
from trainers.files import sha256_of, write_atomically
from trainers.package import WEIGHTS_FILE
from trainers.trial import RECIPE_VERSION

log = logging.getLogger(__name__)

STUDENT = "student"
"""Name of the network in the module that joins it with what sits on top of it."""


def is_gradual(pruning: Pruning) -> bool:
    """Whether it is interleaved with training."""
    return PRUNERS[pruning.pruner].schedule != "one-shot"


def rule_of(pruning: Pruning) -> PruningRule:
    """What a pruner may take away, without how much and when."""
    return PruningRule(
        importance=PRUNERS[pruning.pruner].importance,
        scope=pruning.scope,
        layers=pruning.layers,
        max_sparsity=pruning.max_sparsity,
        exclude=pruning.exclude,
        round_to=pruning.round_to,
    )


def ramp_epochs(pruning: Pruning, epochs: int) -> int:
    """Epochs over which a gradual pruner raises the sparsity; the last epoch always has the final one."""
    return min(max(1, math.floor(pruning.ramp * epochs)), epochs - 1)


def pruning_before(pruning: Pruning, epoch: int, epochs: int) -> Pruning:
    """What a gradual pruner wants done by the start of an epoch: the same, with every sparsity as far as it is then.

    Args:
        pruning: the pruner, with the sparsities of the end.
        epoch: counted from 0.
        epochs: of the whole fine-tuning.
    """
    steps = ramp_epochs(pruning, epochs) if epochs > 1 else 0
    if epoch >= steps:
        return pruning
    schedule = agp_sparsity if PRUNERS[pruning.pruner].schedule == "cubic" else linear_sparsity

    def reached(final: float) -> float:
        return schedule(epoch, steps=steps, initial=min(pruning.initial_sparsity, final), final=final)

    layers = {layer: reached(final) for layer, final in pruning.layers.items()}
    return pruning.model_copy(update={"sparsity": reached(pruning.sparsity), "layers": layers})


@dataclass(frozen=True)
class Plan:
    """What a pruner would leave of a network."""

    network: NetworkSpec
    """The network that is left."""
    reached: float
    """Share of all filters that are gone."""
    notes: tuple[str, ...]
    """Where it could not do as asked, for people."""


class Surgeon:
    """Prunes one network; knows its unpruned widths and which filters go together.

    Raises:
        compression.pruning.groups.GraphError: the network can't be traced.
    """

    def __init__(
        self, network: Network, pruning: Pruning, seed: int, groups: tuple[ChannelGroup, ...] | None = None
    ) -> None:
        """Look at an unpruned network.

        Args:
            network: what is to be pruned, before anything is cut.
            pruning: how.
            seed: of a choice by lot.
            groups: what `groups_of(network)` says, where that is known already.
        """
        self.pruning = pruning
        self.seed = seed
        self.groups = groups_of(network) if groups is None else groups
        self.originals = {group.name: group.channels for group in self.groups}

    def choose(
        self, network: Network, pruning: Pruning, scores: Mapping[str, Tensor] | None = None
    ) -> tuple[Choice, tuple[ChannelGroup, ...]]:
        """The filters of a network, which may be pruned already, that stay; sparsities are of the unpruned one."""
        groups = tuple(replace(group, channels=filters_of(network, group.name)) for group in self.groups)
        choice = choose_filters(
            network,
            groups,
            rule_of(pruning),
            sparsity=pruning.sparsity,
            originals=self.originals,
            seed=self.seed,
            engine=pruning.engine,
            scores=scores,
        )
        return choice, groups

    def plan(self, network: Network, scores: Mapping[str, Tensor] | None = None) -> Plan:
        """What would be left of the unpruned network in the end."""
        choice, groups = self.choose(network, self.pruning, scores)
        left = sum(len(indices) for indices in choice.keep.values())
        reached = 1 - left / sum(self.originals.values())
        return Plan(kept_after(network.spec, groups, choice.keep), reached, (*choice.notes, *self._capped()))

    def _capped(self) -> list[str]:
        """A sentence if measured limits hold layers back."""
        limits = self.pruning.max_sparsity.values()
        held = sum(limit < self.pruning.sparsity for limit in limits)
        return (
            [f"prune.max_sparsity keeps {held} layer{'s' if held > 1 else ''} below sparsity {self.pruning.sparsity:g}"]
            if held
            else []
        )

    def prune(
        self,
        joined: nn.Module,
        pruning: Pruning,
        *,
        scores: Mapping[str, Tensor] | None = None,
        optimizer: torch.optim.SGD | None = None,
    ) -> bool:
        """Cut the network inside `joined` down, in place, with everything on top of it.

        Args:
            joined: has the network as its submodule `student`.
            pruning: as far as it is to go now; its sparsities are of the unpruned network.
            scores: known importances of its filters; computed when left out.
            optimizer: loses the momentum of what is cut; its parameters are replaced.

        Returns:
            Whether anything was cut.
        """
        network = joined.get_submodule(STUDENT)
        assert isinstance(network, Network)
        choice, groups = self.choose(network, pruning, scores)
        if all(len(choice.keep[group.name]) == group.channels for group in groups if group.name in choice.keep):
            return False
        keep = {f"{STUDENT}.{name}": indices for name, indices in choice.keep.items()}
        spec = kept_after(network.spec, groups, choice.keep)
        example = empty_input(network.spec).to(next(network.parameters()).device)
        before = dict(joined.named_parameters())
        momentum = None if optimizer is None else shadow(joined, optimizer)
        cut(joined, example, keep)
        fast_order(joined)
        network.spec = spec
        if optimizer is not None and momentum is not None:
            cut(momentum, example, keep)
            fast_order(momentum)
            renew(optimizer, before, dict(joined.named_parameters()), dict(momentum.named_parameters()))
        return True


def foreseen(
    network: Network,
    pruning: Pruning,
    seed: int,
    groups: tuple[ChannelGroup, ...],
    scores_of: Callable[[], Mapping[str, Tensor] | None],
) -> Plan:
    """What a pruner would leave of a network, as cheaply as that can be known.

    In local scope who chooses, and by which weights, decides which filters go, but not how many: any scores do.

    Args:
        network: unpruned.
        pruning: how.
        seed: of a choice by lot.
        groups: what `groups_of(network)` says.
        scores_of: importances of its filters, where they matter; none: they are computed.

    Raises:
        compression.pruning.selection.PruningError: it can't be pruned like that.
    """
    if pruning.scope == "local":
        equal = {group.name: torch.zeros(group.channels) for group in groups}
        return Surgeon(network, pruning.model_copy(update={"engine": "own"}), seed, groups).plan(network, equal)
    return Surgeon(network, pruning, seed, groups).plan(network, scores_of())


def filters_of(network: Network, layer: str) -> int:
    """Filters that a convolution has now."""
    convolution = network.get_submodule(layer)
    assert isinstance(convolution, nn.Conv2d | nn.Conv3d)
    return convolution.weight.shape[0]


def groups_of(network: Network) -> tuple[ChannelGroup, ...]:
    """Which of a network's filters can only be removed together."""
    device = next(network.parameters()).device
    return find_groups(network, empty_input(network.spec).to(device))


def shadow(module: nn.Module, optimizer: torch.optim.SGD) -> nn.Module:
    """A copy of a module whose parameters are their momentum: what is cut from one can be cut from the other."""
    copied = copy.deepcopy(module)
    for parameter, twin in zip(module.parameters(), copied.parameters(), strict=True):
        momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
        twin.data = torch.zeros_like(parameter) if momentum is None else momentum.clone()
    return copied


def renew(
    optimizer: torch.optim.SGD,
    before: Mapping[str, nn.Parameter],
    after: Mapping[str, nn.Parameter],
    momentum: Mapping[str, nn.Parameter],
) -> None:
    """Give an optimiser the parameters that replaced some of its own, with their momentum.

    Args:
        optimizer: the parameters that are not in `before` stay as they are.
        before: parameters by name, as the optimiser has them.
        after: those that take their places.
        momentum: their momentum, as the data of parameters of the same names.
    """
    places = {parameter: name for name, parameter in before.items()}
    for group in optimizer.param_groups:
        parameters = []
        for parameter in group["params"]:
            name = places.get(parameter)
            state = optimizer.state.pop(parameter, {})
            successor = parameter if name is None else after[name]
            if name is not None and state.get("momentum_buffer") is not None:
                state = {**state, "momentum_buffer": momentum[name].detach()}
            if state:
                optimizer.state[successor] = state
            parameters.append(successor)
        group["params"] = parameters


def known_scores(folder: Path, network: Network, pruning: Pruning) -> dict[str, Tensor] | None:
    """Importance of every filter of a trained network, scored once for all sparsities and kept beside its weights.

    Args:
        folder: the package that the network was read from.
        network: unpruned.
        pruning: its pruner's importance is asked for.

    Returns:
        Scores by group; None where they depend on more than the weights (by lot, or chosen by NNI).
    """
    importance = PRUNERS[pruning.pruner].importance
    if importance == RANDOM or pruning.engine != "own":
        return None
    path = folder / f"importance-{importance}.safetensors"
    metadata = {"weights_sha256": sha256_of(folder / WEIGHTS_FILE), "recipe_version": str(RECIPE_VERSION)}
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata() == metadata:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except Exception as error:  # whatever is wrong with a cache, it is made again
        log.debug("%s is made anew: %s", path, error)
    scores = group_scores(network, groups_of(network), importance, seed=0)
    write_atomically(path, lambda temporary: save_file(scores, temporary, metadata=metadata))
    return scores
