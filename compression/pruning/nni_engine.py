"""NNI's pruners as a second opinion on which filters go.

How many filters a group of coupled convolutions keeps is ours to say (`selection.py`), because a network's spec is
written down before it is pruned; which ones they are is NNI's answer, and the cutting is ours again (`removal.py`).
NNI ranks by the mean of its own scores over the coupled convolutions, in float32. It differs from our engine

- where filters tie: NNI leaves the choice among equals to `torch.topk`, which promises no order;
- where scores agree to the last bits of float32, because NNI adds them up in another order.

Left to itself, NNI would remove int(channels · sparsity) filters, which for 100 · 0.29 is 28, not 29, and would know
nothing of `round_to`. So it is given a share from which it can only compute our number.

Sources:
    [1] NNI 3.0, nni/compression/pruning/basic_pruner.py and tools/sparse_gen.py.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from compression.pruning.groups import ChannelGroup
from compression.pruning.selection import Choice, PruningError, PruningRule, choose

NNI_PRUNERS = {"l1": "L1NormPruner", "l2": "L2NormPruner", "fpgm": "FPGMPruner"}
"""NNI's class per key of `importance.IMPORTANCES`."""


def nni_choose(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    rule: PruningRule,
    *,
    sparsity: float,
    originals: Mapping[str, int],
) -> Choice:
    """Which filters stay, by NNI's one-shot pruner of `rule.importance`; the module is left as it is.

    Args:
        module: the network, maybe cut before.
        groups: its coupled convolutions, from `find_groups(module, …)`.
        rule: as for our own engine, with local scope.
        sparsity: share of each group's filters to remove, counted from the unpruned network, in [0, 1).
        originals: filters of each group in the unpruned network, by the group's name.

    Returns:
        For each group as many filters as `selection.choose` keeps with the same arguments, and its notes.

    Raises:
        PruningError: NNI is not installed, has no such importance or scope, or breaks what it promises; a weight is not
            finite; or as `choose`.
    """
    check_supported(rule)
    library = load_nni()
    # Under local scope, scores decide which filters stay but not how many: any scores give the numbers.
    planned = choose(
        groups,
        {group.name: torch.zeros(group.channels) for group in groups},
        rule,
        sparsity=sparsity,
        originals=originals,
    )
    counts = {group: len(planned.keep[group.name]) for group in groups}
    removals = {group: group.channels - count for group, count in counts.items() if count < group.channels}
    masks = filter_masks(getattr(library, NNI_PRUNERS[rule.importance]), module, removals)
    chosen = {group.name: kept(group, masks, counts[group]) for group in removals}
    return replace(planned, keep={**planned.keep, **chosen})


def check_supported(rule: PruningRule) -> None:
    """Refuse rules for which NNI has no counterpart.

    Raises:
        PruningError: global scope, which NNI ranks by unscaled scores, or an importance that it doesn't have.
    """
    if rule.importance not in NNI_PRUNERS:
        raise PruningError(
            f"engine nni has no importance {rule.importance!r}, only {', '.join(NNI_PRUNERS)}; "
            "choose one of them, or engine own"
        )
    if rule.scope != "local":
        raise PruningError(f"engine nni prunes with scope local, not {rule.scope}; say scope local, or engine own")


def load_nni() -> ModuleType:
    """NNI's pruners, imported on first use: that takes 2 to 3 seconds, and NNI is an extra.

    Raises:
        PruningError: NNI can't be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NNI is of 2023; newer Pythons may warn while they compile it
            library = importlib.import_module("nni")
            pruners = importlib.import_module("nni.compression.pruning")
    except ImportError as error:
        raise PruningError(
            f"engine nni needs NNI 3.0, which can't be imported ({error}); "
            "install the extra (pip install '.[nni]', on x86-64 only), or choose engine own"
        ) from error
    library.silence_stdout()  # importing it made it print its log
    return pruners


def filter_masks(
    pruner: Callable[..., Any], module: nn.Module, removals: Mapping[ChannelGroup, int]
) -> dict[str, Bool[Tensor, " _"]]:
    """NNI's masks (True = kept) by the convolution's name.

    A pruner replaces the parameters and the forward of what it is given, so it is given stand-ins.

    Args:
        pruner: NNI's class.
        module: the network; not changed.
        removals: filters to remove, at least 1 and not all, by group.
    """
    layers = [(group, name) for group in removals for name in group.layers]
    stand_ins = nn.ModuleList(stand_in(module, name) for _, name in layers)
    # NNI walks the layers of one entry in the order of a set of strings, which is another in each process. An entry
    # per layer fixes the order in which it adds scores up.
    config = [
        {
            "op_names": [str(number)],
            "target_names": ["weight"],
            "dependency_group_id": group.name,
            "sparse_ratio": share(removals[group], group.channels),
        }
        for number, (group, _) in enumerate(layers)
    ]
    with quiet(logging.getLogger("nni")), torch.no_grad():
        _, masks = pruner(stand_ins, config).compress()
    return {name: masks[str(number)]["weight"].bool().any(1).cpu() for number, (_, name) in enumerate(layers)}


def stand_in(module: nn.Module, name: str) -> nn.Linear:
    """A layer whose rows are a convolution's filters, in float32.

    NNI scores filters as rows, whatever their shape, but can't couple a Conv2d with a Conv3d, whose scores have other
    shapes.

    Raises:
        PruningError: a weight is not finite; NNI would take its filter for the best.
    """
    weight = module.get_submodule(name).get_parameter("weight").detach()
    if not weight.isfinite().all():
        raise PruningError(f"weights of {name} are not all finite; find out where training diverged")
    layer = nn.Linear(1, 1, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.flatten(1).float(), requires_grad=False)
    return layer


def share(removed: int, channels: int) -> float:
    """A sparse ratio r for which NNI's int(channels · r) is `removed`, however the product is rounded ([1])."""
    return (removed + 0.5) / channels


def kept(group: ChannelGroup, masks: Mapping[str, Bool[Tensor, " _"]], count: int) -> Int64[Tensor, " kept"]:
    """Indices of the filters that all coupled convolutions keep, ascending.

    Raises:
        PruningError: the convolutions' masks differ, or keep another number than was asked for. Intersecting them
            would hide that, and cut a network that its spec doesn't describe.
    """
    first, *others = group.layers
    for other in others:
        if not torch.equal(masks[first], masks[other]):
            raise PruningError(
                f"engine nni keeps other filters of {other} than of {first}, though they are coupled; choose engine own"
            )
    indices = masks[first].nonzero().flatten()
    if len(indices) != count:
        raise PruningError(
            f"engine nni keeps {len(indices)} of {group.channels} filters of {first}, but was asked for {count}; "
            "choose engine own"
        )
    return indices


@contextmanager
def quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep a logger from saying anything below an error."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
