"""The card of a model: what somebody must know who is handed its folder, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from compression.reduction import AXES
from compression.spec import NetworkSpec
from orchestrator.report import (
    Row,
    State,
    accuracy,
    clip,
    count,
    gmacs,
    metric_of,
    percent,
    points,
    share,
    standard_error,
    words,
)
from trainers.backbones import describe


def model_card(model: Row, state: State, record: dict[str, Any]) -> str:
    """Text of `card.md` for the teacher, or a member of a family.

    Args:
        model: an entry of `state["family"]`, or the teacher with an empty `sequence`.
        state: the run that it came from.
        record: `result.json` of the trial that trained it: its own network, recipe and versions.
    """
    parts = [_what(model, state, record), _numbers(model, state, record), _use(state, record)]
    return "\n\n".join([*parts, _origin(model, state, record)]) + "\n"


def _what(model: Row, state: State, record: dict[str, Any]) -> str:
    if metric_of(state) == "map":
        what = f"A network that re-identifies (it embeds an image in {_embedding(record)} numbers)"
    else:
        what = f"A video classifier for {len(state['data']['classes'])} classes"
    return f"# {state['backbone']} {model['name']}\n\n{what}{_made(model)}"


def _made(model: Row) -> str:
    if not model["sequence"]:
        return ", the teacher of its run."
    steps = ", ".join(AXES[axis].name for axis in model["sequence"])
    return f", made from a larger teacher by progressive architecture shrinkage. Reduced, in this order: {steps}."


def _numbers(model: Row, state: State, record: dict[str, Any]) -> str:
    teacher, spoken, metric = state["teacher"], words(state), metric_of(state)

    def fraction(key: str) -> Callable[[Row], str]:
        return lambda row: percent(accuracy(row, key))

    rows: list[tuple[str, Callable[[Row], str]]] = [
        *((label, fraction(key)) for label, key in spoken.accuracies.items()),
        (f"GMACs per {spoken.item}", lambda row: gmacs(row["gmacs"])),
        ("parameters", lambda row: count(row["params"])),
        ("height × width" if metric == "map" else spoken.input, clip),
    ]
    return "\n".join(
        [
            f"| | {model['name']} | teacher |",
            "|---|---:|---:|",
            *(f"| {label} | {write(model)} | {write(teacher)} |" for label, write in rows),
            "",
            f"{points(accuracy(model, metric), accuracy(teacher, metric))} points of {spoken.metric} against the "
            f"teacher, with {share(model['gmacs'], teacher['gmacs'])} of its multiply-adds (convolutions and linear "
            f"layers, counted once). {_measured(model, state, record)} chose this model among its rivals, so expect "
            "slightly less on new ones.",
        ]
    )


def _measured(model: Row, state: State, record: dict[str, Any]) -> str:
    """On what the accuracy was measured, and the subject of a sentence about it."""
    data = state["data"]
    if metric_of(state) == "map":
        mirrored = (
            " Each vector is the sum of an image's and its mirror image's." if record["trial"]["reid"]["flip"] else ""
        )
        return (
            f"Accuracy of {data['queries']} queries in a gallery of {data['gallery_images']} images, in which those of "
            f"the same identity by the same camera do not count.{mirrored} The same queries"
        )
    videos = data["val_videos"]
    error = 100 * standard_error(model["top1"], videos)
    return (
        f"Accuracy on {videos} validation videos; one standard error of this top-1 is {error:.1f} points. "
        "The same videos"
    )


def _embedding(record: dict[str, Any]) -> int:
    """Length of the vectors that a network of images gives: the channels of its last stage."""
    return describe(NetworkSpec.from_dict(record["trial"]["network"]))[-1].channels


def _use(state: State, record: dict[str, Any]) -> str:
    if metric_of(state) != "map":
        return USE
    _, height, width = NetworkSpec.from_dict(record["trial"]["network"]).input_shape
    return REID_USE.format(height=height, width=width, numbers=_embedding(record))


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

REID_USE = """## Use

In this folder:

```
orchestrate evaluate .
```

```python
from pathlib import Path

from torch.nn.functional import normalize

from trainers.package import load_package

network, description = load_package(Path("."))
vectors = normalize(network(images))  # [image, 3, {height}, {width}] -> [image, {numbers}]
similarity = vectors @ vectors.T  # the nearer to 1, the likelier the same identity
```

`network.json` says what the network is, and how an image is sized and normalised; `model.safetensors` has the
weights. Nothing is unpickled."""


def _origin(model: Row, state: State, record: dict[str, Any]) -> str:
    data, teacher, spoken = state["data"], state["teacher"], words(state)
    training = data["train_images" if metric_of(state) == "map" else "train_videos"]
    unusable = "unreadable" if metric_of(state) == "map" else "unreadable or too short"
    facts = {
        "run": f"`{state['run']}`, seed {state['seed']}",
        "trial": f"`{model['trial']}`",
        "sequence": f"`{model['sequence']}`",
        "teacher": f"`{teacher['name']}`, trial `{teacher['trial']}`",
        "data": f"{data['source']}, {training} training {spoken.example}s, fingerprint `{data['fingerprint']}`",
        "left out": f"{len(data['quarantined'])} {unusable} {spoken.example}s",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    kind = "reid" if metric_of(state) == "map" else "clips"
    recipe = {key: record["trial"][key] for key in (kind, "train", "distillation", "start")}
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    return "\n".join(
        ["## Origin", "", *lines, "", "Recipe:", "", "```json", json.dumps(recipe, indent=1, ensure_ascii=False), "```"]
    )
