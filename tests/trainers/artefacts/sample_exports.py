"""Tiny networks, in floating point and in integers, and what is exported of them."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compression.quantisation.torch_ao import default_engine
from compression.spec import NetworkSpec, Quantisation
from configs.schema import ReidSettings
from tests.trainers import tiny
from trainers.artefacts import FORMATS
from trainers.backbones import IntegerNetwork, Network
from trainers.backbones.quantised import SimulatedNetwork
from trainers.package import Description

SOURCES = ("float", "integers")
EXPORTS = [
    (name, source)
    for name, row in FORMATS.items()
    for source, takes in zip(SOURCES, (row.from_float, row.from_integers), strict=True)
    if takes
]
"""All formats, with the kinds of network that each takes."""


def make(backbone: str, source: str = "float") -> Network:
    """A random network."""
    if source == "integers":
        return integers(backbone)
    network: Network = tiny.random_network(tiny.ALL_SPECS[backbone]).eval()
    return network


@functools.cache
def integers(backbone: str) -> IntegerNetwork:
    """The same, quantised after training; made once, and changed by nobody."""
    network = make(backbone)
    simulated = SimulatedNetwork(network, Quantisation(engine=default_engine()), learning=False)
    simulated.measure_ranges()
    with torch.no_grad():
        for batch in calibration(network.spec):
            simulated(batch)
    return simulated.converted()


def calibration(spec: NetworkSpec) -> list[Tensor]:
    """Inputs to measure ranges on."""
    return [tiny.random_clips(spec, 4, seed) for seed in (1, 2)]


def describe(spec: NetworkSpec) -> Description:
    """What `network.json` says."""
    given: dict[str, Any] = {"clips": tiny.CLIPS} if spec.aspect is None else {"reid": ReidSettings()}
    return Description(spec=spec, classes=tiny.CLASSES, **given)


def export(folder: Path, name: str, network: Network) -> list[str]:
    """Write a network in a format; returns the notes."""
    return FORMATS[name].write(network, describe(network.spec), folder, calibration(network.spec))


def files_below(folder: Path) -> Iterator[str]:
    """Names of all files, hidden ones too."""
    return (path.name for path in folder.rglob("*"))


def noise(found: Tensor, expected: Tensor) -> float:
    """Energy of the difference over that of the signal."""
    return float((found - expected).square().sum() / expected.square().sum())
