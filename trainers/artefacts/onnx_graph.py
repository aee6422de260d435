"""ONNX models made from networks, and what is done to their graphs.

Nodes of convolutions and linear layers are named as their modules, so that files and reports speak of `layer1.0.conv1`
and not of `node_Conv_57`; paths of the exporting machine are left out.

Which exporter: a network in floating point goes through `torch.export` (`dynamo=True`). The old one, through
TorchScript, keeps equal biases once and hands them on by `Identity`; ONNX Runtime's quantiser then leaves their
convolutions in floating point (25 of 37 of an R(2+1)D-18 as initialised, with 1.31). A network in integers can only go
through the old one: the new one knows none of PyTorch's quantised operators.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compression.quantisation.graph_cleaning import LAYERS
from compression.quantisation.integer_graph import KERNELS, label
from configs.errors import RunError
from trainers.artefacts.base import library, quiet
from trainers.artefacts.onnx_session import INPUT, OUTPUT

INTEGER_OPSET = 17
"""The last for which PyTorch's old exporter writes quantised operators as ONNX Runtime fuses them."""
LAYER_OPERATORS = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators with weights."""
PASSING = frozenset({"Identity", "Cast", "Slice", "QuantizeLinear", "DequantizeLinear"})
"""Operators between the network's input and the first convolutions."""


def from_float(graph: nn.Module, example: Tensor) -> Any:
    """The ONNX model of a network in floating point whose batch norms are folded; the batch may have any size.

    Args:
        graph: in evaluation mode, on the CPU.
        example: a batch of at least 2 inputs.

    Raises:
        RunError: PyTorch can't export it.
    """
    library("onnxscript", "an ONNX file")
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # PyTorch wraps whatever happens in classes of its own
        raise RunError(f"PyTorch can't export this network to ONNX: {str(error).strip().splitlines()[0]}") from error
    assert program is not None
    model = program.model_proto
    names = [_data_input(node, 1).removesuffix(".weight") for node in layer_nodes(model)]
    return _named(model, names)


def from_integers(graph: GraphModule, example: Tensor) -> Any:
    """The ONNX model, with quantised weights and QDQ pairs, of a graph that PyTorch computes in integers.

    Args:
        graph: converted, on the CPU.
        example: a batch of inputs; the exported batch may have any size.

    Raises:
        RunError: PyTorch can't export it.
    """
    onnx = library("onnx", "an ONNX file")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            with quiet(), torch.no_grad():
                # traced, the packed weights are part of it; the exporter does so itself for quantised modules alone
                traced = torch.jit.trace(graph, (example,))  # type: ignore[no-untyped-call]
                torch.onnx.export(
                    traced,
                    (example,),
                    path,
                    dynamo=False,
                    opset_version=INTEGER_OPSET,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                )
        except Exception as error:  # as above
            reason = str(error).strip().splitlines()[0]
            raise RunError(f"PyTorch can't export this INT8 network to ONNX: {reason}") from error
        model = onnx.load(path)
    return _named(model, layers_of(graph))


def layers_of(graph: GraphModule) -> list[str]:
    """Convolutions and linear layers of a converted graph, in the order in which they run."""
    names = []
    for node in graph.graph.nodes:
        if node.target in KERNELS:
            names.append(label(node))
        elif node.op == "call_module" and type(graph.get_submodule(str(node.target))) in LAYERS:
            names.append(str(node.target))
    return names


def layer_nodes(model: Any) -> list[Any]:
    """Nodes of convolutions and linear layers, in the order in which they run."""
    return [node for node in model.graph.node if node.op_type in LAYER_OPERATORS]


def input_layers(model: Any) -> list[str]:
    """The convolutions that read the network's input, possibly a slice of it: the stems."""
    return [node.name for node in layer_nodes(model) if node.op_type == "Conv" and _reads_input(model, node.input[0])]


def without_integer_inputs(model: Any, layers: Iterable[str]) -> Any:
    """A copy in which some layers, of those that read the network's input, are given it unrounded.

    ONNX Runtime then computes them in floating point, with their weights still rounded.
    """
    changed = type(model)()
    changed.CopyFrom(model)
    producers = {output: node for node in changed.graph.node for output in node.output}
    for node in changed.graph.node:
        if node.name in layers:
            node.input[0] = _unrounded(producers, node.input[0])
    _drop_unused(changed)
    return changed


def _unrounded(producers: dict[str, Any], name: str) -> str:
    """The value behind roundings; a slice on the way is given what it slices unrounded, too."""
    node = producers.get(name)
    if node is None:
        return name
    if node.op_type == "Slice":
        node.input[0] = _unrounded(producers, node.input[0])
        return name
    return _unrounded(producers, node.input[0])


def _reads_input(model: Any, name: str) -> bool:
    producers = {output: node for node in model.graph.node for output in node.output}
    while name in producers and producers[name].op_type in PASSING:
        name = _data_input(producers[name], 0)
    return name == INPUT


def _drop_unused(model: Any) -> None:
    """Remove nodes whose outputs nobody reads any more."""
    while True:
        read = {name for node in model.graph.node for name in node.input} | {end.name for end in model.graph.output}
        unused = [node for node in model.graph.node if read.isdisjoint(node.output)]
        if not unused:
            return
        for node in unused:
            model.graph.node.remove(node)


def _named(model: Any, names: Sequence[str]) -> Any:
    """The model with its layers named, and without what the exporters note about themselves."""
    nodes = layer_nodes(model)
    if len(nodes) != len(names) or len(set(names)) != len(names):
        raise RunError(
            f"the ONNX graph has {len(nodes)} convolutions and linear layers, but the network {len(set(names))}; "
            "this version of PyTorch exports it in a way that is not known here"
        )
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for node, name in zip(nodes, names, strict=True):
        node.name = name
    return model


def _data_input(node: Any, position: int) -> str:
    return str(node.input[position])
