"""What a person is shown of a search: report, pictures and model cards; and here how all of them write numbers.

A search is shown from its *state*, the plain JSON that `orchestrate show RUN --json` prints: accuracies are
fractions, costs are GMACs per clip or image (1e9 multiply-adds, counted once), times are seconds. Whatever is not
known yet is `None` there and a dash here. States of before networks re-identified name no metric: it was top-1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

State = dict[str, Any]
"""A search as plain JSON."""
Row = dict[str, Any]
"""One network of it: the teacher, a hypothesis, a control, or a member of the family."""

UNKNOWN = "–"

METRICS = {"top1": "top-1", "map": "mAP"}
"""What networks are compared by: key in a row, and label."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """How one kind of networks is spoken of."""

    metric: str
    """Label of what they are compared by."""
    title: str
    """The same at the start of a sentence."""
    accuracies: Mapping[str, str]
    """Every accuracy that is measured: label, and key in a row."""
    item: str
    """What a cost is per."""
    input: str
    """Heading of what they are given; see `clip`."""
    example: str
    """What the data set consists of."""
    label: str
    """What examples are told apart by; plural."""


WORDS = {
    "top1": Words(
        metric=METRICS["top1"],
        title="Top-1",
        accuracies={METRICS["top1"]: "top1", "top-5": "top5"},
        item="clip",
        input="frames × side",
        example="video",
        label="classes",
    ),
    "map": Words(
        metric=METRICS["map"],
        title="mAP",
        accuracies={METRICS["map"]: "map", "rank-1": "top1", "rank-5": "top5"},
        item="image",
        input="input",
        example="image",
        label="identities",
    ),
}
"""By metric."""


def metric_of(state: State) -> str:
    """Key of what the networks of a run are compared by."""
    return str(state.get("metric", "top1"))


def words(state: State) -> Words:
    """How the networks of a run are spoken of."""
    return WORDS[metric_of(state)]


def accuracy(row: Row, metric: str) -> float | None:
    """What a network is compared by, as a fraction; none where it is not known."""
    value: float | None = row.get(metric)
    return value


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage: 0.931 is `93.1 %`."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.{digits}f} %"


def share(part: float | None, whole: float | None) -> str:
    """A part in percent of the whole: whole numbers from 10 % on, one decimal below."""
    if part is None or not whole:
        return UNKNOWN
    return percent(part / whole, digits=0 if part / whole >= 0.0995 else 1)


def points(accuracy: float | None, reference: float | None) -> str:
    """Signed difference of two accuracies in percentage points: `−2.9`."""
    if accuracy is None or reference is None:
        return UNKNOWN
    difference = round(100 * (accuracy - reference), 1)
    return "0.0" if difference == 0 else f"{difference:+.1f}".replace("-", "−")


def gmacs(value: float | None) -> str:
    """A cost in GMACs with three significant digits, without the unit."""
    if value is None:
        return UNKNOWN
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(0, digits)}f}"


def count(number: int | None) -> str:
    """A number of parameters: 31_600_000 is `31.6 M`."""
    if number is None:
        return UNKNOWN
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.1f}{suffix}"
    return str(number)


def duration(seconds: float | None) -> str:
    """A time with its two largest units: `48 s`, `5 min 01 s`, `3 h 05 min`, `2 d 04 h`."""
    if seconds is None:
        return UNKNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, name, below, below_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // below:02d} {below_name}"
    raise AssertionError(whole)


def clip(row: Row) -> str:
    """What a network is given: frames × side of a clip, height × width of an image, in pixels."""
    if row["frames"] is not None:
        return f"{row['frames']} × {row['side']}"
    return f"{row['height']} × {row['width']}" if row.get("height") else UNKNOWN


def data_sizes(data: Mapping[str, Any]) -> str:
    """How many examples a data set has, and what for."""
    if "train_images" in data:
        return (
            f"{data['train_images']} for training, {data['queries']} queries, {data['gallery_images']} in the gallery"
        )
    return f"{data['train_videos']} for training, {data['val_videos']} for validation"


def headline(state: State) -> str:
    """The result in one sentence, or why there is none yet."""
    if not state["family"]:
        return _without_result(state)
    teacher, smallest, metric = state["teacher"], state["family"][-1], metric_of(state)
    reached, reference = accuracy(smallest, metric), accuracy(teacher, metric)
    distance = points(reached, reference)
    side = "below" if distance.startswith("−") else "above"
    compared = "equal to" if distance == "0.0" else f"{distance[1:]} points {side}"
    return (
        f"{smallest['name']} reaches {percent(reached)} {METRICS[metric]}, {compared} the teacher's "
        f"{percent(reference)}, with {share(smallest['gmacs'], teacher['gmacs'])} of its multiply-adds."
    )


def _without_result(state: State) -> str:
    if state["algorithm"] == "train" and state["status"] == "finished":
        network, metric = state["teacher"], metric_of(state)
        reached = f"{percent(accuracy(network, metric))} {METRICS[metric]}"
        return f"{network['name']} reaches {reached} at {gmacs(network['gmacs'])} GMACs."
    if state["status"] == "running":
        stage = f"iteration {len(state['iterations'])}" if state["iterations"] else "the teacher"
        return f"No network has been chosen yet: {stage} is being trained."
    reason = f": {state['stop_reason']}" if state["stop_reason"] else ""
    return f"The search {state['status']} before a network was chosen{reason}."


def standard_error(top1: float, videos: int) -> float:
    """One standard error of a top-1 accuracy measured on so many videos (binomial), a fraction.

    There is none such for mAP: queries of one identity resemble each other, and all share a gallery.
    """
    return math.sqrt(top1 * (1 - top1) / videos)
