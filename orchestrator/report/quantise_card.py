"""The card of a quantised model: what somebody must know who is handed its folder, and nothing else.

Its parts serve the steps of a chain, too (`chain_card.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.quantise.table import (
    EXPLAINED,
    coverage,
    gain,
    in_points,
    label_of,
    left_in_float,
    measured_under,
    megabytes,
)
from orchestrator.report import (
    Row,
    State,
    accuracy,
    count,
    gmacs,
    metric_of,
    percent,
    points,
    standard_error,
    words,
)
from orchestrator.sweep.table import milliseconds


def quantised_card(model: Row, state: State, record: dict[str, Any]) -> str:
    """Text of `card.md` for a candidate of a sweep of quantised networks.

    Args:
        model: an entry of `state["candidates"]`.
        state: the sweep that it came from.
        record: `result.json` of the trial that made it: its own network, recipe and versions.
    """
    teacher = state["teacher"]
    name = label_of(model["method"])
    parts = [
        f"# {model['name']}",
        verdict(model, state),
        f"A {state['backbone']} network that {what_it_does(state)}, in integers: made from `{teacher['name']}` by "
        f"{_in_full(name)}. {integers(record)}",
        numbers(model, [("FP32", teacher)], state),
        f"{beside(model, teacher, state, 'the FP32 network')} {measured_on(model, state)} {_selection(model)}",
        layers(model),
        use(quantised=True),
        origin(model, state, record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(model: Row, state: State) -> str:
    """What the gate said, in bold where it said no.

    Args:
        model: with `accepted`, `rejected` and `original`.
        state: its run, with the limit.
    """
    if model["accepted"] is None:
        return "**not judged**: its accuracy or its latency is not known yet."
    if not model["accepted"]:
        return f"**rejected**: {'; '.join(model['rejected'])}. Use `{model['original']}` instead."
    limit = in_points(state["max_drop_points"])
    return f"Accepted: no slower than `{model['original']}` on the machine below, and at most {limit} less accurate."


def what_it_does(state: State) -> str:
    """The task, as the end of a relative clause."""
    return "embeds images for re-identification" if metric_of(state) == "map" else "classifies videos"


def integers(record: dict[str, Any]) -> str:
    """In which integers it computes, and what carries them out."""
    engine = record["trial"]["network"]["quantisation"]["engine"]
    return (
        "Weights have 8 bits with a scale per output channel, activations 8 bits with a scale per tensor. It runs on "
        f"CPUs, by the engine `{engine}` of PyTorch."
    )


def _in_full(name: str) -> str:
    return f"{name} ({EXPLAINED[name]})" if name in EXPLAINED else name


def _selection(model: Row) -> str:
    if not model["best"]:
        return ""
    return "The same data chose this network among its rivals, so expect slightly less on new data."


def numbers(model: Row, others: Sequence[tuple[str, Row]], state: State) -> str:
    """A table of what was measured, beside other networks.

    Args:
        model: the network.
        others: what it is compared with: heading and network.
        state: their run.
    """
    spoken = words(state)

    def fraction(key: str) -> Callable[[Row], str]:
        return lambda row: percent(accuracy(row, key))

    rows: list[tuple[str, Callable[[Row], str]]] = [
        *((label, fraction(key)) for label, key in spoken.accuracies.items()),
        (f"GMACs per {spoken.item}", lambda row: gmacs(row["gmacs"])),
        ("parameters", lambda row: count(row["params"])),
        ("size in MB (10⁶ bytes)", lambda row: megabytes(row["size_mb"])),
        (f"latency in ms per {spoken.item}", lambda row: milliseconds(row["latency_ms"])),
    ]
    columns = [model, *(row for _, row in others)]
    return "\n".join(
        [
            f"| | {' | '.join([model['name'], *(heading for heading, _ in others)])} |",
            f"|---|{'---:|' * len(columns)}",
            *(f"| {label} | {' | '.join(write(row) for row in columns)} |" for label, write in rows),
        ]
    )


def beside(model: Row, other: Row, state: State, name: str) -> str:
    """How it compares with another network, in a sentence.

    Args:
        model: the network.
        other: the other one.
        state: their run.
        name: what the other one is called.
    """
    metric = metric_of(state)
    distance = points(accuracy(model, metric), accuracy(other, metric))
    gains = gain(model, other)
    return f"{distance} points of {words(state).metric} against {name}{f'; {gains}' if gains else ''}."


def measured_on(model: Row, state: State) -> str:
    """What accuracy and latency were measured on, in sentences."""
    data, value = state["data"], accuracy(model, "top1")
    if metric_of(state) == "map":
        text = f"Accuracy of {data['queries']} queries in a gallery of {data['gallery_images']} images."
    else:
        text = f"Accuracy on {data['val_videos']} validation videos"
        if value is not None:
            error = 100 * standard_error(value, data["val_videos"])
            text += f"; one standard error of this top-1 is {error:.1f} points"
        text += "."
    return f"{text} {measured_under(state['latency'])}".strip()


def layers(model: Row) -> str:
    """How much of it runs in integers, and what does not and why; empty where that is not known."""
    if not model["layers"]:
        return ""
    left = [f"- `{layer}`: {reason}" for layer, reason in left_in_float(model)]
    said = f"{coverage(model)} with weights run in INT8." if coverage(model) else ""
    text = "Left in floating point:" if left else "Nothing is left in floating point."
    return "\n".join(["## Layers", "", f"{said} {text}".strip(), *([""] if left else []), *left])


def use(*, quantised: bool) -> str:
    """How to load and run it.

    Args:
        quantised: whether it computes in integers.
    """
    weights = (
        "`model.safetensors` has the integers with their scales, from which the same network is built again, bit by bit"
        if quantised
        else "`model.safetensors` has the weights"
    )
    return USE.format(weights=weights)


USE = """## Use

In this folder:

```
orchestrate evaluate .
orchestrate measure .
```

```python
from pathlib import Path

from trainers.package import load_package

network, description = load_package(Path("."))
```

`network.json` says what the network is and how its input is made; {weights}. Nothing is unpickled."""


def origin(model: Row, state: State, record: dict[str, Any]) -> str:
    """Where it comes from: run, trial, data, versions and recipe."""
    data, teacher, trial = state["data"], state["teacher"], record["trial"]
    facts = {
        "run": f"`{state['run']}`",
        "trial": f"`{model['trial']}`, seed {trial['seed']}",
        "teacher": f"`{teacher['name']}`, trial `{teacher['trial']}`",
        "data": f"{data['source']}, fingerprint `{data['fingerprint']}`",
        "left out": f"{len(data['quarantined'])} unreadable files",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    named = ("start", "pruning", "quantise", "train", "distillation", "clips", "reid")
    recipe = {key: trial[key] for key in named if trial.get(key)}
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    return "\n".join(
        ["## Origin", "", *lines, "", "Recipe:", "", "```json", json.dumps(recipe, indent=1, ensure_ascii=False), "```"]
    )
