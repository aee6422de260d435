"""What a network is fed and gives, as a package says it: taken from its description, and measured by forward passes.

Units: frames are frames at the clip's rate, sides are pixels of the network itself, after its reductions.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

import torch

from compression.cost import empty_input
from compression.spec import NetworkSpec
from configs.errors import UserError
from orchestrator.handoff.manifest import NETWORK_FILE, ClipInput, Handoff, ImageInput, Output, Resize, Stage
from trainers.backbones import backbone, build, describe, input_contract
from trainers.backbones.base import InputContract
from trainers.package import Description


def input_of(description: Description, rates: Iterable[float]) -> ClipInput | ImageInput:
    """How evaluation made the network's input.

    Args:
        description: of the network.
        rates: frames per second of the videos that it was evaluated on, 0 where the file does not say.
    """
    spec = description.spec
    contract = input_contract(spec)
    if not isinstance(contract, InputContract):
        return ImageInput(
            resize=Resize(size=(contract.height, contract.width), interpolation="bicubic"),
            height=contract.height,
            width=contract.width,
            mean=contract.mean,
            std=contract.std,
            mirrored=description.reid is not None and description.reid.flip,
        )
    assert description.clips is not None  # a network without an aspect classifies clips
    return ClipInput(
        fps=median_rate(rates, nominal=contract.fps),
        span=spec.clip_span,
        evaluation_span=spec.clip_frames,
        frame_indices=contract.frame_indices,
        frames=contract.frames,
        resize=resize_of(description),
        side=contract.side,
        mean=contract.mean,
        std=contract.std,
        clips_per_video=description.clips.test,
    )


def median_rate(rates: Iterable[float], *, nominal: float) -> float:
    """The median of the frame rates that are known; the nominal one where none is."""
    known = [rate for rate in rates if rate > 0]
    return statistics.median(known) if known else nominal


def resize_of(description: Description) -> Resize:
    """To what `trainers.data.transforms.centre_window` resizes a frame before it is cropped."""
    assert description.clips is not None
    spec = description.spec
    wanted = description.clips.resize or spec.side
    if isinstance(wanted, int):
        return Resize(short_side=spec.scaled(wanted), interpolation="bilinear")
    height, width = wanted
    return Resize(size=(spec.scaled(height), spec.scaled(width)), interpolation="bilinear")


def stages_of(spec: NetworkSpec) -> tuple[Stage, ...]:
    """The feature maps that a network offers; none of one that computes in integers.

    Strides are measured on an input far larger than any stride, shapes on one as the contract asks for it.
    """
    if spec.quantisation is not None:
        return ()
    with torch.device("meta"), torch.no_grad():
        maps = build(spec).eval().features(empty_input(spec))
    return tuple(
        Stage(
            name=stage.name,
            channels=stage.channels,
            temporal_stride=stage.temporal_stride,
            spatial_stride=stage.spatial_stride,
            shape=tuple(maps[stage.name].shape[1:]),
        )
        for stage in describe(spec)
    )


def output_of(spec: NetworkSpec) -> Output:
    """What a forward pass gives."""
    with torch.device("meta"), torch.no_grad():
        dimension = build(spec.floating).eval()(empty_input(spec)).shape[1]
    if backbone(spec).task == "reid":
        return Output(kind="embedding", dimension=dimension, distance="cosine")
    return Output(kind="logits", dimension=dimension)


def require_agreement(folder: Path, description: Description, handoff: Handoff) -> None:
    """See that a contract says of its network what `network.json` says; nothing is computed for it.

    The rate of the frames is the contract's alone.

    Raises:
        UserError: naming what it says otherwise.
    """
    spec = description.spec
    said = {
        "network": handoff.network == spec.to_dict(),
        "backbone": handoff.backbone == spec.backbone,
        "classes": handoff.classes == description.classes,
        "input": handoff.input == _input_said_by(description, handoff),
    }
    _require_all(folder, said)


def require_measurements(folder: Path, spec: NetworkSpec, handoff: Handoff) -> None:
    """See that a contract has the strides, channels and dimensions that forward passes give.

    Raises:
        UserError: naming what it says otherwise.
    """
    said = {
        "precision": handoff.precision == ("fp32" if spec.quantisation is None else "int8"),
        "output": handoff.output == output_of(spec),
        "stages": handoff.stages == stages_of(spec),
    }
    _require_all(folder, said)


def _input_said_by(description: Description, handoff: Handoff) -> ClipInput | ImageInput | None:
    """The input of a description, at the contract's rate; none of one that says of no input how it is made."""
    rates = [handoff.input.fps] if isinstance(handoff.input, ClipInput) else []
    if description.spec.aspect is None and description.clips is None:
        return None
    try:
        return input_of(description, rates)
    except ValueError:  # frames that no clip has
        return None


def _require_all(folder: Path, said: dict[str, bool]) -> None:
    """Raises:
    UserError: the contract says something that the network does not.
    """
    if wrong := [field for field, agrees in said.items() if not agrees]:
        raise UserError(
            f"{folder / NETWORK_FILE} describes another network than the contract does under {', '.join(wrong)}; copy "
            "the package again"
        )
