"""The graph of a network that computes in integers: its kernels, its values as plain tensors, what it is made of.

Weights are packed for the machine when they are given to a kernel; what is stored is what goes in: integers of 8 bits
per weight, one scale per output channel, and per result one scale and one zero point,

    value = scale · (integer − zero point).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compression.quantisation.graph_cleaning import LAYERS, cleaned, groups_of, quantisable_layers
from compression.quantisation.layers import LayerRow, QuantisationError
from compression.spec import Quantisation

LAYER = "layer"
"""Key in a node's `meta`: the layer's name."""
CONSTANTS = "constants"
"""Likewise: the positions of `scale` and `zero_point` among its arguments."""
ON_REQUEST = "kept in floating point on request"


@dataclass(frozen=True)
class Kernel:
    """An integer operation with weights."""

    kind: str
    """As in `LayerRow.kind`."""
    pack: Callable[..., Any]
    """Makes of weights, bias (and a convolution's geometry) what the operation is given."""
    unpack: Callable[[Any], tuple[Tensor, Tensor | None]]
    """The inverse of `pack`, without the geometry."""
    activation: bool = False
    """Whether a ReLU is part of it."""

    def refill(self, packed: Any, weight: Tensor, bias: Tensor | None) -> Any:
        """The same geometry with other values."""
        if self.kind == "linear":
            return self.pack(weight, bias)
        # a 1D convolution is packed as a 2D one of height 1
        geometry = [list(part())[-weight.dim() + 2 :] for part in (packed.stride, packed.padding, packed.dilation)]
        return self.pack(weight, bias, *geometry, packed.groups())


ops = torch.ops.quantized
KERNELS: dict[Any, Kernel] = {
    ops.conv1d.default: Kernel("conv1d", ops.conv1d_prepack, ops.conv1d_unpack),
    ops.conv1d_relu.default: Kernel("conv1d", ops.conv1d_prepack, ops.conv1d_unpack, True),
    ops.conv2d.new: Kernel("conv2d", ops.conv2d_prepack, ops.conv2d_unpack),
    ops.conv2d_relu.new: Kernel("conv2d", ops.conv2d_prepack, ops.conv2d_unpack, True),
    ops.conv3d.new: Kernel("conv3d", ops.conv3d_prepack, ops.conv3d_unpack),
    ops.conv3d_relu.new: Kernel("conv3d", ops.conv3d_prepack, ops.conv3d_unpack, True),
    ops.linear.default: Kernel("linear", ops.linear_prepack, ops.linear_unpack),
    ops.linear_relu.default: Kernel("linear", ops.linear_prepack, ops.linear_unpack, True),
}
JOINS: dict[Any, str] = {
    operator.add: "add",
    ops.add: "add",
    ops.add_relu: "add",
    ops.cat: "cat",
    torch.add: "add",
    torch.cat: "cat",
    F.adaptive_avg_pool1d: "pool",
    F.adaptive_avg_pool2d: "pool",
    F.adaptive_avg_pool3d: "pool",
    F.avg_pool2d: "pool",
    F.avg_pool3d: "pool",
    F.max_pool2d: "pool",
    F.max_pool3d: "pool",
}
"""Operations without weights that reports name."""


def integers_of(graph: GraphModule) -> dict[str, Tensor]:
    """The values of a converted graph as plain tensors, ready for safetensors.

    Per integer layer: `weight` int8 [output, …], `weight_scales` float32 [output], `bias` float32 [output] where there
    is one, `scale` and `zero_point` of the result; of other integer operations the last two, under the node's name;
    of layers in floating point `weight` and `bias`, batch norm included.
    """
    tensors = {name: value.detach().contiguous() for name, value in graph.state_dict().items()}
    for node in graph.graph.nodes:
        name = label(node)
        if kernel := KERNELS.get(node.target):
            weight, bias = kernel.unpack(packed_of(graph, node))
            tensors[f"{name}.weight"] = weight.int_repr().contiguous()
            tensors[f"{name}.weight_scales"] = weight.q_per_channel_scales().float()
            if bias is not None:
                tensors[f"{name}.bias"] = bias.detach().contiguous()
        for part, position in node.meta.get(CONSTANTS, {}).items():
            dtype = torch.float64 if part == "scale" else torch.int64
            tensors[f"{name}.{part}"] = torch.tensor(node.args[position], dtype=dtype)
    return tensors


def load_integers(graph: GraphModule, tensors: Mapping[str, Tensor]) -> None:
    """Give a converted graph the values that `integers_of` took from one of the same structure, bit for bit.

    Raises:
        QuantisationError: names, shapes or types are not those of this graph.
    """
    check_tensors(integers_of(graph), tensors)
    graph.load_state_dict({name: tensors[name] for name in graph.state_dict()})
    for node in graph.graph.nodes:
        name = label(node)
        if kernel := KERNELS.get(node.target):
            weight, scales = tensors[f"{name}.weight"], tensors[f"{name}.weight_scales"].double()
            zeros = torch.zeros_like(scales, dtype=torch.int64)
            whole = torch._make_per_channel_quantized_tensor(weight, scales, zeros, 0)
            packed = kernel.refill(packed_of(graph, node), whole, tensors.get(f"{name}.bias"))
            setattr(graph, attribute(node), packed)
        arguments = list(node.args)
        for part, position in node.meta.get(CONSTANTS, {}).items():
            arguments[position] = tensors[f"{name}.{part}"].item()
        node.args = tuple(arguments)
    graph.recompile()


def check_tensors(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of a graph.

    Raises:
        QuantisationError: names the first that is missing, unexpected or misshapen.
    """
    if missing := sorted(expected.keys() - given.keys()):
        raise QuantisationError(f"{missing[0]} is missing, and {len(missing) - 1} more; was it another network?")
    if unexpected := sorted(given.keys() - expected.keys()):
        raise QuantisationError(f"{unexpected[0]} is not expected, nor are {len(unexpected) - 1} more")
    for name, tensor in expected.items():
        is_, must = ((tuple(t.shape), t.dtype) for t in (given[name], tensor))
        if is_ != must:
            raise QuantisationError(f"{name} is {list(is_[0])} {is_[1]}, but must be {list(must[0])} {must[1]}")


def label(node: Node) -> str:
    """The name under which a node's values are stored."""
    return str(node.meta.get(LAYER, node.name))


def attribute(node: Node) -> str:
    """Name of the graph's attribute that holds the packed weights of a node with a kernel."""
    holder = node.args[1]
    assert isinstance(holder, Node)
    return str(holder.target)


def packed_of(graph: GraphModule, node: Node) -> Any:
    """Those weights."""
    return getattr(graph, attribute(node))


def layer_rows(graph: GraphModule, network: nn.Module, rule: Quantisation) -> tuple[LayerRow, ...]:
    """What a converted graph computes in integers and what it does not, by looking at its operations.

    Args:
        graph: converted.
        network: in floating point, from which it was made.
        rule: what it was to compute in integers.

    Returns:
        All convolutions and linear layers of the network, and the operations that join or pool maps, in the order in
        which they run.
    """
    groups = groups_of(cleaned(network))
    integer = integer_nodes(graph)
    rows = []
    for node in graph.graph.nodes:
        kernel = KERNELS.get(node.target)
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if kernel is not None:
            fused = groups[label(node)].fused
            rows.append(LayerRow(name=label(node), kind=kernel.kind, precision="int8", fused=fused))
        elif module is not None and isinstance(module, tuple(LAYERS)):
            name = str(node.target)
            reason = ON_REQUEST if name in rule.float_layers else "no integer kernel for what it is used with"
            kind, fused = layer_kind(module), groups[name].fused
            rows.append(LayerRow(name=name, kind=kind, precision="float", fused=fused, reason=reason))
        elif joins := join_kind(node, module):
            rows.append(join_row(node, joins, node in integer))
    idle = set(quantisable_layers(network)) - {row.name for row in rows}
    modules = dict(network.named_modules())
    for name in sorted(idle):
        rows.append(LayerRow(name=name, kind=layer_kind(modules[name]), precision="float", reason="never run"))
    return tuple(rows)


def layer_kind(layer: nn.Module) -> str:
    """`LayerRow.kind` of a convolution or linear layer."""
    return next(kind for of, kind in LAYERS.items() if isinstance(layer, of))


def join_kind(node: Node, module: nn.Module | None) -> str | None:
    """`LayerRow.kind` of an operation without weights; none where reports don't name it."""
    if module is not None:
        return "pool" if "Pool" in type(module).__name__ else None
    target = getattr(node.target, "overloadpacket", node.target)
    return JOINS.get(target) if node.op == "call_function" else None


def join_row(node: Node, kind: str, integer: bool) -> LayerRow:
    """The row of an operation without weights."""
    if integer:
        return LayerRow(name=node.name, kind=kind, precision="int8")
    return LayerRow(name=node.name, kind=kind, precision="float", reason="between layers in floating point")


def integer_nodes(graph: GraphModule) -> set[Node]:
    """The operations whose results are integers."""
    integer: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "get_attr", "output") or node.target == "dequantize":
            continue
        if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), tuple(LAYERS)):
            continue
        made = node.target is torch.quantize_per_tensor or node.target in KERNELS
        if made or any(source in integer for source in node.all_input_nodes):
            integer.add(node)
    return integer
