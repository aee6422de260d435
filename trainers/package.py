"""A network on disk: `network.json` says what it is, `model.safetensors` has its weights. No pickle.

A finished trial's folder and a handed-over model folder are both packages; either is enough to build the network
again without the search, the data or Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import ClipSettings, ReidSettings
from trainers.backbones import BACKBONES, Network, build
from trainers.checkpoint import load_weights_file, save_weights
from trainers.files import read_json, write_atomically, write_json

NETWORK_FILE, WEIGHTS_FILE = "network.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `network.json` says."""

    spec: NetworkSpec
    """The network."""
    classes: tuple[str, ...]
    """Label names, in the classifier's order; of a network that re-identifies, the identities it was trained on."""
    clips: ClipSettings | None = None
    """How its clips were cut: evaluation resize, crop and number of clips. None: it is fed images."""
    reid: ReidSettings | None = None
    """How a network that re-identifies was trained and measured; none: it classifies."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; the input's normalisation is written out for readers without our code."""
        backbone = BACKBONES[self.spec.backbone]
        given = {"clips": self.clips, "reid": self.reid}
        return {
            "spec": self.spec.to_dict(),
            "classes": list(self.classes),
            **{key: value.model_dump(mode="json") for key, value in given.items() if value is not None},
            "input": {
                "range": "uint8 / 255, minus mean, over std",
                "mean": list(backbone.mean),
                "std": list(backbone.std),
                **input_layout(self.spec),
            },
        }


def input_layout(spec: NetworkSpec) -> dict[str, Any]:
    """Axes and sizes of a network's input, for `network.json`."""
    if spec.aspect is None:
        return {
            "layout": "clip, channel (RGB), frame, height, width",
            "frames": spec.frames,
            "side": spec.input_side,
            "raw_frame_indices": list(spec.frame_indices()),
        }
    _, height, width = spec.input_shape
    return {"layout": "image, channel (RGB), height, width", "height": height, "width": width}


def save_package(folder: Path, network: Network, description: Description) -> None:
    """Write weights, then the description; each file appears whole."""
    write_atomically(folder / WEIGHTS_FILE, lambda path: save_weights(path, network))
    write_json(folder / NETWORK_FILE, description.to_dict())


def read_description(folder: Path) -> Description:
    """Read `network.json`.

    Raises:
        UserError: the folder is no package, or describes a network that this version doesn't know.
    """
    data = read_json(folder / NETWORK_FILE)
    if data is None:
        raise UserError(
            f"{folder} is no model folder: it needs a readable {NETWORK_FILE} beside {WEIGHTS_FILE}. "
            "`orchestrate show RUN` lists the models of a run."
        )
    try:
        if not {"clips", "reid"} & data.keys():
            raise ValueError("it has neither clips nor reid, one of which says what the network is fed")
        spec = NetworkSpec.from_dict(data["spec"])
        description = Description(
            spec=spec,
            classes=tuple(data["classes"]),
            clips=ClipSettings.model_validate(data["clips"]) if "clips" in data else None,
            reid=ReidSettings.model_validate(data["reid"]) if "reid" in data else None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / NETWORK_FILE} describes no network that this version can build: {error}") from error
    if spec.backbone not in BACKBONES:
        raise UserError(
            f"{folder / NETWORK_FILE}: backbone is {spec.backbone!r}, but this version knows {', '.join(BACKBONES)}"
        )
    return description


def load_package(folder: Path) -> tuple[Network, Description]:
    """Build the network that a folder describes, with its weights, in evaluation mode.

    Raises:
        UserError: no package, or weights that don't fit the description.
    """
    description = read_description(folder)
    network = build_with(description.spec, read_weights(folder))
    return network.eval(), description


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a package.

    Raises:
        UserError: missing, or no safetensors file.
    """
    path = folder / WEIGHTS_FILE
    try:
        return load_weights_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: copy it beside {NETWORK_FILE}") from None
    except ValueError as error:
        raise UserError(f"{error}. Export it again, or copy the file in binary mode") from error


def build_with(spec: NetworkSpec, weights: dict[str, Tensor]) -> Network:
    """The network of a spec with given weights.

    Raises:
        UserError: names, shapes or types don't fit.
    """
    try:
        with torch.device("meta"):
            network = build(spec)
    except ValueError as error:
        raise UserError(f"a {spec.backbone} of this spec can't be built here: {error}") from error
    types = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    if other := [name for name, tensor in weights.items() if tensor.dtype != types.get(name, tensor.dtype)]:
        raise UserError(
            f"the weights don't fit a {spec.backbone} of this spec: {other[0]} is {weights[other[0]].dtype}, but must "
            f"be {types[other[0]]}"
        )
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise UserError(f"the weights don't fit a {spec.backbone} of this spec: {error}") from error
    return network
