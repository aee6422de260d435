"""What is learnt on top of a re-identification network's vectors, and discarded after training.

Axes (named as in the annotations):  image: images in the batch,  channel: numbers of a vector,
identity: identities of the training set.

Sources:
    [1] Luo et al. Bag of tricks and a strong baseline for deep person re-identification. arXiv:1903.07071
        (a batch norm between the vectors and the classifier).
    [2] E²TAD's head: Linear → BatchNorm → Dropout → Linear (`specs/e2tad.md` 8.2).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class IdentityHead(nn.Module):
    """Tells the training identities apart: Linear(channels → width) → BatchNorm → Dropout → Linear(width → identities).

    Batch norm needs at least two images per batch in training.

    Args:
        channels: length of the vectors.
        identities: number of training identities.
        width: of the bottleneck, 512 in [2].
        dropout: probability of dropping a number of the bottleneck, in [0, 1).
    """

    def __init__(self, channels: int, identities: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.bottleneck = nn.Linear(channels, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, identities)
        nn.init.kaiming_normal_(self.bottleneck.weight, mode="fan_out")
        nn.init.zeros_(self.bottleneck.bias)
        nn.init.normal_(self.classifier.weight, std=0.001)  # all identities equally likely at first
        nn.init.zeros_(self.classifier.bias)

    def forward(self, vectors: Float[Tensor, "image channel"]) -> Float[Tensor, "image identity"]:
        """Logits of the identities."""
        logits: Tensor = self.classifier(self.dropout(self.norm(self.bottleneck(vectors))))
        return logits


class Joined(nn.Module):
    """A network with everything learnt on top of it, as one module from images to the heads' outputs.

    A dependency graph of it shows which inputs the heads lose when the network's last layers lose filters.

    Args:
        student: the network, which maps images to vectors.
        identity: the head that tells identities apart.
        camera: the adversary that tells cameras apart, where there is one.
    """

    def __init__(self, student: nn.Module, identity: nn.Module, camera: nn.Module | None = None) -> None:
        super().__init__()
        self.student = student
        self.identity = identity
        self.camera = camera

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> tuple[Tensor, ...]:
        """Output of every head, the identities' logits first."""
        vectors = self.student(images)
        return tuple(head(vectors) for head in (self.identity, self.camera) if head is not None)
