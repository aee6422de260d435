"""Quantising a trained network at once, and layers that go back to floating point for the sake of accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from compression.quantisation.torch_ao import default_engine, layer_rows
from compression.spec import Quantisation
from orchestrator.gate import within
from trainers.backbones import IntegerNetwork, Network
from trainers.quantisation import noise_of_layers, quantise_after_training, with_reasons


@dataclass(frozen=True, kw_only=True)
class Returned:
    """A layer that computes in floating point again."""

    layer: str
    """Its name."""
    noise_db: float
    """Signal-to-noise ratio of the network's output when this layer alone is rounded, in dB: the lower, the worse."""
    drop_points: float
    """What the network had lost before it went back, in points."""

    @property
    def reason(self) -> str:
        """Why, as people are told."""
        noise = f", {self.noise_db:.1f} dB" if math.isfinite(self.noise_db) else ""
        return (
            f"for accuracy: {self.drop_points:.1f} points were lost, and of the layers in INT8 it did most harm{noise}"
        )


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A network in integers, and how it came to be."""

    network: IntegerNetwork
    """The network."""
    returned: tuple[Returned, ...] = ()
    """Layers that went back, in this order."""
    drop_points: float | None = None
    """What it loses; none: not measured."""

    def layers(self, original: Network) -> list[dict[str, Any]]:
        """Every layer: in what it computes and why, as `layers.json` has it."""
        rule = self.network.spec.quantisation
        assert rule is not None
        reasons = {returned.layer: returned.reason for returned in self.returned}
        noise = {returned.layer: returned.noise_db for returned in self.returned}
        rows = [
            {**row.to_dict(), "noise_db": noise.get(row.name)} for row in layer_rows(self.network.graph, original, rule)
        ]
        return with_reasons(rows, reasons)


def quantise_within(
    network: Network,
    inputs: Sequence[Tensor],
    drop_of: Callable[[Network], float] | None,
    *,
    max_drop_points: float,
    max_fallbacks: int,
) -> Quantised:
    """Quantise after training (PTQ); while too much is lost, the most harmful layer goes back, one by one.

    Args:
        network: in floating point, trained, on the CPU; left as it is.
        inputs: normalised training inputs, some at a time, for ranges and harm.
        drop_of: measures what a network loses against `network`, in points; none: nothing goes back.
        max_drop_points: what may be lost.
        max_fallbacks: layers that may go back.

    Returns:
        The first one within the limit; if there is none, the one that loses least.

    Raises:
        UserError: it can't be quantised, or there is no input.
    """
    engine = default_engine()
    tried: list[Quantised] = []
    returned: list[Returned] = []
    harmful: list[tuple[str, float]] | None = None
    while True:
        rule = Quantisation(engine=engine, float_layers=tuple(one.layer for one in returned))
        integers = quantise_after_training(network, rule, inputs)
        drop = drop_of(integers) if drop_of else None
        tried.append(Quantised(network=integers, returned=tuple(returned), drop_points=drop))
        if drop is None or within(drop, max_drop_points) or len(returned) == max_fallbacks:
            break
        if harmful is None:
            noise = noise_of_layers(network, Quantisation(engine=engine), inputs)
            harmful = sorted(noise.items(), key=lambda item: item[1])
        if len(returned) == len(harmful):
            break
        layer, noise_db = harmful[len(returned)]
        returned.append(Returned(layer=layer, noise_db=noise_db, drop_points=drop))
    return min(tried, key=lambda one: math.inf if one.drop_points is None else one.drop_points)
