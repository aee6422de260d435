"""The card of a pruned model: what somebody must know who is handed its folder, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from orchestrator.report import METRICS, Row, State, count, gmacs, percent, points, share


def cell_card(model: Row, state: State, record: dict[str, Any]) -> str:
    """Text of `card.md` for a cell of a sweep.

    Args:
        model: an entry of `state["cells"]`.
        state: the sweep that it came from.
        record: `result.json` of the trial that trained it: its own recipe and versions.
    """
    return "\n\n".join([_what(model, state, record), _numbers(model, state), USE, _origin(model, state, record)]) + "\n"


def _what(model: Row, state: State, record: dict[str, Any]) -> str:
    of = "each layer" if record["trial"]["pruning"]["scope"] == "local" else "the network"
    does = "embeds images for re-identification" if state["metric"] == "map" else "classifies videos"
    return (
        f"# {model['name']}\n\n"
        f"A {state['backbone']} network that {does}. Pruner {model['pruner']}, asked for sparsity "
        f"{model['sparsity']:g} of {of}, removed {percent(model['reached'])} of all filters: gone, not masked. "
        f"Engine: {model['engine']}. Epochs of fine-tuning: {model['finetune_epochs']}."
    )


def _numbers(model: Row, state: State) -> str:
    teacher = state["teacher"]
    accuracies = {"map": {"map": "mAP", "top1": "rank-1", "top5": "rank-5"}, "top1": {"top1": "top-1", "top5": "top-5"}}
    rows: list[tuple[str, Callable[[Row], str]]] = [
        (label, lambda row, key=key: percent(row[key]))  # type: ignore[misc]
        for key, label in accuracies[state["metric"]].items()
    ]
    rows += [
        ("GMACs per input", lambda row: gmacs(row["gmacs"])),
        ("parameters", lambda row: count(row["params"])),
        ("latency", lambda row: "–" if row.get("latency_ms") is None else f"{row['latency_ms']:.2f} ms"),
    ]
    metric = state["metric"]
    conditions = state["latency"]
    measured = (
        f" Latency: median of {conditions['runs']} forward passes of one input, one thread of {conditions['machine']}."
        if conditions
        else ""
    )
    return "\n".join(
        [
            f"| | {model['name']} | unpruned |",
            "|---|---:|---:|",
            *(f"| {label} | {write(model)} | {write(teacher)} |" for label, write in rows),
            "",
            f"{points(model[metric], teacher[metric])} points of {METRICS[metric]} against the unpruned network, with "
            f"{share(model['gmacs'], teacher['gmacs'])} of its multiply-adds and "
            f"{share(model['params'], teacher['params'])} of its parameters.{measured} The data that gives this "
            "accuracy also put the model on the sweep's Pareto front, so expect slightly less on new data.",
        ]
    )


USE = """## Use

In this folder:

```
orchestrate evaluate .
orchestrate sweep prune --model .
```

```python
from pathlib import Path

from trainers.package import load_package

network, description = load_package(Path("."))
```

`network.json` says what the network is, filters left per layer included, and how its input is made;
`model.safetensors` has the weights. Nothing is unpickled."""


def _origin(model: Row, state: State, record: dict[str, Any]) -> str:
    data, teacher = state["data"], state["teacher"]
    facts = {
        "run": f"`{state['run']}`",
        "trial": f"`{model['trial']}`, seed {model['seed']}",
        "teacher": f"`{teacher['name']}`, trial `{teacher['trial']}`",
        "data": f"{data['source']}, fingerprint `{data['fingerprint']}`",
        "left out": f"{len(data['quarantined'])} unreadable files",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    trial = record["trial"]
    recipe = {key: trial[key] for key in ("pruning", "train", "distillation", "clips", "reid") if trial.get(key)}
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    return "\n".join(
        ["## Origin", "", *lines, "", "Recipe:", "", "```json", json.dumps(recipe, indent=1, ensure_ascii=False), "```"]
    )
