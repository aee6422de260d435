"""What a transfer amounts to: accuracy per split and its mean for every network, as in Table 6.6 of [1].

Pure functions of a transfer's state (plain JSON, see `orchestrator/report/__init__.py`), which has beside what all
runs have:

sources      a row per network as it was before: its name here, the trial that trained it (`source`), its accuracy there
             (`top1`) and the key of that data's source (`data`), and why it could not be fine-tuned (`reason`)
transfers    a row per fine-tuning: `model`, `split`, `seed`, `path` of what is handed on, and what all trials have
splits       a row per split: its videos and its fingerprint

Units: accuracies are fractions, costs are GMACs per clip. Deviations are those of a sample (n − 1 in the denominator).

Sources:
    [1] Deep video understanding … (PhD thesis), sec. 6.2.4.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report import UNKNOWN, Row, State, percent, points, share
from orchestrator.sweep.table import UNFINISHED, compared, finished_accuracy

Split = int | None
"""Official split; none where the data is split in one way only."""

TITLES = {"ucf101": "UCF101", "hmdb51": "HMDB51"}
"""Data sets as people write them."""
SPREAD = {
    "splits": "± is one sample standard deviation over the splits (n − 1).",
    "seeds": "± is one sample standard deviation over the seeds (n − 1).",
    "": "One split and one seed each: how far another would be off is not known.",
}
"""What deviations are of, in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One network: what it reached before, on every split, and in the mean."""

    name: str
    """What the network is called in this run."""
    before: float | None
    """Accuracy where it was trained; none: not known."""
    data: str | None
    """Key of the source of that data."""
    by_split: Mapping[Split, float]
    """Mean accuracy over the seeds, of the splits that have any."""
    splits: int
    """Splits in all."""
    mean: float | None
    """Mean over the splits that have an accuracy; none: none has."""
    deviation: float | None
    """Sample standard deviation over the splits, with one split over the seeds; none: there is one of both."""
    gmacs: float | None
    params: int | None
    status: str
    """`finished` where every fine-tuning is, otherwise what the first unfinished one is."""
    reason: str | None
    """Why it could not be fine-tuned."""

    @property
    def complete(self) -> bool:
        """Whether every split has an accuracy."""
        return len(self.by_split) == self.splits


def summarise(state: State) -> list[Summary]:
    """Every network, in the order of the run: the base first."""
    splits = [row["split"] for row in state["splits"]]
    return [
        _summary(source, [row for row in state["transfers"] if row["model"] == source["name"]], splits)
        for source in state["sources"]
    ]


def _summary(source: Row, rows: Sequence[Row], splits: Sequence[Split]) -> Summary:
    reached = [(row["split"], value) for row in rows if (value := finished_accuracy(row)) is not None]
    values = {split: [value for where, value in reached if where == split] for split in splits}
    by_split = {split: statistics.fmean(found) for split, found in values.items() if found}
    spread = list(by_split.values()) if len(splits) > 1 else [value for _, value in reached]
    return Summary(
        name=source["name"],
        before=source["top1"],
        data=source["data"],
        by_split=by_split,
        splits=len(splits),
        mean=statistics.fmean(by_split.values()) if by_split else None,
        deviation=statistics.stdev(spread) if len(spread) > 1 else None,
        gmacs=rows[0]["gmacs"] if rows else None,
        params=rows[0]["params"] if rows else None,
        status="left out" if not rows else next((r["status"] for r in rows if r["status"] != "finished"), "finished"),
        reason=source["reason"],
    )


def base_of(rows: Sequence[Summary]) -> Summary:
    """What the others are compared with: the first that could be fine-tuned."""
    return next((row for row in rows if row.reason is None), rows[0])


def distance(row: Summary, base: Summary) -> str:
    """Signed difference of a network and the base in points, over the splits on which both have an accuracy."""
    common = [split for split in row.by_split if split in base.by_split]
    if not common:
        return UNKNOWN
    mine, its = (statistics.fmean(one.by_split[split] for split in common) for one in (row, base))
    return points(mine, its)


def written(row: Summary) -> str:
    """The mean in %: `87.1 ± 0.4`, `87.1 (1/3)` where splits are missing, or why there is none."""
    if row.mean is None:
        return row.status if row.status in (*UNFINISHED, "left out") else UNKNOWN
    deviation = "" if row.deviation is None else f" ± {100 * row.deviation:.1f}"
    missing = "" if row.complete else f" ({len(row.by_split)}/{row.splits})"
    return f"{100 * row.mean:.1f}{deviation}{missing}"


def in_percent(value: float | None) -> str:
    """An accuracy in %, without the unit: `87.1`."""
    return UNKNOWN if value is None else f"{100 * value:.1f}"


def data_title(state: State) -> str:
    """The data that the networks were fine-tuned on, as people write it."""
    source: str = state["data"]["source"]
    return TITLES.get(source, source)


def sources_title(rows: Iterable[Summary]) -> str:
    """The data that the networks were trained on before; `before` where that is not one set, or not known."""
    known = {row.data for row in rows}
    source = known.pop() if len(known) == 1 else None
    return TITLES.get(source, source) if source else "before"


def split_title(split: Split) -> str:
    """A split's column."""
    return "top-1" if split is None else f"split {split}"


def scatter(state: State, rows: Sequence[Summary]) -> str:
    """How far the numbers of the table scatter, in words."""
    many = "splits" if len(state["splits"]) > 1 else "seeds"
    spread = SPREAD[many if any(row.deviation is not None for row in rows) else ""]
    partial = any(row.mean is not None and not row.complete for row in rows)
    return f"{spread} In brackets: splits that are finished." if partial else spread


def over(state: State) -> str:
    """What a mean is over, in words: `the mean of 3 splits and 2 seeds`; empty where there is one of each."""
    seeds = len({row["seed"] for row in state["transfers"]})
    numbers = {"splits": len(state["splits"]), "seeds": seeds}
    counted = [f"{number} {what}" for what, number in numbers.items() if number > 1]
    return f"the mean of {' and '.join(counted)}" if counted else ""


def transfer_headline(state: State) -> str:
    """The result in one sentence: of a family, how the smallest network compares with the base."""
    rows = summarise(state)
    reached = [row for row in rows if row.mean is not None]
    if not reached:
        return _without_result(state)
    base, last = base_of(rows), reached[-1]
    mean = f" ({over(state)})" if over(state) else ""
    said = f"{last.name} reaches {percent(last.mean)} top-1 on {data_title(state)}{mean}"
    if last is base or base.mean is None:
        return f"{said}."
    common = [split for split in last.by_split if split in base.by_split]
    mine, its = (statistics.fmean(row.by_split[split] for split in common) for row in (last, base))
    return f"{said}, {compared(mine, its)} {base.name}, with {share(last.gmacs, base.gmacs)} of its multiply-adds."


def _without_result(state: State) -> str:
    if state["status"] == "running":
        over = sum(row["status"] != "pending" for row in state["transfers"])
        return f"Nothing can be compared yet: {over} of {len(state['transfers'])} fine-tunings are done."
    reason = f": {state['stop_reason']}" if state["stop_reason"] else ""
    return f"The transfer {state['status']} before any network was fine-tuned{reason}."
