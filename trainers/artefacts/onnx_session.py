"""ONNX files run by ONNX Runtime on the CPU, and what its optimiser makes of them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compression.spec import NetworkSpec
from configs.errors import UserError
from trainers.artefacts.base import library

INPUT, OUTPUT = "inputs", "outputs"
"""Names of the graph's ends."""
INTEGER_OPERATORS = frozenset({"QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger"})
"""What convolutions and linear layers are called, once ONNX Runtime computes them in integers."""
SILENT = 4
"""ONNX Runtime's severity `fatal`: it warns of every operator that it could not improve."""


def session(model: bytes, threads: int, *, optimised: Path | None = None) -> Any:
    """An inference session on the CPU.

    Args:
        model: a serialised ONNX model.
        threads: for one operator; operators run one after another, and idle threads sleep.
        optimised: where to save the graph that will be run; nowhere if left out.
    """
    runtime = library("onnxruntime", "an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # would disturb what is timed beside it
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def runner(opened: Any) -> Callable[[Tensor], Tensor]:
    """What a session computes, as a function of tensors on the CPU."""

    def run(inputs: Tensor) -> Tensor:
        outputs = opened.run([OUTPUT], {INPUT: inputs.contiguous().numpy()})[0]
        return torch.from_numpy(outputs)

    return run


def integer_operators(model: bytes) -> frozenset[str]:
    """Names of the convolutions and linear layers that ONNX Runtime, having optimised the graph, computes in integers.

    The optimiser makes a node's name longer (`fc_token_7`); it is given back as it was in `model`.
    """
    onnx = library("onnx", "an ONNX file")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        session(model, 1, optimised=path)
        graph = onnx.load(path).graph
    return frozenset(
        re.sub(r"(_token_\d+|_quant)+$", "", node.name) for node in graph.node if node.op_type in INTEGER_OPERATORS
    )


def open_file(path: Path, spec: NetworkSpec, threads: int | None) -> Callable[[Tensor], Tensor]:
    """What an ONNX file computes.

    Args:
        path: the file.
        spec: of the network that it is said to be.
        threads: of ONNX Runtime; as many as PyTorch has, if left out.

    Raises:
        UserError: it is missing, damaged, or of another network; or ONNX Runtime is not installed.
    """
    library("onnxruntime", str(path))
    try:
        opened = session(path.read_bytes(), torch.get_num_threads() if threads is None else threads)
        shapes = {given.name: tuple(given.shape[1:]) for given in opened.get_inputs()}
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}. Copy it beside network.json") from error
    except Exception as error:  # ONNX Runtime's own classes, which derive from nothing but Exception
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} can't be used, ONNX Runtime says: {reason}. Export it again") from error
    if shapes != {INPUT: spec.input_shape}:
        raise UserError(
            f"{path} takes {shapes}, but by network.json beside it a network that takes {spec.input_shape} "
            f"as {INPUT!r}; copy both from one export"
        )
    return runner(opened)
