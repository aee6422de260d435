"""Heads on top of the vectors, and the joined module through which pruning sees them."""

import pytest
import torch
import torch_pruning
from torch import nn

from tests.trainers import tiny
from trainers.reid.adversary import CameraClassifier
from trainers.reid.heads import IdentityHead, Joined
from trainers.reid.losses import batch_hard_triplet

SPEC = tiny.REID_SPEC
CHANNELS = 32


def joined(*, cameras: int = 0) -> Joined:
    head = IdentityHead(CHANNELS, 5, width=16, dropout=0.5)
    return Joined(tiny.random_network(SPEC), head, CameraClassifier(CHANNELS, cameras) if cameras else None)


def test_sizes_are_those_of_the_source() -> None:
    """Linear 64 → 512 and 512 → 751 with biases, batch norm between (`specs/e2tad.md` 8.2, w = 8, Market-1501)."""
    head = IdentityHead(64, 751, width=512, dropout=0.5)
    assert sum(p.numel() for p in head.parameters()) == (64 + 1) * 512 + 2 * 512 + (512 + 1) * 751


def test_the_head_is_its_four_layers_in_a_row() -> None:
    """In training mode with dropout off: the bottleneck normalised over the batch, then classified."""
    torch.manual_seed(0)
    head = IdentityHead(8, 5, width=16, dropout=0.0).train()
    vectors = torch.randn(6, 8)
    inner = vectors @ head.bottleneck.weight.T + head.bottleneck.bias
    inner = (inner - inner.mean(0)) / (inner.var(0, unbiased=False) + 1e-5).sqrt()
    expected = inner @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(head(vectors), expected)


def test_identities_are_equally_likely_at_first() -> None:
    """Cross-entropy starts at ln(identities)."""
    torch.manual_seed(0)
    head = IdentityHead(64, 100, width=512, dropout=0.5).train()
    loss = nn.functional.cross_entropy(head(torch.rand(32, 64)), torch.randint(100, (32,)))
    assert loss.item() == pytest.approx(4.605, abs=0.02)


def test_dropout_acts_in_training_only() -> None:
    head = IdentityHead(8, 5, width=64, dropout=0.5)
    vectors = torch.randn(4, 8)
    assert not torch.equal(head.train()(vectors), head(vectors))
    assert torch.equal(head.eval()(vectors), head(vectors))


def test_what_is_dropped_is_zero_to_the_classifier() -> None:
    """Dropped after the norm, which would shift it; a classifier that changes nothing shows it."""
    torch.manual_seed(0)
    head = IdentityHead(8, 64, width=64, dropout=0.5).train()
    nn.init.eye_(head.classifier.weight)
    dropped = head(torch.randn(16, 8)) == 0
    assert 0.4 < dropped.float().mean() < 0.6


def test_a_batch_of_one_can_not_be_trained_on() -> None:
    head = IdentityHead(8, 5, width=16, dropout=0.0).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        head(torch.zeros(1, 8))


@pytest.mark.parametrize(("cameras", "outputs"), [(0, [5]), (3, [5, 3])])
def test_joined_gives_every_head_s_output(cameras: int, outputs: list[int]) -> None:
    module = joined(cameras=cameras).eval()
    images = tiny.random_clips(SPEC)
    results = module(images)
    assert [result.shape for result in results] == [(4, size) for size in outputs]
    assert torch.equal(results[0], module.identity(module.student(images)))


def test_the_student_s_names_are_its_own_with_a_prefix() -> None:
    names = {name.removeprefix("student.") for name in joined().state_dict() if name.startswith("student.")}
    assert names == set(tiny.random_network(SPEC).state_dict())


def test_heads_lose_inputs_with_the_network_s_last_filters() -> None:
    """What is left computes what the whole did without the removed numbers of the vector."""
    module, images = joined(cameras=3).eval(), tiny.random_clips(SPEC)
    vectors = module.student(images)
    gone = [0, 3, 31]
    vectors[:, gone] = 0
    expected = module.identity(vectors), module.camera(vectors)  # type: ignore[misc]
    graph = torch_pruning.DependencyGraph().build_dependency(module, images)
    last = module.student.get_submodule("layer4.0.conv2")
    graph.get_pruning_group(last, torch_pruning.prune_conv_out_channels, gone).prune()
    assert module.student.channels == CHANNELS - len(gone)
    assert isinstance(module.identity, IdentityHead)
    assert module.identity.bottleneck.in_features == CHANNELS - len(gone)
    torch.testing.assert_close(module(images), expected)


def test_a_step_lowers_the_loss() -> None:
    """Network and head together, on one batch of two identities; a small one, with all statistics fixed."""
    module = joined().eval()
    images, identities = tiny.random_clips(SPEC), torch.tensor([0, 0, 1, 1])
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)

    def loss() -> torch.Tensor:
        classified = nn.functional.cross_entropy(module(images)[0], identities)
        return classified + batch_hard_triplet(module.student(images), identities, margin=0.3)

    before = loss()
    before.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert loss() < before
