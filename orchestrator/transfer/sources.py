"""The networks that a transfer starts from, as their trials left them, and what they need of videos."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import ClipSettings, RunSettings
from orchestrator.store import Store
from orchestrator.transfer.search import Source
from trainers.data.manifest import Manifest
from trainers.files import read_json
from trainers.package import read_description
from trainers.results import RESULT_FILE


def read_sources(store: Store, models: Mapping[str, str]) -> list[Source]:
    """The networks of some trials.

    Args:
        store: where the trials are.
        models: digests of the trials, by what the networks are called.

    Raises:
        UserError: there is none, or they can't be fine-tuned together.
    """
    sources = [_source(store, name, digest) for name, digest in models.items()]
    if not sources:
        raise UserError("transfer.models names no network; say which is to be fine-tuned: orchestrate transfer MODEL")
    backbones = sorted({source.network.backbone for source in sources})
    if len(backbones) > 1:
        raise UserError(f"transfer.models has networks of {' and '.join(backbones)}; transfer each backbone by itself")
    return sources


def _source(store: Store, name: str, digest: str) -> Source:
    folder = store.trial_folder(digest)
    description = read_description(folder)
    if description.clips is None:
        raise UserError(
            f"{name} (trial {digest}) is a {description.spec.backbone}, which embeds images; only classifiers of "
            "videos can be fine-tuned on other videos"
        )
    if description.spec.quantisation is not None:
        raise UserError(
            f"{name} (trial {digest}) computes in integers, which are not trained further; give the network in "
            "floating point that it was made from"
        )
    record = read_json(folder / RESULT_FILE)
    trained = record["trial"]["data"] if record else None
    manifest = read_json(store.manifest_file(trained)) if trained else None
    return Source(
        name=name,
        digest=digest,
        network=description.spec,
        clips=description.clips,
        top1=record["result"]["top1"] if record else None,
        data=manifest["source"] if manifest else None,
    )


def with_clips(sources: Sequence[Source], wanted: ClipSettings) -> list[Source]:
    """Sources that all follow what settings change against the first of them; the rest stays each's own."""
    first = sources[0].clips
    changes = {key: value for key, value in wanted if value != getattr(first, key)}
    return [dataclasses.replace(source, clips=source.clips.model_copy(update=changes)) for source in sources]


def fitting(network: NetworkSpec, videos: Sequence[Manifest], settings: RunSettings) -> NetworkSpec | None:
    """A network for which enough videos are long enough; none: there are too few.

    One that was reduced on axis t sees only the first frames of a clip. Where too many videos are shorter than the
    clip, these frames are taken for the whole of it, so that shorter videos do: that is how the source evaluates the
    later networks of a family on HMDB51, and the earlier ones not at all.

    Args:
        network: the network.
        videos: all videos of each split, however short.
        settings: with the share of videos that may be too short.
    """
    shorter = network.replace(clip_frames=network.clip_span, factors=dataclasses.replace(network.factors, t=1.0))
    candidates = [network] + ([shorter] if shorter.frame_indices() == network.frame_indices() else [])
    most = settings.data.max_quarantined
    return next((spec for spec in candidates if all(_share_short(spec, split) <= most for split in videos)), None)


def too_short(network: NetworkSpec, videos: Sequence[Manifest]) -> str:
    """Why a network does not fit, for people."""
    share = max(_share_short(network, split) for split in videos)
    return f"{100 * share:.0f} % of the videos are shorter than its clip of {network.clip_span} frames"


def _share_short(network: NetworkSpec, videos: Manifest) -> float:
    """Share of the listed videos that are unreadable, or shorter than a network's clip."""
    listed = [*videos.train, *videos.val]
    short = sum(video.frames < network.clip_frames for video in listed)
    return (short + len(videos.quarantined)) / (len(listed) + len(videos.quarantined))
