"""Transfer to other videos as a pure state machine: every network, on every split, with every seed.

No clock, no files, no Ray, no tensors. All fine-tunings are independent of one another and are proposed at once; with
more networks, splits or seeds the old ones are proposed again, which the store knows.

Sources:
    [1] Deep video understanding … (PhD thesis), sec. 6.2.4 and Table 6.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compression.spec import NetworkSpec
from configs.errors import RunError
from configs.schema import ClipSettings
from trainers.trial import TrialResult


@dataclass(frozen=True, kw_only=True)
class Source:
    """A trained network that is fine-tuned on other videos."""

    name: str
    """What it is called in this run, and its folder: `PAS-2`."""
    digest: str
    """Of the trial that trained it."""
    network: NetworkSpec
    """With the classes that it was trained for."""
    clips: ClipSettings
    """How its clips are cut."""
    top1: float | None
    """Its accuracy where it was trained; none: not measured in this store."""
    data: str | None
    """Key of the source of that data; none: the store does not know it."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """One network on one split."""

    source: Source
    split: int | None
    """Official split; none: the data is split in one way only."""
    seed: int
    name: str
    """What an operator reads, e.g. `slowfast-PAS-2-ucf101-split3`."""


class Transfer:
    """Proposes all fine-tunings once, and takes their results."""

    def __init__(self, tunings: Sequence[FineTuning]) -> None:
        self.tunings = list(tunings)
        self.stop_reason: str | None = None

    def propose(self) -> list[FineTuning]:
        """All of them; nothing once their results are known."""
        return [] if self.stop_reason else list(self.tunings)

    def tell(self, results: Sequence[TrialResult]) -> None:
        """Take the results, in the order of the proposal.

        Raises:
            RunError: every fine-tuning failed; lists what happened to each.
        """
        if len(results) != len(self.tunings):
            raise ValueError(f"{len(results)} results for {len(self.tunings)} fine-tunings")
        done = sum(result.accuracy is not None for result in results)
        self.stop_reason = f"{done} of {len(self.tunings)} fine-tunings done"
        if not done:
            reasons = "\n".join(f"  {r.name:<28} {r.status:<9} {r.reason or ''}" for r in results)
            raise RunError(f"no fine-tuning came out usable:\n{reasons}")


def fine_tunings(
    sources: Sequence[Source], data: str, splits: Sequence[int | None], seeds: Sequence[int], run_seed: int
) -> list[FineTuning]:
    """Network × split × seed, in that order.

    Args:
        sources: the networks.
        data: key of the new data's source, for the names.
        splits: official splits, or a single none, which does not show in the names.
        seeds: of fine-tuning.
        run_seed: the run's; other seeds show in the names.
    """
    return [
        FineTuning(
            source=source,
            split=split,
            seed=seed,
            name=f"{source.network.backbone}-{source.name}-{data}"
            + (f"-split{split}" if split else "")
            + (f"-seed{seed}" if seed != run_seed else ""),
        )
        for source in sources
        for split in splits
        for seed in seeds
    ]
