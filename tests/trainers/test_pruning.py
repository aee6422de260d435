"""Pruning in training: what is cut, when, and what the optimiser remembers."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from compression.cost import measure_cost
from configs.schema import Pruning
from tests.trainers import tiny
from tests.trainers.test_loop import assert_same_outcome
from trainers.backbones import build
from trainers.checkpoint import newest_checkpoint
from trainers.data.manifest import Manifest
from trainers.distributed import World
from trainers.loop import Training, run_trial
from trainers.package import WEIGHTS_FILE, load_package
from trainers.pruning import Surgeon, known_scores, pruning_before, ramp_epochs, renew, shadow
from trainers.site import Site
from trainers.tasks.classification import Alone
from trainers.trial import Trial

WIDE = tiny.SPEC.replace(width=1 / 8)
"""Channels enough to take half of them twice."""
RECIPE = tiny.TRAIN.model_copy(update={"epochs": 4})


def pruning(pruner: str = "agp", sparsity: float = 0.5, **rest: Any) -> Pruning:
    return Pruning.model_validate({"pruner": pruner, "sparsity": sparsity, **rest})


@pytest.fixture(scope="module")
def start(manifest: Manifest, shared_site: Site) -> str:
    """Digest of a trained network that is wide enough to be pruned."""
    return tiny.finish(tiny.make_trial(manifest, name="wide", network=WIDE), shared_site).trial


@pytest.fixture
def site(tmp_path: Path, shared_site: Site, start: str, manifest: Manifest) -> Site:
    """A store of the test's own, in which that network is known."""
    site = Site(store=tmp_path / "runs")
    manifest.save(site.manifest_file(manifest.fingerprint))
    shutil.copytree(shared_site.trial_folder(start), site.trial_folder(start))
    return site


def make(manifest: Manifest, start: str, site: Site, how: Pruning, **changes: Any) -> Trial:
    """A trial that prunes the wide network and learns from it."""
    network, _ = load_package(site.trial_folder(start))
    left = Surgeon(network, how, seed=1).plan(network).network
    fields: dict[str, Any] = {"network": left, "start": start, "pruning": how, "train": RECIPE, **changes}
    return tiny.make_distilled(manifest, start, **fields)


# When


def test_agp_raises_the_sparsity_as_a_cube() -> None:
    """Zhu & Gupta's formula by hand, s_i = 0.1, s_f = 0.5 in 4 steps: 0.5 − 0.4 (1 − t/4)³."""
    how = pruning(initial_sparsity=0.1)
    reached = [pruning_before(how, epoch, epochs=8).sparsity for epoch in range(8)]
    assert reached == pytest.approx([0.1, 0.33125, 0.45, 0.49375, 0.5, 0.5, 0.5, 0.5])


def test_the_iterative_variants_raise_it_evenly() -> None:
    reached = [pruning_before(pruning("l2-iterative"), epoch, epochs=8).sparsity for epoch in range(5)]
    assert reached == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
@pytest.mark.parametrize("ramp", [0.1, 0.5, 1.0])
def test_the_last_epoch_trains_the_final_network(epochs: int, ramp: float) -> None:
    how = pruning(ramp=ramp)
    assert pruning_before(how, epochs - 1, epochs) == how
    assert epochs == 1 or 1 <= ramp_epochs(how, epochs) <= epochs - 1


def test_pruning_never_starts_beyond_its_end() -> None:
    assert pruning_before(pruning(sparsity=0.2, initial_sparsity=0.4), 0, epochs=8).sparsity == 0.2


def test_layers_with_a_sparsity_of_their_own_get_there_as_slowly(manifest: Manifest, start: str, site: Site) -> None:
    """Before the first epoch nothing is cut; in the end the layer has an eighth."""
    how = pruning("agp", layers={"layer1.0.conv1.0.0": 0.875})
    assert pruning_before(how, 0, epochs=8).layers == {"layer1.0.conv1.0.0": 0.0}
    trial = make(manifest, start, site, how)
    training = Training(trial, site, World())
    training._prune_on(RECIPE, epoch=0)
    assert training.student.spec == WIDE
    list(training.epochs())
    assert training.student.spec == trial.network
    assert trial.network.kept["layer1.0.conv1.0.0"] == WIDE.channels(144) - int(0.875 * WIDE.channels(144))


def test_a_plan_says_how_much_is_gone_and_what_was_held_back() -> None:
    network = tiny.random_network(WIDE)
    free = Surgeon(network, pruning("l1"), seed=0).plan(network)
    held = Surgeon(network, pruning("l1", max_sparsity={"stem.0": 0.0, "stem.3": 0.6}), seed=0).plan(network)
    assert 0.45 < held.reached < free.reached <= 0.5
    assert held.notes == ("prune.max_sparsity keeps 1 layer below sparsity 0.5",)
    assert held.network.kept["stem.0"] == WIDE.channels(45)


# At once


@pytest.mark.parametrize("pruner", ["l1", "l2", "fpgm", "random"])
def test_a_one_shot_pruner_starts_from_slices_of_the_parent(
    pruner: str, manifest: Manifest, start: str, site: Site
) -> None:
    """Every filter of the first convolution is one of the parent's, in the parent's order."""
    trial = make(manifest, start, site, pruning(pruner))
    training = Training(trial, site, World())
    assert training.student.spec == trial.network
    first = training.student.state_dict()["stem.0.weight"]
    parent = load_file(site.trial_folder(start) / WEIGHTS_FILE)["stem.0.weight"]
    found = [next(i for i, own in enumerate(parent) if torch.equal(own, slice_)) for slice_ in first]
    assert found == sorted(set(found))
    assert len(first) == len(parent) - len(parent) // 2


def test_the_stored_network_is_small_and_can_be_pruned_again(manifest: Manifest, start: str, site: Site) -> None:
    first = make(manifest, start, site, pruning("l1"))
    assert tiny.finish(first, site).status == "finished"
    again, _ = load_package(site.trial_folder(first.digest))
    assert again.spec == first.network
    costs = [measure_cost(spec, build) for spec in (WIDE, first.network)]
    assert costs[1].params < 0.35 * costs[0].params
    assert costs[1].macs < 0.5 * costs[0].macs
    second = make(manifest, first.digest, site, pruning("fpgm", 0.25))
    assert tiny.finish(second, site).status == "finished"
    assert measure_cost(second.network, build).params < costs[1].params


@pytest.mark.parametrize("pruner", ["l1", "agp"])
def test_nothing_changes_at_sparsity_0(pruner: str, manifest: Manifest, start: str, site: Site) -> None:
    trial = make(manifest, start, site, pruning(pruner, 0.0))
    assert trial.network == WIDE
    training = Training(trial, site, World())
    training._prune_on(RECIPE, epoch=3)
    weights = load_file(site.trial_folder(start) / WEIGHTS_FILE)
    torch.testing.assert_close(training.student.state_dict(), weights, rtol=0, atol=0)


def test_a_network_that_is_only_looked_at_is_not_kept(manifest: Manifest, start: str, site: Site) -> None:
    """Its result counts all the same."""
    trial = make(manifest, start, site, pruning("l1"), train=None)
    result = tiny.finish(trial, site)
    assert (result.status, result.epochs) == ("finished", 0)
    assert not (site.trial_folder(trial.digest) / WEIGHTS_FILE).exists()
    assert tiny.finish(trial, site) == dataclasses.replace(result, cached=True)


def test_scores_are_computed_once(manifest: Manifest, start: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sparsities share them; other weights in the same place don't."""
    folder = site.trial_folder(start)
    network, _ = load_package(folder)
    first = known_scores(folder, network, pruning("fpgm", 0.3))
    monkeypatch.setattr("trainers.pruning.group_scores", lambda *_, **__: {"stem.0": torch.zeros(1)})
    second = known_scores(folder, network, pruning("fpgm", 0.7))
    assert first is not None
    assert second is not None
    torch.testing.assert_close(dict(second), dict(first), rtol=0, atol=0)
    (folder / WEIGHTS_FILE).write_bytes(b"others")
    third = known_scores(folder, network, pruning("fpgm", 0.7))
    assert third is not None
    assert third.keys() == {"stem.0"}
    assert known_scores(folder, network, pruning("random")) is None


# Step by step


def test_gradual_pruning_ends_as_planned_and_shrinks_on_the_way(manifest: Manifest, start: str, site: Site) -> None:
    trial = make(manifest, start, site, pruning("agp"))
    training = Training(trial, site, World())
    sizes = []
    for _ in training.epochs():
        sizes.append(sum(parameter.numel() for parameter in training.student.parameters()))
        learnt = {id(parameter) for parameter in training.learnt.parameters()}
        assert {id(p) for group in training.optimizer.param_groups for p in group["params"]} == learnt
        assert all(
            training.optimizer.state[p]["momentum_buffer"].shape == p.shape for p in training.student.parameters()
        )
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3]
    assert training.student.spec == trial.network


@pytest.mark.parametrize("stops", [[1], [2], [1, 1, 1]])
def test_a_resumed_pruning_is_the_undisturbed_one(
    manifest: Manifest, start: str, site: Site, shared_site: Site, stops: list[int]
) -> None:
    """Stopped before, between and after cuts; weights, momentum and metrics are equal bit for bit."""
    trial = make(manifest, start, site, pruning("agp"))
    tiny.finish(trial, shared_site)
    for epochs in stops:
        tiny.train(trial, site, epochs=epochs)
    tiny.finish(trial, site)
    assert_same_outcome(site.trial_folder(trial.digest), shared_site.trial_folder(trial.digest))


def test_a_checkpoint_says_how_wide_the_network_is_by_then(manifest: Manifest, start: str, site: Site) -> None:
    trial = make(manifest, start, site, pruning("agp"))
    tiny.train(trial, site, epochs=2)
    checkpoint = newest_checkpoint(site.trial_folder(trial.digest) / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.progress.network is not None
    assert trial.network.kept["stem.0"] < checkpoint.progress.network["kept"]["stem.0"] < WIDE.channels(45)


def test_momentum_follows_the_filters_that_are_left() -> None:
    """Momentum is made to be the weight times 3, filter by filter: after the cut it still is."""
    network = tiny.random_network(WIDE)
    joined = Alone(network)
    optimizer = torch.optim.SGD(joined.parameters(), lr=0.1, momentum=0.9)
    joined(tiny.random_clips(WIDE)).square().sum().backward()
    optimizer.step()
    for parameter in joined.parameters():
        optimizer.state[parameter]["momentum_buffer"] = 3 * parameter.detach()
    assert Surgeon(network, pruning("l1"), seed=0).prune(joined, pruning("l1"), optimizer=optimizer)
    assert network.spec.kept
    for parameter in joined.parameters():
        torch.testing.assert_close(optimizer.state[parameter]["momentum_buffer"], 3 * parameter.detach())
    before = [parameter.detach().clone() for parameter in joined.parameters()]
    optimizer.zero_grad()
    joined(tiny.random_clips(WIDE)).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(now, then) for now, then in zip(joined.parameters(), before, strict=True))


def test_parameters_of_others_keep_their_momentum() -> None:
    module, other = nn.Linear(2, 2, bias=False), nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD([*module.parameters(), *other.parameters()], lr=0.1, momentum=0.9)
    (module.weight.sum() + 5 * other.weight.sum()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    before, momentum = dict(module.named_parameters()), shadow(module, optimizer)
    torch.testing.assert_close(momentum.weight, torch.ones(2, 2), check_stride=False)
    module.weight = nn.Parameter(torch.zeros(1, 2))
    momentum.weight = nn.Parameter(torch.full((1, 2), 7.0))
    renew(optimizer, before, dict(module.named_parameters()), dict(momentum.named_parameters()))
    buffers: list[Tensor] = [optimizer.state[p]["momentum_buffer"] for p in (module.weight, other.weight)]
    assert [buffer.tolist() for buffer in buffers] == [[[7.0, 7.0]], [[5.0]]]
    assert len(optimizer.state) == 2


def test_another_network_than_planned_is_no_result(manifest: Manifest, start: str, site: Site) -> None:
    trial = make(manifest, start, site, pruning("l1"))
    other = dataclasses.replace(trial, pruning=pruning("l1", 0.25))
    with pytest.raises(RuntimeError, match="was to leave"):
        list(run_trial(other, site))


def test_the_parent_is_left_as_it_was(manifest: Manifest, start: str, site: Site) -> None:
    network, _ = load_package(site.trial_folder(start))
    before = copy.deepcopy(network.state_dict())
    Surgeon(network, pruning("l1"), seed=0).plan(network)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert network.spec == WIDE
