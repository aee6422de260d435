"""A backbone that computes in integers, and the simulation of one in which it is trained.

Both are made from a network in floating point and are fed, scored and stored like it; how graphs are quantised is
left to `compression/quantisation/torch_ao.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compression.cost import empty_input
from compression.quantisation.torch_ao import (
    convert,
    integers_of,
    load_integers,
    prepare,
    set_phase,
    skeleton,
    use_engine,
)
from compression.spec import NetworkSpec, Quantisation
from trainers.backbones.base import Network


class GraphNetwork(Network):
    """Base of networks that are a traced graph: inputs and outputs of the network it came from, no named maps."""

    stages = ()

    def __init__(self, spec: NetworkSpec, graph: GraphModule) -> None:
        super().__init__(spec)
        self.graph = graph

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of clips, or vectors of images, normalised as for the network in floating point."""
        out: Tensor = self.graph(inputs)
        return out

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """Refused: the maps inside the graph are integers.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a quantised network offers no feature maps; take the one in floating point")

    def stage_ends(self) -> dict[str, nn.Module]:
        """None: see `features`."""
        return {}


class SimulatedNetwork(GraphNetwork):
    """A network whose rounding to integers is simulated in floating point, so that it can be trained.

    In evaluation mode no range and no batch norm moves; in training mode they do, until they are frozen: see
    `norms_frozen` and the buffer `ranges_frozen`.

    Args:
        network: in floating point; copied.
        rule: what is to compute in integers.
        learning: fake quantisation for training; else ranges are only measured.

    Raises:
        compression.quantisation.layers.QuantisationError: it can't be quantised like that.
    """

    ranges_frozen: Tensor
    """Whether ranges don't move any more, in training either; [], bool."""

    def __init__(self, network: Network, rule: Quantisation, *, learning: bool) -> None:
        example = empty_input(network.spec).to(network.device)
        graph = prepare(network, example, rule, training=learning)
        super().__init__(network.spec.replace(quantisation=rule), graph)
        self.learning = learning
        self.norms_frozen = not learning
        # in the checkpoint: conversion depends on it, also where no epoch is left to train
        self.register_buffer("ranges_frozen", torch.tensor(False, device=network.device))

    def measure_ranges(self) -> None:
        """Evaluation mode, except that ranges follow what comes by; nothing is rounded yet."""
        super().train(False)
        set_phase(self.graph, observe=True, simulate=False, freeze_norms=True)

    def train(self, mode: bool = True) -> SimulatedNetwork:
        """Switch between training and evaluation."""
        super().train(mode)
        learning = mode and self.learning
        set_phase(
            self.graph,
            observe=learning and not bool(self.ranges_frozen),
            simulate=self.learning,
            freeze_norms=not learning or self.norms_frozen,
        )
        return self

    def converted(self) -> IntegerNetwork:
        """The same in integers, on the CPU; this one stays as it is.

        Raises:
            compression.quantisation.layers.QuantisationError: it was never fed, or its values are not finite.
        """
        assert self.spec.quantisation is not None
        self.eval()
        # weights are packed for the engine of now, and another network may have run in between
        use_engine(self.spec.quantisation.engine)
        renew = self.learning and not bool(self.ranges_frozen)
        return IntegerNetwork(self.spec, convert(self.graph, renew=renew))


class IntegerNetwork(GraphNetwork):
    """A network that computes in integers, on CPUs.

    Its state is plain tensors: weights of 8 bits, scales, zero points. It is never trained.
    """

    def __init__(self, spec: NetworkSpec, graph: GraphModule) -> None:
        assert spec.quantisation is not None
        super().__init__(spec, graph)
        super().train(False)

    @classmethod
    def empty(cls, network: Network, spec: NetworkSpec) -> IntegerNetwork:
        """One without values, to be filled by `load_state_dict`; it may be run, to measure its time.

        Args:
            network: the same in floating point; its values don't matter, so it may be on the device `meta`.
            spec: with its quantisation.
        """
        assert spec.quantisation is not None
        return cls(spec, skeleton(network, empty_input(network.spec), spec.quantisation))

    def forward(self, inputs: Tensor) -> Tensor:
        """See `GraphNetwork.forward`; the kernels are those that it was made for."""
        assert self.spec.quantisation is not None
        use_engine(self.spec.quantisation.engine)
        return super().forward(inputs)

    def train(self, mode: bool = True) -> IntegerNetwork:
        """Nothing: integers are not trained."""
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Plain tensors by name."""
        return integers_of(self.graph)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take what `state_dict` gave; bit for bit the same network.

        Raises:
            RuntimeError: names or shapes don't fit, as for any module.
        """
        assert self.spec.quantisation is not None
        use_engine(self.spec.quantisation.engine)
        try:
            load_integers(self.graph, state_dict)
        except ValueError as error:
            raise RuntimeError(str(error)) from error
