"""What the cells of a pruner sweep amount to: means over seeds, the Pareto front, and the result in a sentence.

Pure functions of a sweep's state (plain JSON, see `orchestrator/report/__init__.py`); nothing is drawn here.

Units: accuracies are fractions, costs are GMACs per clip or image, latencies are milliseconds. Deviations are those of
a sample (n − 1 in the denominator), so that a single seed has none.

Sources:
    [1] E²TAD (specs/e2tad.md, section 16), Tables 3 and 4.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.pareto import front
from orchestrator.report import METRICS, UNKNOWN, Row, State, metric_of, percent, points, share

LABELS = {
    "l1": "L1",
    "l2": "L2",
    "fpgm": "FPGM",
    "agp": "AGP",
    "l1-iterative": "L1 iterative",
    "l2-iterative": "L2 iterative",
    "fpgm-iterative": "FPGM iterative",
    "scratch": "scratch",
    "random": "random",
}
"""Pruners and controls as people write them, in the order of the source's table."""
CLOSE_POINTS = 2.0
"""The network to speak of is the cheapest that loses at most so many points against the unpruned one."""
CHEAP_AND_ACCURATE = (True, False)
"""Of a cost and an accuracy, less of the first is better and more of the second."""
UNFINISHED = ("diverged", "failed")
"""Statuses of cells that are over without an accuracy."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A pruner or a control: what the source's table has a column for."""

    pruner: str
    control: str | None

    @property
    def label(self) -> str:
        """What people call it."""
        return LABELS.get(self.pruner, self.pruner)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All seeds of a pruner (or control) at one sparsity."""

    pruner: str
    control: str | None
    sparsity: float
    """Share of filters asked to be removed."""
    mean: float | None
    """Mean accuracy of the finished cells; none: there is no such cell."""
    deviation: float | None
    """Sample standard deviation of it; none: fewer than two cells are finished."""
    finished: int
    """Cells that the mean is over."""
    cells: int
    """Cells in all."""
    status: str
    """`finished` where every cell is, otherwise what the first unfinished one is."""
    gmacs: float | None
    """Mean cost of the cells whose cost is known."""
    params: int | None
    """Mean number of parameters, likewise."""
    latency_ms: float | None
    """Mean latency, likewise."""
    reached: float | None
    """Mean share of filters that were removed, where cells say so."""

    @property
    def column(self) -> Column:
        """Where it stands in the table."""
        return Column(pruner=self.pruner, control=self.control)

    @property
    def name(self) -> str:
        """What people call it: `AGP at sparsity 0.5`."""
        return f"{self.column.label} at sparsity {self.sparsity:g}"


def summarise(cells: Iterable[Row]) -> list[Summary]:
    """Mean and deviation over the seeds, per pruner or control and sparsity.

    Args:
        cells: cells of a sweep's state, in any order.

    Returns:
        One summary per combination that occurs: pruners before controls, each in the order of `LABELS`, by sparsity.
    """
    groups: dict[tuple[str, str | None, float], list[Row]] = {}
    for cell in cells:
        groups.setdefault((cell["pruner"], cell["control"], cell["sparsity"]), []).append(cell)
    return [_summary(rows) for _, rows in sorted(groups.items(), key=lambda item: _order(*item[0]))]


def pareto_front(rows: Iterable[Row]) -> set[str]:
    """Trials that no other beats: nothing is cheaper and at least as accurate, or as cheap and more accurate.

    Networks that are equal in both stay in together.

    Args:
        rows: cells of a sweep's state, and the unpruned network if it is to take part; controls and what is not
            finished are left out.

    Returns:
        Digests of the trials.
    """
    placed = [
        (row["trial"], (row["gmacs"], value))
        for row in rows
        if row.get("control") is None and row["gmacs"] is not None and (value := finished_accuracy(row)) is not None
    ]
    unbeaten = front([point for _, point in placed], minimise=CHEAP_AND_ACCURATE)
    return {trial for (trial, _), kept in zip(placed, unbeaten, strict=True) if kept}


def mean_front(summaries: Iterable[Summary], teacher: Row) -> list[Summary]:
    """Summaries whose mean no other pruner's, nor the unpruned network, beats; the most costly first."""
    placed = [
        (row, (row.gmacs, row.mean))
        for row in summaries
        if row.control is None and row.gmacs is not None and row.mean is not None
    ]
    rivals = [point for _, point in placed]
    if (value := finished_accuracy(teacher)) is not None:
        rivals.append((teacher["gmacs"], value))
    unbeaten = front(rivals, minimise=CHEAP_AND_ACCURATE)[: len(placed)]
    kept = [(row, cost) for (row, (cost, _)), on_it in zip(placed, unbeaten, strict=True) if on_it]
    return [row for row, _ in sorted(kept, key=lambda item: -item[1])]


def finished_accuracy(row: Row) -> float | None:
    """What a network is compared by, as a fraction: mAP where it has one, else top-1; none unless it is finished."""
    if row["status"] != "finished":
        return None
    value: float | None = row["top1"] if row.get("map") is None else row["map"]
    return value


def columns(summaries: Sequence[Summary]) -> list[Column]:
    """The columns of the source's table: pruners, then controls."""
    return list(dict.fromkeys(summary.column for summary in sorted(summaries, key=_place)))


def sparsities(summaries: Sequence[Summary]) -> list[float]:
    """Its rows, from light to heavy pruning."""
    return sorted({summary.sparsity for summary in summaries})


def best(summaries: Sequence[Summary], sparsity: float) -> list[Summary]:
    """Summaries of the most accurate pruner at a sparsity, several if equal; empty unless two can be compared."""
    rivals = [row for row in summaries if row.sparsity == sparsity and row.control is None and row.mean is not None]
    highest = max((row.mean for row in rivals if row.mean is not None), default=None)
    return [row for row in rivals if row.mean == highest] if len({row.column for row in rivals}) > 1 else []


def chosen(summaries: Sequence[Summary], teacher: Row) -> Summary | None:
    """The network to speak of: the cheapest within `CLOSE_POINTS` of the unpruned one, else the most accurate.

    Of equally cheap ones it is the more accurate. None before there is anything to compare.
    """
    reference = finished_accuracy(teacher)
    rivals = [
        (row.gmacs, -row.mean, row)
        for row in summaries
        if row.control is None and row.sparsity > 0 and row.mean is not None and row.gmacs is not None
    ]
    if reference is None or not rivals:
        return None
    close = [rival for rival in rivals if is_close(-rival[1], reference)]
    if close:
        return min(close, key=lambda rival: rival[:2])[2]
    return min(rivals, key=lambda rival: (rival[1], rival[0]))[2]


def is_close(mean: float, reference: float) -> bool:
    """Whether an accuracy is within `CLOSE_POINTS` of another, or above it, up to rounding."""
    return 100 * (reference - mean) <= CLOSE_POINTS + 1e-9


def prune_headline(state: State, summaries: Sequence[Summary]) -> str:
    """The result of a pruner sweep in one sentence, or why there is none yet."""
    teacher, metric = state["teacher"], METRICS[metric_of(state)]
    row, reference = chosen(summaries, teacher), finished_accuracy(teacher)
    if row is None or row.mean is None or reference is None:
        return _without_result(state, state["cells"])
    verb = "keeps" if is_close(row.mean, reference) else "comes nearest with"
    return (
        f"{row.name} {verb} {metric} {percent(row.mean)}, {compared(row.mean, reference)} the unpruned "
        f"network, with {share(row.gmacs, teacher['gmacs'])} of its multiply-adds."
    )


def compared(value: float, reference: float) -> str:
    """Where an accuracy is beside another: `1.2 points below`, `equal to`."""
    distance = points(value, reference)
    side = "below" if distance.startswith("−") else "above"
    return "equal to" if distance == "0.0" else f"{distance[1:]} points {side}"


def sensitivity_headline(state: State) -> str:
    """The result of a sensitivity analysis in one sentence, or why there is none yet."""
    worst = worst_point(state)
    if worst is None:
        return _without_result(state, [point for layer in state["layers"] for point in layer["points"]])
    layer, point, drop = worst
    robust = sum((layer["max_sparsity"] or 0) >= 0.5 for layer in state["layers"])
    return (
        f"{robust} of {len(state['layers'])} layers alone can lose half of their filters or more for at most "
        f"{state['max_drop']:g} points of {METRICS[metric_of(state)]}; the most sensitive, {layer['layer']}, costs "
        f"{drop:.1f} points at sparsity {point['sparsity']:g}."
    )


def worst_point(state: State) -> tuple[Row, Row, float] | None:
    """Layer and point with the largest drop in points; of equal ones the one at less sparsity."""
    measured = [
        (layer, point, drop)
        for layer in state["layers"]
        for point in layer["points"]
        if (drop := drop_points(point, state)) is not None
    ]
    return max(measured, key=lambda item: (item[2], -item[1]["sparsity"]), default=None)


def drop_points(point: Row, state: State) -> float | None:
    """Points of accuracy that a pruned layer costs; negative where it gained, none where it is not known."""
    value, reference = finished_accuracy(point), finished_accuracy(state["teacher"])
    return None if value is None or reference is None else 100 * (reference - value)


def by_sensitivity(state: State) -> list[Row]:
    """The layers that have been measured, by their mean drop over the sparsities, the most sensitive first.

    A sparsity without a result counts as the layer's largest drop, so that one that broke does not look robust.
    """

    def mean_drop(layer: Row) -> float | None:
        drops = [drop_points(point, state) for point in layer["points"]]
        known = [drop for drop in drops if drop is not None]
        return statistics.fmean([*known, *[max(known)] * (len(drops) - len(known))]) if known else None

    ranked = [(drop, layer) for layer in state["layers"] if (drop := mean_drop(layer)) is not None]
    return [layer for _, layer in sorted(ranked, key=lambda item: -item[0])]


def written(summary: Summary) -> str:
    """A cell of the table, in %: `87.1 ± 0.4`, `87.1 (1/3)` where seeds are missing, a dash or why there is none."""
    if summary.mean is None:
        return summary.status if summary.status in UNFINISHED else UNKNOWN
    deviation = "" if summary.deviation is None else f" ± {100 * summary.deviation:.1f}"
    missing = f" ({summary.finished}/{summary.cells})" if summary.finished < summary.cells else ""
    return f"{100 * summary.mean:.1f}{deviation}{missing}"


def written_network(row: Row) -> str:
    """The same of a single network."""
    value = finished_accuracy(row)
    return UNKNOWN if value is None else f"{100 * value:.1f}"


def written_drop(drop: float) -> str:
    """Points that were lost; a gain has a minus: `4.3`, `−0.2`."""
    rounded = round(drop, 1)
    return "0.0" if rounded == 0 else f"{rounded:.1f}".replace("-", "−")


def milliseconds(value: float | None) -> str:
    """A latency with three significant digits: `0.842`, `4.31`, `128`."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def scatter(summaries: Iterable[Summary]) -> str:
    """How far the numbers of a table scatter, in words."""
    rows = list(summaries)
    partial = " In brackets: seeds that are finished." if any(0 < row.finished < row.cells for row in rows) else ""
    if all(row.deviation is None for row in rows):
        return f"One seed each: how far another would be off is not known.{partial}"
    return f"± is one sample standard deviation over the seeds (n − 1); a single seed has none.{partial}"


def failures(cells: Iterable[Row]) -> list[Row]:
    """Cells that are over without an accuracy."""
    return [cell for cell in cells if cell["status"] in UNFINISHED]


def notes(cells: Iterable[Row]) -> dict[str, list[str]]:
    """What the pruning has to say: each note once, with the names of the cells it is about."""
    about: dict[str, list[str]] = {}
    for cell in cells:
        for note in cell["notes"]:
            names = about.setdefault(note, [])
            if cell["name"] not in names:
                names.append(cell["name"])
    return about


def _without_result(state: State, cells: Sequence[Row]) -> str:
    over = sum(cell["status"] != "pending" for cell in cells)
    if state["status"] == "running":
        if finished_accuracy(state["teacher"]) is None:
            return "Nothing is pruned yet: the unpruned network is being measured."
        return f"Nothing can be compared yet: {over} of {len(cells)} cells are done."
    reason = f": {state['stop_reason']}" if state["stop_reason"] else ""
    return f"The sweep {state['status']} before any pruned network could be compared{reason}."


def _summary(cells: Sequence[Row]) -> Summary:
    values = [value for cell in cells if (value := finished_accuracy(cell)) is not None]
    params = _mean(cells, "params")
    return Summary(
        pruner=cells[0]["pruner"],
        control=cells[0]["control"],
        sparsity=cells[0]["sparsity"],
        mean=statistics.fmean(values) if values else None,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        finished=len(values),
        cells=len(cells),
        status=next((cell["status"] for cell in cells if cell["status"] != "finished"), "finished"),
        gmacs=_mean(cells, "gmacs"),
        params=None if params is None else round(params),
        latency_ms=_mean(cells, "latency_ms"),
        reached=_mean(cells, "reached"),
    )


def _mean(rows: Iterable[Row], key: str) -> float | None:
    known = [row[key] for row in rows if row.get(key) is not None]
    return statistics.fmean(known) if known else None


def _order(pruner: str, control: str | None, sparsity: float) -> tuple[Any, ...]:
    known = list(LABELS)
    return control is not None, known.index(pruner) if pruner in known else len(known), pruner, sparsity


def _place(summary: Summary) -> tuple[Any, ...]:
    return _order(summary.pruner, summary.control, summary.sparsity)
