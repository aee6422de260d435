"""Conditions on models, as `--where` takes them: `backbone=slowfast and int8`, `gmacs<5 and not (control or tagged)`.

    condition  = every ("or" every)*
    every      = one ("and" one)*
    one        = "not" one | "(" condition ")" | test
    test       = KEY ("=" | "!=" | "<" | "<=" | ">" | ">=") VALUE | WORD

A KEY is one of `KEYS`: what `orchestrate models --json` says of a model in a number or a word, and `tag`, `run`. A WORD
is one of `WORDS`: a kind, a precision, a backbone, `tagged`, `exported`, `handed-on`. Capital letters don't matter;
a value with blanks or brackets in it stands in quotes. Digests and fingerprints may be cut short.

What a model lacks is equal to nothing, and neither below nor above anything: of `latency_ms<5`, `latency_ms>=5` and
`latency_ms!=5`, a model that was never measured satisfies the last alone. `not` turns around whatever follows it, so it
satisfies `not latency_ms<5`, too.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

import pyparsing as pp

from configs.errors import UserError
from orchestrator.registry.model import Kind, StoredModel
from trainers.backbones import BACKBONES

Test = Callable[[StoredModel], bool]

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
"""By sign; longer signs before those that they start with."""

NUMBERS = (
    *("accuracy", "top1", "top5", "map", "drop_points", "gmacs", "params", "size_mb", "latency_ms", "energy_mj"),
    *("frames", "height", "width", "sparsity", "seed"),
)
"""Keys of numbers."""
FRACTIONS = ("accuracy", "top1", "top5", "map", "sparsity")
"""Those of them that are never above 1."""
HASHES = ("digest", "fingerprint", "start", "teacher", "weights_sha256")
"""Keys of long hexadecimal numbers, of which the start will do."""
TEXTS = ("name", "kind", "backbone", "precision", "metric", "pruner", "data")
"""Keys of words."""
LISTS: dict[str, Callable[[StoredModel], list[str]]] = {
    "tag": lambda model: list(model.tags),
    "run": lambda model: [alias.partition("/")[0] for alias in model.aliases],
}
"""Keys of which a model has several values: it is equal to each."""
SHORT = {"drop": "drop_points", "size": "size_mb", "latency": "latency_ms", "energy": "energy_mj"}
"""What keys are called for short, as in `--sort`."""
KEYS = (*TEXTS, *NUMBERS, *HASHES, *LISTS)

VALUES: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "backbone": tuple(BACKBONES),
    "precision": ("fp32", "int8"),
    "metric": ("top1", "map"),
}
"""All values that a key can have, where they are known."""


def is_(key: str, value: str) -> Test:
    """Whether a property of a model has a value."""
    return lambda model: getattr(model, key) == value


WORDS: dict[str, Test] = {
    **{value: is_(key, value) for key in ("kind", "precision", "backbone") for value in VALUES[key]},
    "tagged": lambda model: bool(model.tags),
    "exported": lambda model: bool(model.exports),
    "handed-on": lambda model: bool(model.aliases),
}
"""Conditions of one word."""
NEEDED = {"value": "a value", "bracket": "')'", "end of text": "and, or, or the end"}
"""What could go on, by the name of the rule that did not; all others begin a condition."""


@dataclass(frozen=True)
class Condition:
    """A condition that models satisfy or not."""

    text: str
    """As it was written."""
    test: Test

    def holds(self, model: StoredModel) -> bool:
        """Whether a model satisfies it."""
        return self.test(model)


class Refused(pp.ParseSyntaxException):
    """What stands at a place is understood, but means nothing."""


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        UserError: says at which column, what was found there, and what would be possible.
    """
    if not text.strip():
        raise UserError("--where is empty; give a condition, e.g. --where 'backbone=slowfast and int8'")
    try:
        return Condition(text, grammar().parse_string(text, parse_all=True)[0])
    except pp.ParseBaseException as error:
        rest = text[error.loc :].lstrip()
        said = str(error.msg)
        if not isinstance(error, Refused):
            found = repr(rest.split()[0]) if rest else "the end"
            said = f"{found} stands where {NEEDED.get(said.removeprefix('Expected '), 'a condition')} is needed"
        raise UserError(f"--where, column {len(text) - len(rest) + 1}: {said}") from None
    except RecursionError:
        raise UserError("--where has too many brackets within one another; write it flatter") from None


@functools.cache
def grammar() -> pp.ParserElement:
    """The grammar above; every rule gives a test."""
    both, either, negation = (pp.CaselessKeyword(word) for word in ("and", "or", "not"))
    plain = pp.Regex(r"[^\s()=<>!'\"]+")
    word = ~(both | either | negation) + plain
    value = (pp.QuotedString("'") | pp.QuotedString('"') | plain).set_name("value")
    comparison = (word + pp.one_of(list(COMPARISONS)) - value).set_parse_action(_comparison)
    test = comparison | word.copy().add_parse_action(_word)
    condition, one = pp.Forward(), pp.Forward()
    bracketed = pp.Suppress("(") - condition - pp.Suppress(pp.Literal(")").set_name("bracket"))
    denied = (pp.Suppress(negation) - one).set_parse_action(_not)
    one <<= denied | bracketed | test
    every = (one + (pp.Suppress(both) - one)[...]).set_parse_action(_all)
    condition <<= (every + (pp.Suppress(either) - every)[...]).set_parse_action(_any)
    return condition


def _not(tokens: pp.ParseResults) -> Test:
    (test,) = tokens
    return lambda model: not test(model)


def _all(tokens: pp.ParseResults) -> Test:
    tests = tuple(tokens)
    return tests[0] if len(tests) == 1 else lambda model: all(test(model) for test in tests)


def _any(tokens: pp.ParseResults) -> Test:
    tests = tuple(tokens)
    return tests[0] if len(tests) == 1 else lambda model: any(test(model) for test in tests)


def _comparison(text: str, place: int, tokens: pp.ParseResults) -> Test:
    """`key sign value` as a test."""
    written, sign, value = tokens
    key = SHORT.get(written.casefold(), written.casefold())
    if key not in KEYS:
        raise Refused(text, place, _unknown(written, "key", (*KEYS, *SHORT)))
    compare = COMPARISONS[sign]
    if key in NUMBERS:
        number = _number(value)
        if number is None:
            raise Refused(text, place, f"{key} is a number, and {value!r} is none")
        if key in FRACTIONS and number > 1:
            raise Refused(text, place, f"{key} is a fraction: {number / 100:g}, not {value}")
        return lambda model: _compare(model.to_dict()[key], compare, number, sign)
    if sign not in ("=", "!="):
        raise Refused(text, place, f"{key} is no number: it is equal (=) or not (!=), never {sign} something")
    known, wanted = VALUES.get(key), value.casefold()
    if known is not None and wanted not in known:
        raise Refused(text, place, _unknown(value, key, known))
    equal = sign == "="
    if key in LISTS:
        return lambda model: (wanted in map(str.casefold, LISTS[key](model))) == equal
    if key in HASHES:
        return lambda model: str(model.to_dict()[key] or "").startswith(wanted) == equal
    return lambda model: (str(model.to_dict()[key] or "").casefold() == wanted) == equal


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _compare(value: float | None, compare: Callable[[Any, Any], bool], wanted: float, sign: str) -> bool:
    return sign == "!=" if value is None else compare(value, wanted)


def _word(text: str, place: int, tokens: pp.ParseResults) -> Test:
    """A condition of one word."""
    word = str(tokens[0])
    if word.casefold() in WORDS:
        return WORDS[word.casefold()]
    if word.casefold() in (*KEYS, *SHORT):
        raise Refused(text, place, f"{word} is a key: say what it is to be, e.g. {word}=…")
    raise Refused(text, place, _unknown(word, "condition", (*WORDS, *KEYS)))


def _unknown(word: str, what: str, possible: Sequence[str]) -> str:
    near = get_close_matches(word.casefold(), possible, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"possible: {', '.join(possible)}"
    return f"{word!r} is no {what}; {hint}"
