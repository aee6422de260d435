import functools
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Annotation

from orchestrator.chain.table import chain_headline, change
from orchestrator.report.chain import chain_key_figures, render_chain, write_chain_report
from orchestrator.report.chain_card import step_card
from orchestrator.report.chain_figure import chain_figure
from orchestrator.report.figure import to_svg
from orchestrator.store import Store
from orchestrator.views import VIEWS
from tests.orchestrator.sample_chain import (
    broken_chain,
    chain_state,
    empty_chain,
    running_chain,
    short_chain,
    starting_chain,
    video_chain,
)
from tests.orchestrator.sample_quantise import layer
from tests.orchestrator.test_quantise_report import flat, record, rows_of
from tests.orchestrator.test_report import Page

STATES = {
    "finished": chain_state,
    "video": video_chain,
    "short": short_chain,
    "running": running_chain,
    "starting": starting_chain,
    "broken": broken_chain,
    "failed": empty_chain,
}


@functools.cache
def page_of(name: str) -> str:
    """The page of one of `STATES`; drawing it takes most of a test's time."""
    return render_chain(STATES[name]())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "finished",
            "PAS-2 (c, l), AGP 0.5, INT8 by QAT: 91.3 % mAP at 0.260 ms per image, 2.1 points below the teacher, 11 "
            "times faster and 49 times smaller.",
        ),
        (
            "video",
            "PAS-2 (s, s), AGP 0.5, INT8 by QAT: 90.7 % top-1 at 0.260 ms per clip, 2.7 points below the teacher, 11 "
            "times faster and 49 times smaller. The gate rejects it: loses 1.2 points of accuracy, more than the 1 "
            "allowed.",
        ),
        ("running", "So far, PAS-2 (c, l): 93.0 % mAP, 0.4 points below the teacher."),
        ("starting", "No step is done yet: the teacher is being trained or measured."),
        (
            "broken",
            "PAS-2 (c, l): 93.0 % mAP at 1.02 ms per image, 0.4 points below the teacher, 2.8 times faster and 4.5 "
            "times smaller. The chain ended there: AGP 0.5 diverged.",
        ),
        ("failed", "The chain failed before its first step was done: the teacher diverged."),
    ],
)
def test_headline(name: str, expected: str) -> None:
    assert chain_headline(STATES[name]()) == expected


def test_headline_of_a_chain_that_was_cut_off() -> None:
    state = {**running_chain(), "status": "interrupted"}
    assert chain_headline(state).endswith("0.4 points below the teacher. The chain was interrupted there.")


def test_headline_before_the_first_step_is_done() -> None:
    state = running_chain()
    state["steps"][0].update(map=None, status="pending")
    assert chain_headline(state) == "No step is done yet: PAS-2 (c, l) is under way."


@pytest.mark.parametrize(("drop", "expected"), [(0.57, "−0.6"), (-1.08, "+1.1"), (0.0, "0.0"), (None, "–")])
def test_points_lost_are_written_as_a_change(drop: float | None, expected: str) -> None:
    assert change(drop) == expected


def test_key_figures_compare_with_the_teacher() -> None:
    figures = {name: (value, note) for name, value, note in chain_key_figures(chain_state())}
    assert figures["Teacher"] == ("93.4 %", "mAP at 0.00553 GMACs per image")
    assert figures["INT8 by QAT"] == ("91.3 %", "mAP, 2.1 points below the teacher")
    assert figures["Faster"] == ("11×", "0.260 ms, where the teacher takes 2.85")  # 2.85 / 0.26
    assert figures["Smaller"] == ("49×", "0.0571 MB, where the teacher has 2.81")  # 2.81 / 0.0571
    assert figures["Cost"][0] == "4.5 %"  # 0.000251 / 0.00553
    assert "Faster" not in {name for name, *_ in chain_key_figures(running_chain())}


@pytest.mark.parametrize("name", STATES)
def test_page_is_well_formed_and_needs_nothing_else(name: str) -> None:
    page = Page(page_of(name))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert re.findall(r"""(?:href|src)=["'](?!#)|url\((?!#)|@import""", page_of(name)) == []
    assert "None" not in page.text


def test_page_has_every_step() -> None:
    assert rows_of(page_of("finished"), "Step by step") == [
        ["Teacher", "93.4", "", "", "0.00553", "702.1 k", "2.81", "", "2.85", "", "finished"],
        ["PAS-2 (c, l)models/1-pas", "93.0", "−0.4", "−0.4", "0.000985", "155.8 k", "0.624", "4.5×", "1.02", "2.8×",
         "finished"],
        ["AGP 0.5models/2-prune", "91.9", "−1.1", "−1.5", "0.000251", "39.4 k", "0.158", "18×", "0.610", "4.7×",
         "finished"],
        ["INT8 by QATmodels/3-int8", "91.3", "−0.6", "−2.1", "0.000251", "39.4 k", "0.0571", "49×", "0.260", "11×",
         "accepted"],
    ]  # fmt: skip


def test_page_of_a_rejected_network_says_why() -> None:
    last = rows_of(page_of("video"), "Step by step")[-1]
    assert last[-1] == "rejected: loses 1.2 points of accuracy, more than the 1 allowed (--max-drop-points)"


def test_page_has_the_search_in_short() -> None:
    rows = rows_of(page_of("finished"), "The search")
    assert [row[0] for row in rows] == ["1", "2"]
    assert rows[1][1:7] == ["l layers", "0.000985", "18 %", "155.8 k", "93.0", "−0.4"]
    assert rows[1][7] == "s 93.1 %c diverged"
    assert rows[1][8] == "most cost saved per point of mAP lost (Eq. 6.1)"
    assert "<h2>The search</h2>" not in page_of("short")


def test_page_shows_an_iteration_that_is_under_way() -> None:
    state = running_chain()
    state["iterations"] = state["iterations"][:1]
    state["iterations"][0].update(winner=None, rule=None, why=None)
    (row,) = rows_of(render_chain(state), "The search")
    assert row[1] == "nothing chosen yet"
    assert row[7].startswith("s ")
    assert row[8] == "–"


def test_page_has_the_layers_of_the_quantised_network() -> None:
    rows = rows_of(page_of("finished"), "Layer by layer")
    assert rows[0] == ["stem.conv", "conv2d", "float", "–", "excluded"]
    assert len(rows) == 12
    assert "INT8 by QAT: 9 of 10 layers with weights in INT8" in flat(page_of("finished"))
    assert "Layer by layer" not in page_of("broken")


def test_page_tells_everything_else() -> None:
    text = flat(page_of("finished"))
    for expected in (
        "finished (3 of 3 steps done)",
        "layer1.0.conv1 keeps 1 of 8 filters where 0.5 leaves 0.8",
        "median of 30 forward passes, batch 1, 1 thread of Little CPU @ 1.00GHz",
        "orchestrate chain --config settings.yaml",
        "step: prune",
        "0b5c1d3f7e9a2468",
    ):
        assert expected in text
    assert "loss is <nan> in epoch 2" in flat(page_of("broken"))


def test_a_step_without_a_trial_is_shown() -> None:
    state = broken_chain()
    nothing = dict.fromkeys(("gmacs", "params", "frames", "side", "height", "width", "trial"))
    state["steps"][1].update(nothing, status="failed", reason=None)
    page = Page(render_chain(state))
    assert "None" not in page.text


def test_text_from_outside_is_no_markup() -> None:
    state = chain_state()
    bad = "<script>alert(1)</script>"
    state["run"] = state["stop_reason"] = state["latency"]["machine"] = bad
    for row in state["steps"]:
        row.update(name=bad, title=bad, trial=bad, path=bad, notes=[bad], accepted=False, rejected=[bad])
    state["steps"][2]["layers"] = [layer(bad, bad, fused=[bad]), layer(bad, bad, precision="float", reason=bad)]
    assert "<script" not in render_chain(state)


def test_report_is_the_same_every_time_and_leaves_nothing_else(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        page = write_chain_report(chain_state(), tmp_path)
        contents.append((page.read_bytes(), (tmp_path / "report.png").read_bytes()))
    assert contents[0] == contents[1]
    assert contents[0][1].startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.png"]


def test_view_writes_the_report(tmp_path: Path) -> None:
    page = VIEWS["chain"].write_report(Store(tmp_path / "runs"), starting_chain(), tmp_path)
    assert "No step is done yet" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", STATES)
def test_pictures_only_have_colours_that_change_with_the_theme(name: str, narrow: bool) -> None:
    svg = to_svg(chain_figure(STATES[name](), narrow=narrow), "picture", "what it shows")
    outside = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", svg)
    assert re.findall(r"#[0-9a-fA-F]{6}\b", outside) == []


def test_picture_leads_from_the_teacher_to_the_end() -> None:
    path = chain_figure(chain_state()).axes[0].lines[0]
    expected = [[2.85, 93.42], [1.02, 93.02], [0.61, 91.88], [0.26, 91.31]]
    np.testing.assert_allclose(np.asarray(path.get_xydata()), expected)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", ["finished", "video", "short", "broken"])
def test_labels_hide_neither_each_other_nor_a_network(name: str, narrow: bool) -> None:
    figure = chain_figure(STATES[name](), narrow=narrow)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts if isinstance(text, Annotation)]
    assert len(boxes) == len(np.asarray(axes.lines[0].get_xydata()))
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    networks = axes.transData.transform(np.asarray(axes.lines[0].get_xydata()))
    assert not any(box.contains(*point) for box in boxes for point in networks)
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def card_of(state: dict[str, Any], number: int, **trial: Any) -> str:
    return step_card(state["steps"][number], state, record(**trial))


def test_card_of_the_first_step_compares_with_the_teacher() -> None:
    card = card_of(chain_state(), 0, network={})
    assert card.startswith("# PAS-2 (c, l) of reid\n\nA reid network that embeds images for re-identification. ")
    assert "Made from `reid-teacher` in 1 step: PAS-2 (c, l) (shrunk by progressive architecture shrinkage)." in card
    table = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", card, re.M))
    assert table["mAP"] == "93.0 % | 93.4 %"
    assert "−0.4 points of mAP against the teacher; 2.8 times faster and 4.5 times smaller." in card
    assert "## Notes\n\n- axis t changes nothing" in card
    assert "rejected" not in card


def test_card_of_the_last_step_says_what_it_must_beat() -> None:
    card = card_of(chain_state(), 2)
    assert card.split("\n\n")[1].startswith("Accepted: no slower than `../2-prune` on the machine below")
    assert "Made from `reid-teacher` in 3 steps: PAS-2 (c, l)" in card
    table = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", card, re.M))
    assert table["latency in ms per image"] == "0.260 | 0.610 | 2.85"
    for told in (
        "by the engine `onednn`",
        "−0.6 points of mAP against the step before (AGP 0.5); 2.3 times faster and 2.8 times smaller.",
        "−2.1 points of mAP against the teacher; 11 times faster and 49 times smaller.",
        "9 of 10 layers with weights run in INT8",
        "- `stem.conv`: excluded",
        "load_package(Path(",
    ):
        assert told in card
    assert "None" not in card
    assert "\n\n\n" not in card


def test_card_of_a_rejected_step_says_so_on_top() -> None:
    second = card_of(video_chain(), 2).split("\n\n")[1]
    assert second.startswith("**rejected**: loses 1.2 points of accuracy")
    assert second.endswith("Use `../2-prune` instead.")


def test_a_step_that_left_nothing_is_not_what_the_next_is_compared_with() -> None:
    state = chain_state()
    state["steps"][1].update(path=None, title="nothing was pruned")
    state["steps"][2]["original"] = "../1-pas"
    card = card_of(state, 2)
    assert "against the step before (PAS-2 (c, l))" in card
    assert "in 2 steps:" in card
    assert "nothing was pruned" not in card
