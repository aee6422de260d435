import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from orchestrator.quantise.table import (
    best_of,
    coverage,
    decibels,
    decided_layers,
    factor,
    in_points,
    layer_lines,
    left_in_float,
    megabytes,
    quantise_headline,
    scatter,
    summarise,
    times,
    written,
)
from orchestrator.report.figure import THEME, to_svg
from orchestrator.report.quantise import quantise_key_figures, quantise_recipe, render_quantise, write_quantise_report
from orchestrator.report.quantise_card import quantised_card
from orchestrator.report.quantise_figure import quantise_figure
from orchestrator.store import Store
from orchestrator.views import VIEWS
from tests.orchestrator.sample_quantise import (
    SLOW,
    TEACHER,
    broken_sweep,
    candidate,
    empty_sweep,
    layer,
    quantise_state,
    rejected_sweep,
    running_sweep,
    video_sweep,
    without_result,
)
from tests.orchestrator.test_report import Page

STATES = {
    "finished": quantise_state,
    "video": video_sweep,
    "rejected": rejected_sweep,
    "running": running_sweep,
    "broken": broken_sweep,
    "failed": empty_sweep,
}


@functools.cache
def page_of(name: str) -> str:
    """The page of one of `STATES`; drawing it takes most of a test's time."""
    return render_quantise(STATES[name]())


def flat(text: str) -> str:
    return " ".join(Page(text).text.split())


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Cells of the table below a heading, as text."""
    table = text.split(f"<h2>{heading}</h2>")[1].split("</table>")[0]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table)
    return [[flat(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows[1:]]


def test_summary_is_mean_and_sample_deviation_over_the_seeds() -> None:
    rows = [candidate("qat", seed, map=value) for seed, value in enumerate((0.92, 0.93, 0.94))]
    (row,) = summarise(rows)
    assert row.mean == pytest.approx(0.93)
    assert row.deviation == pytest.approx(0.01)  # sqrt((0.01² + 0 + 0.01²) / 2)
    assert (row.finished, row.candidates, row.label, written(row)) == (3, 3, "QAT", "93.0 ± 1.0")


def test_methods_and_layers_taken_back_are_told_apart() -> None:
    rows = [candidate("qat", fallbacks=2), candidate("qat"), candidate("ptq"), candidate("qat", fallbacks=1)]
    assert [row.label for row in summarise(rows)] == ["PTQ", "QAT", "QAT, 1 layer back", "QAT, 2 layers back"]


def test_missing_seeds_are_counted_and_the_unjudged_are_not() -> None:
    rows = [candidate("qat", 0, map=0.93), without_result(candidate("qat", 1), "diverged", "loss is nan")]
    (row,) = summarise(rows)
    assert (written(row), row.judged, row.verdict) == ("93.0 (1/2)", 1, "accepted")
    assert scatter([row]).endswith("In brackets: seeds that are finished.")


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [((True, True), "accepted"), ((False, False), "rejected"), ((True, False), "1 of 2 accepted"), ((None, None), "–")],
)
def test_verdict_is_of_all_seeds(accepted: tuple[bool | None, ...], expected: str) -> None:
    rows = [candidate("qat", seed, accepted=value, rejected=[]) for seed, value in enumerate(accepted)]
    assert summarise(rows)[0].verdict == expected


def test_reasons_of_the_gate_are_said_once() -> None:
    rows = [candidate("ptq", seed, accepted=False, rejected=["too slow", f"{seed}"]) for seed in (0, 1)]
    assert summarise(rows)[0].reasons == ("too slow", "0", "1")


@pytest.mark.parametrize(
    ("before", "after", "words", "cell"),
    [
        (3.0, 1.0, "3.0 times faster", "3.0×"),
        (11.2, 1.0, "11 times faster", "11×"),
        (9.96, 1.0, "10 times faster", "10×"),
        (1.04, 1.0, "4 % faster", "1.0×"),
        (1.0, 1.001, "as fast", "0.99×"),
        (1.0, 1.03, "3 % slower", "0.97×"),
        (1.0, 1.25, "1.2 times slower", "0.80×"),
        (None, 1.0, "", "–"),
        (1.0, None, "", "–"),
    ],
)
def test_quotients_are_written_for_people(before: float | None, after: float | None, words: str, cell: str) -> None:
    assert factor(before, after, "faster", "slower", "as fast") == words
    assert times(before, after) == cell


def test_numbers_are_written_for_people() -> None:
    assert [megabytes(value) for value in (None, 0.0571, 31.44, 126.4)] == ["–", "0.0571", "31.4", "126"]
    assert [decibels(value) for value in (None, 41.3, -3.2)] == ["–", "41", "−3"]
    assert [in_points(value) for value in (1.0, 0.5)] == ["1 point", "0.5 points"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "finished",
            "INT8 by QAT reaches 93.3 % mAP, 0.1 points below FP32, 3.1 times faster and 3.8 times smaller.",
        ),
        (
            "video",
            "INT8 by QAT reaches 93.1 % top-1, 0.3 points below FP32, 3.1 times faster and 3.8 times smaller.",
        ),
        (
            "rejected",
            "No INT8 network passes the gate: INT8 by QAT comes nearest with 91.0 % mAP, 2.4 points below FP32, 3.1 "
            "times faster and 3.8 times smaller. Rejected: loses 2.4 points of accuracy, more than the 1 allowed.",
        ),
        ("running", "Nothing is judged yet; so far INT8 by PTQ reaches 91.8 % mAP, 1.6 points below FP32."),
        ("broken", "No INT8 network has a result: 1 failed, 1 diverged."),
        ("failed", "The sweep failed before any INT8 network could be compared: the teacher diverged."),
    ],
)
def test_headline(name: str, expected: str) -> None:
    assert quantise_headline(STATES[name]()) == expected


def test_headline_before_anything_is_done() -> None:
    state = running_sweep()
    state["candidates"] = [without_result(row, "pending") for row in state["candidates"]]
    assert quantise_headline(state) == "Nothing can be compared yet: 0 of 6 INT8 networks are done."
    state["teacher"].update(map=None, status="pending")
    assert quantise_headline(state) == "Nothing is quantised yet: the FP32 network is being measured."


def test_layers_are_joined_with_their_times_and_the_reasons_of_who_decided() -> None:
    state = quantise_state()
    model = best_of(state)
    assert model is not None
    lines = {line.name: line for line in layer_lines(model, state["layer_times"])}
    stem, first, pool = lines["stem.conv"], lines["layer1.0.conv1"], lines["pool"]
    assert (stem.int8, stem.reason, stem.int8_ms, stem.float_ms) == (False, SLOW, 0.31, 0.24)
    assert (first.int8, first.reason, first.int8_ms, first.float_ms) == (True, None, 0.02, 0.09)
    assert (pool.reason, pool.int8_ms) == ("its input is in floating point", None)
    assert coverage(model) == "9 of 10 layers", "additions and pools have no weights"
    assert left_in_float(model) == [("stem.conv", SLOW), ("pool", "its input is in floating point")]


def test_what_was_decided_is_told_once_with_where() -> None:
    state = rejected_sweep()
    (stem, *back) = decided_layers(state["candidates"])
    assert stem == ("stem.conv", SLOW, "all")
    assert [(layer, where) for layer, _, where in back] == [
        ("layer4.0.conv1", "QAT, 1 layer back; QAT, 2 layers back; QAT, 3 layers back"),
        ("layer3.0.conv1", "QAT, 2 layers back; QAT, 3 layers back"),
        ("layer2.0.conv1", "QAT, 3 layers back"),
    ]


def test_key_figures_compare_with_the_original() -> None:
    figures = {name: (value, note) for name, value, note in quantise_key_figures(quantise_state())}
    assert figures["FP32"] == ("93.4 %", "mAP at 0.00553 GMACs per image")
    assert figures["INT8 by QAT"] == ("93.3 %", "mAP, 0.1 points below FP32; best of 3 seeds")
    assert figures["Faster"] == ("3.1×", "0.910 ms, where FP32 takes 2.85")  # 2.85 / 0.91
    assert figures["Smaller"] == ("3.8×", "0.730 MB, where FP32 has 2.81")  # 2.81 / 0.73
    assert figures["In INT8"] == ("9 of 10", "layers with weights")


def test_recipe_is_told_in_words() -> None:
    state = quantise_state()
    told = dict(quantise_recipe(state))
    assert told["engine"] == "onednn"
    assert told["training"] == "6 epochs from the FP32 weights, learning rate 0.00015"  # 0.015 / 100
    assert told["batch norms"] == "keep their statistics after 2 epochs"
    assert told["ranges"] == "stay as they are after 3 epochs"
    assert told["distillation"] == "from the FP32 network, weight 1.25, temperature 5"
    assert told["excluded"] == "stem.*"
    assert told["gate"] == "at most 1 point of mAP lost, and no slower than FP32"
    state["config"]["quantise"].update(epochs=1)
    told = dict(quantise_recipe(state))
    assert told["training"].startswith("1 epoch from")
    assert not {"batch norms", "ranges"} & told.keys()  # nothing is frozen before the end
    state["config"]["quantise"].update(methods=["ptq"], exclude=[])
    assert not {"training", "ranges", "distillation", "excluded"} & dict(quantise_recipe(state)).keys()
    state["config"]["quantise"]["methods"] = ["qat"]
    state["config"]["distillation"]["weight"] = 0
    assert dict(quantise_recipe(state))["distillation"] == "none"


@pytest.mark.parametrize("name", STATES)
def test_page_is_well_formed_and_needs_nothing_else(name: str) -> None:
    page = Page(page_of(name))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert re.findall(r"""(?:href|src)=["'](?!#)|url\((?!#)|@import""", page_of(name)) == []
    assert "None" not in page.text


def test_page_compares_the_methods() -> None:
    rows = rows_of(page_of("finished"), "INT8 against FP32")
    lost = "rejected: loses 1.6 points of accuracy, more than the 1 allowed (--max-drop-points) (2 more reasons below)"
    assert rows == [
        ["FP32", "93.4", "", "2.81", "", "2.85", "", ""],
        ["PTQ", "91.9 ± 0.1", "−1.5", "0.730", "3.8×", "0.910", "3.1×", lost],
        ["QAT", "93.2 ± 0.1", "−0.2", "0.730", "3.8×", "0.910", "3.1×", "accepted"],
    ]
    assert page_of("finished").count('class="winner"') == 2, "in the table of methods, and in that of all networks"


def test_page_has_a_table_of_layers_per_model() -> None:
    text = page_of("finished")
    rows = rows_of(text, "Layer by layer")
    assert rows[0] == ["stem.conv", "conv2d", "float", "–", "0.310", "0.240", "0.77×", SLOW]
    assert rows[1][:7] == ["layer1.0.conv1", "conv2d", "INT8", "42", "0.0200", "0.0900", "4.5×"]
    assert len(rows) == 12
    summaries = re.findall(r"<summary>(\w+) <small>([^<]+)", text)
    assert summaries == [
        ("QAT", "reid-qat-seed2: 9 of 10 layers with weights in INT8"),
        ("PTQ", "reid-ptq: 9 of 10 layers with weights in INT8"),
    ]


def test_page_without_times_of_layers_has_no_columns_for_them() -> None:
    assert "INT8, ms" in page_of("finished")
    assert "INT8, ms" not in page_of("video")


def test_page_of_a_run_under_way_shows_what_was_timed() -> None:
    assert rows_of(page_of("running"), "Layer by layer")[0] == ["stem.conv", "0.310", "0.240", "0.77×"]
    assert "<svg" not in page_of("running")


def test_page_tells_everything_else() -> None:
    text = flat(page_of("finished"))
    for expected in (
        "finished (QAT keeps 0.1 points below the original; nothing had to go back to float)",
        "median of 30 forward passes, batch 1, 1 thread of Little CPU @ 1.00GHz",
        "at most 1 point less accurate",
        "orchestrate sweep qat --config settings.yaml",
        "912 for training, 128 queries, 748 in the gallery",
        "0b5c1d3f7e9a2468",
        "calibration: 64",
        "models/ptq",
    ):
        assert expected in text
    assert "<out of memory> & [gone]" in flat(page_of("broken"))
    assert "Top-1 in %" in flat(page_of("video"))
    assert "mAP" not in flat(page_of("video"))


def test_text_from_outside_is_no_markup() -> None:
    state = quantise_state((0,))
    bad = "<script>alert(1)</script>"
    state["run"] = state["stop_reason"] = state["latency"]["machine"] = state["engine"] = bad
    state["layer_times"][0]["layer"] = bad
    for row in state["candidates"]:
        row.update(name=bad, trial=bad, path=bad, rejected=[bad], float_layers=[{"layer": bad, "reason": bad}])
        row.update(layers=[layer(bad, bad, fused=[bad]), layer(bad, bad, precision="float", reason=bad)])
    assert "<script" not in render_quantise(state)
    running = {**running_sweep(), "layer_times": state["layer_times"]}
    assert "<script" not in render_quantise(running)


def test_report_is_the_same_every_time_and_leaves_nothing_else(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        page = write_quantise_report(video_sweep(), tmp_path)
        contents.append((page.read_bytes(), (tmp_path / "report.png").read_bytes()))
    assert contents[0] == contents[1]
    assert contents[0][1].startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.png"]


def test_view_writes_the_report(tmp_path: Path) -> None:
    page = VIEWS["sweep-qat"].write_report(Store(tmp_path / "runs"), empty_sweep(), tmp_path)
    assert "The sweep failed" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", STATES)
def test_pictures_only_have_colours_that_change_with_the_theme(name: str, narrow: bool) -> None:
    svg = to_svg(quantise_figure(STATES[name](), narrow=narrow), "picture", "what it shows")
    outside = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", svg)
    assert re.findall(r"#[0-9a-fA-F]{6}\b", outside) == []


def drawn(axes: Axes) -> list[tuple[float, float]]:
    """Where markers are."""
    points = [np.asarray(line.get_xydata())[0] for line in axes.lines if line.get_marker() not in ("None", "", None)]
    return sorted((round(float(x), 6), round(float(y), 6)) for x, y in points)


def test_picture_has_every_network_at_its_place_and_the_gate() -> None:
    state = quantise_state()
    axes = quantise_figure(state).axes[0]
    rows = [TEACHER, *state["candidates"]]
    assert drawn(axes) == sorted((row["latency_ms"], round(100 * row["map"], 6)) for row in rows)
    gate = [line for line in axes.lines if line.get_marker() in ("None", "", None)]
    across, upright = (np.asarray(line.get_xydata()) for line in gate)
    assert across[:, 1].tolist() == pytest.approx([92.42, 92.42])  # 93.42 − 1
    assert upright[:, 0].tolist() == [2.85, 2.85]
    left, right = axes.get_xlim()
    assert left > right, "faster to the right"


def test_the_rejected_are_hollow() -> None:
    axes = quantise_figure(quantise_state()).axes[0]
    faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() in ("o", "s")]
    assert faces == [THEME["paper"][0]] * 3 + [THEME["axis-c"][0]] * 3


def record(**trial: Any) -> dict[str, Any]:
    """`result.json` of a candidate, as far as a card reads it."""
    made = {
        "network": {"quantisation": {"engine": "onednn", "float_layers": ["stem.conv"]}},
        "seed": 2,
        "start": "00000000000000aa",
        "quantise": {"calibration": 64},
        "train": {"epochs": 4},
        "distillation": {"weight": 1.25},
        "clips": None,
        "reid": {"margin": 0.3},
        **trial,
    }
    return {"trial": made, "versions": {"orchestrate": "0.1.0", "torch": "2.15.0"}}


def test_card_of_the_chosen_model() -> None:
    state = quantise_state()
    model = best_of(state)
    assert model is not None
    card = quantised_card(model, state, record())
    assert card.startswith(
        "# reid-qat-seed2\n\nAccepted: no slower than `../teacher` on the machine below, and at most 1"
    )
    table = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", card, re.M))
    assert table["mAP"] == "93.3 % | 93.4 %"
    assert table["size in MB (10⁶ bytes)"] == "0.730 | 2.81"
    assert table["latency in ms per image"] == "0.910 | 2.85"
    for told in (
        "in integers: made from `reid-teacher` by QAT (quantisation-aware training)",
        "by the engine `onednn` of PyTorch",
        "−0.1 points of mAP against the FP32 network; 3.1 times faster and 3.8 times smaller.",
        "Accuracy of 128 queries in a gallery of 748 images.",
        "1 thread of Little CPU @ 1.00GHz",
        "expect slightly less on new data",
        "9 of 10 layers with weights run in INT8. Left in floating point:\n\n- `stem.conv`: slower in INT8",
        "load_package(Path(",
        "- trial: `qat-2-0`, seed 2",
        "fingerprint `0b5c1d3f7e9a2468`",
        '"quantise": {',
    ):
        assert told in card
    assert "None" not in card
    assert "\n\n\n" not in card
    assert card.endswith("```\n")


def test_card_of_a_rejected_model_says_so_on_top() -> None:
    state = rejected_sweep()
    card = quantised_card(state["candidates"][-1], state, record(train=None))
    assert card.split("\n\n")[1] == (
        "**rejected**: loses 2.4 points of accuracy, more than the 1 allowed (--max-drop-points). "
        "Use `../teacher` instead."
    )
    assert "- `layer4.0.conv1`: for accuracy: noise 21 dB" in card
    assert '"train"' not in card
    assert "expect slightly less" not in card


def test_card_of_an_unjudged_model_says_so() -> None:
    state = video_sweep()
    state["latency"] = None
    model = {**state["candidates"][-1], "accepted": None, "latency_ms": None, "layers": []}
    card = quantised_card(model, state, record())
    assert "**not judged**" in card
    assert "| latency in ms per clip | – | 2.85 |" in card
    assert "## Layers" not in card
    assert "classifies videos" in card
    assert "Accuracy on 320 validation videos; one standard error of this top-1 is 1.4 points." in card
    # sqrt(0.9312 · 0.0688 / 320) = 0.01415


def test_layers_of_a_network_all_in_integers() -> None:
    state = video_sweep()
    model = {**state["candidates"][-1], "layers": [layer("conv1", "conv3d"), layer("add_1", "add")]}
    card = quantised_card(model, state, record())
    assert "1 of 1 layers with weights run in INT8. Nothing is left in floating point." in card
