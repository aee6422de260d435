"""The card of a package: for people, and for the Hub that they find it on.

It says what `handoff.json` says, in words, and compares the model with its family in a picture. A card is text that
others wrote in part (class names, licence, machine), so all of that is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.handoff.card_use import input_section, use_section
from orchestrator.handoff.family_figure import base_of_family, family_figure, kind_of
from orchestrator.handoff.front_matter import data_set, front_matter
from orchestrator.handoff.manifest import Ancestor, Energy, Handoff, Latency
from orchestrator.handoff.markdown import code, escaped, table
from orchestrator.quantise.table import megabytes
from orchestrator.registry.model import Measured, StoredModel
from orchestrator.report import (
    METRICS,
    WORDS,
    Words,
    count,
    gmacs,
    percent,
    points,
    share,
    standard_error,
)
from orchestrator.report.figure import write_png
from orchestrator.sweep.table import milliseconds
from trainers.files import write_text

CARD_FILE, FIGURE_FILE = "card.md", "family.png"
MADE = {
    "trained": "trained from random weights",
    "imported": "given from outside",
    "pas": "made from a larger network by progressive architecture shrinkage",
    "pruned": "made from a larger network by removing filters",
    "quantised": "made to compute in integers of 8 bits",
    "transferred": "fine-tuned from a network of other data",
    "control": "trained for comparison with networks that inherit",
}
"""How a model came to be, by its kind."""
SYNTHETIC = ("moving-digits", "synthetic-people")
"""Sources whose examples are drawn by a program."""
SHOWN_CLASSES = 20
"""How many labels a card lists."""

Compared = tuple[str, str, str]
"""A row of the comparison: label, this model, its base network."""


def write_card(folder: Path, handoff: Handoff, family: Sequence[StoredModel]) -> list[str]:
    """Write the card and its picture into a package; equal packages get equal bytes.

    Args:
        folder: the package, which is being written.
        handoff: what it says of itself; its list of files may be incomplete.
        family: models of the same base network on the same data, itself among them.

    Returns:
        Names of the files.
    """
    write_png(family_figure(handoff, family), folder / FIGURE_FILE)
    write_text(folder / CARD_FILE, handoff_card(handoff, family))
    return [CARD_FILE, FIGURE_FILE]


def handoff_card(handoff: Handoff, family: Sequence[StoredModel]) -> str:
    """Text of `card.md`.

    Args:
        handoff: what the package says of itself.
        family: as of `write_card`.
    """
    base = base_of_family(handoff, family)
    parts = [
        _what(handoff, base, kind_of(handoff, family)),
        f"![{_picture(handoff, family)}]({FIGURE_FILE})\n\n{CAPTION}",
        _comparison(handoff, base),
        input_section(handoff),
        _output(handoff),
        _stages(handoff),
        use_section(handoff),
        _exports(handoff),
        _lineage(handoff),
        f"## Licence\n\n{code(handoff.licence.spdx)}: {escaped(handoff.licence.note)}",
        _limits(handoff, base),
        VERIFY,
    ]
    return f"{front_matter(handoff)}\n" + "\n\n".join(part for part in parts if part) + "\n"


CAPTION = (
    "Small markers: tried, but handed on by no run. What computes in integers and what was exported costs as many "
    "multiply-adds as its original, and stands a little to the right of it."
)

VERIFY = """## Verify

In this folder:

```
orchestrate verify .
```

It compares every file with its SHA-256 in `handoff.json`, and what the network makes of a stored input with a stored
output. `README.md` may stand beside `card.md` as long as both are equal."""


def _what(handoff: Handoff, base: StoredModel | None, kind: str | None) -> str:
    """Title, what it is, and what it reaches: two sentences."""
    spoken, measured = WORDS[handoff.accuracy.metric], handoff.accuracy
    if handoff.output.kind == "embedding":
        what = f"A network that re-identifies (it embeds an image in {handoff.output.dimension} numbers)"
    else:
        what = f"A video classifier for {handoff.output.dimension} classes"
    made = f", {MADE[kind]}" if kind in MADE else ""
    reaches = (
        f"It reaches {percent(_accuracy(measured))} {spoken.metric} at {gmacs(handoff.cost.gmacs)} GMACs per "
        f"{spoken.item}{_beside(handoff, base)}."
    )
    return f"# {escaped(handoff.name)}\n\n{what} with the backbone {code(handoff.backbone)}{made}. {reaches}"


def _beside(handoff: Handoff, base: StoredModel | None) -> str:
    """How it compares with its base network, as the end of a sentence."""
    value = _accuracy(handoff.accuracy)
    if base is None or value is None:
        return ""
    distance = points(value, base.accuracy)
    side = "below" if distance.startswith("−") else "above"
    compared = "equal to" if distance == "0.0" else f"{distance[1:]} points {side}"
    return (
        f", {compared} its base network's {percent(base.accuracy)}, with {share(handoff.cost.gmacs, base.gmacs)} of "
        "its multiply-adds"
    )


def _picture(handoff: Handoff, family: Sequence[StoredModel]) -> str:
    """What the picture shows, for who can't see it."""
    others = sum(model.digest != handoff.digest for model in family)
    metric = METRICS[handoff.accuracy.metric]
    return f"{metric} over GMACs of this model, which is ringed, and {others} more of its family"


def _comparison(handoff: Handoff, base: StoredModel | None) -> str:
    """Accuracy and cost beside those of the base network, and how each was measured."""
    rows = [*_accuracies(handoff, base), *_costs(handoff, base)]
    if base is None:
        columns = table(["", "this model"], [row[:2] for row in rows], right=(1,))
    else:
        columns = table(["", "this model", "base network"], rows, right=(1, 2))
    cost = handoff.cost
    how = {
        "accuracy": escaped(handoff.accuracy.how),
        "multiply-adds": escaped(cost.how),
        "latency": _conditions(cost.latency, base.latency if base else None),
        "energy": _conditions(cost.energy, base.energy if base else None),
    }
    lines = [f"- {what}: {said}" for what, said in how.items()]
    return "\n".join(["## Accuracy and cost", "", columns, "", "How each was measured:", "", *lines])


def _accuracies(handoff: Handoff, base: StoredModel | None) -> Iterable[Compared]:
    spoken = WORDS[handoff.accuracy.metric]
    for label, key in spoken.accuracies.items():
        yield label, percent(getattr(handoff.accuracy, key)), percent(getattr(base, key, None))


def _costs(handoff: Handoff, base: StoredModel | None) -> Iterable[Compared]:
    cost, item = handoff.cost, WORDS[handoff.accuracy.metric].item
    rows: list[tuple[str, Callable[[Any], str], str]] = [
        (f"GMACs per {item}", gmacs, "gmacs"),
        ("parameters", count, "params"),
        ("size in MB (10⁶ bytes)", megabytes, "size_mb"),
    ]
    for label, write, key in rows:
        yield label, write(getattr(cost, key)), write(getattr(base, key, None))
    times = base.latency if base else None
    energies = base.energy if base else None
    if cost.latency:
        yield f"latency in ms per {item}", milliseconds(cost.latency.ms), milliseconds(_value(times, cost.latency))
    if cost.energy:
        yield f"energy in mJ per {item}", milliseconds(cost.energy.mj), milliseconds(_value(energies, cost.energy))


def _value(measured: Measured | None, beside: Latency | Energy) -> float | None:
    """A measurement of the base network, unless it was made under other conditions, which does not compare."""
    same = measured is not None and dict(measured.conditions) == beside.conditions
    return measured.value if measured and same else None


def _conditions(measured: Latency | Energy | None, base: Measured | None) -> str:
    """What a latency or an energy was measured under, and whether the base network's can be shown beside it."""
    if measured is None:
        return "not measured."
    under = ", ".join(f"{escaped(key)} {escaped(str(value))}" for key, value in measured.conditions.items())
    missing = " The base network's was measured under other conditions." if _differs(measured, base) else ""
    return f"{under}.{missing} On another machine measure again: `orchestrate measure`."


def _differs(measured: Latency | Energy, base: Measured | None) -> bool:
    return base is not None and _value(base, measured) is None


def _output(handoff: Handoff) -> str:
    output = handoff.output
    if output.kind == "embedding":
        distance = " They are compared by the cosine of their angle." if output.distance == "cosine" else ""
        return (
            f"## Output\n\nA vector of {output.dimension} numbers per image, float32 [image, {output.dimension}]; "
            f"bring it to length 1 before it is compared.{distance}"
        )
    shown = [f"{index} {code(name)}" for index, name in enumerate(handoff.classes[:SHOWN_CLASSES])]
    if more := len(handoff.classes) - len(shown):
        shown.append(f"and {more} more, see `classes` in `handoff.json`")
    return (
        f"## Output\n\nUnnormalised scores of {output.dimension} classes per clip, float32 [clip, {output.dimension}]; "
        f"softmax makes probabilities of them. The classes in order: {', '.join(shown)}."
    )


def _stages(handoff: Handoff) -> str:
    if not handoff.stages:
        reason = " It computes in integers." if handoff.precision == "int8" else ""
        return f"## Feature maps\n\nThis network offers no feature maps.{reason}"
    rows = [
        (
            escaped(stage.name),
            str(stage.channels),
            str(stage.temporal_stride),
            str(stage.spatial_stride),
            " × ".join(map(str, stage.shape)),
        )
        for stage in handoff.stages
    ]
    axes = "channel × frame × height × width" if handoff.input.kind == "clip" else "channel × height × width"
    head = ["stage", "channels", "input frames per frame", "input pixels per cell", f"shape ({axes})"]
    return "\n".join(
        ["## Feature maps", "", "For detectors; measured by a forward pass.", "", table(head, rows, right=(1, 2, 3))]
    )


def _exports(handoff: Handoff) -> str:
    if not handoff.exports:
        return ""
    verdicts = {True: "yes", False: "**no**", None: "not judged"}
    rows = [
        (
            escaped(exported.format),
            f"{escaped(exported.folder)}/",
            exported.precision,
            percent(exported.accuracy),
            verdicts[exported.accepted],
        )
        for exported in handoff.exports
    ]
    head = ["format", "folder", "computes in", METRICS[handoff.accuracy.metric], "accepted"]
    said = (
        "The same model in other formats, whose kernels may round otherwise. Accuracy is that of the file itself; "
        "accepted: it was faster than the original and lost little enough."
    )
    return f"## Exports\n\n{said}\n\n{table(head, rows, right=(3,))}"


def _lineage(handoff: Handoff) -> str:
    """From the nearest ancestor back to the base network."""
    itself = f"## Lineage\n\nTrial {code(handoff.digest)}"
    if not handoff.lineage:
        return f"{itself}; it starts from no other network."
    head = ["ancestor", "trial", "how it was made", "gave", METRICS[handoff.accuracy.metric], "GMACs"]
    rows = [_ancestor(ancestor) for ancestor in handoff.lineage]
    return f"{itself}. What it comes from, nearest first:\n\n{table(head, rows, right=(4, 5))}"


def _ancestor(ancestor: Ancestor) -> tuple[str, ...]:
    gave = {"start": "weights", "teacher": "soft targets"}[ancestor.relation]
    reached = percent(ancestor.accuracy), gmacs(ancestor.gmacs)
    return escaped(ancestor.name), escaped(ancestor.digest), escaped(ancestor.kind), gave, *reached


def _limits(handoff: Handoff, base: StoredModel | None) -> str:
    """What is known to limit the use of the model, or of what is said about it."""
    measured, spoken = handoff.accuracy, WORDS[handoff.accuracy.metric]
    _, name = data_set(measured.data_source)
    known = "" if measured.examples is None else f" ({measured.examples} {_examples(spoken)})"
    limits = [f"Measured on {name}{known} only, data with the fingerprint {code(measured.fingerprint)}."]
    if measured.data_source in SYNTHETIC:
        limits.append("Those data are drawn by a program: nothing is known about real ones.")
    if measured.metric == "top1" and measured.top1 is not None and measured.examples is not None:
        error = 100 * standard_error(measured.top1, measured.examples)
        limits.append(f"One standard error of this top-1 on {measured.examples} videos is {error:.1f} points.")
    if measured.metric == "map":
        limits.append("Queries of one identity resemble each other, so no standard error is given.")
    if base is not None:
        limits.append("The same data chose this model among its rivals, so expect slightly less on new ones.")
    if handoff.precision == "int8":
        limits.append("`model.safetensors` is run by PyTorch's integer kernels, which are for CPUs only.")
    return "\n".join(["## Known limits", "", *(f"- {limit}" for limit in limits)])


def _examples(spoken: Words) -> str:
    return "queries" if spoken.metric == METRICS["map"] else f"validation {spoken.example}s"


def _accuracy(measured: Any) -> float | None:
    value: float | None = measured.map if measured.metric == "map" else measured.top1
    return value
