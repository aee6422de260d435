"""Which images a training batch of identities has, and what is drawn for each of them.

A batch holds P identities with K images each ([1]). Both the order and the draws come from hashes of names and numbers,
not from the state of a generator that is shared: a function of (seed, epoch, path, occurrence), so that batches depend
neither on the cache, nor on how many processes decode, nor on where a training was resumed.

Sources:
    [1] Hermans, Beyer, Leibe. In Defense of the Triplet Loss. arXiv:1703.07737 (P × K batches).
"""

import dataclasses
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from configs.errors import UserError
from trainers.data.identities import Crop, IdentityManifest

T = TypeVar("T")


@dataclass(frozen=True)
class CropSample:
    """What is done to one training image; everything is uniform in [0, 1)."""

    crop_y: float
    """Place of the crop between top and bottom."""
    crop_x: float
    """Place of the crop between left and right."""
    flip: float
    """Below 1/2: mirrored, where that is allowed."""
    ball: float
    """Below the probability of a ball: there is one."""
    ball_y: float
    ball_x: float
    """Its centre in the image."""
    ball_radius: float
    """Place in its range."""
    person: float
    """Below the probability of another person in front: there is one, if the batch has one with a mask."""
    donor: float
    """Which of them."""
    donor_scale: float
    """Place in its range."""
    donor_side: float
    """Below 1/2: to the left."""
    donor_aside: float
    donor_down: float
    """Places in their ranges."""
    erase: float
    """Below the probability of erasing: a rectangle is."""
    erase_area: float
    erase_aspect: float
    """Places in their ranges."""
    erase_y: float
    erase_x: float
    """Place between the edges."""
    noise: float
    """Seed of what replaces it."""


class Deck(Generic[T]):
    """Cards in a random order, dealt so that none comes a second time before all came once.

    Args:
        cards: at least one.
        generator: what the order is drawn from.
    """

    def __init__(self, cards: Iterable[T], generator: random.Random) -> None:
        self._cards = list(cards)
        self._generator = generator
        self._rest: list[T] = []

    def deal(self, number: int) -> list[T]:
        """The next cards, without repetition as long as there are that many."""
        hand: list[T] = []
        while len(hand) < number:
            whole = len(hand) // len(self._cards) * len(self._cards)
            place = next((i for i, card in enumerate(self._rest) if card not in hand[whole:]), None)
            if place is None:
                self._rest += self._generator.sample(self._cards, len(self._cards))
            else:
                hand.append(self._rest.pop(place))
        return hand


def sample_crop(path: str, occurrence: int, epoch: int, seed: int) -> CropSample:
    """What is done to a training image.

    Args:
        path: name of the image, the same on every machine.
        occurrence: how often it was used in this epoch before.
        epoch: number of the epoch.
        seed: seed of the run.
    """
    generator = random.Random(repr((path, occurrence, epoch, seed)))
    return CropSample(*(generator.random() for _ in dataclasses.fields(CropSample)))


def steps_per_epoch(manifest: IdentityManifest, batch: int) -> int:
    """Batches in an epoch: as many as its images fill, but one at least."""
    return max(1, len(manifest.train) // batch)


def check_batch(manifest: IdentityManifest, batch: int, images: int, *, group: str = "train") -> None:
    """See that a batch of P × K images can be made up.

    Args:
        manifest: the data.
        batch: images per step, P · K.
        images: images per identity, K.
        group: dotted name of the recipe's group of settings, for messages.

    Raises:
        UserError: it can't.
    """
    identities, rest = divmod(batch, images)
    if rest or identities < 2:
        raise UserError(
            f"{group}.batch is {batch}, but must be a multiple of reid.images ({images}) with at least 2 identities; "
            f"take {max(2, round(batch / images)) * images}"
        )
    if identities > len(manifest.classes):
        raise UserError(
            f"{group}.batch is {batch}, which takes {identities} identities with reid.images {images} each, but "
            f"{manifest.root} has {len(manifest.classes)}; lower it to {len(manifest.classes) * images} or less"
        )


def epoch_order(
    crops: Sequence[Crop], *, steps: int, batch: int, images: int, epoch: int, seed: int
) -> list[list[tuple[int, int]]]:
    """Which images every step of an epoch has: (index, times used before), those of one identity after one another.

    Identities are dealt from one deck and the images of each from a deck of its own, so that all are used before any is
    used again; within a step nothing repeats, unless an identity has fewer than K images.
    """
    generator = random.Random(f"identities {epoch} {seed}")
    of_identity = defaultdict(list)
    for index, crop in enumerate(crops):
        of_identity[crop.identity].append(index)
    identities = Deck(sorted(of_identity), generator)
    decks = {identity: Deck(of_identity[identity], generator) for identity in sorted(of_identity)}
    used: Counter[int] = Counter()
    order: list[list[tuple[int, int]]] = []
    for _ in range(steps):
        order.append([])
        for index in (index for identity in identities.deal(batch // images) for index in decks[identity].deal(images)):
            order[-1].append((index, used[index]))
            used[index] += 1
    return order
