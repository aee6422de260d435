"""The card of an exported file: whether it may be deployed, what was measured of it, and how it is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.report import METRICS, UNKNOWN, WORDS, Row, percent

HOW = {
    "int8": "computes in INT8 with PyTorch's integer kernels, on CPUs",
    "onnx": "an ONNX graph in floating point",
    "onnx-int8": "an ONNX graph that computes in INT8 (QDQ: weights of 8 bits per channel, activations of 8 bits)",
    "torch-export": "a PyTorch program (`torch.export`) in floating point",
}
"""What a format is, by its name."""


def export_card(numbers: Mapping[str, Any], layers: Sequence[Row]) -> str:
    """Text of `card.md` for an export.

    Args:
        numbers: its `metrics.json`.
        layers: its `layers.json`; empty where it has none.
    """
    parts = [_what(numbers), _verdict(numbers), _numbers(numbers), _made(numbers, layers), _use(numbers)]
    return "\n\n".join(part for part in [*parts, _origin(numbers)] if part) + "\n"


def _what(numbers: Mapping[str, Any]) -> str:
    does = "embeds images for re-identification" if numbers["metric"] == "map" else "classifies videos"
    return (
        f"# {'' if numbers['verdict']['accepted'] else '**rejected**: '}{numbers['name']} as {numbers['format']}\n\n"
        f"A {numbers['backbone']} network that {does}: {HOW[numbers['format']]}."
    )


def _verdict(numbers: Mapping[str, Any]) -> str:
    verdict = numbers["verdict"]
    if verdict["accepted"]:
        lines = ["Accepted: nothing that was measured here speaks against deploying it."]
    else:
        reasons = [f"- {reason}" for reason in verdict["reasons"]]
        lines = ["**rejected**: do not deploy this file.", "", *reasons]
    if verdict["unjudged"]:
        lines += ["", f"Not measured, and so not judged: {' and '.join(verdict['unjudged'])}."]
    return "\n".join(lines)


def _numbers(numbers: Mapping[str, Any]) -> str:
    original = numbers["fp32"]
    accuracies = {label: key for label, key in WORDS[numbers["metric"]].accuracies.items() if key in numbers}
    rows: list[tuple[str, Callable[[Row], str]]] = [
        ("size", lambda row: f"{row['size_mb']:.3g} MB"),
        ("latency, median", lambda row: f"{row['latency_ms']:.2f} ms"),
        ("latency, 95th percentile", lambda row: f"{row['p95_ms']:.2f} ms"),
        *((label, lambda row, key=key: percent(row[key])) for label, key in accuracies.items()),
    ]
    table = [f"| {label} | {write(dict(numbers))} | {write(original)} |" for label, write in rows]
    return "\n".join(["| | this file | FP32 original |", "|---|---:|---:|", *table, "", _comparison(numbers)])


def _comparison(numbers: Mapping[str, Any]) -> str:
    """What the table amounts to, and how it was measured."""
    conditions, drop = numbers["conditions"], numbers["drop_points"]
    inputs = "one input" if conditions["batch"] == 1 else f"{conditions['batch']} inputs"
    threads = "one thread" if conditions["threads"] == 1 else f"{conditions['threads']} threads"
    lost = f", {lost_points(drop)} points of {METRICS[numbers['metric']]}" if drop is not None else ""
    return (
        f"{times(numbers['speedup'])} as fast as the original in FP32 PyTorch, {size(numbers['smaller'])}"
        f"{lost}. Latency: {conditions['runs']} forward passes of {inputs} with {threads} of {conditions['machine']}, "
        "the file and its original in turns. On another machine measure again: `orchestrate measure`."
    )


def _made(numbers: Mapping[str, Any], layers: Sequence[Row]) -> str:
    """How the file came to be, and layer by layer, where that is known, what computes in integers and what does not."""
    parts = []
    if numbers["calibration"]:
        parts.append(
            f"Quantised after training; the ranges of activations were measured on {numbers['calibration']} training "
            "examples."
        )
    if numbers["returned"]:
        names = ", ".join(f"`{one['layer']}`" for one in numbers["returned"])
        parts.append(f"Went back to floating point, one by one, because too much accuracy was lost: {names}.")
    if numbers["notes"]:
        parts.append("\n".join(f"- {note}" for note in numbers["notes"]))
    if layers:
        parts.append(_layer_table(layers))
    return "\n\n".join(["## How it was made", *parts]) if parts else ""


def _layer_table(layers: Sequence[Row]) -> str:
    integers = sum(layer["precision"] == "int8" for layer in layers)
    rows = [
        f"| `{layer['name']}` | {layer['kind']} | {layer['precision']} | {layer['reason'] or UNKNOWN} |"
        for layer in layers
    ]
    head = [f"{integers} of {len(layers)} layers compute in INT8.", ""]
    return "\n".join([*head, "| layer | kind | computes in | why not in INT8 |", "|---|---|---|---|", *rows])


def _use(numbers: Mapping[str, Any]) -> str:
    commands = f"orchestrate evaluate .\norchestrate measure {numbers['original']} ."
    return (
        f"## Use\n\nIn this folder:\n\n```\n{commands}\n```\n\n```python\n{SNIPPETS[numbers['format']]}\n```\n\n"
        "`network.json` says how an input is cut and normalised and, of a classifier, names the classes in order. "
        "Nothing is unpickled."
    )


LOADED_HERE = """from pathlib import Path

from trainers.artefacts import load_artefact

network, description = load_artefact(Path("."))
outputs = network(inputs)  # float32 [input, …], normalised"""

WITH_ONNX_RUNTIME = """import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
(outputs,) = session.run(None, {session.get_inputs()[0].name: inputs})  # float32 [input, …], normalised"""

SNIPPETS = {
    "int8": LOADED_HERE,
    "onnx": WITH_ONNX_RUNTIME,
    "onnx-int8": WITH_ONNX_RUNTIME,
    "torch-export": LOADED_HERE,
}
"""How a file of each format is run from Python."""


def _origin(numbers: Mapping[str, Any]) -> str:
    data = numbers.get("data")
    facts = {
        "model": f"`{numbers['model']}`, weights `{numbers['model_sha256'][:16]}`",
        "FP32 original": f"`{numbers['original']}`",
        "data": f"{data['source']}, fingerprint `{data['fingerprint']}`" if data else "none",
        "limit": f"{numbers['max_drop_points']:g} points of accuracy may be lost",
        "versions": ", ".join(f"{name} {version}" for name, version in numbers["versions"].items()),
    }
    return "\n".join(["## Origin", "", *(f"- {name}: {fact}" for name, fact in facts.items())])


def times(ratio: float) -> str:
    """A ratio that says on which side of 1 it is: `4.1×`, `0.87×`, `0.9996×`."""
    if 0.995 <= ratio < 1:
        return f"{math.floor(1e4 * ratio) / 1e4:.4f}×"
    return f"{ratio:.1f}×" if ratio >= 9.95 else f"{ratio:.2f}×"


def size(ratio: float) -> str:
    """Size of the original over that of the file in words: `3.93× smaller`, `1.03× larger`."""
    return f"{times(ratio)} smaller" if ratio >= 1 else f"{times(1 / ratio)} larger"


def lost_points(drop: float) -> str:
    """A loss as a change of accuracy, in points: a drop of 0.42 is `−0.4`."""
    rounded = round(drop, 1)
    return "0.0" if rounded == 0 else f"{-rounded:+.1f}".replace("-", "−")
