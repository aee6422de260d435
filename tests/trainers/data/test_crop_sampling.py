import dataclasses
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from trainers.data.crop_sampling import Deck, check_batch, epoch_order, sample_crop
from trainers.data.identities import Crop, IdentityManifest

FOUR = IdentityManifest(
    root=Path("set"),
    source="market1501",
    classes=("0001", "0002", "0003", "0004"),
    train=tuple(Crop(f"{number}", number % 4, camera=1) for number in range(12)),
    query=(),
    gallery=(),
    quarantined=(),
    fingerprint="any",
)
"""Four identities of three images each; nothing is read."""


def test_every_image_is_used_before_any_is_used_again() -> None:
    """7 identities of 5 images, 3 × 2 per step: 35 images fill 6 steps but for one."""
    train = [Crop(f"{identity}-{number}", identity, 1) for identity in range(7) for number in range(5)]
    for seed in range(20):
        order = epoch_order(train, steps=12, batch=6, images=2, epoch=0, seed=seed)
        identities = Counter(train[index].identity for step in order for index, _ in step)
        images = Counter(index for step in order for index, _ in step)
        assert max(identities.values()) - min(identities.values()) <= 2  # one deal of two images
        for identity in range(7):
            used = [images[index] for index in range(35) if train[index].identity == identity]
            assert max(used) - min(used) <= 1
        assert all(len({index for index, _ in step}) == 6 for step in order)


def test_an_image_s_uses_are_counted() -> None:
    train = [Crop(f"{identity}-{number}", identity, 1) for identity in range(2) for number in range(3)]
    order = epoch_order(train, steps=6, batch=4, images=2, epoch=0, seed=0)
    uses = [use for step in order for use in step]
    assert sorted(uses) == [(index, number) for index in range(6) for number in range(4)]


def test_an_identity_with_few_images_repeats_them() -> None:
    train = [Crop("a", 0, 1), *(Crop(f"b{number}", 1, 1) for number in range(4))]
    [step] = epoch_order(train, steps=1, batch=8, images=4, epoch=0, seed=0)
    assert sorted(step) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0), (4, 0)]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    train = [Crop(f"{identity}-{number}", identity, 1) for identity in range(9) for number in range(4)]

    def order(epoch: int, seed: int) -> list[list[tuple[int, int]]]:
        return epoch_order(train, steps=3, batch=8, images=2, epoch=epoch, seed=seed)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(2, 2)
    assert order(1, 2) != order(1, 3)


def test_a_deck_is_dealt_through_before_it_is_shuffled_again() -> None:
    deck = Deck("abcde", random.Random(0))
    dealt = [deck.deal(3) for _ in range(5)]
    assert all(len(set(hand)) == 3 for hand in dealt)
    assert Counter(card for hand in dealt for card in hand) == dict.fromkeys("abcde", 3)
    assert Counter(Deck("ab", random.Random(0)).deal(5)) in ({"a": 3, "b": 2}, {"a": 2, "b": 3})


def test_samples_are_uniform_and_independent() -> None:
    samples = np.array([dataclasses.astuple(sample_crop(f"{i}.jpg", 0, 0, 0)) for i in range(2000)])
    assert samples.min() >= 0
    assert samples.max() < 1
    np.testing.assert_allclose(samples.mean(0), 0.5, atol=0.03)  # 4.6 standard deviations
    np.testing.assert_allclose(np.corrcoef(samples.T), np.eye(samples.shape[1]), atol=0.1)


@pytest.mark.parametrize("other", [("b", 0, 0, 0), ("a", 1, 0, 0), ("a", 0, 1, 0), ("a", 0, 0, 1)])
def test_a_sample_depends_on_image_occurrence_epoch_and_seed(other: tuple[str, int, int, int]) -> None:
    assert sample_crop("a", 0, 0, 0) == sample_crop("a", 0, 0, 0)
    assert sample_crop(*other) != sample_crop("a", 0, 0, 0)


@pytest.mark.parametrize(
    ("batch", "images", "message"),
    [
        (5, 2, r"\.batch is 5, but must be a multiple of reid.images \(2\) with at least 2 identities; take 4"),
        (4, 4, r"\.batch is 4, .* take 8"),
        (2, 4, r"\.batch is 2, .* take 8"),
        (
            10,
            2,
            r"\.batch is 10, which takes 5 identities .* but .* has 4; lower it to 8 or less",
        ),
    ],
)
def test_batches_that_can_t_be_made_up_are_errors(batch: int, images: int, message: str) -> None:
    """By the name of the group that says so."""
    for group in ("train", "teacher.train"):
        with pytest.raises(UserError, match=f"^{group}{message}"):
            check_batch(FOUR, batch, images, group=group)
