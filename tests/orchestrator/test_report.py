import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from compression.spec import NetworkSpec
from orchestrator.report import (
    METRICS,
    WORDS,
    accuracy,
    clip,
    count,
    data_sizes,
    duration,
    gmacs,
    headline,
    metric_of,
    percent,
    points,
    share,
    standard_error,
)
from orchestrator.report.card import model_card
from orchestrator.report.figure import THEME, Curves, curves_figure, search_figure, to_svg
from orchestrator.report.html import comparisons, key_figures, noise, render, write_report
from tests.orchestrator.sample_state import empty_state, reid_state, running_state, sample_curves, sample_state

STATES = {"finished": sample_state, "running": running_state, "failed": empty_state, "reid": reid_state}
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """The elements, ids and text of a page; complains about elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(0.931), "93.1 %"),
        (percent(None), "–"),
        (share(10.2, 36.6), "28 %"),
        (share(1.4, 36.6), "3.8 %"),
        (share(9.96, 100.0), "10 %"),
        (share(1.0, None), "–"),
        (points(0.931, 0.96), "−2.9"),
        (points(0.97, 0.96), "+1.0"),
        (points(0.96004, 0.96), "0.0"),
        (points(None, 0.96), "–"),
        (gmacs(36.6), "36.6"),
        (gmacs(0.0108), "0.0108"),
        (gmacs(0.005), "0.00500"),
        (gmacs(0.000985), "0.000985"),
        (gmacs(1234.5), "1,234"),
        (gmacs(None), "–"),
        (count(541_320), "541.3 k"),
        (count(31_600_000), "31.6 M"),
        (count(42), "42"),
        (duration(48.2), "48 s"),
        (duration(59.7), "1 min 00 s"),
        (duration(11_100), "3 h 05 min"),
        (duration(187_200), "2 d 04 h"),
        (duration(None), "–"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


def test_standard_error_is_the_binomial_one() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("top1", "compared"),
    [
        (0.9325, "3.0 points below the teacher's"),
        (0.9725, "1.0 points above the teacher's"),
        (0.9625, "equal to the teacher's"),
    ],
)
def test_headline_compares_the_smallest_network_with_the_teacher(top1: float, compared: str) -> None:
    state = sample_state()
    state["family"][-1]["top1"] = top1
    assert headline(state).startswith(f"PAS-3 reaches {percent(top1)} top-1, {compared}")
    assert headline(state).endswith("with 14 % of its multiply-adds.")


def test_headline_speaks_of_map_where_networks_re_identify() -> None:
    assert headline(reid_state()) == (
        "PAS-2 reaches 80.0 % mAP, 8.7 points below the teacher's 88.7 %, with 18 % of its multiply-adds."
    )
    trained = {**reid_state(), "algorithm": "train", "iterations": [], "family": []}
    assert headline(trained) == "reid-teacher reaches 88.7 % mAP at 0.00553 GMACs."


def test_a_state_without_a_metric_is_of_networks_that_classify() -> None:
    state = sample_state()
    assert "metric" not in state
    assert "map" not in state["teacher"]
    assert (metric_of(state), accuracy(state["teacher"], "map")) == ("top1", None)


def test_every_metric_has_its_words() -> None:
    assert WORDS.keys() == METRICS.keys()
    for metric, spoken in WORDS.items():
        assert spoken.accuracies[spoken.metric] == metric


@pytest.mark.parametrize(
    ("row", "written"),
    [
        ({"frames": 32, "side": 48}, "32 × 48"),  # as before there were heights
        ({"frames": 32, "side": 48, "height": 48, "width": 48}, "32 × 48"),
        ({"frames": None, "side": 64, "height": 128, "width": 64}, "128 × 64"),
        ({"frames": None, "side": None}, "–"),
    ],
)
def test_input_is_written_as_what_it_is(row: dict[str, Any], written: str) -> None:
    assert clip(row) == written


def test_data_is_counted_by_what_it_is_for() -> None:
    assert data_sizes(sample_state()["data"]) == "480 for training, 320 for validation"
    assert data_sizes(reid_state()["data"]) == "912 for training, 128 queries, 748 in the gallery"


def test_headline_without_result_says_why() -> None:
    assert headline(running_state()) == "No network has been chosen yet: iteration 1 is being trained."
    assert headline(empty_state()) == "The search failed before a network was chosen: the teacher diverged."


@pytest.mark.parametrize("name", STATES)
def test_page_is_well_formed_and_needs_nothing_else(name: str) -> None:
    state = STATES[name]()
    text = render(state, sample_curves(state))
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert re.findall(r"""(?:href|src)=["'](?!#)|url\((?!#)|@import""", text) == []
    assert set(re.findall(r"""(?:href="|url\()#([^")]+)""", text)) <= set(page.ids)


def test_page_tells_everything_about_a_finished_search() -> None:
    state = sample_state()
    text = " ".join(Page(render(state, {})).text.split())
    for expected in (
        "diverged: loss is nan in epoch 2",
        "failed: <out of memory> & [gone]",
        "train/broken & short.mp4",
        "axis s (side) is exhausted",
        "most cost saved per point of top-1 lost (Eq. 6.1), because the cost ratio of l",
        "models/PAS-3",
        "teacher_mode: train",
        "9f86d081884c7d65",
        "One standard error of 87.5 % top-1 on 320 validation videos is 1.8 points.",
    ):
        assert expected in text


def test_page_of_networks_that_re_identify_speaks_of_map_and_images() -> None:
    state = reid_state()
    page = Page(render(state, sample_curves(state)))
    text = " ".join(page.text.split())
    for expected in (
        "mAP at 0.000985 GMACs per image",
        "46 × 23",
        "highest mAP (Eq. 6.3)",
        "most cost saved per point of mAP lost (Eq. 6.1)",
        "mAP is a mean over 128 queries",
        "control's mAP",
        "PAS-10.0028687.3 %70.1 %+17.2",  # its row
        "912 for training, 128 queries, 748 in the gallery",
        "identities48",  # the heading and its number are two elements
        "mAP (%)",
        "mAP of the evaluation between epochs",
    ):
        assert expected in text
    assert not {"top-1", "Top-1", "clip", "clips", "video", "videos", "classes"} & set(re.findall(r"[\w-]+", text))


def test_table_has_the_numbers_under_their_headings() -> None:
    text = render(reid_state(), {})
    family = text[text.index('<table class="family">') :]
    headings = re.findall(r"<th[^>]*>([^<]*)</th>", family[: family.index("</thead>")])
    teacher = re.findall(r"<td[^>]*>([^<]*)</td>", family[: family.index("</tr>", family.index("<tbody>"))])
    row = dict(zip(headings, teacher, strict=True))
    assert (row["mAP"], row["rank-1"], row["rank-5"]) == ("88.7 %", "94.4 %", "98.6 %")
    assert text.count('<td class="n">−8.7</td>') == 2, "points of mAP, in the family and in its iteration"


def test_key_figures_are_of_the_metric() -> None:
    assert key_figures(reid_state())[:2] == [
        ("Teacher", "88.7 %", "mAP at 0.00553 GMACs per image"),
        ("PAS-2", "80.0 %", "mAP at 0.000985 GMACs per image"),
    ]


def test_no_standard_error_is_claimed_of_map() -> None:
    assert "standard error of" in noise(sample_state())
    assert "no simple standard error" in noise(reid_state())
    state = reid_state()
    state["family"], state["teacher"]["map"] = [], None
    assert noise(state) == ""


def test_page_marks_exactly_the_winners() -> None:
    text = render(sample_state(), {})
    winners = re.findall(r'<tr class="winner"><td><span class="axis axis-(\w)"', text)
    assert winners == ["s", "s", "f"]


def test_text_from_outside_is_no_markup() -> None:
    state = sample_state()
    state["run"] = state["data"]["classes"][0] = state["stop_reason"] = "<script>alert(1)</script>"
    state["config"]["network"]["backbone"] = "</pre><script>"
    assert "<script" not in render(state, {})


def test_page_without_results_has_no_empty_pictures() -> None:
    assert "<svg" not in render(empty_state(), {})


def test_comparison_pairs_each_member_with_its_own_control() -> None:
    state = sample_state()
    state["iterations"][1]["control"] = None
    assert [(row["name"], control["top1"]) for row, control in comparisons(state)] == [
        ("PAS-1", 0.5656),
        ("PAS-3", 0.3906),
    ]


def test_report_is_the_same_every_time_and_leaves_nothing_else(tmp_path: Path) -> None:
    state = running_state()
    contents = []
    for _ in range(2):
        page = write_report(state, sample_curves(state), tmp_path)
        contents.append((page.read_bytes(), (tmp_path / "report.png").read_bytes()))
    assert contents[0] == contents[1]
    assert contents[0][1].startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.png"]


def test_failed_write_keeps_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = write_report(sample_state(), {}, tmp_path).read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_report(running_state(), {}, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == earlier
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.png"]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", STATES)
def test_pictures_only_have_colours_that_change_with_the_theme(name: str, narrow: bool) -> None:
    state = STATES[name]()
    for figure in (search_figure(state, narrow=narrow), curves_figure(state, sample_curves(state), narrow=narrow)):
        svg = to_svg(figure, "picture", "what it shows")
        outside = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", svg)
        assert re.findall(r"#[0-9a-fA-F]{6}\b", outside) == []


def test_theme_colours_are_distinct() -> None:
    lights = [light for light, _ in THEME.values()]
    assert len(set(lights)) == len(lights)


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(mpl.rcParams)
    to_svg(search_figure(sample_state()), "picture", "what it shows")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(("name", "metric"), [("finished", "top1"), ("reid", "map")])
def test_search_picture_has_every_measured_network_at_its_place(name: str, metric: str) -> None:
    state = STATES[name]()
    axes = search_figure(state).axes[0]
    drawn = {(x, y) for line in axes.lines for x, y in np.asarray(line.get_xydata()).tolist()}
    expected = {(state["teacher"]["gmacs"], 100 * state["teacher"][metric])}
    for iteration in state["iterations"]:
        rows = [*iteration["hypotheses"], *([iteration["control"]] if iteration["control"] else [])]
        expected |= {(row["gmacs"], 100 * row[metric]) for row in rows if row[metric] is not None}
    assert drawn == expected
    left, right = axes.get_xlim()
    assert left > right, "cost falls to the right"


def test_search_picture_does_not_blow_up_noise() -> None:
    low, high = search_figure(running_state()).axes[0].get_ylim()
    assert high - low == pytest.approx(10)


@pytest.mark.parametrize(
    ("state", "item", "label"), [(sample_state(), "clip", "top-1"), (reid_state(), "image", "mAP")]
)
def test_pictures_name_what_they_show(state: dict[str, Any], item: str, label: str) -> None:
    axes = search_figure(state).axes[0]
    assert axes.get_xlabel().startswith(f"GMACs per {item} ")
    assert axes.get_ylabel() == f"{label} (%)"
    labels = [panel.get_ylabel() for panel in curves_figure(state, sample_curves(state)).axes]
    assert [text for text in labels if text] == ["loss", f"{label} (%)"]


def test_costs_on_the_axis_have_no_exponent() -> None:
    state = reid_state()
    for row in (state["teacher"], *state["family"], *(h for i in state["iterations"] for h in i["hypotheses"])):
        row["gmacs"] /= 50
    axes = search_figure(state).axes[0]
    write = axes.xaxis.get_major_formatter()
    assert [write(value) for value in (0.00002, 0.0005, 0.02, 1.0, 50.0)] == ["0.00002", "0.0005", "0.02", "1", "50"]


@pytest.mark.parametrize(("narrow", "shape"), [(False, (2, 4)), (True, (4, 2))])
def test_curves_have_a_pair_of_panels_per_group(narrow: bool, shape: tuple[int, int]) -> None:
    state = sample_state()
    figure = curves_figure(state, sample_curves(state), narrow=narrow)
    grid = figure.axes[0].get_gridspec()
    assert grid is not None
    assert (grid.nrows, grid.ncols) == shape


def test_epochs_without_evaluation_leave_no_hole_in_the_curve() -> None:
    state = running_state()
    curves: Curves = {state["teacher"]["trial"]: sample_curves(state)[state["teacher"]["trial"]]}
    loss, top1 = (axes.lines[0] for axes in curves_figure(state, curves).axes)
    assert np.asarray(loss.get_xdata()).tolist() == list(range(1, 15))
    assert np.asarray(top1.get_xdata()).tolist() == [2, 4, 6, 8, 10, 12, 14]


def test_curves_of_map_are_drawn_from_the_epochs_that_have_it() -> None:
    """Epochs without evaluation may say nothing of mAP at all; rank 1, which they may also have, is not drawn."""
    state = reid_state()
    rows: list[dict[str, Any]] = [
        {"epoch": 1, "loss": 1.0, "top1": None},
        {"epoch": 2, "loss": 0.5, "top1": 0.9, "map": 0.75},
    ]
    _, right = (axes.lines[0] for axes in curves_figure(state, {state["teacher"]["trial"]: rows}).axes)
    assert np.asarray(right.get_xydata()).tolist() == [[2, 75]]


def test_card_says_what_it_is_what_it_costs_and_how_it_is_used() -> None:
    state: dict[str, Any] = sample_state()
    trial = {"clips": {"test": 2}, "train": {"lr": 0.01}, "distillation": {"temperature": 5.0}, "start": "0123"}
    card = model_card(state["family"][1], state, {"trial": trial, "versions": {"torch": "2.14.0"}})
    for expected in (
        "# slowfast PAS-2",
        "Reduced, in this order: side, side.",
        "| top-1 | 91.9 % | 96.2 % |",
        "−4.4 points of top-1 against the teacher, with 27 % of its multiply-adds",
        "orchestrate evaluate .",
        'load_package(Path("."))',
        "trial: `0000000200000115`",
        "fingerprint `9f86d081884c7d65`",
        "seed 0",
        "torch 2.14.0",  # those of the training, not of the search's last start
        '"lr": 0.01',
        '"temperature": 5.0',
    ):
        assert expected in card


REID = NetworkSpec(backbone="reid", classes=48, clip_frames=1, side=32, blocks=(2, 2, 2, 2), width=0.125, aspect=2.0)


@pytest.mark.parametrize("flip", [True, False])
def test_card_of_a_network_that_re_identifies(flip: bool) -> None:
    """ResNet-18 at an eighth of its width ends in 512 / 8 channels."""
    state = reid_state()
    trial = {"network": REID.to_dict(), "clips": None, "reid": {"flip": flip}, "train": {"lr": 0.01}}
    record = {"trial": {**trial, "distillation": None, "start": None}, "versions": {}}
    card = model_card(state["family"][1], state, record)
    for expected in (
        "A network that re-identifies (it embeds an image in 64 numbers), made from a larger teacher",
        "| mAP | 80.0 % | 88.7 % |",
        "| rank-1 | 90.0 % | 94.4 % |",
        "| GMACs per image | 0.000985 | 0.00553 |",
        "| height × width | 64 × 32 | 64 × 32 |",
        "−8.7 points of mAP against the teacher",
        "128 queries in a gallery of 748 images",
        "normalize(network(images))  # [image, 3, 64, 32] -> [image, 64]",
        "912 training images",
    ):
        assert expected in card
    assert ("mirror" in card) == flip
    assert "standard error" not in card


def test_card_of_the_teacher_claims_no_reduction() -> None:
    state = sample_state()
    trial: dict[str, Any] = {"clips": {}, "train": None, "distillation": None, "start": None}
    card = model_card({**state["teacher"], "sequence": ""}, state, {"trial": trial, "versions": {}})
    assert "A video classifier for 8 classes, the teacher of its run." in card
