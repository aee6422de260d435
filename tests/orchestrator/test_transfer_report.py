"""What a person is shown of a transfer: page, picture, card, terminal."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from orchestrator.report.transfer import render_transfer, transfer_key_figures, transfer_recipe, write_transfer_report
from orchestrator.report.transfer_card import transfer_card
from orchestrator.report.transfer_figure import is_drawable, transfer_figure
from orchestrator.terminal import print_runs
from orchestrator.transfer.terminal import print_transfer
from orchestrator.views import VIEWS
from tests.orchestrator.sample_transfer import (
    broken_transfer,
    single_transfer,
    starting_transfer,
    transfer_state,
    uneven_transfer,
)

STATES = {
    "family": transfer_state(),
    "single": single_transfer(),
    "uneven": uneven_transfer(),
    "starting": starting_transfer(),
    "broken": broken_transfer(),
}
RECORD: dict[str, Any] = {
    "versions": {"torch": "2.15.0"},
    "trial": {"start": "PAS-1-before", "seed": 0, "new_classifier": True, "train": {"lr": 0.01}, "clips": {"test": 2}},
}


class Cells(HTMLParser):
    """Text of a page's table cells, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def shown(state: dict[str, Any], width: int, report: Path | None = None) -> str:
    text = io.StringIO()
    print_transfer(Console(file=text, width=width), state, report)
    return text.getvalue()


# The page


def test_the_page_has_the_source_s_table() -> None:
    rows = Cells(render_transfer(transfer_state())).rows
    assert rows[:4] == [
        ["network", "GMACs", "of teacher", "parameters", "moving-digits",
         "split 1", "split 2", "split 3", "mean", "points"],
        ["teacher", "0.0398", "100 %", "541.3 k", "96.9", "95.0", "94.0", "96.0", "95.0 ± 1.0", ""],
        ["PAS-1", "0.0193", "48 %", "541.3 k", "95.3", "95.3", "95.5", "95.2", "95.3 ± 0.2", "+0.3"],
        ["PAS-2", "0.0123", "31 %", "541.3 k", "93.4", "90.0", "91.0", "90.5", "90.5 ± 0.5", "−4.5"],
    ]  # fmt: skip


def test_one_network_on_data_split_in_one_way_needs_no_columns_of_splits() -> None:
    rows = Cells(render_transfer(single_transfer())).rows
    assert rows[:2] == [
        ["network", "GMACs", "of PAS-1", "parameters", "moving-digits", "csv", "points"],
        ["PAS-1", "0.0193", "100 %", "541.3 k", "95.3", "95.3", ""],
    ]


def test_what_is_missing_is_explained() -> None:
    page = render_transfer(uneven_transfer())
    rows = Cells(page).rows
    assert rows[1][0].startswith("bigleft out: 84 % of the videos are shorter")
    assert rows[1][-2:] == ["left out", "–"]
    assert ["PAS-2", "0.0123", "31 %", "541.3 k", "93.4", "90.0", "–", "–", "90.0 (1/3)", "−6.0"] in rows
    assert "loss is &lt;nan&gt; in epoch 2" in page
    assert "<out of memory>" not in page


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_page_stands_alone_and_equal_states_give_equal_pages(state: dict[str, Any]) -> None:
    page = render_transfer(state)
    assert page == render_transfer(json.loads(json.dumps(state)))
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "orchestrate transfer --config settings.yaml" in page
    assert ("<svg" in page) == is_drawable(state) == (state["status"] == "finished")


def test_key_figures_and_recipe() -> None:
    figures = {name: (value, note) for name, value, note in transfer_key_figures(transfer_state())}
    assert figures["teacher"] == ("95.0 %", "top-1 on UCF101, the mean of 3 splits")
    assert figures["PAS-2"] == ("90.5 %", "−4.5 points against teacher")
    assert figures["Cost"][0] == "31 %"
    recipe = dict(transfer_recipe(transfer_state()))
    assert recipe["learning rate"] == "0.01: 0.1, with which they were trained, divided by 10"
    assert recipe["epochs"] == "5, in batches of 24 clips"


def test_report_and_picture_are_written(tmp_path: Path) -> None:
    page = write_transfer_report(transfer_state(), tmp_path)
    assert page == tmp_path / "report.html"
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert VIEWS["transfer"].headline(transfer_state()) in page.read_text().replace("\u00a0", " ").replace(
        "\u2011", "-"
    )


# The picture


def test_the_picture_has_every_network_before_and_after() -> None:
    (axes,) = transfer_figure(transfer_state()).axes
    lines = [np.asarray(line.get_xydata()) for line in axes.lines]
    before, after = (line for line in lines if len(line) == 3)
    np.testing.assert_allclose(before, [(0.0398, 96.9), (0.0193, 95.3), (0.0123, 93.4)])
    np.testing.assert_allclose(after, [(0.0398, 95.0), (0.0193, 286 / 3), (0.0123, 90.5)])
    assert [text.get_text() for text in axes.texts] == ["teacher", "PAS-1", "PAS-2"]


def test_a_picture_of_nothing_says_so() -> None:
    (axes,) = transfer_figure(starting_transfer()).axes
    assert [text.get_text() for text in axes.texts] == ["nothing is fine-tuned yet"]


# The card


def test_the_card_says_what_it_was_and_what_became_of_it() -> None:
    state = transfer_state()
    model = next(row for row in state["transfers"] if row["path"] == "models/PAS-1")
    card = transfer_card(model, state, RECORD)
    assert card.startswith(
        "# slowfast PAS-1 on UCF101\n\nA video classifier for 3 classes, fine-tuned on split 1 of UCF101"
    )
    assert "| top-1 before, on moving-digits | 95.3 % |" in card
    assert "+0.3 points against `teacher`, fine-tuned alike." in card
    assert "| split 1 | split 2 | split 3 | mean |\n|---:|---:|---:|---:|\n| 95.3 | 95.5 | 95.2 | 95.3 ± 0.2 |" in card
    assert "- start: trial `PAS-1-before`" in card
    assert '"new_classifier": true' in card


def test_the_card_of_a_single_network_compares_it_with_nothing() -> None:
    state = single_transfer()
    card = transfer_card(state["transfers"][0], state, RECORD)
    assert "fine-tuned on csv from the network" in card
    assert "fine-tuned alike" not in card
    assert "All splits" not in card


# The terminal


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(width: int) -> None:
    lines = shown(transfer_state(), width, Path("runs/mine/report.html")).splitlines()
    assert max(map(len, lines)) <= width
    header = next(line for line in lines if "network" in line)
    assert ("params" in header) == (width >= 100)
    row = next(line for line in lines if line.lstrip().startswith("PAS-1"))
    assert row.split()[-8:] == ["95.3", "95.3", "95.5", "95.2", "95.3", "±", "0.2", "+0.3"]


def test_the_terminal_tells_what_went_wrong() -> None:
    text = " ".join(shown(uneven_transfer(), 80).split())
    assert "big was left out: 84 % of the videos are shorter than its clip of 64 frames" in text
    assert "slowfast-PAS-2-ucf101-split2 diverged: loss is <nan> in epoch 2" in text
    assert "Points: against teacher." in text


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_every_state_can_be_shown_and_listed(state: dict[str, Any]) -> None:
    assert state["run"] in shown(state, 80)
    text = io.StringIO()
    print_runs(Console(file=text, width=120), [state])
    finished = any(row["path"] for row in state["transfers"])
    assert ("PAS-" in text.getvalue()) == finished
