"""The batches that a network is trained and evaluated on.

One decode serves all views of a clip: teacher and student are given their own frames and size of the same raw clip.
A clip that does not decode is left out and its video noted; every clip stands for itself, so that the batches depend
neither on the order of reading, nor on the cache, nor on how many processes decode.

Axes: clip, 3 for red, green, blue, frame, height, width.
"""

# ruff: noqa: PT028 (`test_batches` is no test)
import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compression.spec import NetworkSpec
from configs.errors import RunError, UserError
from configs.schema import ClipSettings
from trainers.data.cache import FrameCache
from trainers.data.decode import DecodeError, decode_frames
from trainers.data.manifest import Manifest, Video
from trainers.data.quarantine import Quarantine
from trainers.data.sampling import ClipSample, epoch_order, sample_clip, test_starts
from trainers.data.transforms import Size, Window, centre_window, check_clips, cut_views, random_window

__all__ = ["Batch", "EvaluationBatch", "FrameCache", "Quarantine", "steps_per_epoch", "test_batches", "train_batches"]

BATCHES_AHEAD = 3
"""Batches that the decoding thread may be ahead of training."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Batch:
    """Training clips as every network sees them."""

    views: tuple[UInt8[Tensor, "clip 3 _frame _side _side"], ...]
    """One tensor per network, in the order asked for."""
    labels: Int64[Tensor, " clip"]
    """Their classes."""
    step: int = 0
    """Which step of the epoch they belong to; several micro-batches may share one."""
    share: float = 1.0
    """Part of this process' share of that step's clips."""


class EvaluationBatch(NamedTuple):
    """Evaluation clips, and which validation videos they are from."""

    clips: Tensor
    """uint8 [clip, 3, frame, side, side]."""
    videos: Tensor
    """Indices into the manifest's validation list, int64 [clip]."""
    labels: Tensor
    """Classes, int64 [clip]."""


@dataclass(frozen=True)
class _Clip:
    """A clip to be cut."""

    index: int
    video: Video
    start: int
    sample: ClipSample | None
    """Where in space; none: in the centre."""


@dataclass(frozen=True)
class _Cut:
    """Clips that were cut, and why others could not be."""

    clips: tuple[_Clip, ...]
    views: tuple[Tensor, ...]
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Cutter(Dataset[_Cut]):
    """Cuts batch by batch; also what decoding processes are given."""

    root: Path
    settings: ClipSettings
    networks: tuple[NetworkSpec, ...]
    batches: Sequence[Sequence[_Clip]]
    cache: FrameCache | None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> _Cut:
        done: list[_Clip] = []
        views: list[tuple[Tensor, ...]] = []
        failures: list[tuple[str, str]] = []
        for clip in self.batches[number]:
            try:
                views.append(self._cut(clip))
                done.append(clip)
            except DecodeError as error:
                failures.append((clip.video.path, error.reason))
        return _Cut(tuple(done), tuple(map(torch.stack, zip(*views, strict=True))), tuple(failures))

    def _cut(self, clip: _Clip) -> tuple[Tensor, ...]:
        offsets = sorted(set().union(*(network.frame_indices() for network in self.networks)))
        decode = self.cache.frames if self.cache else decode_frames
        decoded = decode(self.root / clip.video.path, [clip.start + offset for offset in offsets])
        frames = torch.from_numpy(decoded).permute(0, 3, 1, 2)
        row = {offset: i for i, offset in enumerate(offsets)}
        height, width = frames.shape[-2:]
        cuts = [
            ([row[offset] for offset in network.frame_indices()], self._window((height, width), network, clip.sample))
            for network in self.networks
        ]
        return cut_views(frames, cuts)

    def _window(self, frame: Size, network: NetworkSpec, sample: ClipSample | None) -> Window:
        if sample is None:
            return centre_window(frame, self.settings, network)
        return random_window(frame, self.settings, network, sample)


def steps_per_epoch(manifest: Manifest, clips: ClipSettings, batch: int) -> int:
    """Batches in an epoch: the last one counts only if it is full, or the only one."""
    return max(1, len(manifest.train) * clips.per_video // batch)


def train_batches(
    manifest: Manifest,
    clips: ClipSettings,
    views: Sequence[NetworkSpec],
    *,
    seed: int,
    epoch: int,
    batch: int,
    micro_batch: int | None = None,
    rank: int = 0,
    world: int = 1,
    loader_workers: int = 0,
    cache: FrameCache | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[Batch]:
    """One process' share of an epoch, a micro-batch at a time.

    Args:
        manifest: the data.
        clips: how clips are cut.
        views: the networks to be fed, reduced from one unreduced input.
        seed: of the run.
        epoch: its number.
        batch: clips per step, over all processes; the share is a contiguous part of each step's clips.
        micro_batch: largest number of clips at a time; none: the whole share.
        rank: number of this process.
        world: number of processes.
        loader_workers: decoding processes; 0 decodes ahead in a thread.
        cache: serves the decoding thread; decoding processes do without.
        quarantine: takes the videos that fail; none: the first failure is an error.

    Raises:
        UserError: settings that don't fit each other or the videos, or too many videos failed.
        RunError: one of several processes has no clip left in a step that all of them must take.
    """
    clip_frames = _common_input(views, clips)
    _check_lengths(manifest.train, clip_frames)
    order = epoch_order(len(manifest.train), clips.per_video, epoch, seed)
    steps = [order[step * batch : (step + 1) * batch] for step in range(steps_per_epoch(manifest, clips, batch))]
    if world > min(map(len, steps)):
        raise UserError(
            f"{world} processes share {len(steps[0])} clips per step, but each needs one; raise train.batch"
        )

    def place(index: int, number: int) -> _Clip:
        video = manifest.train[index]
        sample = sample_clip(video.path, epoch, number, seed, video_frames=video.frames, clip_frames=clip_frames)
        return _Clip(index, video, sample.start, sample)

    shares = [
        [place(*pair) for pair in step[len(step) * rank // world : len(step) * (rank + 1) // world]] for step in steps
    ]
    parts = [(step, part) for step, share in enumerate(shares) for part in _parts(share, micro_batch)]
    cutter = _Cutter(manifest.root, clips, tuple(views), [part for _, part in parts], None if loader_workers else cache)
    cuts = _cut_all(cutter, loader_workers, quarantine or _strict(manifest))
    for (step, part), cut in zip(parts, cuts, strict=True):
        if cut.clips:
            labels = torch.tensor([clip.video.label for clip in cut.clips])
            yield Batch(cut.views, labels, step, len(part) / len(shares[step]))
        elif world > 1:
            raise RunError(
                f"no clip of process {rank} could be decoded in one step; raise train.batch or repair the data"
            )


def test_batches(
    manifest: Manifest,
    clips: ClipSettings,
    spec: NetworkSpec,
    *,
    batch: int,
    clips_per_video: int | None = None,
    rank: int = 0,
    world: int = 1,
    loader_workers: int = 0,
    cache: FrameCache | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[EvaluationBatch]:
    """One process' share of the validation clips; the last batch may be smaller.

    Args:
        manifest: the data.
        clips: how clips are cut.
        spec: the network to be fed.
        batch: clips per batch of this process.
        clips_per_video: clips per video, uniform in time; none: `clips.test`.
        rank: number of this process, which takes every `world`-th video.
        world: number of processes.
        loader_workers: as for training.
        cache: as for training.
        quarantine: as for training.

    Raises:
        UserError: as for training.
    """
    clip_frames = _common_input([spec], clips)
    _check_lengths(manifest.val, clip_frames)
    wanted = [
        _Clip(index, video, start, None)
        for index, video in itertools.islice(enumerate(manifest.val), rank, None, world)
        for start in test_starts(video.frames, clip_frames, clips_per_video or clips.test)
    ]
    parts = [wanted[i : i + batch] for i in range(0, len(wanted), batch)]
    cutter = _Cutter(manifest.root, clips, (spec,), parts, None if loader_workers else cache)
    for cut in _cut_all(cutter, loader_workers, quarantine or _strict(manifest)):
        if cut.clips:
            videos = torch.tensor([clip.index for clip in cut.clips])
            yield EvaluationBatch(cut.views[0], videos, torch.tensor([clip.video.label for clip in cut.clips]))


def _parts(clips: list[_Clip], size: int | None) -> list[list[_Clip]]:
    """The fewest parts of at most `size` clips, equal to within one clip: batch norm dislikes a single one."""
    number = 1 if size is None else math.ceil(len(clips) / size)
    bounds = [len(clips) * part // number for part in range(number + 1)]
    return [clips[low:high] for low, high in itertools.pairwise(bounds)]


def _common_input(views: Sequence[NetworkSpec], clips: ClipSettings) -> int:
    """Raw frames of a clip, once it is clear that all networks are reduced from the same input."""
    inputs = {(spec.clip_frames, spec.side) for spec in views}
    if len(inputs) > 1:
        raise ValueError(f"the networks have different unreduced inputs (frames, side): {sorted(inputs)}")
    clip_frames, side = inputs.pop()
    check_clips(clips, side)
    return clip_frames


def _check_lengths(videos: Sequence[Video], clip_frames: int) -> None:
    shortest = min(videos, key=lambda video: video.frames)
    if shortest.frames < clip_frames:
        raise UserError(
            f"{shortest.path} has {shortest.frames} frames, but a clip needs {clip_frames}; "
            f"list the data again for this clip length, or lower network.clip_frames"
        )


def _strict(manifest: Manifest) -> Quarantine:
    return Quarantine(len(manifest.train) + len(manifest.val), 0.0)


def _cut_all(cutter: _Cutter, loader_workers: int, quarantine: Quarantine) -> Iterator[_Cut]:
    """All batches in order, cut ahead of their use; failures are noted on the way."""
    if loader_workers:
        # fresh processes: a fork of one that runs Ray's and CUDA's threads may hang
        cuts: Iterable[_Cut] = DataLoader(
            cutter, batch_size=None, num_workers=loader_workers, multiprocessing_context="spawn"
        )
    else:
        cuts = run_ahead(cutter.__getitem__, range(len(cutter)))
    for cut in cuts:
        for path, reason in cut.failures:
            quarantine.add(path, reason)
        yield cut


def run_ahead(function: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
    """`map` whose calls are made in one background thread, a few ahead; the thread ends when the caller stops."""
    todo = iter(items)
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as thread:
        try:
            for item in itertools.islice(todo, BATCHES_AHEAD):
                pending.append(thread.submit(function, item))
            while pending:
                result = pending.popleft().result()
                for item in itertools.islice(todo, 1):
                    pending.append(thread.submit(function, item))
                yield result
        finally:
            thread.shutdown(cancel_futures=True)
