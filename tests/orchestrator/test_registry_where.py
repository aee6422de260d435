"""Conditions on models: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.spec import Quantisation
from configs.errors import UserError
from configs.schema import QuantiseRecipe
from orchestrator.registry import where
from orchestrator.registry.where import parse
from tests.orchestrator.sample_registry import PRUNED, TEACHER, stored, trial
from tests.trainers.tiny import SPEC

MODEL = stored(tags=("best", "production"), aliases=("night run/PAS-1", "tiny-pas/PAS-1"))
"""PAS-1 of tiny R(2+1)D: 0.00125 GMACs, 12,345 parameters, 0.0625 MB, 1.5 ms, top-1 0.925, no energy."""
INTEGERS = stored(
    trial=trial(
        network=SPEC.replace(quantisation=Quantisation(engine="onednn")),
        start=TEACHER.digest,
        train=None,
        quantise=QuantiseRecipe(),
    ),
    kind="quantised",
    aliases=(),
    latency=None,
)


@pytest.mark.parametrize(
    "text",
    [
        *("pas", "fp32", "r2plus1d", "tagged", "handed-on", "PAS", "not int8", "not exported", "not control"),
        *("backbone=r2plus1d", "backbone = R2Plus1D", "kind!=pruned", "precision=fp32", "metric=top1"),
        *("gmacs<0.002", "gmacs<=0.00125", "gmacs>=0.00125", "gmacs=0.00125", "gmacs!=3", "gmacs>1e-4"),
        *("params=12345", "size<1", "size_mb<1", "latency<2", "latency_ms>1", "drop<0", "drop_points=-2.5"),
        *("top1>0.9", "accuracy>0.9", "seed=0", "frames=8", "height=11", "width=11"),
        *("tag=best", "tag=production", "tag!=other", "run=tiny-pas", "run='night run'", 'name="night run/PAS-1"'),
        *(f"teacher={TEACHER.digest}", f"start={TEACHER.digest[:6]}", "fingerprint=dddd", "start!=00000000"),
        *("data=moving-digits", "data=Moving-Digits", "pruner!=l1", "energy!=3", "map!=0.5"),
        *("int8 or pas", "pas and fp32", "int8 and int8 or pas", "pas or int8 and int8", "not (int8 or pruned)"),
        *("not int8 and pas", "not not pas", "((pas))", "pas AND NOT int8", "(int8 or pas) and (tagged or int8)"),
    ],
)
def test_conditions_that_hold(text: str) -> None:
    assert parse(text).holds(MODEL)


@pytest.mark.parametrize(
    "text",
    [
        *("int8", "slowfast", "exported", "not pas", "backbone!=r2plus1d", "gmacs>1", "gmacs<0.00125", "tag=prod"),
        *("tag!=best", "run=tiny", f"start!={TEACHER.digest[:6]}", "name=tiny-pas/PAS-1", "pas and int8", "pruner=l1"),
        *("int8 or int8 and pas", "(pas or int8) and int8", "not (pas or int8)"),
    ],
)
def test_conditions_that_do_not_hold(text: str) -> None:
    assert not parse(text).holds(MODEL)


@pytest.mark.parametrize("sign", ["=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("key", ["energy_mj", "map", "sparsity"])
def test_what_is_missing_is_neither_below_nor_above_nor_equal(key: str, sign: str) -> None:
    assert not parse(f"{key}{sign}0.5").holds(MODEL)
    assert parse(f"not {key}{sign}0.5").holds(MODEL)


def test_what_is_missing_differs_from_everything() -> None:
    assert all(parse(text).holds(MODEL) for text in ("energy_mj!=0.5", "pruner!=l1", "sparsity!=0"))
    assert not parse("latency_ms<5").holds(INTEGERS)
    assert parse("latency_ms!=5").holds(INTEGERS)


def test_words_tell_models_apart() -> None:
    assert parse("int8 and quantised and not handed-on").holds(INTEGERS)
    assert parse("pruned and sparsity=0.5 and pruner=L1").holds(stored(trial=PRUNED, kind="pruned"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "--where is empty"),
        ("  ", "--where is empty"),
        ("slofast", "column 1: 'slofast' is no condition; did you mean slowfast?"),
        ("int8 and bakbone=slowfast", "column 10: 'bakbone' is no key; did you mean backbone?"),
        ("backbone=slofast", "column 1: 'slofast' is no backbone; did you mean slowfast?"),
        ("kind=prunned", "column 1: 'prunned' is no kind; did you mean pruned?"),
        ("precision=int4", "column 1: 'int4' is no precision; did you mean int8?"),
        ("metric=f", "column 1: 'f' is no metric; possible: top1, map"),
        ("gmacs<five", "column 1: gmacs is a number, and 'five' is none"),
        ("gmacs<nan", "column 1: gmacs is a number, and 'nan' is none"),
        ("accuracy>80", "column 1: accuracy is a fraction: 0.8, not 80"),
        ("backbone<slowfast", "column 1: backbone is no number: it is equal (=) or not (!=), never < something"),
        ("tag>a", "column 1: tag is no number"),
        ("gmacs", "column 1: gmacs is a key: say what it is to be, e.g. gmacs=…"),
        ("int8 and", "column 9: the end stands where a condition is needed"),
        ("int8 and and pas", "column 10: 'and' stands where a condition is needed"),
        ("or int8", "column 1: 'or' stands where a condition is needed"),
        ("= 3", "column 1: '=' stands where a condition is needed"),
        ("()", "column 2: ')' stands where a condition is needed"),
        ("(int8", "column 6: the end stands where ')' is needed"),
        ("int8)", "column 5: ')' stands where and, or, or the end is needed"),
        ("int8 pas", "column 6: 'pas' stands where and, or, or the end is needed"),
        ("gmacs <", "column 8: the end stands where a value is needed"),
        ("gmacs < )", "column 9: ')' stands where a value is needed"),
    ],
)
def test_an_error_says_where_what_and_what_else(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert said in str(caught.value)


def test_brackets_may_be_nested_and_too_deep_is_an_error_at_once() -> None:
    began = time.perf_counter()
    assert parse(f"{'(' * 20}pas{')' * 20}").holds(MODEL)
    with pytest.raises(UserError, match="too many brackets"):
        parse(f"{'(' * 5000}pas{')' * 5000}")
    assert time.perf_counter() - began < 5


CONDITIONS = st.recursive(
    st.sampled_from([("pas", True), ("int8", False), ("gmacs<1", True), ("tag=none", False)]),
    lambda inner: st.one_of(
        inner.map(lambda one: (f"not ({one[0]})", not one[1])),
        st.tuples(inner, inner).map(lambda two: (f"({two[0][0]}) and ({two[1][0]})", two[0][1] and two[1][1])),
        st.tuples(inner, inner).map(lambda two: (f"({two[0][0]}) or ({two[1][0]})", two[0][1] or two[1][1])),
    ),
    max_leaves=8,
)


@given(CONDITIONS)
def test_connectives_mean_what_they_mean(condition: tuple[str, bool]) -> None:
    text, holds = condition
    assert parse(text).holds(MODEL) == holds


@given(st.text(alphabet="abint8 ()=<>!'\"orndgmcs.5", max_size=30))
def test_any_text_is_a_condition_or_an_error(text: str) -> None:
    try:
        condition = parse(text)
    except UserError:
        return
    assert condition.holds(MODEL) in (True, False)


def test_every_key_is_one_that_models_have() -> None:
    said = MODEL.to_dict()
    assert set(where.KEYS) - said.keys() == {"tag", "run"}
    scalars = {key for key, value in said.items() if not isinstance(value, dict | list)}
    assert scalars <= set(where.KEYS)
    assert set(where.SHORT.values()) <= set(where.KEYS)


def test_every_word_is_a_condition() -> None:
    for word in where.WORDS:
        assert parse(word).holds(MODEL) in (True, False)


def test_digests_may_be_cut_short() -> None:
    assert parse(f"digest={MODEL.digest[:4].upper()}").holds(MODEL)
    assert not parse("digest=ffff").holds(MODEL)
