"""Cards: what the Hub's own library reads of them, and what people do, whatever others named things."""

from __future__ import annotations

import io
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.text import Annotation

from compression.spec import NetworkSpec
from orchestrator.handoff.card import handoff_card, write_card
from orchestrator.handoff.card_use import indices
from orchestrator.handoff.family_figure import (
    LABEL_LENGTH,
    base_of_family,
    family_figure,
    family_points,
    in_view,
    own_point,
)
from orchestrator.handoff.front_matter import card_data, front_matter, licence_fields
from orchestrator.handoff.manifest import Licence
from orchestrator.handoff.markdown import code, escaped, plain, table
from orchestrator.handoff.verify import read_handoff
from tests.orchestrator.handoff.sample_card import EXPORT, IMAGES, sample_family, sample_handoff
from tests.orchestrator.handoff.sample_package import write_package
from tests.orchestrator.sample_registry import CONDITIONS, stored
from tests.trainers import tiny

NASTY = [
    'a|b: "c"',
    "---\nlicense: mit\n---",
    "# *x* _y_ [z](w) <b>&amp;`",
    "| --- | --- |",
    "\\|\\",
    "``",
    "é 漢 \u2028x",
]
"""What names may hold that means something to Markdown or YAML."""
TEXT = st.text(st.characters(codec="utf-8"))


def data_of(card: str) -> Any:
    """What the Hub's library reads of a card."""
    return ModelCard(card).data


def test_the_hub_s_library_reads_the_data_back() -> None:
    data = data_of(handoff_card(sample_handoff(), sample_family()))
    assert data.to_dict() == card_data(sample_handoff())
    assert (data.license, data.pipeline_tag) == ("apache-2.0", "video-classification")
    assert data.base_model is None
    (first, second) = data.eval_results
    assert (first.dataset_type, first.dataset_name) == ("moving-digits", "Moving digits (synthetic)")
    assert (first.metric_type, first.metric_name, first.metric_value) == ("accuracy", "top-1", 0.925)
    assert (second.metric_name, second.metric_args) == ("top-5", {"top_k": 5})


def test_the_hub_s_library_reads_a_network_of_images() -> None:
    data = data_of(handoff_card(sample_handoff(**IMAGES), ()))
    assert data.pipeline_tag == "image-feature-extraction"
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert values == {"mAP": 0.793737, "rank-1": 0.875, "rank-5": 0.958333}


@settings(max_examples=40, deadline=None)
@given(TEXT)
def test_any_name_survives_the_front_matter(name: str) -> None:
    text = f"{front_matter(sample_handoff(name=name))}\nbody\n"
    assert data_of(text).model_name == plain(name)
    assert ModelCard(text).text == "\nbody\n"


@pytest.mark.parametrize("name", NASTY)
def test_the_front_matter_ends_where_it_should(name: str) -> None:
    text = handoff_card(sample_handoff(name=name), sample_family())
    assert data_of(text).license == "apache-2.0"
    assert ModelCard(text).text.startswith("\n# ")


@pytest.mark.parametrize(
    ("spdx", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("ODbL-1.0", {"license": "odbl"}),
        ("NOASSERTION", {"license": "unknown"}),
        ("LicenseRef-Our Own: v2", {"license": "other", "license_name": "licenseref-our-own-v2"}),
        ("MIT OR Apache-2.0", {"license": "other", "license_name": "mit-or-apache-2.0"}),
        ("漢", {"license": "other", "license_name": "other"}),
    ],
)
def test_a_licence_is_called_as_the_hub_does(spdx: str, expected: dict[str, str]) -> None:
    assert licence_fields(Licence(spdx=spdx, note="")) == expected


@pytest.mark.parametrize("source", [None, "csv", "folders"])
def test_data_without_a_name_is_called_our_own(source: str | None) -> None:
    measured = sample_handoff().accuracy.model_copy(update={"data_source": source, "examples": None})
    (index,) = card_data(sample_handoff(accuracy=measured.model_dump()))["model-index"]
    (result,) = index["results"]
    assert result["dataset"] == {"type": "own", "name": "own data", "args": {"fingerprint": "d" * 64}}


def test_the_front_matter_has_no_results_where_nothing_was_measured() -> None:
    measured = {**sample_handoff().accuracy.model_dump(), "top1": None, "top5": None}
    assert "model-index" not in card_data(sample_handoff(accuracy=measured))


def cells(markdown: str) -> list[list[str]]:
    """Every table row as it is shown: text of each cell without markup."""
    rows: list[list[str]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in ("th_open", "td_open"):
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


@pytest.mark.parametrize("name", NASTY)
def test_text_is_shown_as_it_is(name: str) -> None:
    """In prose, in a code span, and in a table; markup would make further tokens."""
    parser = MarkdownIt("commonmark").enable("table")
    for text in (f"x {escaped(name)} y", f"x {code(name)} y"):
        (inline,) = (token for token in parser.parse(text) if token.type == "inline")
        assert "".join(child.content for child in inline.children or []) == f"x {plain(name)} y"
    assert cells(table(["a", "b"], [[escaped(name), "1"]])) == [["a", "b"], [plain(name), "1"]]


@settings(max_examples=40, deadline=None)
@given(TEXT)
def test_any_text_stays_in_its_cell(text: str) -> None:
    assert cells(table(["a", "b"], [[f"x{escaped(text)}", "1"]]))[1] == [f"x{plain(text)}", "1"]


def test_a_table_can_be_read_without_markdown() -> None:
    lines = table(["", "one"], [["long label", "1"], ["s", "12.5"]], right=(1,)).splitlines()
    assert lines == [
        "|            |  one |",
        "| ---------- | ---: |",
        "| long label |    1 |",
        "| s          | 12.5 |",
    ]


def test_a_class_with_markup_harms_nothing() -> None:
    classes = ('a|b: "c"', "`x`", "<script>")
    text = handoff_card(sample_handoff(classes=classes), sample_family())
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(ModelCard(text).text)
    assert "<code>a|b: &quot;c&quot;</code>" in shown
    assert "<code>`x`</code>" in shown
    assert "<script>" not in shown


def test_numbers_stand_beside_the_base_network_s() -> None:
    rows = {row[0]: row[1:] for row in cells(handoff_card(sample_handoff(), sample_family())) if len(row) == 3}
    assert rows["top-1"] == ["92.5 %", "90.0 %"]
    assert rows["GMACs per clip"] == ["0.00125", "0.00250"]
    assert rows["parameters"] == ["12.3 k", "23.5 k"]
    assert rows["size in MB (10⁶ bytes)"] == ["0.0625", "0.125"]
    assert rows["latency in ms per clip"] == ["1.50", "3.00"]
    assert "energy in mJ per clip" not in rows


def test_latencies_of_other_conditions_are_not_compared() -> None:
    """1.5 ms here and 3 ms there say nothing."""
    latency = {"ms": 1.5, "conditions": {**CONDITIONS, "threads": 4}}
    cost = {**sample_handoff().cost.model_dump(), "latency": latency}
    text = handoff_card(sample_handoff(cost=cost), sample_family())
    assert ["latency in ms per clip", "1.50", "–"] in cells(text)
    assert "The base network's was measured under other conditions." in text
    assert "other conditions" not in handoff_card(sample_handoff(), sample_family())


def test_a_model_alone_is_compared_with_nothing() -> None:
    text = handoff_card(sample_handoff(lineage=()), [model for model in sample_family() if model.kind == "pas"][:1])
    assert ["top-1", "92.5 %"] in cells(text)
    assert "base network" not in text
    assert "it starts from no other network" in text


def test_two_sentences_say_what_it_is() -> None:
    text = handoff_card(sample_handoff(), sample_family())
    assert (
        "\n# tiny-pas/PAS-1\n\nA video classifier for 3 classes with the backbone `r2plus1d`, made from a larger "
        "network by progressive architecture shrinkage. It reaches 92.5 % top-1 at 0.00125 GMACs per clip, 2.5 points "
        "above its base network's 90.0 %, with 50 % of its multiply-adds.\n"
    ) in text


def test_limits_are_said() -> None:
    text = handoff_card(sample_handoff(), sample_family())
    error = 100 * math.sqrt(0.925 * 0.075 / 320)
    assert f"One standard error of this top-1 on 320 videos is {error:.1f} points." in text
    assert "drawn by a program" in text
    real = {**sample_handoff().accuracy.model_dump(), "data_source": "ucf101", "examples": None}
    text = handoff_card(sample_handoff(accuracy=real), ())
    assert "Measured on UCF101 only" in text
    assert "standard error" not in text
    assert "drawn by a program" not in text


def test_input_steps_can_be_followed() -> None:
    steps = {row[1]: row[2] for row in cells(handoff_card(sample_handoff(), ())) if len(row) == 3 and row[0].isdigit()}
    assert list(steps) == ["read", "cut", "resize", "crop", "scale", "arrange", "decide"]
    assert steps["cut"] == "8 consecutive frames"
    assert steps["crop"] == "the square of 16 × 16 pixels in the middle"
    assert steps["arrange"] == "float32 [clip, channel, frame, height, width], one clip is [1, 3, 8, 16, 16]"
    assert "average the softmax of 2 clips" in steps["decide"]


def test_frames_are_picked_where_not_all_are_given() -> None:
    fed = {**sample_handoff().input.model_dump(), "frame_indices": (0, 2, 4, 6), "frames": 4, "clips_per_video": 1}
    text = handoff_card(sample_handoff(input=fed), ())
    assert "4 of them, counted from 0: 0, 2, 4, 6" in text
    assert "the softmax of the clip in its middle" in text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0,), "0"),
        (tuple(range(0, 16, 2)), "0, 2, 4, 6, 8, 10, 12, 14"),
        (tuple(range(0, 18, 2)), "0, 2, …, 16"),
        ((0, 1, 3, 4, 6, 7, 9, 10, 12), "0, 1, 3, 4, 6, 7, 9, 10, 12"),
    ],
)
def test_long_rows_of_frames_are_shortened(numbers: tuple[int, ...], text: str) -> None:
    assert indices(numbers) == text


def test_the_card_of_images_speaks_of_images() -> None:
    text = handoff_card(sample_handoff(**IMAGES), ())
    assert "GMACs per image" in text
    assert "the vector of the image mirrored left to right" in text
    assert "uint8 [height, width, 3]" in text
    assert "cosine" in text
    assert "clip" not in ModelCard(text).text


def test_integers_have_no_feature_maps() -> None:
    text = handoff_card(sample_handoff(precision="int8", stages=()), sample_family())
    assert "offers no feature maps. It computes in integers." in text
    assert "model.features" not in text


def test_only_onnx_is_shown_with_onnx_runtime() -> None:
    assert "onnxruntime" not in handoff_card(sample_handoff(), ())
    text = handoff_card(sample_handoff(exports=[EXPORT]), ())
    assert 'InferenceSession("exports/onnx/model.onnx"' in text
    assert ["onnx", "exports/onnx/", "fp32", "91.2 %", "yes"] in cells(text)
    assert "onnx" in card_data(sample_handoff(exports=[EXPORT]))["tags"]


@pytest.mark.parametrize("changes", [{}, {"exports": [EXPORT]}, IMAGES])
def test_what_is_to_be_run_is_python(changes: dict[str, Any]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", handoff_card(sample_handoff(**changes), sample_family()), re.S)
    assert blocks
    for block in blocks:
        compile(block, "card", "exec")


@pytest.mark.parametrize(("spec", "picture"), [(tiny.SPEC, (8, 20, 24, 3)), (tiny.REID_SPEC, (40, 20, 3))])
def test_the_reader_is_called_as_it_can_be(
    spec: NetworkSpec, picture: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_package(tmp_path / "package", spec)
    monkeypatch.chdir(package)
    (block,) = re.findall(r"```python\n(.*?)```", handoff_card(read_handoff(package), ()), re.S)
    names: dict[str, Any] = dict.fromkeys(("frames", "image"), np.zeros(picture, np.uint8))
    exec(compile(block, "card", "exec"), names)
    assert (names["scores"] if "scores" in names else names["vectors"]).shape[0] == 1
    assert list(names["maps"]) == [stage.name for stage in read_handoff(package).stages]


def test_long_lists_of_classes_are_cut() -> None:
    names = tuple(f"class-{number}" for number in range(25))
    text = handoff_card(sample_handoff(classes=names, output={"kind": "logits", "dimension": 25}), ())
    assert "19 `class-19`, and 5 more, see `classes`" in text
    assert "class-20" not in text


def test_equal_packages_get_equal_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        assert write_card(folder, sample_handoff(), sample_family()) == ["card.md", "family.png"]
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert written[0].keys() == {"card.md", "family.png"}
    assert not re.search(rb"tEXt|iTXt|tIME", written[0]["family.png"])


def test_the_base_network_is_an_ancestor_that_nothing_is_measured_against() -> None:
    family = sample_family()
    assert base_of_family(sample_handoff(), family) is family[0]
    assert base_of_family(sample_handoff(lineage=()), family) is None
    assert base_of_family(sample_handoff(), family[1:]) is None


def test_the_family_is_drawn_and_the_model_once() -> None:
    points = family_points(sample_handoff(exports=[EXPORT]), sample_family())
    assert [(point.kind, round(point.accuracy, 2), point.strong) for point in points] == [
        ("base", 90.0, True),
        ("pas", 80.0, False),
        ("control", 70.0, False),
        ("pruned", 87.5, True),
        ("export", 91.25, True),
        ("pas", 92.5, True),
    ]


def test_what_fell_far_below_is_counted_instead() -> None:
    """Handed on: 87.5 … 92.5 %, 5 points; ten more below them are shown, so 80 % is and 70 % is not."""
    points = family_points(sample_handoff(), sample_family())
    assert sorted(point.accuracy for point in points if point not in in_view(points)) == pytest.approx([70])
    (axes,) = family_figure(sample_handoff(), sample_family()).axes
    assert "1 more model lies below" in [text.get_text() for text in axes.texts]
    assert not [
        text
        for text in family_figure(sample_handoff(), sample_family()[:3]).axes[0].texts
        if "below" in text.get_text()
    ]


@pytest.mark.parametrize("name", ["tiny-pas/PAS-1", "$x^2$ and $", "long " * 20, "a\nb"])
def test_the_model_is_named_within_the_picture(name: str) -> None:
    figure = family_figure(sample_handoff(name=name), sample_family())
    (axes,) = figure.axes
    figure.savefig(io.BytesIO(), format="png")
    (label,) = (text for text in axes.texts if isinstance(text, Annotation))
    shown, value = label.get_text().split("\n")
    assert shown == plain(name) or (shown.endswith("…") and len(shown) == LABEL_LENGTH)
    assert value == "92.5 %"
    box, frame = label.get_window_extent(), axes.get_window_extent()
    assert frame.x0 <= box.x0 < box.x1 <= frame.x1


def test_a_model_alone_is_drawn_as_a_base_network() -> None:
    handoff = sample_handoff(lineage=())
    itself = own_point(handoff, ())
    assert itself is not None
    assert itself.kind == "base"
    assert len(family_figure(handoff, ()).axes[0].lines) == 2  # marker and ring


def test_models_of_another_metric_are_not_drawn() -> None:
    assert family_points(sample_handoff(lineage=()), [stored(digest="e" * 16, map=0.5)])[:-1] == []
