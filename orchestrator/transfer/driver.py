"""How a session drives a transfer: the networks of finished trials are fine-tuned on every split of other videos."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import RunSettings
from orchestrator import state as states
from orchestrator.driver import Search, TrainDriver, Workshop
from orchestrator.planning import read_data
from orchestrator.transfer.search import FineTuning, Source, Transfer, fine_tunings
from orchestrator.transfer.sources import fitting, read_sources, too_short, with_clips
from trainers.data.manifest import Manifest
from trainers.data.transforms import check_clips
from trainers.tasks import DataManifest
from trainers.trial import Trial, TrialResult

OFFICIAL = ("ucf101", "hmdb51")
"""Sources of videos with three official splits."""
SPLITS = (1, 2, 3)
"""These splits."""


class TransferDriver(TrainDriver):
    """`orchestrate transfer`."""

    independent = True
    needs_teacher = False

    def __init__(self, session: Workshop) -> None:
        super().__init__(session)
        self.sources: list[Source] = []
        self.unfit: dict[str, str] = {}
        """Why a network can't be fine-tuned on this data, by its name in the run."""
        self.manifests: dict[tuple[int | None, int], Manifest] = {}
        """By split, and length of the clips that its videos are long enough for."""
        self.tunings: list[FineTuning] = []
        self.trials: dict[str, Trial] = {}

    def begin(self) -> tuple[NetworkSpec, DataManifest]:
        """See `Driver`.

        Raises:
            UserError: networks that can't be fine-tuned, or not on such data; data without the splits asked for.
        """
        settings = self.session.settings
        given = with_clips(read_sources(self.session.store, settings.transfer.models), settings.clips)
        splits = splits_of(settings)
        for source in given:
            check_clips(source.clips, source.network.side)
        videos = [self._videos(split, given[0].network.replace(clip_frames=1)) for split in splits]
        require_same_classes(videos)
        for source in given:
            network = fitting(source.network, videos, settings)
            if network is None:
                self.unfit[source.name] = too_short(source.network, videos)
            self.sources.append(dataclasses.replace(source, network=network or source.network))
        if len(self.unfit) == len(self.sources):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.unfit.items())
            raise UserError(f"no network can be fine-tuned on {videos[0].root}: {reasons}; use longer videos")
        source = self.fit[0]
        return source.network, self._manifest(splits[0], source)

    @property
    def fit(self) -> list[Source]:
        """The networks that can be fine-tuned on this data."""
        return [source for source in self.sources if source.name not in self.unfit]

    def teacher_trial(self) -> Trial:
        """See `Driver`: the first fine-tuning."""
        settings = self.session.settings
        seeds = settings.transfer.seeds or (settings.seed,)
        self.tunings = fine_tunings(self.fit, settings.data.source, splits_of(settings), seeds, settings.seed)
        self.trials = {tuning.name: self._planned(tuning) for tuning in self.tunings}
        return self.trials[self.tunings[0].name]

    def _planned(self, tuning: FineTuning) -> Trial:
        source = tuning.source
        planner = dataclasses.replace(self.session.planner, manifest=self._manifest(tuning.split, source))
        return planner.transferred_trial(
            source.network, source.digest, clips=source.clips, seed=tuning.seed, name=tuning.name
        )

    def start(self) -> Search | None:
        """See `Driver`."""
        for manifest in self.manifests.values():  # workers find them by their fingerprints
            manifest.save(self.session.store.manifest_file(manifest.fingerprint))
        self.search = Transfer(self.tunings)
        return self.search

    def trial(self, proposal: FineTuning) -> Trial:
        """See `Driver`."""
        return self.trials[proposal.name]

    def stage_name(self, proposed: Sequence[FineTuning]) -> str:
        """See `Driver`."""
        return "transfer"

    def verdict(self, proposed: Sequence[FineTuning]) -> str:
        """See `Driver`: the mean of every network."""
        assert self.search is not None
        told = []
        for source in self.fit:
            results = [self._result(tuning) for tuning in proposed if tuning.source == source]
            reached = [result.top1 for result in results if result and result.top1 is not None]
            told.append(f"{source.name} {statistics.fmean(reached):.3f}" if reached else f"{source.name} not usable")
        return f"top-1: {', '.join(told)}. {self.search.stop_reason}"

    def found(self) -> dict[str, Any]:
        """See `Driver`. Of each network, what it became on the first split with the first seed is handed on."""
        splits = splits_of(self.session.settings)
        return {
            "sources": [self._source_state(source) for source in self.sources],
            "transfers": [self._tuning_state(tuning) for tuning in self.tunings],
            "splits": [self._split_state(split) for split in splits],
            "latency": None,
        }

    def _source_state(self, source: Source) -> dict[str, Any]:
        """A network as it was before; what it costs, it costs after, but for the classifier."""
        return {
            "name": source.name,
            "source": source.digest,
            "top1": source.top1,
            "data": source.data,
            "classes": source.network.classes,
            "reason": self.unfit.get(source.name),
        }

    def _tuning_state(self, tuning: FineTuning) -> dict[str, Any]:
        trial, result, first = self.trials[tuning.name], self._result(tuning), self.tunings[0]
        handed_on = (tuning.split, tuning.seed) == (first.split, first.seed) and result and result.top1 is not None
        return {
            "model": tuning.source.name,
            "split": tuning.split,
            "seed": tuning.seed,
            "path": f"models/{tuning.source.name}" if handed_on else None,
            **states.trial_state(trial, self.session.cost(trial.network), result),
        }

    def _split_state(self, split: int | None) -> dict[str, Any]:
        """Videos of a split, as the first network uses them."""
        manifest = self._manifest(split, self.fit[0])
        return {
            "split": split,
            "fingerprint": manifest.fingerprint,
            "train_videos": len(manifest.train),
            "val_videos": len(manifest.val),
            "quarantined": len(manifest.quarantined),
        }

    def _result(self, tuning: FineTuning) -> TrialResult | None:
        return self.session.results.get(self.trials[tuning.name].digest)

    def _manifest(self, split: int | None, source: Source) -> Manifest:
        """A split's videos that are long enough for a network."""
        key = (split, source.network.clip_frames)
        if key not in self.manifests:
            self.manifests[key] = self._videos(split, source.network)
        return self.manifests[key]

    def _videos(self, split: int | None, network: NetworkSpec) -> Manifest:
        settings = self.session.settings
        data = settings.data.model_copy(update={"split": split or settings.data.split})
        chosen = settings.model_copy(update={"data": data})
        manifest = read_data(chosen, network, self.session.store.data_folder)
        assert isinstance(manifest, Manifest)  # the networks classify
        return manifest


def splits_of(settings: RunSettings) -> tuple[int | None, ...]:
    """The splits over which accuracies are averaged; a single none: the data is split in one way only.

    Raises:
        UserError: splits are asked for that there are not.
    """
    asked = settings.transfer.splits
    if settings.data.source in OFFICIAL:
        return asked or SPLITS
    if asked:
        raise UserError(
            f"transfer.splits is {list(asked)}, but data.source {settings.data.source} is split in one way only; leave "
            f"it out (official splits have {' and '.join(OFFICIAL)})"
        )
    return (None,)


def require_same_classes(splits: Sequence[Manifest]) -> None:
    """Refuse videos that can't be told apart, and splits over which no mean makes sense.

    Raises:
        UserError: a single class, or a class that not every split has.
    """
    classes = splits[0].classes
    if len(classes) < 2:
        raise UserError(
            f"{splits[0].root} has one class only ({', '.join(classes)}), so there is nothing to tell apart; give data "
            "with at least two"
        )
    for split in splits[1:]:
        if split.classes != classes:
            missing = ", ".join(sorted(set(classes) ^ set(split.classes)))
            raise UserError(
                f"{split.root}: not every split has the class {missing}; unpack all official splits, or choose some "
                "with --splits"
            )
