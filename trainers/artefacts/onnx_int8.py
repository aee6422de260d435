"""`onnx-int8`: a network in integers as an ONNX file with QDQ pairs, run by ONNX Runtime.

Weights are signed, with a scale per output channel; activations are UNSIGNED, with a scale per tensor: ONNX Runtime
leaves many 3-D convolutions in floating point when both are signed.

Convolutions that read the network's input have 3 channels, which integer kernels are badly made for: on their account
all of SlowFast is slower than in floating point. So the file is timed with and without them, and the faster is kept.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compression.quantisation.torch_ao import use_engine
from configs.errors import RunError
from trainers.artefacts.base import Artefact, folded, library, on_cpu, probes, quiet, write_artefact
from trainers.artefacts.onnx_graph import from_float, from_integers, input_layers, layer_nodes, without_integer_inputs
from trainers.artefacts.onnx_session import INPUT, integer_operators, runner, session
from trainers.backbones import IntegerNetwork, Network
from trainers.package import Description

FORMAT, FILE = "onnx-int8", "model.onnx"
WARM_UP, RUNS = 3, 15
"""Forward passes before, and forward passes whose median is the time of a file."""
GAIN = 0.97
"""Convolutions are left in floating point only if the file then takes less than this part of the time: closer than
that, a clock says one thing today and another tomorrow."""
DIFFERENCE = 0.15
"""Largest difference from PyTorch's integers, as a share of the outputs (2-norms): requantisation rounds halves
otherwise, stems may be in floating point, and a step in an early layer is passed on by every later one."""


def write(network: Network, description: Description, folder: Path, calibration: Sequence[Tensor]) -> list[str]:
    """Export a network in integers, quantising it first if it is in floating point, and put the file into a folder.

    Args:
        network: its spec must be that of `description`; one that PyTorch computes in integers keeps its scales.
        description: what `network.json` says besides.
        folder: receives `model.onnx`, then `network.json`.
        calibration: normalised inputs, [<=32, *spec.input_shape] each, from which the ranges of activations are
            measured; of a network in integers those on which the file is compared with it (random ones if none).

    Returns:
        Notes for the card.

    Raises:
        UserError: ONNX is not installed.
        ValueError: a floating-point network without calibration.
        RunError: it can't be exported, or what is exported computes nothing in integers, or something else.
    """
    onnx = library("onnx", f"--format {FORMAT}")
    if isinstance(network, IntegerNetwork):
        assert network.spec.quantisation is not None
        use_engine(network.spec.quantisation.engine)
        everything = from_integers(on_cpu(network).graph, probes(network.spec)[-1])  # type: ignore[arg-type]
    else:
        everything = quantised(from_float(folded(network), probes(network.spec)[-1]), calibration)
    onnx.checker.check_model(everything, full_check=True)
    content, notes = faster(everything, probes(network.spec)[0])
    layers = [node.name for node in layer_nodes(everything)]
    integers = integer_operators(content)
    left = tuple(layer for layer in layers if layer not in integers)
    if len(left) == len(layers):
        raise RunError("ONNX Runtime computes no layer of this network in integers; nothing was written")
    notes = [f"ONNX Runtime computes {len(layers) - len(left)} of {len(layers)} layers in integers", *notes]
    if left:
        notes.append(f"in floating point: {', '.join(left)}")
    if isinstance(network, IntegerNetwork):
        notes.append(compare(network, runner(session(content, 1)), calibration or probes(network.spec)))
    artefact = Artefact(
        format=FORMAT, file=FILE, integer_layers=len(layers) - len(left), float_layers=tuple(sorted(left))
    )
    write_artefact(folder, description, artefact, content)
    return notes


class Batches:
    """Calibration inputs, as ONNX Runtime's quantiser asks for them."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.remaining = iter(inputs)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by the input's name, or None after the last."""
        batch = next(self.remaining, None)
        return None if batch is None else {INPUT: batch.float().cpu().contiguous().numpy()}


def quantised(model: Any, calibration: Sequence[Tensor]) -> Any:
    """An ONNX model in floating point, with QDQ pairs; ranges are the smallest and largest values seen.

    Raises:
        ValueError: nothing to calibrate with.
    """
    if not calibration:
        raise ValueError(f"{FORMAT} from a network in floating point needs inputs to measure the ranges on")
    tools = library("onnxruntime.quantization", f"--format {FORMAT}")
    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        tools.quantize_static(
            model,
            path,
            Batches(calibration),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
        return library("onnx", f"--format {FORMAT}").load(path)


def faster(everything: Any, example: Tensor) -> tuple[bytes, list[str]]:
    """The model, or one whose layers that read the input are in floating point where that is faster.

    Args:
        everything: all layers in integers.
        example: what is fed while the two are timed.

    Returns:
        The serialised model, and what was timed.
    """
    stems = input_layers(everything)
    candidates = [model.SerializeToString() for model in (everything, without_integer_inputs(everything, stems))]
    whole, spared = time_in_turns([runner(session(content, 1)) for content in candidates], example)
    chosen = spared < GAIN * whole
    verb = "stays" if len(stems) == 1 else "stay"
    note = (
        f"{', '.join(stems)} {verb} in {'floating point' if chosen else 'integers'}: "
        f"{spared:.2f} ms in floating point, {whole:.2f} ms in integers (whole network, 1 thread, batch 1)"
    )
    return candidates[int(chosen)], [note]


def time_in_turns(runs: Sequence[Callable[[Tensor], Tensor]], example: Tensor) -> list[float]:
    """Median time of each, in milliseconds; they take turns, so that a slower minute is slower for all."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(WARM_UP + RUNS):
        for run, times in zip(runs, seconds, strict=True):
            started = time.perf_counter()
            run(example)
            times.append(time.perf_counter() - started)
    return [1e3 * statistics.median(times[WARM_UP:]) for times in seconds]


def compare(network: IntegerNetwork, run: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> str:
    """How far ONNX Runtime's integers are from PyTorch's: all in all, and at worst in steps of 1/255 of their range.

    Raises:
        RunError: the difference is more than `DIFFERENCE` of the outputs.
    """
    with torch.inference_mode():
        expected = torch.cat([network(batch) for batch in inputs])
        found = torch.cat([run(batch) for batch in inputs])
    difference = float((found - expected).norm() / expected.norm().clamp(min=1e-12))
    if not difference <= DIFFERENCE:
        raise RunError(
            f"ONNX Runtime's outputs differ from PyTorch's INT8 by {100 * difference:.0f} % of their size, more than "
            f"{100 * DIFFERENCE:.0f} %; nothing was written"
        )
    step = float(expected.max() - expected.min()) / 255
    worst = float((found - expected).abs().max()) / max(step, 1e-12)
    return (
        f"outputs differ from PyTorch's INT8 by {100 * difference:.1f} % of their size, at worst by {worst:.1f} "
        "quantisation steps (1/255 of their range)"
    )
