"""Quantisation by `torch.ao`: the one module that knows it, because it is being replaced.

A network is traced, and its batch norms and ReLUs run within the layers before them:

    network ──prepare──▶ simulation of the rounding, in floating point ──convert──▶ integers, on CPUs

In the simulation, weights and activations are rounded to the grid that integers have,

    x̂ = s · (clamp(round(x / s) + z, q_min, q_max) − z),

with the gradient of the identity inside the range and 0 outside ([1], sec. 3). Weights: 8 bits signed, z = 0, one s per
output channel. Activations: 8 bits unsigned, one s and z per tensor.

Sources:
    [1] Jacob et al. Quantization and training of neural networks for efficient integer-arithmetic-only inference.
        arXiv:1712.05877.
    [2] Krishnamoorthi. Quantizing deep convolutional networks for efficient inference. arXiv:1806.08342.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.ao.nn.intrinsic.quantized as integer_fused
import torch.ao.nn.quantized as integer
from torch import Tensor, nn
from torch.ao.quantization import get_default_qat_qconfig_mapping
from torch.ao.quantization.backend_config import ObservationType, get_native_backend_config
from torch.ao.quantization.fake_quantize import FakeQuantizeBase
from torch.ao.quantization.fx.utils import assert_and_get_unique_device
from torch.ao.quantization.observer import HistogramObserver
from torch.ao.quantization.qconfig import QConfig
from torch.ao.quantization.qconfig_mapping import QConfigMapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx
from torch.fx import GraphModule, Node

from compression.quantisation.engines import default_engine, use_engine
from compression.quantisation.graph_cleaning import (
    DROPOUTS,
    NORMS,
    bypass,
    check_modules,
    check_pools,
    cleaned,
    groups_of,
    lift_dead_scales,
    quantisable_layers,
    remove_dropouts,
)
from compression.quantisation.initialisation import NoRandomWeights
from compression.quantisation.integer_graph import integers_of, layer_rows, load_integers
from compression.quantisation.layers import QuantisationError
from compression.quantisation.lowering import lower
from compression.quantisation.noise import layer_noise
from compression.quantisation.rounding import MovingRange, Rounding, WeightRange, renew_ranges_of_weights
from compression.spec import Quantisation

__all__ = [
    "convert",
    "default_engine",
    "integers_of",
    "layer_noise",
    "layer_rows",
    "load_integers",
    "prepare",
    "quantisable_layers",
    "set_phase",
    "skeleton",
    "use_engine",
]

NARROW = ("x86", "fbgemm")
"""Engines whose ranges span 7 bits per activation, so that sums of 16 bits can't overflow within them."""
ops = torch.ops.quantized
OPERATIONS: dict[type[nn.Module], Any] = {
    integer.Conv1d: ops.conv1d.default,
    integer.Conv2d: ops.conv2d.new,
    integer.Conv3d: ops.conv3d.new,
    integer.Linear: ops.linear.default,
    integer_fused.ConvReLU1d: ops.conv1d_relu.default,
    integer_fused.ConvReLU2d: ops.conv2d_relu.new,
    integer_fused.ConvReLU3d: ops.conv3d_relu.new,
    integer_fused.LinearReLU: ops.linear_relu.default,
}
"""The kernel that a converted module calls."""


class TorchRounding(FakeQuantizeBase):
    """What makes torch take a `Rounding` for one of its own."""

    @property
    def activation_post_process(self) -> nn.Module:
        """What knows the range."""
        return self


class WeightRounding(WeightRange, TorchRounding):
    """`WeightRange` for torch."""


class MovingRounding(MovingRange, TorchRounding):
    """`MovingRange` for torch."""


class HistogramRounding(Rounding, TorchRounding):
    """Of activations: the range with the least squared error on a histogram of all that came by.

    It is searched once, when measuring ends; torch's own rounding would search it anew at every pass.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        limits = {"quant_min": self.quant_min, "quant_max": self.quant_max}
        self.histogram = HistogramObserver(dtype=self.dtype, qscheme=self.qscheme, **limits)
        self.waiting = False
        self.finite = True

    def observe(self, tensor: Tensor) -> None:
        """Count the values; after one that can't be counted there is no range any more."""
        self.finite = self.finite and all(bool(end.isfinite()) for end in torch.aminmax(tensor))
        if self.finite:
            self.histogram(tensor)
        self.waiting = True

    def rounded(self, tensor: Tensor) -> Tensor:
        """Rounded, or as it is while the range is not known yet."""
        return tensor if self.observing else super().rounded(tensor)

    def enable_observer(self, enabled: bool = True) -> None:
        """Begin to count, or end it and search the range."""
        super().enable_observer(enabled)
        if not enabled:
            self.calculate_qparams()

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale and zero point of what was counted so far."""
        if self.waiting:
            found = self.histogram.calculate_qparams() if self.finite else (self.scale * torch.nan, self.zero_point)
            self.adopt(*found)
            self.waiting = False
        return self.scale, self.zero_point


@contextlib.contextmanager
def tidied() -> Iterator[None]:
    """Without what torch's quantisation leaves behind.

    It announces that torch will lose it, and that oneDNN likes newer processors. It remembers the device of every
    network that it was given, and with that the network, for good. And it makes each layer three times with random
    weights, which it replaces: that takes time, and random numbers that would be missing elsewhere.
    """
    with warnings.catch_warnings(), NoRandomWeights():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.ao.quantization is deprecated")
        warnings.filterwarnings("ignore", message="Default qconfig of oneDNN backend")
        warnings.filterwarnings("ignore", message=".*reduce_range will be deprecated")
        try:
            yield
        finally:
            assert_and_get_unique_device.cache_clear()


def prepare(network: nn.Module, example: Tensor, rule: Quantisation, *, training: bool) -> GraphModule:
    """A copy of a network in which rounding is simulated; batch norm and ReLU run within the layer before them.

    Args:
        network: in floating point; left as it is.
        example: an input, [clip, …].
        rule: what is to compute in integers, and with which kernels.
        training: to be trained: ranges are moving averages, batch norms live, rounding is on. Otherwise ranges are
            found from histograms, norms are frozen, and rounding is off.

    Raises:
        QuantisationError: it can't be traced, has weights or pooling that no integer kernel knows, or the rule names
            layers or kernels that are not there.
    """
    use_engine(rule.engine)
    check_names(network, rule)
    traced = cleaned(network)
    check_modules(traced, network, rule.float_layers)
    check_pools(traced, rule.engine)
    lift_dead_scales(traced)
    with tidied():
        rules = rounding_rules(traced, rule, training=training)
        prepared: GraphModule = prepare_qat_fx(traced.train(), rules, example_inputs=(example,))
    unround_dropouts(prepared)
    share_ranges(prepared)
    count_tensors(prepared)
    keep_norms_frozen(prepared)
    prepared.train(training)
    set_phase(prepared, observe=True, simulate=training, freeze_norms=not training)
    return prepared


def check_names(network: nn.Module, rule: Quantisation) -> None:
    """Refuse a rule that excludes what isn't there.

    Raises:
        QuantisationError: it does.
    """
    known = quantisable_layers(network)
    if unknown := sorted(set(rule.float_layers) - set(known)):
        raise QuantisationError(
            f"float_layers has {unknown[0]!r}, but {type(network).__name__} has no such layer; "
            f"it has {', '.join(known[:4])}{' …' if len(known) > 4 else ''}"
        )


def rounding_rules(traced: GraphModule, rule: Quantisation, *, training: bool) -> QConfigMapping:
    """How torch is to round what."""
    rules = get_default_qat_qconfig_mapping(rule.engine)
    largest = 127 if rule.engine in NARROW else 255
    kind = MovingRounding if training else HistogramRounding

    def activation(**_: Any) -> Rounding:
        return kind(torch.quint8, torch.per_tensor_affine, 0, largest)

    def weight(**_: Any) -> Rounding:
        return WeightRounding(torch.qint8, torch.per_channel_symmetric, -128, 127)

    rules.set_global(QConfig(activation=activation, weight=weight))  # type: ignore[no-untyped-call]
    groups = groups_of(traced)
    for layer in rule.float_layers:
        # a layer that is never run has no group
        for name in (layer, *(groups[layer].fused if layer in groups else ())):
            rules.set_module_name(name, None)
    return rules


def unround_dropouts(prepared: GraphModule) -> None:
    """Remove the rounding after dropout: its input is rounded already, and integers don't drop out."""
    for node in list(prepared.graph.nodes):
        if node.op == "call_module" and isinstance(prepared.get_submodule(str(node.target)), Rounding):
            (source,) = node.all_input_nodes
            if source.op == "call_module" and isinstance(prepared.get_submodule(str(source.target)), DROPOUTS):
                bypass(prepared.graph, node)
                prepared.delete_submodule(str(node.target))
    prepared.recompile()


def share_ranges(prepared: GraphModule) -> None:
    """Give what goes into an operation without a scale of its own, and what comes out, one range.

    Torch does so for each operation by itself, but not for one after another: of two pooled maps that are concatenated,
    the second kept the range that it had before pooling, and its integers were read as those of the first.
    """
    for node in prepared.graph.nodes:
        if not is_sharing(prepared, node):
            continue
        first, *others = [module for _, module in roundings_around(prepared, node)] or [None]
        for name, module in list(prepared.named_modules(remove_duplicate=False)):
            if any(module is other for other in others):
                prepared.set_submodule(name, first)


def roundings_around(prepared: GraphModule, node: Node) -> list[tuple[str, Any]]:
    """What rounds an operation's inputs and its result, by name."""
    names = [str(one.target) for one in (*node.all_input_nodes, *node.users) if one.op == "call_module"]
    modules = [(name, prepared.get_submodule(name)) for name in names]
    return [(name, module) for name, module in modules if isinstance(module, Rounding)]


def count_tensors(prepared: GraphModule) -> None:
    """Tell each moving range how many tensors it has per pass."""
    called = [str(node.target) for node in prepared.graph.nodes if node.op == "call_module"]
    counts = Counter(prepared.get_submodule(name) for name in called)
    for module, tensors in counts.items():
        if isinstance(module, MovingRange):
            module.tensors = tensors


def is_sharing(prepared: GraphModule, node: Node) -> bool:
    """Whether an operation's result has the scale of its input."""
    if node.op == "call_module":
        return type(prepared.get_submodule(str(node.target))) in sharing_operations()
    return node.op in ("call_function", "call_method") and node.target in sharing_operations()


@functools.cache
def sharing_operations() -> frozenset[Any]:
    """Those operations, as torch lists them: module types, functions, names of methods."""
    configs = get_native_backend_config().configs
    shared = ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
    return frozenset(config.pattern for config in configs if config.observation_type == shared)


def keep_norms_frozen(prepared: GraphModule) -> None:
    """Let `set_phase` freeze the batch norms of layers in floating point as well, which torch leaves alone."""
    for group in prepared.modules():
        if isinstance(group, nn.Sequential) and len(group) > 1 and isinstance(group[1], NORMS):
            norm: Any = group[1]
            norm.frozen = False
            norm.register_forward_pre_hook(stay_frozen)


def stay_frozen(norm: Any, _: Any) -> None:
    """Before a batch norm runs: whatever mode it was put in, a frozen one evaluates."""
    if norm.frozen:
        norm.training = False


def set_phase(prepared: GraphModule, *, observe: bool, simulate: bool, freeze_norms: bool) -> None:
    """Switch what moves and what is simulated; survives changes between training and evaluation.

    Args:
        prepared: by `prepare`.
        observe: ranges follow what comes by, in evaluation as well.
        simulate: rounding is simulated; while ranges are measured without training, never.
        freeze_norms: batch norms use their running statistics and leave them.
    """
    for rounding in roundings_of(prepared):
        rounding.enable_observer(observe)
        rounding.enable_fake_quant(simulate)
    module: Any
    for module in prepared.modules():
        if hasattr(module, "freeze_bn_stats"):
            module.freeze_bn_stats() if freeze_norms else module.update_bn_stats()
            module.bn.train(not freeze_norms and module.training)
        elif hasattr(module, "frozen"):
            module.frozen = freeze_norms
            module.train(not freeze_norms and prepared.training)


def convert(prepared: GraphModule, *, renew: bool = False) -> GraphModule:
    """The integers that a prepared network has been simulating, on the CPU; `prepared` is left as it is.

    Args:
        prepared: with measured ranges.
        renew: take the ranges of weights from the weights of now. Of a network that was just trained, they are those
            from before the last step, and weights may have grown out of them.

    Raises:
        QuantisationError: a range was never measured.
    """
    prepared = copy.deepcopy(prepared).cpu().eval()
    if renew:
        renew_ranges_of_weights(prepared)
    check_observed(prepared)
    return consumed(prepared)


def consumed(prepared: GraphModule) -> GraphModule:
    """The integers of a prepared network on the CPU, made out of its parts."""
    remove_dropouts(prepared)
    with tidied():
        converted: GraphModule = convert_fx(prepared)
    lower(converted, OPERATIONS)
    return converted


def skeleton(network: nn.Module, example: Tensor, rule: Quantisation) -> GraphModule:
    """What `convert` makes of a network of this structure, with values that mean nothing yet; see `load_integers`.

    Nothing is computed, and values of the network are not looked at: it may be on the device `meta`.

    Raises:
        QuantisationError: as `prepare`.
    """
    use_engine(rule.engine)
    with torch.device("meta"):
        bare = copy.deepcopy(network).to("meta")
        # moving ranges hold less than histograms, and the structure is the same
        prepared = prepare(bare, example, rule, training=True).to_empty(device="cpu").eval()
    set_phase(prepared, observe=False, simulate=False, freeze_norms=True)
    with torch.no_grad():
        for tensor in itertools.chain(prepared.parameters(), prepared.buffers()):
            tensor.zero_()
        renew_ranges_of_weights(prepared)
    for rounding in roundings_of(prepared):
        rounding.adopt(torch.ones_like(rounding.scale), torch.zeros_like(rounding.zero_point))
    return consumed(prepared)


def roundings_of(prepared: GraphModule) -> list[Any]:
    """Everything that rounds, weights and activations."""
    return [module for module in prepared.modules() if isinstance(module, FakeQuantizeBase)]


def check_observed(prepared: GraphModule) -> None:
    """Refuse to convert ranges that are only the values they were made with.

    Raises:
        QuantisationError: names the module without a range.
    """
    for name, module in prepared.named_modules():
        if not isinstance(module, Rounding):
            continue
        scale, _ = module.calculate_qparams()
        if not module.measured:
            raise QuantisationError(f"{name} has no range yet; run inputs through the prepared network first")
        if not scale.isfinite().all():
            raise QuantisationError(f"{name} has a range that is not finite; the network gives NaN or infinity")
