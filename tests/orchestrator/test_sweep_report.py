import functools
import itertools
import re
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from orchestrator.report.figure import THEME, to_svg, write_png
from orchestrator.report.sweep import render_sweep, sweep_key_figures, write_sweep_report
from orchestrator.report.sweep_figure import (
    HEAT,
    HEAT_INVERTED,
    heat_step,
    sensitivity_figure,
    sensitivity_picture,
    sweep_figure,
)
from orchestrator.sweep.table import (
    best,
    by_sensitivity,
    chosen,
    columns,
    mean_front,
    milliseconds,
    notes,
    pareto_front,
    prune_headline,
    scatter,
    sensitivity_headline,
    summarise,
    written,
    written_drop,
)
from tests.orchestrator.sample_sweep import (
    TEACHER,
    cell,
    empty_sensitivity,
    empty_sweep,
    running_sensitivity,
    running_sweep,
    sensitivity_state,
    small_sweep,
    sweep_state,
    unfinished,
)
from tests.orchestrator.test_report import Page

SWEEPS = {
    "finished": sweep_state,
    "one seed": lambda: sweep_state((0,), ()),
    "video": small_sweep,
    "running": running_sweep,
    "failed": empty_sweep,
}
SENSITIVITIES = {"finished": sensitivity_state, "running": running_sensitivity, "failed": empty_sensitivity}
STATES = {**SWEEPS, **{f"sensitivity {name}": make for name, make in SENSITIVITIES.items()}}


@functools.cache
def page_of(name: str) -> str:
    """The page of one of `STATES`; drawing it takes most of a test's time."""
    return render_sweep(STATES[name]())


def placed(gmacs: float, map: float | None, trial: str, **changes: Any) -> dict[str, Any]:
    """A cell of which only cost and accuracy matter."""
    return {"gmacs": gmacs, "map": map, "top1": map, "trial": trial, "status": "finished", "control": None, **changes}


def relative_luminance(colour: str) -> float:
    """Of WCAG 2."""
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def flat(text: str) -> str:
    return " ".join(Page(text).text.split())


def test_summary_is_mean_and_sample_deviation_over_the_seeds() -> None:
    cells = [cell("l1", 0.5, seed, map=value) for seed, value in enumerate((0.80, 0.82, 0.84))]
    (row,) = summarise(cells)
    assert (row.pruner, row.control, row.sparsity, row.finished, row.cells) == ("l1", None, 0.5, 3, 3)
    assert row.mean == pytest.approx(0.82)
    assert row.deviation == pytest.approx(0.02)  # sqrt((0.02² + 0 + 0.02²) / 2)
    assert written(row) == "82.0 ± 2.0"


def test_one_seed_has_no_deviation_and_missing_seeds_are_counted() -> None:
    cells = [cell("l1", 0.5, 0, map=0.8), unfinished(cell("l1", 0.5, 1), "failed", "gone")]
    (row,) = summarise(cells)
    assert row.deviation is None
    assert row.status == "failed"
    assert written(row) == "80.0 (1/2)"


@pytest.mark.parametrize(("status", "expected"), [("pending", "–"), ("failed", "failed"), ("diverged", "diverged")])
def test_cell_without_result_says_why(status: str, expected: str) -> None:
    assert written(*summarise([unfinished(cell("l1", 0.5), status)])) == expected


def test_accuracy_of_a_cell_that_did_not_finish_does_not_count() -> None:
    (row,) = summarise([cell("l1", 0.5, 0, map=0.8), {**cell("l1", 0.5, 1, map=0.1), "status": "diverged"}])
    assert row.mean == pytest.approx(0.8)


def test_summaries_of_classifiers_are_of_top1() -> None:
    (row,) = summarise([{**cell("l1", 0.5), "map": None, "top1": 0.75}])
    assert row.mean == 0.75


def test_control_by_lot_is_no_pruner_by_lot() -> None:
    rows = summarise([cell("random", 0.5, control="random", map=0.6), cell("random", 0.5, map=0.7)])
    assert [(row.control, row.mean) for row in rows] == [(None, 0.7), ("random", 0.6)]


def test_columns_are_in_the_order_of_the_source_then_the_controls() -> None:
    shuffled = sorted(sweep_state()["cells"], key=lambda row: str(row["trial"]))
    assert [column.label for column in columns(summarise(shuffled))] == ["L1", "L2", "FPGM", "AGP", "scratch", "random"]


def test_front_by_hand() -> None:
    rows = [
        placed(1.0, 0.9, "unpruned"),
        placed(0.5, 0.8, "on it"),
        placed(0.5, 0.7, "as cheap, less accurate"),
        placed(0.6, 0.8, "dearer, as accurate"),
        placed(0.2, 0.5, "tie one"),
        placed(0.2, 0.5, "tie two"),
        placed(0.1, 0.95, "control", control="random"),
        placed(0.1, 0.95, "late", status="diverged"),
        placed(0.1, None, "pending", status="pending"),
    ]
    assert pareto_front(rows) == {"unpruned", "on it", "tie one", "tie two"}


def test_front_is_what_comparing_every_pair_gives() -> None:
    generator = np.random.default_rng(0)
    points = generator.integers(1, 12, (60, 2)) / 10
    rows = [placed(float(cost), float(value), str(number)) for number, (cost, value) in enumerate(points)]

    def better(one: dict[str, Any], other: dict[str, Any]) -> bool:
        no_worse = one["gmacs"] <= other["gmacs"] and one["map"] >= other["map"]
        return no_worse and (one["gmacs"], one["map"]) != (other["gmacs"], other["map"])

    beaten = {row["trial"] for other, row in itertools.permutations(rows, 2) if better(other, row)}
    assert beaten
    assert pareto_front(rows) == {row["trial"] for row in rows} - beaten


def test_front_of_means_is_beaten_by_the_unpruned_network() -> None:
    rows = summarise([cell("l1", 0.0, map=0.80), cell("l1", 0.5, map=0.70), cell("l2", 0.5, map=0.71)])
    assert [row.name for row in mean_front(rows, TEACHER)] == ["L2 at sparsity 0.5"]
    assert [row.name for row in mean_front(rows, {**TEACHER, "map": 0.60})] == [
        "L1 at sparsity 0",
        "L2 at sparsity 0.5",
    ]


def test_best_of_a_row_is_among_pruners_and_shared_by_equals() -> None:
    cells = [cell("l1", 0.5, map=0.8), cell("l2", 0.5, map=0.8), cell("agp", 0.5, map=0.7)]
    rows = summarise([*cells, cell("random", 0.5, control="random", map=0.9)])
    assert [row.pruner for row in best(rows, 0.5)] == ["l1", "l2"]
    assert best(summarise([cells[0]]), 0.5) == [], "a single pruner is compared with nothing"


def test_the_network_to_speak_of_is_the_cheapest_close_one() -> None:
    cells = [cell("l1", 0.3, map=0.8821), cell("agp", 0.5, map=0.8621), cell("agp", 0.6, map=0.8620)]
    row = chosen(summarise(cells), TEACHER)
    assert row is not None
    assert row.name == "AGP at sparsity 0.5", "2.0 points are close, 2.01 are not"


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        (0.8701, "AGP at sparsity 0.5 keeps mAP 87.0 %, 1.2 points below the unpruned network, with 25 % of its "),
        (0.8921, "AGP at sparsity 0.5 keeps mAP 89.2 %, 1.0 points above the unpruned network, with 25 % of its "),
        (0.8821, "AGP at sparsity 0.5 keeps mAP 88.2 %, equal to the unpruned network, with 25 % of its "),
        (0.7021, "AGP at sparsity 0.5 comes nearest with mAP 70.2 %, 18.0 points below the unpruned network, with "),
    ],
)
def test_headline_compares_with_the_unpruned_network(reached: float, expected: str) -> None:
    summaries = summarise([cell("agp", 0.5, map=reached), cell("l1", 0.5, map=0.6)])
    assert prune_headline(sweep_state(), summaries).startswith(expected)


def test_headline_without_result_says_why() -> None:
    state = running_sweep()
    state["cells"] = [unfinished(row, "pending") for row in state["cells"]]
    assert prune_headline(state, summarise(state["cells"])) == "Nothing can be compared yet: 0 of 144 cells are done."
    state["teacher"].update(map=None, status="running")
    assert prune_headline(state, []) == "Nothing is pruned yet: the unpruned network is being measured."
    expected = "The sweep failed before any pruned network could be compared: the teacher diverged."
    assert prune_headline(empty_sweep(), []) == expected
    assert sensitivity_headline(empty_sensitivity()) == expected


def test_sensitivity_headline_names_the_worst_layer() -> None:
    state = sensitivity_state(4)
    state["layers"][2]["points"][1]["map"] = 0.0821
    state["layers"][3]["max_sparsity"] = 0.5
    for layer in state["layers"][:3]:
        layer["max_sparsity"] = 0.25
    assert sensitivity_headline(state) == (
        "1 of 4 layers alone can lose half of their filters or more for at most 2 points of mAP; the most sensitive, "
        "layer3.2.conv1, costs 80.0 points at sparsity 0.5."
    )


def test_a_layer_that_broke_does_not_look_robust() -> None:
    state = sensitivity_state()
    second, third = state["layers"][1:3]
    assert second["points"][-1]["status"] == "failed"
    drops = [
        [100 * (TEACHER["map"] - point["map"]) for point in row["points"] if point["map"]] for row in (second, third)
    ]
    assert statistics.mean(drops[0]) < statistics.mean(drops[1]), "as far as it was measured, it lost less"
    assert by_sensitivity(state)[1:3] == [second, third]


def test_notes_are_said_once_with_all_that_they_are_about() -> None:
    cells = [{**cell("l1", 0.5, seed), "notes": ["a", "b"][: seed + 1]} for seed in (0, 1)]
    assert notes([*cells, cells[0]]) == {"a": ["reid-l1-0.5", "reid-l1-0.5-seed1"], "b": ["reid-l1-0.5-seed1"]}


def test_scatter_says_what_it_can() -> None:
    assert scatter(summarise([cell("l1", 0.5)])).startswith("One seed each")
    three = [cell("l1", 0.5, 0), cell("l1", 0.5, 1), unfinished(cell("l1", 0.5, 2), "pending")]
    assert scatter(summarise(three)).endswith("In brackets: seeds that are finished.")
    assert "brackets" not in scatter(summarise(three[:2]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (milliseconds(4.312), "4.31"),
        (milliseconds(0.84249), "0.842"),
        (milliseconds(2.0), "2.00"),
        (milliseconds(1234.5), "1,234"),
        (milliseconds(None), "–"),
        (written_drop(4.25), "4.2"),
        (written_drop(-0.21), "−0.2"),
        (written_drop(-0.04), "0.0"),
    ],
)
def test_numbers_are_written_for_people(text: str, expected: str) -> None:
    assert text == expected


def test_key_figures_compare_with_the_unpruned_network() -> None:
    state = sweep_state()
    figures = {name: value for name, value, _ in sweep_key_figures(state, summarise(state["cells"]))}
    assert figures["Unpruned"] == "88.2 %"
    assert figures["Cost"] == figures["Size"] == "49 %"  # (1 − 0.3)²
    assert figures["Latency"] == "2.44"  # 4.31 · (0.15 + 0.85 · 0.49)


@pytest.mark.parametrize("name", STATES)
def test_page_is_well_formed_and_needs_nothing_else(name: str) -> None:
    text = page_of(name)
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert re.findall(r"""(?:href|src)=["'](?!#)|url\((?!#)|@import""", text) == []
    assert set(re.findall(r"""(?:href="|url\()#([^")]+)""", text)) <= set(page.ids)


def test_page_has_every_number_of_the_source_table() -> None:
    state = sweep_state()
    text = page_of("finished")
    table = text[text.index('<table class="source">') :].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]]
    assert rows[0] == ["unpruned", "88.2", "88.2", "88.2", "88.2", "", "88.2"]
    assert [row[0] for row in rows[1:]] == ["0.1", "0.2", "0.3", "0.5", "0.6", "0.7", "0.8", "0.9"]
    for line, pruner in ((4, "l1"), (8, "agp")):
        found = [row["map"] for row in state["cells"] if row["name"].startswith(f"reid-{pruner}-{rows[line][0]}")]
        measured = [100 * value for value in found if value is not None]
        expected = f"{statistics.mean(measured):.1f} ± {statistics.stdev(measured):.1f}"
        assert rows[line][1 if pruner == "l1" else 4] == expected
    assert re.findall(r'best">([^<]+)', table) == [row[4] for row in rows[1:]], "AGP is best in every row"


def test_page_tells_everything_about_a_finished_sweep() -> None:
    text = flat(page_of("finished"))
    for expected in (
        "finished (142 of 144 cells done)",
        "loss is nan in epoch 2",
        "<out of memory> & [gone]",
        "layer1.0.conv1 keeps 1 of 8 filters where 0.9 leaves 0.8",
        "reid-l1-0.9, reid-l1-0.9-seed1",
        "Control scratch: each sparsity's architecture trained from random weights",
        "Control random: filters chosen by lot",
        "sample standard deviation over the seeds (n − 1)",
        "median of 30 forward passes, batch 1, 1 thread of Little CPU @ 1.00GHz",
        "models/agp-0.5",
        "orchestrate sweep prune --config settings.yaml",
        "scope: local",
        "912 for training, 128 queries, 748 in the gallery",
        "0b5c1d3f7e9a2468",
    ):
        assert expected in text


def test_page_without_latency_has_no_column_for_it() -> None:
    assert ">ms<" in page_of("finished")
    assert ">ms<" not in page_of("video")


def test_page_shows_reached_sparsities_where_they_are_known() -> None:
    state = small_sweep()
    assert '<th class="n">reached</th>' not in page_of("video")
    state["cells"][0]["reached"] = 0.289
    assert "28.9 %" in flat(render_sweep(state))


def test_page_marks_exactly_the_front() -> None:
    state = sweep_state()
    table = page_of("finished").split("<h2>What it costs</h2>")[1].split("</table>")[0]
    marked = re.findall(r'<tr class="winner"><td>.*?</span>([^<]+)</td><td class="n">([^<]+)', table)
    front = mean_front(summarise(state["cells"]), state["teacher"])
    assert marked == [(row.column.label, f"{row.sparsity:g}") for row in front]
    assert len(marked) == 8


def test_classifiers_are_spoken_of_by_top1() -> None:
    text = flat(page_of("video"))
    assert "mAP" not in text
    assert "Top-1 by pruner and sparsity" in text
    assert "480 for training, 320 for validation" in text


def test_text_from_outside_is_no_markup() -> None:
    state = sweep_state((0,), ())
    state["run"] = state["stop_reason"] = state["latency"]["machine"] = "<script>alert(1)</script>"
    state["cells"][0].update(notes=["<script>"], name="<script>", trial="<script>")
    assert "<script" not in render_sweep(state)
    state = sensitivity_state()
    state["layers"][0].update(layer="<script>", coupled=["<script>", "</td><script>"])
    assert "<script" not in render_sweep(state)


@pytest.mark.parametrize("name", ["failed", "sensitivity failed", "sensitivity running"])
def test_page_without_results_has_no_empty_pictures(name: str) -> None:
    assert "<svg" not in page_of(name)


def test_pending_cells_are_dashes() -> None:
    table = page_of("running").split('<table class="source">')[1].split("</table>")[0]
    assert table.count(">–<") == 8 * 6 - 3


def test_page_has_the_heat_map_and_says_how_to_use_it() -> None:
    state = sensitivity_state()
    text = page_of("sensitivity finished")
    body = text.split("<tbody>")[1].split("</tbody>")[0]
    first = body.strip().splitlines()[0]
    drops = [100 * (state["teacher"]["map"] - point["map"]) for point in state["layers"][0]["points"]]
    assert re.findall(r'class="heat-(\d)">([\d.−]+)', first) == [
        (str(heat_step(drop, 2.0)), f"{drop:.1f}") for drop in drops
    ]
    assert first.endswith('<td class="n">0</td></tr>')
    assert "with layer1.downsample.0" in first
    assert '<td class="none bad">failed</td>' in body
    assert "sweep prune --model reid --layer-sparsity runs/reid-sensitivity-9c8b7a6d/sensitivity.yaml<" in text
    assert "--layer-sparsity" not in page_of("sensitivity running")


@pytest.mark.parametrize(
    ("drop", "max_drop", "step"), [(-3, 2, 0), (0.5, 2, 0), (0.51, 2, 1), (2, 2, 2), (2.1, 2, 3), (99, 2, 5), (1, 0, 2)]
)
def test_heat_has_one_colour_up_to_the_accepted_drop_and_another_beyond(
    drop: float, max_drop: float, step: int
) -> None:
    assert heat_step(drop, max_drop) == step


def test_text_in_heat_can_be_read_in_light_and_dark() -> None:
    """Contrast of at least 4.5 : 1 (WCAG 2, level AA)."""
    for theme, (step, shades) in itertools.product((0, 1), enumerate(HEAT)):
        ink = THEME["paper" if step >= HEAT_INVERTED else "ink"][theme]
        low, high = sorted(map(relative_luminance, (ink, shades[theme])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (theme, step)


def test_heat_only_grows_stronger() -> None:
    for theme, sign in ((0, -1), (1, 1)):
        shades = [sign * relative_luminance(pair[theme]) for pair in HEAT]
        assert shades == sorted(shades)


@pytest.mark.parametrize("make", [small_sweep, lambda: sensitivity_state(4)], ids=["prune", "sensitivity"])
def test_report_is_the_same_every_time_and_leaves_nothing_else(make: Any, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        page = write_sweep_report(make(), tmp_path)
        contents.append((page.read_bytes(), (tmp_path / "report.png").read_bytes()))
    assert contents[0] == contents[1]
    assert contents[0][1].startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.png"]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", STATES)
def test_pictures_only_have_colours_that_change_with_the_theme(name: str, narrow: bool) -> None:
    draw = sensitivity_figure if name.startswith("sensitivity") else sweep_figure
    svg = to_svg(draw(STATES[name](), narrow=narrow), "picture", "what it shows")
    outside = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", svg)
    assert re.findall(r"#[0-9a-fA-F]{6}\b", outside) == []


@pytest.mark.parametrize("layers", [0, 1, 30])
def test_picture_of_layers_is_drawn_for_any_number_of_them(layers: int, tmp_path: Path) -> None:
    state = sensitivity_state(max(2, layers))
    state["layers"] = state["layers"][:layers]
    write_png(sensitivity_picture(state), tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 0


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(mpl.rcParams)
    to_svg(sweep_figure(sweep_state()), "picture", "what it shows")
    assert dict(mpl.rcParams) == before


def drawn(axes: Axes) -> set[tuple[float, float]]:
    return {(x, y) for line in axes.lines for x, y in np.asarray(line.get_xydata()).round(9).tolist()}


def test_sweep_picture_has_every_mean_at_its_place() -> None:
    state = sweep_state()
    axes = sweep_figure(state).axes[0]
    expected = {(round(row.gmacs or 0, 9), round(100 * (row.mean or 0), 9)) for row in summarise(state["cells"])}
    assert drawn(axes) == expected | {(0.01184, 88.21)}
    left, right = axes.get_xlim()
    assert left > right, "cost falls to the right"


def test_band_is_one_deviation_to_either_side() -> None:
    cells = [cell("l1", sparsity, seed, map=0.8 + 0.02 * seed) for sparsity in (0.3, 0.5) for seed in (0, 1, 2)]
    (band,) = sweep_figure({**sweep_state(), "cells": cells}).axes[0].collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert heights.min() == pytest.approx(80)
    assert heights.max() == pytest.approx(84)
    assert not sweep_figure(small_sweep()).axes[0].collections, "a single seed has no band"


def test_curves_of_pruners_start_at_the_unpruned_network_and_scratch_does_not() -> None:
    cells = [cell("l1", 0.5), cell("scratch", 0.5, control="scratch"), cell("random", 0.5, control="random")]
    pruner, scratch, *_ = sweep_figure({**sweep_state(), "cells": cells}).axes[0].lines
    assert len(np.asarray(pruner.get_xydata())) == 2
    assert len(np.asarray(scratch.get_xydata())) == 1


@pytest.mark.parametrize("unpruned", [0.8821, 0.70])
def test_stepped_line_is_the_best_accuracy_for_every_cost(unpruned: float) -> None:
    """Also where a pruned network is more accurate than the unpruned one, which then is not on it."""
    state = sweep_state()
    state["teacher"]["map"] = unpruned
    axes = sweep_figure(state).axes[0]
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    points = np.asarray(steps.get_xydata())
    assert (np.diff(points[:, 0]) > 0).all()
    assert (np.diff(points[:, 1]) > 0).all()


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", ["finished", "one seed", "video"])
def test_labels_hide_neither_each_other_nor_a_network(name: str, narrow: bool) -> None:
    figure = sweep_figure(SWEEPS[name](), narrow=narrow)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    assert len(labels) >= 2
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    networks = axes.transData.transform(list(drawn(axes)))
    assert not any(box.contains(*point) for box in boxes for point in networks)
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_sensitivity_picture_tells_the_worst_layers_apart() -> None:
    state = sensitivity_state(60)
    figure = sensitivity_figure(state)
    assert len(figure.axes[0].lines) == 60 + 1
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [*(layer["layer"] for layer in by_sensitivity(state)[:5]), "55 other layers", "2 points lost"]
