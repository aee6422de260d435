"""Quantising a trained network, by measuring the ranges of its activations or by training with them.

    float network → simulated (batch norms folded in, rounding simulated) → ranges measured → trained or not → integers

Sources:
    [1] Jacob et al. Quantization and training of neural networks for efficient integer-arithmetic-only inference.
        arXiv:1712.05877.
    [2] Hu, Wu et al. E²TAD; `specs/e2tad.md` section 17: which epochs freeze batch norms and ranges.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compression.quantisation.layers import QuantisationError
from compression.quantisation.torch_ao import layer_noise, layer_rows
from compression.spec import Quantisation
from configs.errors import UserError
from configs.schema import QuantiseRecipe
from trainers.backbones import IntegerNetwork, Network, SimulatedNetwork, fast_order
from trainers.files import read_json, write_json

LAYERS_FILE = "layers.json"
"""What runs in integers and what does not, beside a quantised network."""
NOISE_INPUTS = 16
"""Inputs on which the harm that each layer does is measured."""


class Quantiser:
    """Quantises one network.

    Args:
        network: in floating point, trained; it is copied, never changed.
        rule: what is to compute in integers.
        recipe: how ranges are found, and when they stop moving.
        learning: whether it is trained as well.

    Raises:
        UserError: it can't be quantised like that.
    """

    def __init__(self, network: Network, rule: Quantisation, recipe: QuantiseRecipe, *, learning: bool) -> None:
        self.original = network
        self.rule = rule
        self.recipe = recipe
        self.simulated = simulate(network, rule, learning=learning)
        fast_order(self.simulated)

    def before_epoch(self, epoch: int) -> None:
        """Freeze what is not to move any more; epochs are counted from 0."""
        self.simulated.norms_frozen = epoch >= self.recipe.freeze_norms_after
        self.simulated.ranges_frozen.fill_(epoch >= self.recipe.freeze_ranges_after)

    def layers(self, integers: IntegerNetwork, inputs: Iterable[Tensor]) -> list[dict[str, Any]]:
        """Every layer of the result: in what it computes, why, and how much noise it would add alone, in dB.

        Args:
            integers: the network that came of it.
            inputs: some on which noise is measured, with the weights and ranges that were found; the first
                `NOISE_INPUTS` count.
        """
        first = first_inputs(inputs).to(self.simulated.device)
        noise = layer_noise(self.simulated.graph, [first])
        rows = layer_rows(integers.graph, self.original, self.rule)
        return [{**row.to_dict(), "noise_db": noise.get(row.name)} for row in rows]


def simulate(network: Network, rule: Quantisation, *, learning: bool) -> SimulatedNetwork:
    """A network with simulated rounding.

    Raises:
        UserError: it can't be quantised like that.
    """
    try:
        return SimulatedNetwork(network, rule, learning=learning)
    except QuantisationError as error:
        raise UserError(f"quantise: {error}") from error


@torch.no_grad()
def calibrate(network: SimulatedNetwork, inputs: Iterable[Tensor]) -> None:
    """Measure the ranges of a network's activations; it is left in evaluation mode.

    Args:
        network: the network.
        inputs: normalised inputs, some at a time.

    Raises:
        UserError: there is no input.
    """
    network.measure_ranges()
    batches = 0
    for batch in inputs:
        network(batch.to(network.device))
        batches += 1
    network.eval()
    if not batches:
        raise UserError("no training example could be read, so no range can be measured; repair the data")


def quantise_after_training(network: Network, rule: Quantisation, inputs: Sequence[Tensor]) -> IntegerNetwork:
    """The same network in integers, without training it (PTQ).

    Args:
        network: in floating point, on the CPU.
        rule: what is to compute in integers.
        inputs: normalised training inputs, some at a time.

    Raises:
        UserError: it can't be quantised like that, its values are not finite, or there is no input.
    """
    simulated = simulate(network, rule, learning=False)
    calibrate(simulated, inputs)
    try:
        return simulated.converted()
    except QuantisationError as error:
        raise UserError(f"quantise: {error}") from error


def noise_of_layers(network: Network, rule: Quantisation, inputs: Sequence[Tensor]) -> dict[str, float]:
    """Signal-to-noise ratio of a network's output, in dB, when one layer alone is rounded; by layer.

    Args:
        network: in floating point, trained.
        rule: what is to compute in integers.
        inputs: normalised inputs; the first `NOISE_INPUTS` count.
    """
    simulated = simulate(network, rule, learning=True)
    first = first_inputs(inputs)
    calibrate(simulated, [first])
    return layer_noise(simulated.graph, [first.to(simulated.device)])


def first_inputs(inputs: Iterable[Tensor]) -> Tensor:
    """The inputs on which noise is measured, in one batch."""
    return torch.cat(list(itertools.islice(inputs, NOISE_INPUTS)))[:NOISE_INPUTS]


def with_reasons(layers: Sequence[dict[str, Any]], reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of layers that say why some stayed in floating point, as far as it is known here why that was asked for."""
    return [{**row, "reason": reasons.get(row["name"], row["reason"])} for row in layers]


def write_layers(folder: Path, layers: Sequence[dict[str, Any]]) -> None:
    """Write `layers.json`."""
    write_json(folder / LAYERS_FILE, {"layers": list(layers)})


def read_layers(folder: Path) -> list[dict[str, Any]]:
    """What `write_layers` wrote; nothing where there is none."""
    layers: list[dict[str, Any]] = (read_json(folder / LAYERS_FILE) or {"layers": []})["layers"]
    return layers
