import pytest
from matplotlib.text import Annotation

from orchestrator.registry.model import Measured, StoredModel
from orchestrator.report.all_figure import drawn_marks, overall_figure
from orchestrator.report.comparison import (
    Comparison,
    compare_costs,
    compare_latencies,
    data_names,
    short_names,
    without_copies,
)
from orchestrator.report.labels import place_labels
from tests.orchestrator.sample_comparison import FAMILY, model
from tests.orchestrator.sample_registry import CONDITIONS, trial


def only(models: tuple[StoredModel, ...]) -> Comparison:
    (comparison,) = compare_costs(models)
    return comparison


def labels(comparison: Comparison) -> dict[str, Annotation]:
    figure = overall_figure(comparison)
    return {text.get_text(): text for text in figure.axes[0].texts if isinstance(text, Annotation)}


def test_front_and_knee_are_those_of_the_numbers() -> None:
    comparison = only(FAMILY)
    assert [mark.label for mark in comparison.front] == ["base", "good", "small"]
    assert [mark.label for mark in comparison.marks if mark.is_knee] == ["good"]
    assert [mark.cost for mark in comparison.marks] == [10.0, 6.0, 5.0, 1.0]


def test_controls_are_compared_but_never_on_the_front() -> None:
    control = model("control", 0.5, 0.99, kind="control")
    comparison = only((*FAMILY, control))
    assert [mark.label for mark in comparison.front] == ["base", "good", "small"]
    assert control in [mark.model for mark in comparison.marks]


def test_accuracies_on_other_data_and_of_another_metric_are_compared_apart() -> None:
    other = model("other", 1.0, 0.99, trial=trial("other", data="e" * 64), data_source="ucf101")
    ranked = model("ranked", 1.0, 0.99, trial=trial("ranked", data="f" * 64), map=0.5, data_source="people")
    found = compare_costs([*FAMILY, other, ranked])
    assert [(one.data, one.words.metric, len(one.marks)) for one in found] == [
        ("moving-digits", "top-1", 4),
        ("people", "mAP", 1),
        ("ucf101", "top-1", 1),
    ]


def test_latencies_compare_only_where_three_were_measured_alike() -> None:
    def timed(machine: str, milliseconds: float, source: StoredModel) -> StoredModel:
        latency = Measured(value=milliseconds, conditions={**CONDITIONS, "machine": machine})
        return model(f"{source.trial.name}-{machine}", source.gmacs, source.accuracy, latency=latency)

    here = [timed("here", value, source) for value, source in zip((4.0, 3.0, 2.0), FAMILY, strict=False)]
    there = [timed("there", value, source) for value, source in zip((1.0, 1.0), FAMILY, strict=False)]
    (comparison,) = compare_latencies([*here, *there])
    assert comparison.conditions == {**CONDITIONS, "machine": "here"}
    assert [mark.cost for mark in comparison.marks] == [4.0, 3.0, 2.0]
    assert compare_latencies(here[:2]) == ()


def test_what_was_imported_and_is_equal_in_all_numbers_is_compared_once() -> None:
    copy = model("copy", 5.0, 0.89, kind="imported")
    foreign = model("foreign", 5.0, 0.88, kind="imported")
    twin = model("twin", 5.0, 0.88, kind="imported")
    assert without_copies([*FAMILY, copy, foreign, twin]) == [*FAMILY, foreign]


def test_data_of_one_source_are_told_apart_by_fingerprint() -> None:
    models = [model("a", 1, 0.5), model("b", 1, 0.5, trial=trial("b", data="e" * 64))]
    assert data_names(models) == {"d" * 64: "moving-digits (dddddddd)", "e" * 64: "moving-digits (eeeeeeee)"}
    assert data_names([model("c", 1, 0.5, data_source=None)]) == {"d" * 64: "unknown data"}


def test_names_in_a_picture_are_short_and_differ() -> None:
    models = [
        model("x", 1, 0.5, aliases=("chain/1-pas", "one/PAS-1")),
        model("y", 1, 0.5, aliases=("one/PAS-2",)),
        model("z", 1, 0.5, aliases=("two/PAS-2",)),
        model("t", 1, 0.5, tags=("production",)),
        model("nobody", 1, 0.5, aliases=()),
        model("v", 1, 0.5, aliases=(), trial=trial("nobody", seed=77)),
    ]
    names = short_names(models)
    found = [names[one.digest] for one in models]
    assert found[:4] == ["PAS-1", "one/PAS-2", "two/PAS-2", "production"]
    assert len(set(found)) == len(found)
    assert found[4] == f"nobody ({models[4].digest[:6]})"


@pytest.mark.parametrize("narrow", [False, True])
def test_labels_of_a_crowded_front_do_not_overlap(narrow: bool) -> None:
    models = tuple(model(f"model-{n}", 1.0 + n / 10, 0.7 + n / 100) for n in range(12))
    tagged = model("hidden", 1.55, 0.7, tags=("production",))
    figure = overall_figure(only((*models, tagged)), narrow=narrow)
    axes = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) > 2
    assert "production" in [text.get_text() for text in axes.texts]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_front_knee_and_tags_are_named() -> None:
    beaten = model("beaten", 6.0, 0.80, tags=("production",))
    assert labels(only((*FAMILY[:2], FAMILY[3], beaten))).keys() == {"base", "good", "small", "production"}


def test_names_are_no_formulas() -> None:
    assert "$x^{" in labels(only((model("$x^{", 2.0, 0.9), model("b", 1.0, 0.8))))


def test_label_without_a_place_is_left_out() -> None:
    axes = overall_figure(only(FAMILY)).axes[0]
    assert place_labels(axes, [("much too long for any picture " * 9, (5.0, 89.0))]) == []
    assert place_labels(axes, [("fits", (5.0, 75.0))]) == ["fits"]


def test_what_is_far_below_and_was_not_handed_on_is_not_drawn() -> None:
    """The others span 0.2, so that up to 0.05 below them is drawn."""
    near, far = model("near", 2.0, 0.66, aliases=()), model("far", 2.0, 0.10, aliases=())
    handed_on = model("handed on", 2.0, 0.10)
    drawn = drawn_marks(only((*FAMILY, near, far)))
    assert {mark.label for mark in drawn} == {"base", "good", "beaten", "small", "near"}
    assert len(drawn_marks(only((*FAMILY, handed_on)))) == len(FAMILY) + 1
