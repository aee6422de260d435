"""The card of a network that was fine-tuned on other videos: what somebody must know who is handed its folder."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.report import Row, State, clip, count, gmacs, percent, standard_error
from orchestrator.report.quantise_card import use
from orchestrator.transfer.table import (
    Summary,
    base_of,
    data_title,
    distance,
    in_percent,
    over,
    scatter,
    split_title,
    summarise,
    written,
)

RECIPE = ("start", "new_classifier", "train", "clips")
"""What of a trial is its recipe."""


def transfer_card(model: Row, state: State, record: dict[str, Any]) -> str:
    """Text of `card.md` for a network on the first split.

    Args:
        model: an entry of `state["transfers"]`.
        state: the transfer that it came from.
        record: `result.json` of the trial that made it: its own network, recipe and versions.
    """
    rows = summarise(state)
    own = next(row for row in rows if row.name == model["model"])
    parts = [
        f"# {state['backbone']} {own.name} on {data_title(state)}",
        f"A video classifier for {len(state['data']['classes'])} classes, fine-tuned on {_split(model, state)} from "
        f"the network `{own.name}`{f', which was trained on {own.data}' if own.data else ''}. The classifier is new; "
        "nothing was distilled.",
        _numbers(model, own),
        _measured(model, own, base_of(rows), state),
        _splits(own, state),
        use(quantised=False),
        _origin(model, state, record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _split(model: Row, state: State) -> str:
    where = data_title(state)
    return where if model["split"] is None else f"split {model['split']} of {where}"


def _numbers(model: Row, own: Summary) -> str:
    rows = [
        ("top-1", percent(model["top1"])),
        ("top-5", percent(model["top5"])),
        (f"top-1 before, on {own.data or 'other data'}", percent(own.before)),
        ("GMACs per clip", gmacs(model["gmacs"])),
        ("parameters", count(model["params"])),
        ("frames × side", clip(model)),
    ]
    return "\n".join(["| | |", "|---|---:|", *(f"| {label} | {value} |" for label, value in rows)])


def _measured(model: Row, own: Summary, base: Summary, state: State) -> str:
    videos = state["data"]["val_videos"]
    error = 100 * standard_error(model["top1"], videos)
    text = f"Accuracy on {videos} validation videos; one standard error of this top-1 is {error:.1f} points."
    if own is not base and own.mean is not None and base.mean is not None:
        text += f" {distance(own, base)} points against `{base.name}`, fine-tuned alike."
    return text


def _splits(own: Summary, state: State) -> str:
    """What the same network reached on all splits; empty where this one is all there is."""
    if len(own.by_split) < 2:
        return ""
    heading = " | ".join(split_title(split) for split in own.by_split)
    values = " | ".join(in_percent(value) for value in own.by_split.values())
    table = [f"| {heading} | mean |", "|" + "---:|" * (len(own.by_split) + 1), f"| {values} | {written(own)} |"]
    said = f"Top-1 in %; {over(state)}. {scatter(state, [own])} This folder has the network of the first split."
    return "\n".join(["## All splits", "", *table, "", said])


def _origin(model: Row, state: State, record: dict[str, Any]) -> str:
    data, trial = state["data"], record["trial"]
    facts = {
        "run": f"`{state['run']}`",
        "trial": f"`{model['trial']}`, seed {trial['seed']}",
        "start": f"trial `{trial['start']}`",
        "data": f"{data['source']}, {data['train_videos']} training videos, fingerprint `{data['fingerprint']}`",
        "left out": f"{len(data['quarantined'])} unreadable or too short videos",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    recipe = {key: trial[key] for key in RECIPE if trial.get(key)}
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    return "\n".join(
        ["## Origin", "", *lines, "", "Recipe:", "", "```json", json.dumps(recipe, indent=1, ensure_ascii=False), "```"]
    )
