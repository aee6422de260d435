"""NNI chooses the filters that our engine chooses. It has no wheels for ARM; elsewhere `make setup` installs it."""

from __future__ import annotations

import copy
import functools
import importlib
import logging
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compression.pruning.engine import Engine, choose_filters
from compression.pruning.groups import ChannelGroup, find_groups
from compression.pruning.importance import group_scores
from compression.pruning.nni_engine import NNI_PRUNERS, filter_masks, kept, load_nni, nni_choose, share
from compression.pruning.removal import cut
from compression.pruning.schedule import agp_sparsity
from compression.pruning.selection import Choice, PruningError, PruningRule
from trainers.backbones import BACKBONES, build

ROOT = Path(__file__).resolve().parents[3]
needs_nni = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="NNI has no wheels for ARM")


def make_rule(importance: str = "l1", **changes: Any) -> PruningRule:
    fields = {"scope": "local", "layers": {}, "max_sparsity": {}, "exclude": (), "round_to": 1, **changes}
    return PruningRule(importance=importance, **fields)


Groups = tuple[ChannelGroup, ...]


def widths(groups: Groups) -> dict[str, int]:
    return {group.name: group.channels for group in groups}


def layer(filters: Sequence[Sequence[float]]) -> nn.Conv2d:
    """A 1×1 convolution with these filters."""
    weight = torch.tensor(filters, dtype=torch.float32)
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
    conv.weight = nn.Parameter(weight[:, :, None, None])
    return conv


def chosen(module: nn.Module, groups: Groups, importance: str, sparsity: float) -> dict[str, list[int]]:
    choice = nni_choose(module, groups, make_rule(importance), sparsity=sparsity, originals=widths(groups))
    return {name: indices.tolist() for name, indices in choice.keep.items()}


@functools.cache
def traced(backbone: str) -> tuple[nn.Module, Groups, Tensor]:
    """A tiny network with random weights, its groups, and an input."""
    spec = BACKBONES[backbone].presets["tiny"].replace(classes=3, blocks=(2, 1, 1, 1))
    torch.manual_seed(0)
    network = build(spec).eval()
    for name, parameter in network.named_parameters():
        if "weight" in name and parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)  # fresh residual blocks are switched off by scales of 0
    example = torch.randn(1, *spec.input_shape)
    return network, find_groups(network, example), example


def both(
    network: nn.Module, groups: Groups, rule: PruningRule, sparsity: float, originals: dict[str, int] | None = None
) -> tuple[Choice, Choice]:
    """What our engine chooses, and what NNI does."""

    def by(engine: Engine) -> Choice:
        known = widths(groups) if originals is None else originals
        return choose_filters(network, groups, rule, sparsity=sparsity, originals=known, seed=0, engine=engine)

    return by("own"), by("nni")


def after(groups: Groups, choice: Choice) -> Groups:
    """The groups of a network that was cut."""
    return tuple(ChannelGroup(group.name, len(choice.keep[group.name]), group.layers) for group in groups)


def same(first: Choice, second: Choice) -> bool:
    assert first.keep.keys() == second.keep.keys()
    assert first.notes == second.notes
    return all(torch.equal(first.keep[name], second.keep[name]) for name in first.keep)


@needs_nni
@pytest.mark.parametrize(("importance", "removed"), [("l1", 2), ("l2", 3), ("fpgm", 0)])
def test_three_importances_remove_three_different_filters(importance: str, removed: int) -> None:
    """The toy of `specs/e2tad.md` 16.2, worked out by hand."""
    module = nn.Sequential(layer([[2, 2], [3, 0], [0, 2.9], [-1.5, -1.6]]))
    keep = chosen(module, (ChannelGroup("0", 4, ("0",)),), importance, 0.25)
    assert keep == {"0": [index for index in range(4) if index != removed]}


@needs_nni
@pytest.mark.parametrize("sparsity", [0.25, 0.5])
@pytest.mark.parametrize("importance", NNI_PRUNERS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_both_engines_choose_the_same_filters(backbone: str, importance: str, sparsity: float) -> None:
    network, groups, example = traced(backbone)
    assert any(len(group.layers) > 1 for group in groups)
    own, nni = both(network, groups, make_rule(importance), sparsity)
    assert same(own, nni)
    assert sum(map(len, nni.keep.values())) < sum(widths(groups).values())
    if (importance, sparsity) == ("fpgm", 0.5):  # equal filters leave equal networks, whatever they were chosen by
        first, second = (cut_copy(network, example, choice.keep) for choice in (own, nni))
        with torch.no_grad():
            assert torch.equal(first(example), second(example))


def cut_copy(network: nn.Module, example: Tensor, keep: Mapping[str, Tensor]) -> nn.Module:
    network = copy.deepcopy(network)
    cut(network, example, keep)
    return network


@needs_nni
@pytest.mark.parametrize(
    "changes",
    [
        {"round_to": 4},
        {"exclude": ("layer2*",)},
        {"layers": {"layer3.0.conv1*": 0.75}},
        {"max_sparsity": {"layer1*": 0.1}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_both_engines_keep_to_a_rule(changes: dict[str, Any]) -> None:
    network, groups, _ = traced("r2plus1d")
    _, plain = both(network, groups, make_rule(), 0.4)
    own, nni = both(network, groups, make_rule(**changes), 0.4)
    assert same(own, nni)
    assert any(len(plain.keep[name]) != len(nni.keep[name]) for name in plain.keep)


@needs_nni
def test_both_engines_agree_while_a_network_is_cut_step_by_step() -> None:
    """The number left follows the unpruned widths; the scores follow the network that is left."""
    network, groups, example = traced("r2plus1d")
    network, originals = copy.deepcopy(network), widths(groups)
    for step in range(1, 4):
        sparsity = agp_sparsity(step, steps=3, initial=0.0, final=0.5)
        own, nni = both(network, groups, make_rule(), sparsity, originals)
        assert same(own, nni)
        cut(network, example, nni.keep)
        groups = after(groups, nni)
    assert widths(groups) == {name: width - width // 2 for name, width in originals.items()}


@needs_nni
def test_coupled_filters_go_by_the_sum_of_their_scores() -> None:
    """ℓ1 of the layers 1, 2, 3 and 5, 1, 3: alone they would lose filters 0 and 1, together 6, 3, 6."""
    module = nn.Sequential(layer([[1], [2], [3]]), layer([[5], [1], [3]]))
    apart = (ChannelGroup("0", 3, ("0",)), ChannelGroup("1", 3, ("1",)))
    assert chosen(module, apart, "l1", 0.4) == {"0": [1, 2], "1": [0, 2]}
    assert chosen(module, (ChannelGroup("0", 3, ("0", "1")),), "l1", 0.4) == {"0": [0, 2]}


@needs_nni
def test_images_and_clips_can_be_coupled() -> None:
    """NNI itself fails on a group of a Conv2d and a Conv3d: its scores have as many axes as the weights."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv3d(2, 8, 3))
    groups = (ChannelGroup("0", 8, ("0", "1")),)
    scores = group_scores(module, groups, "l1", seed=0)["0"]
    assert chosen(module, groups, "l1", 0.5) == {"0": sorted(scores.topk(4).indices.tolist())}


@needs_nni
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_scored_in_single(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(16, 32, 3)).to(dtype).to(memory_format=torch.channels_last)
    groups = (ChannelGroup("0", 32, ("0",)),)
    own = group_scores(module, groups, "l2", seed=0)["0"]
    assert chosen(module, groups, "l2", 0.5) == {"0": sorted(own.topk(16).indices.tolist())}


@needs_nni
def test_left_to_itself_nni_would_remove_another_number() -> None:
    """int(100 · 0.29) is 28, because the product is 28.999…96; a network's spec says 29."""
    conv = nn.Conv2d(1, 100, 1)
    pruner = load_nni().L1NormPruner(nn.Sequential(copy.deepcopy(conv)), [{"op_names": ["0"], "sparse_ratio": 0.29}])
    _, masks = pruner.compress()
    assert int(masks["0"]["weight"].sum()) == 100 - 28
    assert len(chosen(nn.Sequential(conv), (ChannelGroup("0", 100, ("0",)),), "l1", 0.29)["0"]) == 100 - 29


@needs_nni
@pytest.mark.parametrize("importance", NNI_PRUNERS)
def test_engines_may_part_where_filters_tie(importance: str) -> None:
    """Two filters, six times each: which copies go is undefined, how many and of what worth is not."""
    module = nn.Sequential(layer([[1, 2], [2, 1]] * 5 + [[4, 0], [1, 0]]))
    groups = (ChannelGroup("0", 12, ("0",)),)
    scores = group_scores(module, groups, importance, seed=0)["0"]
    keep = torch.tensor(chosen(module, groups, importance, 0.5)["0"])
    torch.testing.assert_close(scores[keep].sort().values, scores.sort().values[6:])


@needs_nni
def test_the_network_is_left_as_it_was() -> None:
    network = copy.deepcopy(traced("slowfast")[0])
    groups = traced("slowfast")[1]
    next(network.parameters()).requires_grad_(False)
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in network.named_parameters()}
    names = set(network.state_dict())
    choice = nni_choose(network, groups, make_rule("fpgm"), sparsity=0.5, originals=widths(groups))
    assert any(len(choice.keep[group.name]) < group.channels for group in groups)
    assert set(network.state_dict()) == names
    assert [name for name, _ in network.named_parameters()] == list(before)
    for name, parameter in network.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert not next(network.parameters()).requires_grad
    for module in network.modules():
        assert "forward" not in vars(module)
        assert not hasattr(module, "_nni_wrapper")


@needs_nni
def test_nothing_is_removed_at_sparsity_zero() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 1))
    assert chosen(module, (ChannelGroup("0", 5, ("0",)),), "l1", 0.0) == {"0": [0, 1, 2, 3, 4]}


def test_the_share_makes_nni_remove_the_number_asked_for() -> None:
    """Every number of filters out of up to 128, 2048 and an odd 2047: NNI computes int(channels · share) in doubles."""
    for channels in (*range(1, 129), 2047, 2048):
        for removed in range(channels):
            assert int(channels * share(removed, channels)) == removed
            assert 0 < share(removed, channels) < 1


class Branches(nn.Module):
    """Convolutions that see the input alone, two of them added: cutting one changes no other's filters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(3, 40, 3, bias=False)
        self.second = nn.Conv3d(3, 40, 3, bias=False)
        self.apart = nn.Conv3d(3, 20, 3, bias=False)
        self.fc = nn.Linear(60, 2)

    def forward(self, clips: Tensor) -> Tensor:
        maps = torch.cat([self.first(clips) + self.second(clips), self.apart(clips)], 1)
        logits: Tensor = self.fc(maps.mean((2, 3, 4)))
        return logits


AGP_STEPS, AGP_FINAL = 5, 0.5


def agp_by_nni(network: nn.Module, groups: Groups) -> list[tuple[float, dict[str, list[int]]]]:
    """NNI's own AGP around its L1 pruner, in a training that changes no weight: ratio and filters left per step."""
    library, nni, tools = load_nni(), importlib.import_module("nni"), importlib.import_module("nni.compression")
    history: list[tuple[float, dict[str, list[int]]]] = []

    def train(
        _model: nn.Module, optimizer: torch.optim.SGD, _step: Any, _schedule: Any, steps: int, _epochs: Any
    ) -> None:
        for _ in range(steps):
            optimizer.step()
            ratio = agp._target_spaces[groups[0].name]["weight"].sparse_ratio
            masks = agp.bound_pruner.get_masks()
            left = {group.name: masks[group.name]["weight"].flatten(1).any(1) for group in groups}
            history.append((ratio, {name: mask.nonzero().flatten().tolist() for name, mask in left.items()}))

    config = [
        {"op_names": list(group.layers), "sparse_ratio": AGP_FINAL, "dependency_group_id": group.name}
        for group in groups
    ]
    optimizer = nni.trace(torch.optim.SGD)(network.parameters(), lr=0.0)
    evaluator = tools.TorchEvaluator(train, optimizer, lambda batch, model: None)
    agp = library.AGPPruner(library.L1NormPruner(network, config), 1, AGP_STEPS, evaluator)
    agp.compress(AGP_STEPS, None)
    return history


@needs_nni
def test_agp_of_nni_is_our_schedule_over_our_l1() -> None:
    """NNI masks what we cut, so it goes on scoring filters over inputs that are gone; here no layer has such inputs.

    The ratios are 0.5 · (1 − (1 − k/5)³), by hand.
    """
    torch.manual_seed(0)
    network, example = Branches(), torch.randn(1, 3, 4, 4, 4)
    groups = find_groups(network, example)
    assert {group.name: group.layers for group in groups} == {"first": ("first", "second"), "apart": ("apart",)}
    history = agp_by_nni(copy.deepcopy(network), groups)
    assert [ratio for ratio, _ in history] == pytest.approx([0.244, 0.392, 0.468, 0.496, 0.5])
    originals = widths(groups)
    left = {name: torch.arange(width) for name, width in originals.items()}
    for step, (ratio, by_nni) in enumerate(history, start=1):
        sparsity = agp_sparsity(step, steps=AGP_STEPS, initial=0.0, final=AGP_FINAL)
        assert ratio == pytest.approx(sparsity)
        choice, _ = both(network, groups, make_rule(), sparsity, originals)
        left = {name: left[name][indices] for name, indices in choice.keep.items()}
        assert {name: indices.tolist() for name, indices in left.items()} == by_nni
        cut(network, example, choice.keep)
        groups = after(groups, choice)
    assert widths(groups) == {"first": 20, "apart": 10}


class FakePruner:
    """Answers as one of NNI's pruners would, with given masks."""

    def __init__(self, masks: Mapping[int, list[float]], seen: list[dict[str, Any]]) -> None:
        self.masks, self.seen = masks, seen

    def __call__(self, _model: nn.Module, config: list[dict[str, Any]]) -> FakePruner:
        self.seen += config
        return self

    def compress(self) -> tuple[None, dict[str, dict[str, Tensor]]]:
        return None, {str(number): {"weight": torch.tensor([mask]).T} for number, mask in self.masks.items()}


def test_nni_is_told_of_coupling_in_an_order_of_ours() -> None:
    """It walks the layers of one entry in the order of a set of strings, so each layer has an entry of its own."""
    seen: list[dict[str, Any]] = []
    module = nn.Sequential(*(nn.Conv2d(1, 2, 1) for _ in range(3)))
    groups = {ChannelGroup("2", 2, ("2", "0")): 1, ChannelGroup("1", 2, ("1",)): 1}
    fake: Any = FakePruner({number: [1.0, 0.0] for number in range(3)}, seen)
    assert {name: mask.tolist() for name, mask in filter_masks(fake, module, groups).items()} == {
        name: [True, False] for name in "201"
    }
    assert [(entry["op_names"], entry["dependency_group_id"], entry["sparse_ratio"]) for entry in seen] == [
        (["0"], "2", 0.75),
        (["1"], "2", 0.75),
        (["2"], "1", 0.75),
    ]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"a": [True, False], "b": [False, True]}, "keeps other filters of b than of a, though they are coupled"),
        ({"a": [True, True], "b": [True, True]}, "keeps 2 of 2 filters of a, but was asked for 1"),
    ],
)
def test_masks_that_break_the_plan_are_refused(masks: dict[str, list[bool]], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        kept(ChannelGroup("a", 2, ("a", "b")), {name: torch.tensor(mask) for name, mask in masks.items()}, 1)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (make_rule("random"), "engine nni has no importance 'random', only l1, l2, fpgm; .* engine own"),
        (make_rule(scope="global"), "engine nni prunes with scope local, not global; say scope local, or engine own"),
    ],
)
def test_what_nni_can_not_do_is_refused(rule: PruningRule, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        nni_choose(
            nn.Sequential(nn.Conv2d(1, 2, 1)), (ChannelGroup("0", 2, ("0",)),), rule, sparsity=0.5, originals={"0": 2}
        )


@needs_nni
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    module = nn.Sequential(layer([[1], [value], [3]]))
    with pytest.raises(PruningError, match="weights of 0 are not all finite"):
        chosen(module, (ChannelGroup("0", 3, ("0",)),), "l1", 0.5)


@pytest.mark.parametrize("missing", ["nni", "nni.compression.pruning"])
def test_without_nni_the_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(PruningError, match=r"engine nni needs NNI 3\.0, .*pip install '\.\[nni\]'.* engine own"):
        chosen(nn.Sequential(nn.Conv2d(1, 2, 1)), (ChannelGroup("0", 2, ("0",)),), "l1", 0.5)


ALONE = """
import os, signal, sys, threading
import torch
from torch import nn
from compression.pruning import engine, nni_engine
from compression.pruning.groups import ChannelGroup
from compression.pruning.selection import PruningRule

def surroundings():
    handlers = [signal.getsignal(number) for number in signal.Signals]
    return handlers, threading.enumerate(), sys.excepthook, sys.stdout, dict(os.environ)

assert "nni" not in sys.modules, "imported before it is asked for"
before = surroundings()
rule = PruningRule(importance="fpgm", scope="local", layers={}, max_sparsity={}, exclude=(), round_to=1)
groups = (ChannelGroup("0", 4, ("0",)),)
nni_engine.nni_choose(nn.Sequential(nn.Conv3d(1, 4, 1)), groups, rule, sparsity=0.5, originals={"0": 4})
assert surroundings() == before
"""


@needs_nni
def test_nni_leaves_its_surroundings_alone(tmp_path: Path) -> None:
    """No print, no warning, no file in the home or working folder, no thread, no signal handler."""
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@needs_nni
def test_what_nni_logs_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Neither by its own handler, which prints, nor by the program's."""
    library = load_nni()
    logger = logging.getLogger("nni")
    caplog.set_level(logging.INFO, logger.name)

    class Chatty(library.L1NormPruner):  # type: ignore[misc, name-defined]
        def compress(self) -> Any:
            logger.getChild("compression").warning("something")
            return super().compress()

    assert filter_masks(Chatty, nn.Sequential(nn.Conv2d(1, 2, 1)), {ChannelGroup("0", 2, ("0",)): 1})
    assert caplog.records == []
    assert logger.handlers == []
    assert logger.level == logging.INFO
