"""The last step to integers: from a converted graph of modules to calls of kernels with numbers written into them.

A module per layer and a tensor per scale cost 20 to 25 % of the time of tiny networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from compression.quantisation.graph_cleaning import NORMS
from compression.quantisation.integer_graph import CONSTANTS, LAYER

ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory format of weights of so many dimensions."""


def lower(converted: GraphModule, operations: Mapping[type[nn.Module], Any]) -> None:
    """Bring a converted graph into its last form, in place; its values stay what they are.

    Args:
        converted: of modules, some in integers, some in floating point, fused with the batch norms after them.
        operations: the kernel that each kind of integer module calls.
    """
    fold_norms(converted)
    call_kernels(converted, operations)
    write_numbers(converted)
    converted.graph.eliminate_dead_code()
    converted.delete_all_unused_submodules()
    converted.recompile()


def fold_norms(converted: GraphModule) -> None:
    """Fold the batch norms of layers in floating point into their weights, and call their ReLUs as functions."""
    for node in list(converted.graph.nodes):
        group = converted.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(group, nn.Sequential):
            continue
        layer, *rest = group
        if rest and isinstance(rest[0], NORMS):
            layer = folded(layer, rest.pop(0))
        set_layer(converted, str(node.target), layer)
        if rest:
            with converted.graph.inserting_after(node):
                relu = converted.graph.call_function(F.relu, (node,))
            node.replace_all_uses_with(relu, delete_user_cb=lambda user, relu=relu: user is not relu)


def folded(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A layer that computes what it and the batch norm after it compute."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return fuse_conv_bn_eval(layer, norm)


def set_layer(converted: GraphModule, name: str, layer: nn.Module) -> None:
    """Put a layer in floating point at a path.

    Its weights get one order in memory, because it decides the order of sums, and so the last bit.
    """
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
        order = ORDERS.get(parameter.dim(), torch.contiguous_format)
        parameter.data = parameter.data.contiguous(memory_format=order)
    converted.set_submodule(name, layer)


def call_kernels(converted: GraphModule, operations: Mapping[type[nn.Module], Any]) -> None:
    """Call the kernels of integer layers directly instead of through their modules."""
    graph = converted.graph
    for number, node in enumerate(list(graph.nodes)):
        module: Any = converted.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(module) not in operations:
            continue
        holder = f"packed_{number}"
        packed = module._packed_params
        setattr(converted, holder, packed._packed_params if isinstance(packed, nn.Module) else packed)
        with graph.inserting_before(node):
            weights = graph.create_node("get_attr", holder)
            arguments = (node.args[0], weights, float(module.scale), int(module.zero_point))
            call = graph.call_function(operations[type(module)], arguments)
        call.meta |= {LAYER: str(node.target), CONSTANTS: {"scale": 2, "zero_point": 3}}
        node.replace_all_uses_with(call)
        graph.erase_node(node)


def write_numbers(converted: GraphModule) -> None:
    """Write scales and zero points into the calls that use them, in the place of tensors of one element."""
    for node in list(converted.graph.nodes):
        value = getattr(converted, str(node.target), None) if node.op == "get_attr" else None
        if not isinstance(value, Tensor) or isinstance(value, nn.Parameter) or value.numel() != 1:
            continue
        if all(node in user.args for user in node.users):
            for user in list(node.users):
                write_number(user, node, value)
            converted.graph.erase_node(node)
            delattr(converted, str(node.target))


def write_number(user: Node, holder: Node, value: Tensor) -> None:
    """Write one number into one call, which is then of the kernel that takes numbers."""
    part = "scale" if value.is_floating_point() else "zero_point"
    position = user.args.index(holder)
    user.args = tuple(value.item() if argument is holder else argument for argument in user.args)
    user.meta[CONSTANTS] = {**user.meta.get(CONSTANTS, {}), part: position}
    if len(user.meta[CONSTANTS]) == 2 and isinstance(user.target, torch._ops.OpOverloadPacket):
        user.target = user.target.default
