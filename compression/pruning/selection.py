"""Which filters stay: a rule, a sparsity and scores are turned into indices.

Sparsity is the share of filters removed, counted from the unpruned network, so that pruning in several steps ends
where pruning at once does. A group of n filters loses ⌊n · sparsity⌋ (NNI's int(n · s), `specs/e2tad.md` 16.1).

Units: sparsities are in [0, 1); scores as in `importance.py`, the lowest go first. Of equal scores the lower index goes
first, and in global scope the earlier group's.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from compression.pruning.groups import ChannelGroup
from compression.spec import NetworkSpec

SLACK = 1e-9
"""Added before rounding down: 100 · 0.29 is 28.999999999999996, but means 29."""


class PruningError(ValueError):
    """A pruning that can't be done as asked."""


@dataclass(frozen=True)
class PruningRule:
    """What may be taken away; fields as in `configs.schema.PruneSettings`.

    Layers are given by name or by a pattern with `*`; the name of any coupled layer means its whole group.
    """

    importance: str
    """Key of `importance.IMPORTANCES`, or `random`."""
    scope: Literal["local", "global"] = "local"
    """The same share of every group, or the least important filters of them all."""
    layers: Mapping[str, float] = field(default_factory=dict)
    """Sparsity of some layers, whatever the others'."""
    max_sparsity: Mapping[str, float] = field(default_factory=dict)
    """Largest sparsity of some layers; bounds `layers` as well."""
    exclude: tuple[str, ...] = ()
    """Layers that keep all their filters, even if `layers` names them."""
    round_to: int = 1
    """Filters left are multiples of it, as far as a layer has that many."""


@dataclass(frozen=True)
class Choice:
    """The filters that stay."""

    keep: Mapping[str, Int64[Tensor, " _"]]
    """For every group: ascending indices into its current channels."""
    notes: tuple[str, ...]
    """A sentence for each group that keeps more than asked because too little would have been left of it."""


def layer_sparsities(groups: Sequence[ChannelGroup], rule: PruningRule, sparsity: float) -> dict[str, float]:
    """Sparsity of each group by its name, as local scope has it.

    Args:
        groups: all groups of the network.
        rule: names its exceptions.
        sparsity: of all other groups.

    Raises:
        PruningError: a sparsity is not in [0, 1); a pattern matches nothing; two patterns contradict each other.
    """
    check_sparsity("sparsity", sparsity)
    excluded = excluded_groups(groups, rule)
    own = by_group(groups, "layers", rule.layers)
    largest = by_group(groups, "max_sparsity", rule.max_sparsity)
    return {
        group.name: 0.0 if group.name in excluded else min(own.get(group.name, sparsity), largest.get(group.name, 1.0))
        for group in groups
    }


def filters_left(channels: int, sparsity: float, round_to: int) -> int:
    """Filters left of so many: at least 1, at least `round_to` where there are that many, and rounded up to it.

    Args:
        channels: n >= 1.
        sparsity: in [0, 1).
        round_to: a multiple of it is left, or all of them.
    """
    return rounded_up(whole_filters(channels, sparsity), channels, round_to)


def choose(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, Float[Tensor, " _"]],
    rule: PruningRule,
    *,
    sparsity: float,
    originals: Mapping[str, int],
) -> Choice:
    """The filters that stay at a sparsity.

    In global scope scores are divided by their group's mean, and the lowest of all groups that the rule doesn't treat
    apart (`exclude`, `layers`) go, as many as the sparsity takes from them together. What `max_sparsity` protects and
    each group's best filter (or best `round_to`) stay, whatever they score; rounding up then returns some more.

    Args:
        groups: all groups of the network as it is, perhaps pruned before.
        scores: one per filter, by the group's name.
        rule: what may be taken away.
        sparsity: share of the unpruned network's filters that is to be gone, in [0, 1).
        originals: channels of the unpruned network, by the group's name. A group that has fewer than it should keep
            stays as it is.

    Raises:
        PruningError: as `layer_sparsities`; `round_to` is below 1; or scores are missing, of the wrong number, or not
            finite.
    """
    if rule.round_to < 1:
        raise PruningError(f"round_to is {rule.round_to}, but must be >= 1")
    shares = layer_sparsities(groups, rule, sparsity)
    checked = {group.name: checked_scores(group, scores) for group in groups}
    asked = {name: originals[name] * (1 - share) for name, share in shares.items()}
    granted = {name: whole_filters(originals[name], share) for name, share in shares.items()}
    if together := pooled(groups, rule):
        budget = math.floor(sum(originals[group.name] for group in together) * sparsity + SLACK)
        budget -= sum(originals[group.name] - group.channels for group in together)
        shares |= {group.name: sparsity for group in together}
        asked |= lowest_gone(together, checked, dict.fromkeys(checked, 0), budget)
        granted |= lowest_gone(together, checked, fewest_left(together, rule, originals), budget)
    left = {
        group.name: min(group.channels, rounded_up(granted[group.name], originals[group.name], rule.round_to))
        for group in groups
    }
    notes = (
        spared_note(name, filters, asked[name], originals[name], share=shares[name], round_to=rule.round_to)
        for name, filters in left.items()
    )
    return Choice({name: best(checked[name], filters) for name, filters in left.items()}, tuple(filter(None, notes)))


def kept_after(spec: NetworkSpec, groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]) -> NetworkSpec:
    """The spec of a network after `removal.cut`: it counts what every group keeps.

    Args:
        spec: the network before.
        groups: all its groups.
        keep: as of `Choice`; groups that it doesn't name keep everything.

    Returns:
        The spec from which a network of the cut one's shapes is built; `spec` itself if nothing is removed.
    """
    kept = {group.name: len(keep[group.name]) if group.name in keep else group.channels for group in groups}
    if all(kept[group.name] == group.channels for group in groups):
        return spec
    return spec.replace(kept=kept, kept_at=spec.factors.c)


def whole_filters(channels: int, sparsity: float) -> int:
    """Filters left of so many if nothing is rounded or spared: n − ⌊n · s⌋."""
    return channels - math.floor(channels * sparsity + SLACK)


def rounded_up(left: int, channels: int, round_to: int) -> int:
    """The next multiple of `round_to`, at least one of it, but no more than there are channels."""
    return min(channels, max(1, math.ceil(left / round_to)) * round_to)


def pooled(groups: Sequence[ChannelGroup], rule: PruningRule) -> list[ChannelGroup]:
    """The groups that lose their least important filters together: none in local scope."""
    if rule.scope == "local":
        return []
    apart = excluded_groups(groups, rule) | by_group(groups, "layers", rule.layers).keys()
    return [group for group in groups if group.name not in apart]


def fewest_left(groups: Sequence[ChannelGroup], rule: PruningRule, originals: Mapping[str, int]) -> dict[str, int]:
    """Filters that each group keeps in any case: one or `round_to`, and what `max_sparsity` protects."""
    largest = by_group(groups, "max_sparsity", rule.max_sparsity)
    fewest = {}
    for name in (group.name for group in groups):
        protected = whole_filters(originals[name], largest[name]) if name in largest else 1
        fewest[name] = rounded_up(protected, originals[name], rule.round_to)
    return fewest


def lowest_gone(
    groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor], fewest: Mapping[str, int], budget: int
) -> dict[str, int]:
    """Filters left of each group once the lowest relative scores of all groups are gone.

    Args:
        groups: at least one.
        scores: one per filter, by the group's name.
        fewest: the best of each group, so many, stay.
        budget: filters to remove; as many as can be if it is more, none if it is negative.
    """
    owners = torch.arange(len(groups)).repeat_interleave(torch.tensor([group.channels for group in groups]))
    order = torch.cat([relative(scores[group.name]) for group in groups]).argsort(stable=True)
    removable = torch.cat([~among_best(scores[group.name], fewest[group.name]) for group in groups])
    candidates = order[removable[order]]
    gone = owners[candidates[: max(0, budget)]].bincount(minlength=len(groups)).tolist()
    return {group.name: group.channels - count for group, count in zip(groups, gone, strict=True)}


def relative(scores: Float[Tensor, " filter"]) -> Float[Tensor, " filter"]:
    """Scores over their mean, which makes those of different groups comparable; 0 where all are 0."""
    mean = scores.double().mean()
    return scores.double() / mean if mean > 0 else torch.zeros_like(scores, dtype=torch.float64)


def best(scores: Float[Tensor, " filter"], left: int) -> Int64[Tensor, " _"]:
    """Ascending indices of the filters that go last."""
    return scores.argsort(stable=True)[max(0, len(scores) - left) :].sort().values


def among_best(scores: Float[Tensor, " filter"], left: int) -> Bool[Tensor, " filter"]:
    """Whether each filter is one of those that go last."""
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[best(scores, left)] = True
    return mask


def spared_note(name: str, left: int, asked: int | float, original: int, *, share: float, round_to: int) -> str | None:
    """Why a group keeps more than asked, if rounding to whole filters is not all there is to it.

    Args:
        name: the group's.
        left: filters that it keeps.
        asked: filters that the sparsity would have left of it, unrounded.
        original: filters of the unpruned network.
        share: the sparsity.
        round_to: what the filters left are a multiple of.
    """
    keeps = f"{name} keeps {left} of {original} filters: sparsity {share:g} would have"
    if asked < 1 - SLACK:
        return f"{keeps} emptied it"
    if (whole := math.ceil(asked - SLACK)) < min(round_to, original):
        return f"{keeps} left {whole}, fewer than round_to {round_to}"
    return None


def excluded_groups(groups: Sequence[ChannelGroup], rule: PruningRule) -> set[str]:
    """Names of the groups that keep all their filters."""
    return {group.name for pattern in rule.exclude for group in matching(groups, "exclude", pattern)}


def by_group(groups: Sequence[ChannelGroup], setting: str, values: Mapping[str, float]) -> dict[str, float]:
    """A setting's sparsities by group instead of by pattern.

    Raises:
        PruningError: a value is no sparsity, a pattern matches nothing, or a group is given two values.
    """
    found: dict[str, tuple[str, float]] = {}
    for pattern, value in values.items():
        check_sparsity(f"{setting}[{pattern!r}]", value)
        for group in matching(groups, setting, pattern):
            other, earlier = found.setdefault(group.name, (pattern, value))
            if earlier != value:
                raise PruningError(
                    f"{setting} gives {group.name} two sparsities, {earlier:g} by {other!r} and {value:g} by "
                    f"{pattern!r}; leave one (coupled layers have one sparsity: {', '.join(group.layers)})"
                )
    return {name: value for name, (_, value) in found.items()}


def matching(groups: Sequence[ChannelGroup], setting: str, pattern: str) -> list[ChannelGroup]:
    """The groups that a layer's name or pattern means.

    Raises:
        PruningError: there is none.
    """
    if found := [group for group in groups if any(fnmatchcase(layer, pattern) for layer in group.layers)]:
        return found
    names = [layer for group in groups for layer in group.layers]
    near = difflib.get_close_matches(pattern, names)
    hint = f"did you mean {', '.join(near)}?" if near else f"layers are named like {', '.join(names[:3])}"
    raise PruningError(f"{setting} names {pattern!r}, but no layer that can be pruned matches it; {hint}")


def checked_scores(group: ChannelGroup, scores: Mapping[str, Tensor]) -> Float[Tensor, " filter"]:
    """A group's scores on the CPU.

    Raises:
        PruningError: there are none, too many or too few, or some are not finite.
    """
    if group.name not in scores:
        raise PruningError(f"scores lack {group.name}; score the network that is to be pruned")
    found = scores[group.name].detach().cpu()
    if found.shape != (group.channels,):
        raise PruningError(
            f"scores of {group.name} have the shape {[*found.shape]}, but it has {group.channels} filters; "
            "score the network as it is now"
        )
    if not found.isfinite().all():
        raise PruningError(f"scores of {group.name} are not all finite: its weights have diverged; train it again")
    return found


def check_sparsity(setting: str, value: float) -> None:
    """Refuse what is no sparsity.

    Raises:
        PruningError: the value is not in [0, 1), or NaN.
    """
    if not 0 <= value < 1:
        raise PruningError(f"{setting} is {value}, but must be in [0, 1): the share of filters that is removed")
