"""The report of a sweep of quantised networks: one self-contained page, and its picture as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.quantise.table import (
    best_of,
    coverage,
    decided_layers,
    explained,
    in_points,
    label_of,
    layer_lines,
    nearest,
    quantise_headline,
    scatter,
    shown_models,
    summarise,
    written,
)
from orchestrator.report import Row, State, gmacs, percent, words
from orchestrator.report.figure import write_png
from orchestrator.report.lineage_figure import Node
from orchestrator.report.page import KeyFigure, effort, faster_and_smaller, inline, render_page
from orchestrator.report.quantise_figure import STYLES, is_drawable, quantise_figure
from orchestrator.report.run_lineage import run_forest
from orchestrator.sweep.table import compared, finished_accuracy
from trainers.files import write_atomically, write_text


def write_quantise_report(state: State, folder: Path, origins: Sequence[Node] = ()) -> Path:
    """Write `report.html` and `report.png` into the folder of a run, each at once or not at all.

    Args:
        state: a sweep of quantised networks, in whatever state it is: running, failed, without any result.
        folder: made where it is missing; an earlier report there is replaced.
        origins: what its teacher was made of, see `origins_of`.

    Returns:
        Path of `report.html`.
    """
    write_atomically(folder / "report.png", lambda path: write_png(quantise_figure(state), path))
    page = folder / "report.html"
    write_text(page, render_quantise(state, origins))
    return page


def render_quantise(state: State, origins: Sequence[Node] = ()) -> str:
    """The page as text; equal states give equal pages."""
    summaries, candidates = summarise(state["candidates"]), state["candidates"]
    pictures = {}
    if is_drawable(state):
        description = f"{words(state).title} over latency, per network"
        pictures["quantise"] = inline("quantise", description, quantise_figure, state)
    context = {
        "headline": quantise_headline(state),
        "key_figures": quantise_key_figures(state),
        "summaries": summaries,
        "written": written,
        "scatter": scatter(summaries),
        "explained": explained(summaries),
        "reference": finished_accuracy(state["teacher"]),
        "recipe": quantise_recipe(state),
        "models": [_shown(model, state) for model in shown_models(state)],
        "decided_layers": decided_layers(candidates),
        "limit": in_points(state["max_drop_points"]),
        "label_of": label_of,
        "colours": {method: colour for method, (colour, _) in STYLES.items()},
        "pictures": pictures,
        "lineage": run_forest(state, origins),
    }
    return render_page("quantise.html.j2", state, candidates, context)


def quantise_key_figures(state: State) -> list[KeyFigure]:
    """The FP32 network, the one that the headline speaks of, and what the sweep took."""
    teacher, spoken, row = state["teacher"], words(state), nearest(state)
    reference = finished_accuracy(teacher)
    cost = f"{spoken.metric} at {gmacs(teacher['gmacs'])} GMACs per {spoken.item}"
    figures = [("FP32", percent(reference), cost)]
    if row is not None and reference is not None:
        value = finished_accuracy(row)
        assert value is not None
        note = f"{spoken.metric}, {compared(value, reference)} FP32{_of_seeds(row, state)}"
        name = f"INT8 by {label_of(row['method'], row['fallbacks'])}"
        figures += [(name, percent(value), note), *faster_and_smaller(row, teacher, "FP32")]
        if row["layers"]:
            figures.append(("In INT8", coverage(row).removesuffix(" layers"), "layers with weights"))
    return [*figures, *effort(state)]


def quantise_recipe(state: State) -> list[tuple[str, str]]:
    """How the networks were quantised, in words: what, and how."""
    config = state["config"]
    rule, train, distillation = config["quantise"], config["train"], config["distillation"]
    item = words(state).item
    facts = [
        ("integers", "weights: 8 bits per output channel; activations: 8 bits per tensor"),
        ("engine", state["engine"] or rule["engine"]),
        ("calibration", f"ranges measured on {rule['calibration']} training {item}s"),
    ]
    if "qat" in rule["methods"]:
        rate, epochs = train["lr"] / rule["lr_divisor"], rule["epochs"]
        frozen = {
            "batch norms": ("keep their statistics", rule["freeze_norms_after"]),
            "ranges": ("stay as they are", rule["freeze_ranges_after"]),
        }
        facts += [
            ("training", f"{_epochs(epochs)} from the FP32 weights, learning rate {rate:g}"),
            *((what, f"{stay} after {_epochs(after)}") for what, (stay, after) in frozen.items() if after < epochs),
            ("distillation", _distillation(distillation)),
        ]
    if rule["exclude"]:
        facts.append(("excluded", ", ".join(rule["exclude"])))
    limit = in_points(state["max_drop_points"])
    return [*facts, ("gate", f"at most {limit} of {words(state).metric} lost, and no slower than FP32")]


def _of_seeds(row: Row, state: State) -> str:
    """A reminder that a network is the luckiest of several."""
    alike = next(
        s for s in summarise(state["candidates"]) if (s.method, s.fallbacks) == (row["method"], row["fallbacks"])
    )
    return f"; best of {alike.finished} seeds" if alike.finished > 1 else ""


def _epochs(number: int) -> str:
    return f"{number} {'epoch' if number == 1 else 'epochs'}"


def _distillation(settings: dict[str, Any]) -> str:
    if settings["source_alpha"] is not None:
        weight = f"α {settings['source_alpha']:g}"
    elif settings["weight"] > 0:
        weight = f"weight {settings['weight']:g}"
    else:
        return "none"
    return f"from the FP32 network, {weight}, temperature {settings['temperature']:g}"


def _shown(model: Row, state: State) -> dict[str, Any]:
    """One model with its layers, as the page shows them."""
    lines = layer_lines(model, state["layer_times"])
    return {
        "row": model,
        "label": label_of(model["method"], model["fallbacks"]),
        "lines": lines,
        "coverage": coverage(model),
        "timed": any(line.int8_ms is not None for line in lines),
        "open": best_of(state) in (None, model),
    }
