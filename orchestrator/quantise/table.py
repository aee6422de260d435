"""What a sweep of quantised networks amounts to: means over seeds, layer by layer, and the result in a sentence.

Pure functions of a sweep's state (plain JSON, see `orchestrator/report/__init__.py`); nothing is drawn here. What is
said of a single quantised network holds in a chain, too (`chain_table.py`).

Units: accuracies are fractions, latencies are milliseconds, sizes are megabytes (1e6 bytes), noise is the ratio of
signal to quantisation noise in decibels. Deviations are those of a sample (n − 1 in the denominator).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.quantise.search import METHODS
from orchestrator.report import UNKNOWN, Row, State, percent, words
from orchestrator.sweep.table import UNFINISHED, compared, finished_accuracy, milliseconds

LABELS: dict[str, str] = {method: label for method, label in METHODS.items()}
"""Ways to quantise as people write them, in the order of the tables."""
EXPLAINED = {
    "PTQ": "post-training quantisation: ranges are measured, nothing is trained",
    "QAT": "quantisation-aware training",
}
"""The same in full."""
WEIGHTED = ("conv1d", "conv2d", "conv3d", "linear")
"""Kinds of layers that have weights; the others join maps or make them smaller."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All seeds of a method, with as many layers taken back to floating point for the sake of accuracy."""

    method: str
    fallbacks: int
    """Layers taken back."""
    mean: float | None
    """Mean accuracy of the finished candidates; none: there is no such."""
    deviation: float | None
    """Sample standard deviation of it; none: fewer than two are finished."""
    finished: int
    """Candidates that the mean is over."""
    candidates: int
    """Candidates in all."""
    status: str
    """`finished` where every candidate is, otherwise what the first unfinished one is."""
    latency_ms: float | None
    """Mean latency, of those whose latency is known."""
    size_mb: float | None
    """Mean size, likewise."""
    judged: int
    """Candidates that have been before the gate."""
    accepted: int
    """Those that passed."""
    reasons: tuple[str, ...]
    """Why others did not, each reason once."""
    best: bool
    """Whether the chosen one is among them."""

    @property
    def label(self) -> str:
        """What people call it: `QAT`, `QAT, 2 layers back`."""
        return label_of(self.method, self.fallbacks)

    @property
    def verdict(self) -> str:
        """What the gate said: `accepted`, `rejected`, `2 of 3 accepted`, or a dash where it said nothing yet."""
        if not self.judged:
            return UNKNOWN
        if self.accepted in (0, self.judged):
            return "accepted" if self.accepted else "rejected"
        return f"{self.accepted} of {self.judged} accepted"


@dataclass(frozen=True, kw_only=True)
class LayerLine:
    """One layer of a quantised network: in what it computes, what that does to the result, and how long it takes."""

    name: str
    kind: str
    int8: bool
    fused: tuple[str, ...]
    """Modules that run within it."""
    reason: str | None
    """Why it computes in floating point."""
    noise_db: float | None
    """Signal to noise of the network's output where this layer alone is quantised; the lower, the more it does."""
    int8_ms: float | None
    """Time of the layer alone in integers."""
    float_ms: float | None
    """The same in floating point."""


def label_of(method: str, fallbacks: int = 0) -> str:
    """A method as people write it, with the layers that were taken back."""
    name = LABELS.get(method, method)
    if not fallbacks:
        return name
    return f"{name}, {fallbacks} {'layer' if fallbacks == 1 else 'layers'} back"


def summarise(candidates: Iterable[Row]) -> list[Summary]:
    """Mean and deviation over the seeds, per method and number of layers taken back, in the order of `LABELS`."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in candidates:
        groups.setdefault((row["method"], row["fallbacks"]), []).append(row)
    known = list(LABELS)
    order = sorted(groups, key=lambda key: (known.index(key[0]) if key[0] in known else len(known), *key))
    return [_summary(*key, groups[key]) for key in order]


def _summary(method: str, fallbacks: int, rows: Sequence[Row]) -> Summary:
    values = [value for row in rows if (value := finished_accuracy(row)) is not None]
    judged = [row for row in rows if row["accepted"] is not None]
    return Summary(
        method=method,
        fallbacks=fallbacks,
        mean=statistics.fmean(values) if values else None,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        finished=len(values),
        candidates=len(rows),
        status=next((row["status"] for row in rows if row["status"] != "finished"), "finished"),
        latency_ms=_mean(rows, "latency_ms"),
        size_mb=_mean(rows, "size_mb"),
        judged=len(judged),
        accepted=sum(bool(row["accepted"]) for row in judged),
        reasons=tuple(dict.fromkeys(reason for row in judged for reason in row["rejected"])),
        best=any(row["best"] for row in rows),
    )


def _mean(rows: Iterable[Row], key: str) -> float | None:
    known = [row[key] for row in rows if row[key] is not None]
    return statistics.fmean(known) if known else None


def best_of(state: State) -> Row | None:
    """The candidate that was chosen: accepted, and the most accurate of those; none where none was."""
    return next((row for row in state["candidates"] if row["best"]), None)


def nearest(state: State) -> Row | None:
    """The candidate to speak of: the chosen one, or the most accurate of those that are finished."""
    finished = [(value, row) for row in state["candidates"] if (value := finished_accuracy(row)) is not None]
    return best_of(state) or (max(finished, key=lambda pair: pair[0])[1] if finished else None)


def quantise_headline(state: State) -> str:
    """The result of a sweep in one sentence, or why there is none yet."""
    row, teacher = nearest(state), state["teacher"]
    if row is None or finished_accuracy(teacher) is None:
        return _without_result(state)
    name = f"INT8 by {label_of(row['method'], row['fallbacks'])}"
    if row["best"]:
        return f"{name} reaches {_beside(row, state)}."
    if all(candidate["accepted"] is None for candidate in state["candidates"]):
        return f"Nothing is judged yet; so far {name} reaches {_beside(row, state)}."
    reasons = without_options(row["rejected"]) or "not judged"
    return f"No INT8 network passes the gate: {name} comes nearest with {_beside(row, state)}. Rejected: {reasons}."


def without_options(reasons: Iterable[str]) -> str:
    """Reasons of the gate as a sentence has room for them: without the options that they name in brackets."""
    return "; ".join(reason.partition(" (--")[0] for reason in reasons)


def in_points(number: float) -> str:
    """`1 point`, `1.5 points`."""
    return f"{number:g} {'point' if number == 1 else 'points'}"


def _beside(row: Row, state: State) -> str:
    """`93.1 % top-1, 0.3 points below FP32, 3.1 times faster and 3.9 times smaller`."""
    value, teacher = finished_accuracy(row), state["teacher"]
    reference = finished_accuracy(teacher)
    assert value is not None
    assert reference is not None
    gains = gain(row, teacher)
    return f"{percent(value)} {words(state).metric}, {compared(value, reference)} FP32" + (
        f", {gains}" if gains else ""
    )


def gain(row: Row, other: Row) -> str:
    """How much faster and smaller a network is than another, as far as both are measured; empty where neither is."""
    parts = [factor(other["latency_ms"], row["latency_ms"], "faster", "slower", "as fast")]
    parts.append(factor(other["size_mb"], row["size_mb"], "smaller", "larger", "as large"))
    return " and ".join(part for part in parts if part)


def factor(before: float | None, after: float | None, less: str, more: str, same: str) -> str:
    """A quotient in words: `3.1 times faster`, `4 % slower`, `as fast`; empty where a number is missing.

    Args:
        before: what it is compared with, > 0.
        after: the number itself, > 0.
        less: what it is called if it is below the other.
        more: what it is called if it is above.
        same: what it is called if it is equal within half a percent.
    """
    if not before or not after:
        return ""
    ratio, name = (before / after, less) if before >= after else (after / before, more)
    if ratio < 1.005:
        return same
    if ratio < 1.095:
        return f"{100 * (ratio - 1):.0f} % {name}"
    return f"{_digits(ratio)} times {name}"


def times(before: float | None, after: float | None) -> str:
    """A quotient as it stands in a table: `3.1×`, `11×`; below 1 never rounded up: `0.99×`."""
    if not before or not after:
        return UNKNOWN
    ratio = before / after
    return f"{_digits(ratio)}×" if ratio >= 1 else f"{math.floor(100 * ratio) / 100:.2f}×"


def _digits(ratio: float) -> str:
    """Two significant digits, and no fewer than the integer part has."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}"


def megabytes(value: float | None) -> str:
    """A size with three significant digits, without the unit: `0.571`, `31.4`."""
    return milliseconds(value)


def decibels(value: float | None) -> str:
    """A ratio of signal to noise in whole decibels, without the unit."""
    return UNKNOWN if value is None else f"{value:.0f}".replace("-", "−")


def written(row: Summary) -> str:
    """A mean in %: `87.1 ± 0.4`, `87.1 (1/3)` where seeds are missing, a dash or why there is none."""
    if row.mean is None:
        return row.status if row.status in UNFINISHED else UNKNOWN
    deviation = "" if row.deviation is None else f" ± {100 * row.deviation:.1f}"
    missing = f" ({row.finished}/{row.candidates})" if row.finished < row.candidates else ""
    return f"{100 * row.mean:.1f}{deviation}{missing}"


def scatter(rows: Iterable[Summary]) -> str:
    """How far the numbers of the table scatter, in words."""
    known = list(rows)
    partial = (
        " In brackets: seeds that are finished." if any(0 < row.finished < row.candidates for row in known) else ""
    )
    if all(row.deviation is None for row in known):
        return f"One seed each: how far another would be off is not known.{partial}"
    return f"± is one sample standard deviation over the seeds (n − 1); a single seed has none.{partial}"


def explained(rows: Iterable[Summary]) -> str:
    """What the methods are, in words."""
    said = dict.fromkeys(LABELS.get(row.method, row.method) for row in rows)
    return "; ".join(f"{name}: {EXPLAINED[name]}" for name in said if name in EXPLAINED)


def layer_lines(model: Row, layer_times: Iterable[Mapping[str, Any]] = ()) -> list[LayerLine]:
    """Every layer of a quantised network, in the network's order.

    Args:
        model: a candidate of a sweep, or the last step of a chain.
        layer_times: of the sweep's state; may be empty.
    """
    timed = {row["layer"]: row for row in layer_times}
    why = _decided(model)
    return [
        LayerLine(
            name=row["name"],
            kind=row["kind"],
            int8=row["precision"] == "int8",
            fused=tuple(row["fused"]),
            reason=None if row["precision"] == "int8" else why.get(row["name"], row["reason"]),
            noise_db=row["noise_db"],
            int8_ms=timed[row["name"]]["int8_ms"] if row["name"] in timed else None,
            float_ms=timed[row["name"]]["float_ms"] if row["name"] in timed else None,
        )
        for row in model["layers"]
    ]


def left_in_float(model: Row) -> list[tuple[str, str]]:
    """Layers that compute in floating point, each with the reason; those decided on are known before it is trained."""
    found = {row["name"]: row["reason"] or "no reason given" for row in model["layers"] if row["precision"] != "int8"}
    return list({**found, **_decided(model)}.items())


def decided_layers(candidates: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Layers that were left in floating point on purpose: name, why, and in which networks, `all` or by label."""
    where: dict[tuple[str, str], list[Row]] = {}
    for row in candidates:
        for layer in row["float_layers"]:
            where.setdefault((layer["layer"], layer["reason"]), []).append(row)

    def told(rows: Sequence[Row]) -> str:
        labels = dict.fromkeys(label_of(row["method"], row["fallbacks"]) for row in rows)
        return "all" if len(rows) == len(candidates) else "; ".join(labels)

    return [(layer, reason, told(rows)) for (layer, reason), rows in where.items()]


def _decided(model: Row) -> dict[str, str]:
    """Reasons of whoever decided it, which say more than what quantising knows; a chain's steps have none."""
    return {row["layer"]: row["reason"] for row in model.get("float_layers", ())}


def coverage(model: Row) -> str:
    """How much of a quantised network runs in integers: `20 of 21 layers`; empty where it is not known."""
    weighted = [row for row in model["layers"] if row["kind"] in WEIGHTED]
    return f"{sum(row['precision'] == 'int8' for row in weighted)} of {len(weighted)} layers" if weighted else ""


def shown_models(state: State) -> list[Row]:
    """The candidates whose layers are known, the chosen one first."""
    return sorted((row for row in state["candidates"] if row["layers"]), key=lambda row: not row["best"])


def broken(candidates: Iterable[Row]) -> list[Row]:
    """Those that are over without an accuracy."""
    return [row for row in candidates if row["status"] in UNFINISHED]


def measured_under(conditions: Mapping[str, Any] | None) -> str:
    """How the latencies were measured, in a sentence; empty where they were not."""
    if not conditions:
        return ""
    threads = f"{conditions['threads']} {'thread' if conditions['threads'] == 1 else 'threads'}"
    return (
        f"Latency: median of {conditions['runs']} forward passes, batch {conditions['batch']}, {threads} of "
        f"{conditions['machine']}, the networks taking turns."
    )


def _without_result(state: State) -> str:
    candidates = state["candidates"]
    if state["status"] == "running":
        if finished_accuracy(state["teacher"]) is None:
            return "Nothing is quantised yet: the FP32 network is being measured."
        over = sum(row["status"] in ("finished", *UNFINISHED) for row in candidates)
        return f"Nothing can be compared yet: {over} of {len(candidates)} INT8 networks are done."
    if state["status"] == "finished" and candidates:
        ends = [row["status"] for row in candidates]
        counted = ", ".join(f"{ends.count(status)} {status}" for status in dict.fromkeys(ends))
        return f"No INT8 network has a result: {counted}."
    reason = f": {state['stop_reason']}" if state["stop_reason"] else ""
    return f"The sweep {state['status']} before any INT8 network could be compared{reason}."
