"""The card of a model: what somebody must know who is handed its folder, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from compression.reduction import AXES
from orchestrator.report import Row, State, clip, count, gmacs, percent, points, share, standard_error


def model_card(model: Row, state: State, record: dict[str, Any]) -> str:
    """Text of `card.md` for a member of the family.

    Args:
        model: an entry of `state["family"]`.
        state: the search that it came from.
        record: `result.json` of the trial that trained it: its own recipe and versions.
    """
    return "\n\n".join([_what(model, state), _numbers(model, state), USE, _origin(model, state, record)]) + "\n"


def _what(model: Row, state: State) -> str:
    steps = ", ".join(AXES[axis].name for axis in model["sequence"])
    return (
        f"# {state['backbone']} {model['name']}\n\n"
        f"A video classifier for {len(state['data']['classes'])} classes, made from a larger teacher by progressive "
        f"architecture shrinkage. Reduced, in this order: {steps}."
    )


def _numbers(model: Row, state: State) -> str:
    teacher, videos = state["teacher"], state["data"]["val_videos"]
    error = 100 * standard_error(model["top1"], videos)
    rows: list[tuple[str, Callable[[Row], str]]] = [
        ("top-1", lambda row: percent(row["top1"])),
        ("top-5", lambda row: percent(row["top5"])),
        ("GMACs per clip", lambda row: gmacs(row["gmacs"])),
        ("parameters", lambda row: count(row["params"])),
        ("frames × side", clip),
    ]
    return "\n".join(
        [
            f"| | {model['name']} | teacher |",
            "|---|---:|---:|",
            *(f"| {label} | {write(model)} | {write(teacher)} |" for label, write in rows),
            "",
            f"{points(model['top1'], teacher['top1'])} points of top-1 against the teacher, with "
            f"{share(model['gmacs'], teacher['gmacs'])} of its multiply-adds (convolutions and linear layers, counted "
            f"once). Accuracy on {videos} validation videos; one standard error of this top-1 is {error:.1f} points. "
            "The same videos chose this model among its rivals, so expect slightly less on new ones.",
        ]
    )


USE = """## Use

In this folder:

```
orchestrate evaluate .
```

```python
from pathlib import Path

from trainers.package import load_package

network, description = load_package(Path("."))
```

`network.json` says what the network is, how a clip is cut and normalised, and names the classes in order;
`model.safetensors` has the weights. Nothing is unpickled."""


def _origin(model: Row, state: State, record: dict[str, Any]) -> str:
    data, teacher = state["data"], state["teacher"]
    facts = {
        "run": f"`{state['run']}`, seed {state['seed']}",
        "trial": f"`{model['trial']}`",
        "sequence": f"`{model['sequence']}`",
        "teacher": f"`{teacher['name']}`, trial `{teacher['trial']}`",
        "data": f"{data['source']}, {data['train_videos']} training videos, fingerprint `{data['fingerprint']}`",
        "left out": f"{len(data['quarantined'])} unreadable or too short videos",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    recipe = {key: record["trial"][key] for key in ("clips", "train", "distillation", "start")}
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    return "\n".join(
        ["## Origin", "", *lines, "", "Recipe:", "", "```json", json.dumps(recipe, indent=1, ensure_ascii=False), "```"]
    )
