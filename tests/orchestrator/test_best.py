"""Which model is chosen, and what is said of the others: worked out by hand, and as properties of any models."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.spec import Factors
from configs.errors import UserError
from orchestrator.registry.best import Choice, Constraints, Loser, choose, counted, objectives_of
from orchestrator.registry.constraints import enough
from orchestrator.registry.front import point_of
from orchestrator.registry.model import Measured, StoredModel
from orchestrator.registry.quantities import comparable, fine
from tests.orchestrator.sample_registry import CONDITIONS, FINGERPRINT, TEACHER, stored, trial

ELSEWHERE = {**CONDITIONS, "machine": "Big CPU @ 4.00GHz"}


def model(name: str, top1: float = 0.9, gmacs: float = 1.0, **changes: Any) -> StoredModel:
    """A model that `run` hands on under this name."""
    made = trial(name, seed=zlib.crc32(name.encode()), start=TEACHER.digest)
    return stored(**{"trial": made, "aliases": (f"run/{name}",), "top1": top1, "gmacs": gmacs, **changes})


def timed(ms: float, conditions: Mapping[str, Any] = CONDITIONS) -> Measured:
    return Measured(value=ms, conditions=conditions)


def why(choice: Choice, name: str) -> str:
    """The reason that is given of a model."""
    return loser(choice, name).why


def loser(choice: Choice, name: str) -> Loser:
    return next(one for one in choice.losers if one.model.trial.name == name)


def names(models: Any) -> list[str]:
    return [one.trial.name for one in models]


LARGE, MEDIUM, SMALL = model("large", 0.95, 8.0), model("medium", 0.94, 2.0), model("small", 0.85, 1.0)
WORSE = model("worse", 0.928, 4.0)
FOUR = (LARGE, MEDIUM, SMALL, WORSE)


def test_the_most_accurate_one_wins() -> None:
    choice = choose(FOUR, Constraints())
    assert choice.winner is LARGE
    assert names(choice.front.models) == ["large", "medium", "small"]
    assert choice.front.knee is MEDIUM
    assert choice.rule == "the most accurate model there is"


def test_constraint_decides_who_takes_part() -> None:
    choice = choose(FOUR, Constraints(max_gmacs=5))
    assert choice.winner is MEDIUM
    assert why(choice, "large") == "costs 8.00 GMACs, 3.00 more than --max-gmacs"
    assert loser(choice, "large").flags == ("--max-gmacs",)


def test_reasons_by_hand() -> None:
    choice = choose(FOUR, Constraints())
    assert why(choice, "small") == "on the front, but 10.0 points less accurate than the winner"
    assert why(choice, "worse") == "beaten by run/medium: 1.2 points better at 0.5 of the GMACs"
    assert counted(choice.losers) == {"elsewhere on the front": 2, "beaten": 1}


def test_hypervolume_by_hand() -> None:
    """Heights 0.94 over costs 2 to 8 and 0.85 over 1 to 2, in a box up to 8; the dearest itself adds nothing."""
    choice = choose(FOUR, Constraints())
    assert choice.front.reference == {"accuracy": 0.0, "gmacs": 8.0}
    assert choice.front.hypervolume == pytest.approx((6 * 0.94 + 1 * 0.85) / 8)


def test_reference_stays_where_it_is_whatever_is_asked_for() -> None:
    assert choose(FOUR, Constraints(max_gmacs=5)).front.reference == {"accuracy": 0.0, "gmacs": 8.0}


def test_the_knee_where_it_is_preferred() -> None:
    choice = choose(FOUR, Constraints(), prefer="knee")
    assert choice.winner is MEDIUM
    assert why(choice, "large") == "on the front, but not at its knee: 1.0 points better at 4 times the GMACs"
    assert choice.rule.startswith("the knee of the front")


def test_without_a_knee_the_most_accurate_one_is_taken_and_it_is_said() -> None:
    choice = choose(FOUR[:2], Constraints(), prefer="knee")
    assert choice.winner is LARGE
    assert choice.rule.startswith("the front has no knee")


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"gmacs": 2.0}, "beaten by run/first: as accurate at 0.5 of the GMACs"),
        ({"params": 20_000}, "on the front and as accurate as the winner, which has 0.62 of its parameters"),
        ({"aliases": ()}, "equal to the winner in all that counts; the smaller digest was taken"),
    ],
    ids=["GMACs", "parameters", "handed on"],
)
def test_of_equally_accurate_ones_the_cheaper_one_that_people_know(second: dict[str, Any], reason: str) -> None:
    other = model("second", **second)
    for models in ([model("first"), other], [other, model("first")]):
        choice = choose(models, Constraints())
        assert choice.winner.trial.name == "first"
        assert why(choice, "second") == reason


def test_of_equal_ones_the_smaller_digest() -> None:
    equal = [model("one"), model("two")]
    assert choose(equal, Constraints()).winner.digest == min(one.digest for one in equal)


def test_a_third_objective_breaks_ties_before_the_cost_in_gmacs() -> None:
    fast, small = model("fast", gmacs=2.0, latency=timed(1.0)), model("small", gmacs=1.0, latency=timed(3.0))
    choice = choose([fast, small], Constraints(), ("accuracy", "latency", "gmacs"), here=CONDITIONS)
    assert choice.winner is fast
    assert why(choice, "small") == "on the front and as accurate as the winner, which has 0.33 of its latency"


def test_control_never_wins() -> None:
    control = model("control", 0.99, 0.1, kind="control")
    choice = choose([*FOUR, control], Constraints())
    assert choice.winner is LARGE
    assert why(choice, "control") == "trained for comparison only"
    with pytest.raises(UserError, match="nothing to choose from but 1 model trained for comparison only"):
        choose([control], Constraints())


def test_no_models_at_all() -> None:
    with pytest.raises(UserError, match="there is no model to choose from"):
        choose([], Constraints())


def test_drop_of_a_base_network_is_nothing() -> None:
    base = model("base", 0.8, trial=trial("base", seed=99), kind="trained", drop_points=None)
    assert choose([base], Constraints(max_drop=0)).winner is base


def test_drop_of_a_shrunk_network_without_a_parent_is_not_known() -> None:
    """A hypothesis that was not distilled, of a run that is gone."""
    shrunk = trial("shrunk", network=TEACHER.network.replace(factors=Factors(c=1.4)))
    lost = model("shrunk", 0.8, trial=shrunk, kind="trained", drop_points=None)
    assert why(choose([*FOUR, lost], Constraints(max_drop=9)), "shrunk").startswith("its drop is not known")


def test_unknown_drop_is_excluded_with_the_reason() -> None:
    lost = model("lost", 0.99, drop_points=None)
    choice = choose([*FOUR, lost], Constraints(max_drop=1))
    assert choice.winner is LARGE
    assert why(choice, "lost").startswith("its drop is not known")


def test_drop_at_the_bound_is_allowed_up_to_rounding() -> None:
    edge = model("edge", drop_points=100 * (0.9 - 0.87))
    assert edge.drop_points is not None
    assert edge.drop_points > 3
    assert choose([edge], Constraints(max_drop=3)).winner is edge


def test_every_broken_constraint_is_named() -> None:
    choice = choose([*FOUR, model("poor", 0.5, 20.0)], Constraints(max_gmacs=10, min_top1=0.8))
    assert why(choice, "poor") == (
        "costs 20.0 GMACs, 10.0 more than --max-gmacs and reaches top-1 50.0 %, 30.0 points less than --min-top1"
    )
    assert counted(choice.losers)["--min-top1"] == 1


def test_classifier_has_no_map() -> None:
    person = model("person", 0.9, map=0.7)
    choice = choose([*FOUR, person], Constraints(min_map=0.5))
    assert choice.winner is person
    assert why(choice, "large") == "it has no mAP: it classifies"
    assert loser(choice, "large").because == "constraint"


# Latencies


def test_only_latencies_of_this_machine_count() -> None:
    here, there = model("here", 0.8, latency=timed(4.0)), model("there", 0.9, latency=timed(1.0, ELSEWHERE))
    choice = choose([here, there, model("never", latency=None)], Constraints(max_latency_ms=5), here=CONDITIONS)
    assert choice.winner is here
    for name in ("there", "never"):
        assert why(choice, name) == "its latency was never measured here: orchestrate best --measure"
        assert loser(choice, name).because == "unmeasured"


def test_number_of_rounds_does_not_matter_but_all_else_does() -> None:
    assert comparable(timed(1.0, {**CONDITIONS, "runs": 50}), CONDITIONS)
    for key in CONDITIONS.keys() - {"runs"}:
        assert not comparable(timed(1.0, {**CONDITIONS, key: "other"}), CONDITIONS)
    assert not comparable(timed(1.0), None)


def test_model_too_dear_anyway_is_not_told_to_be_measured() -> None:
    choice = choose(
        [SMALL, model("dear", 0.9, 9.0, latency=None)], Constraints(max_gmacs=5, max_latency_ms=9), here=CONDITIONS
    )
    assert loser(choice, "dear").because == "constraint"


def test_objective_that_is_not_known_of_some() -> None:
    choice = choose([SMALL, model("never", latency=None)], Constraints(), ("accuracy", "latency"), here=CONDITIONS)
    assert choice.winner is SMALL
    assert loser(choice, "never").because == "unmeasured"


def test_objective_that_is_known_of_none() -> None:
    with pytest.raises(UserError, match=r"asks for latency, which none of the 4 models .* orchestrate best --measure"):
        choose(FOUR, Constraints(), ("accuracy", "latency"), here=ELSEWHERE)


# What does not compare


def test_accuracies_of_different_data_do_not_compare() -> None:
    other = model("other", trial=trial("other", data="e" * 64), data_source="ucf101")
    with pytest.raises(UserError) as refused:
        choose([*FOUR, other], Constraints())
    assert str(refused.value).splitlines() == [
        "5 models fit, but accuracies on different data don't compare; choose with",
        "  --where data=moving-digits: 4 models on moving-digits, top-1",
        "  --where data=ucf101: 1 model on ucf101, top-1",
    ]


def test_different_data_does_not_matter_where_a_constraint_decides() -> None:
    other = model("other", 0.5, trial=trial("other", data="e" * 64))
    choice = choose([*FOUR, other], Constraints(min_top1=0.8))
    assert choice.winner is LARGE


def test_rank_1_is_no_top_1() -> None:
    """A network that re-identifies has a CMC at rank 1 in that field; who asks for top-1 means classifiers."""
    person = model("person", 0.99, 0.1, map=0.9, trial=trial("person", data="e" * 64))
    choice = choose([*FOUR, person], Constraints(min_top1=0.8))
    assert choice.winner is LARGE
    assert {loser.model.name: loser.why for loser in choice.losers}["run/person"] == "it has no top-1: it re-identifies"


def test_reference_is_of_what_compares() -> None:
    dear = model("dear", 0.5, 100.0, trial=trial("dear", data="e" * 64))
    assert choose([*FOUR, dear], Constraints(min_top1=0.8)).front.reference["gmacs"] == 8.0


def test_data_of_one_source_is_told_apart_by_its_fingerprint() -> None:
    other = model("other", trial=trial("other", data="e" * 64))
    with pytest.raises(UserError, match=f"--where fingerprint={FINGERPRINT[:12]}: 4 models"):
        choose([*FOUR, other], Constraints())


# What can't be satisfied


def test_impossible_constraints_say_what_each_excludes_and_what_would_do() -> None:
    """Three of four are dearer than 1.5; large alone reaches 0.945. Nothing is excluded by both but worse."""
    with pytest.raises(UserError) as refused:
        choose(FOUR, Constraints(max_gmacs=1.5, min_top1=0.945))
    assert str(refused.value).splitlines() == [
        "the constraints exclude all 4 models",
        "  --max-gmacs 1.5 excludes 3, 1 of them alone",
        "  --min-top1 0.945 excludes 3, 1 of them alone",
        "nearest is run/small: reaches top-1 85.0 %, 9.5 points less than --min-top1; --min-top1 0.85 would let it in",
    ]


def test_nearest_breaks_few_bounds_rather_than_little_of_many() -> None:
    far, near = model("far", 0.95, 8.0), model("near", 0.89, 1.1)
    with pytest.raises(UserError, match=r"nearest is run/far: .*; --max-gmacs 8 would let it in"):
        choose([far, near], Constraints(max_gmacs=1, min_top1=0.9))


def test_nearest_is_one_whose_numbers_are_known() -> None:
    unknown = model("unknown", 0.9, 1.0, latency=None)
    with pytest.raises(UserError, match=r"nearest is run/small: takes 1.50 ms"):
        choose([unknown, SMALL], Constraints(max_latency_ms=1, max_gmacs=5), here=CONDITIONS)
    with pytest.raises(UserError, match=r"nearest is run/unknown: its latency was never measured here: .*--measure$"):
        choose([unknown], Constraints(max_latency_ms=1), here=CONDITIONS)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"min_top1": 80}, "--min-top1 is 80, but must be a fraction between 0 and 1: 0.8, not 80"),
        ({"min_map": -0.1}, "--min-map is -0.1"),
        ({"max_gmacs": 0}, "--max-gmacs is 0, but nothing costs so little"),
        ({"max_latency_ms": -3}, "--max-latency-ms is -3"),
        ({"max_drop": math.nan}, "--max-drop is nan, but must be a number"),
    ],
)
def test_bound_that_is_none(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Constraints(**bounds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acuracy", "did you mean accuracy"),
        ("gmacs", "accuracy must be one of them"),
        ("accuracy,accuracy", "only once"),
        ("accuracy,gmacs,params,size", "more than 3"),
        ("", "takes accuracy, gmacs"),
    ],
)
def test_objectives_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        objectives_of(text)


def test_objectives_keep_their_order() -> None:
    assert objectives_of("latency, accuracy") == ("latency", "accuracy")


@given(st.floats(1e-6, 1e12))
def test_bound_that_is_proposed_lets_the_value_in_and_is_near(value: float) -> None:
    above, below = float(enough(value, up=True)), float(enough(value, up=False))
    assert below <= value <= above
    assert above - below <= 0.0101 * value


def test_difference_is_never_called_nothing() -> None:
    assert [fine(value) for value in (1.25, 0.04, 0.004, 0.0)] == ["1.2", "0.04", "0.004", "0.0"]


# Whatever the models


@st.composite
def some_models(draw: st.DrawFn) -> list[StoredModel]:
    """Models with few different numbers, so that many are equal in some."""
    rows = draw(st.lists(st.tuples(*[st.integers(1, 4)] * 3, st.booleans()), min_size=1, max_size=8))
    return [
        model(f"m{number}", top1 / 5, float(gmacs), params=params, aliases=("run/m",) * known)
        for number, (top1, gmacs, params, known) in enumerate(rows)
    ]


@given(some_models(), st.randoms(use_true_random=False))
def test_choice_does_not_depend_on_the_order_and_is_on_the_front(models: list[StoredModel], random: Random) -> None:
    shuffled = list(models)
    random.shuffle(shuffled)
    for prefer in ("accuracy", "knee"):
        one, other = (choose(given, Constraints(max_gmacs=9), prefer=prefer) for given in (models, shuffled))
        assert one.to_dict() == other.to_dict()
        assert one.winner in one.front.models
        assert len(one.losers) == len(models) - 1


@given(some_models())
def test_what_equals_a_point_of_the_front_is_on_it_and_all_else_is_beaten(models: list[StoredModel]) -> None:
    choice = choose(models, Constraints())
    points = {point_of(one, ("accuracy", "gmacs"), None) for one in choice.front.models}
    for lost in choice.losers:
        assert (lost.because == "front") is (point_of(lost.model, ("accuracy", "gmacs"), None) in points)
        assert lost.because in ("front", "beaten")


def test_json_has_numbers_only_and_names_everything() -> None:
    said = json.loads(json.dumps(choose(FOUR, Constraints(max_gmacs=5)).to_dict(), allow_nan=False))
    assert said["winner"]["name"] == "run/medium"
    assert [lost["because"] for lost in said["lost"]] == ["constraint", "beaten", "front"]
    assert said["lost"][0]["constraints"] == ["--max-gmacs"]
