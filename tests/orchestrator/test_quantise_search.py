"""The search for an INT8 network as a state machine, with accuracies from a script."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from configs.errors import RunError
from configs.schema import QuantiseSettings
from orchestrator.quantise.search import Attempt, FloatLayer, QuantiseSearch
from trainers.trial import TrialResult

LAYERS = ("stem", "a", "b", "fc")
NOISE = {"stem": 30.0, "a": 12.25, "b": 20.0, "fc": 15.0}
SLOW = FloatLayer("stem", "slower in INT8: 0.31 ms against 0.24 ms")
ORIGINAL = 0.9


class Play:
    """A search played to its end."""

    def __init__(
        self,
        script: Mapping[str, float | None],
        *,
        spared: tuple[FloatLayer, ...] = (),
        noise: Mapping[str, float] = NOISE,
        seed: int = 0,
        **settings: object,
    ) -> None:
        self.asked: list[str] = []
        self.noise = noise
        self.search = QuantiseSearch(
            "net",
            QuantiseSettings.model_validate(settings),
            seed,
            original=ORIGINAL,
            layers=LAYERS,
            spared=spared,
            noise_of=self._noise_of,
        )
        self.stages: list[list[str]] = []
        while proposed := self.search.propose():
            assert self.search.propose() == proposed
            assert self.search.stop_reason is None
            self.stages.append([attempt.name for attempt in proposed])
            self.search.tell([outcome(attempt, script[attempt.name]) for attempt in proposed])

    def _noise_of(self, trial: str) -> Mapping[str, float]:
        self.asked.append(trial)
        return self.noise

    @property
    def float_layers(self) -> list[list[str]]:
        """Of every attempt."""
        return [[spared.layer for spared in attempt.float_layers] for attempt in self.search.attempts]


def outcome(attempt: Attempt, accuracy: float | None) -> TrialResult:
    status = "finished" if accuracy is not None else "diverged"
    return TrialResult(trial=f"digest of {attempt.name}", name=attempt.name, status=status, top1=accuracy, reason="nan")  # type: ignore[arg-type]


# Within the limit


def test_both_ways_are_tried_at_once_and_nothing_more_where_that_is_good_enough() -> None:
    play = Play({"net-ptq": 0.85, "net-qat": 0.897})
    assert play.stages == [["net-ptq", "net-qat"]]
    assert play.float_layers == [[], []]
    assert play.search.stop_reason == "QAT is 0.3 points below the original; nothing had to go back to float"
    assert play.asked == []


@pytest.mark.parametrize(
    ("ptq", "where"),
    [(0.9, "equal to"), (0.9125, "1.2 points above"), (0.89, "1.0 points below"), (0.8998, "0.02 points below")],
)
def test_the_limit_itself_is_allowed_and_a_gain_is_said(ptq: float, where: str) -> None:
    """90 % − 89 % is one point, although in floating point it is a little more."""
    play = Play({"net-ptq": ptq}, methods=["ptq"])
    assert play.search.stop_reason == f"PTQ is {where} the original; nothing had to go back to float"


def test_of_equals_the_first_way_counts() -> None:
    assert str(Play({"net-ptq": 0.9, "net-qat": 0.9}).search.stop_reason).startswith("PTQ")


def test_points_lost() -> None:
    play = Play({"net-ptq": 0.895, "net-qat": None})
    assert [play.search.drop(attempt) for attempt in play.search.attempts] == [0.5, None]


# Layers go back


def test_the_layer_that_does_most_harm_goes_back_first() -> None:
    play = Play({"net-ptq": 0.7, "net-qat": 0.85, "net-qat-float1": 0.87, "net-qat-float2": 0.895})
    assert play.stages == [["net-ptq", "net-qat"], ["net-qat-float1"], ["net-qat-float2"]]
    assert play.float_layers == [[], [], ["a"], ["a", "fc"]]
    assert [attempt.fallbacks for attempt in play.search.attempts] == [0, 0, 1, 2]
    assert play.search.attempts[-1].float_layers[0].reason == (
        "hurts accuracy: signal to noise 12.2 dB when it alone is quantised, the lowest"
    )
    assert play.search.stop_reason == "QAT is 0.5 points below the original with 2 layers back in float: a, fc"


def test_the_better_way_goes_on() -> None:
    play = Play({"net-ptq": 0.86, "net-qat": 0.85, "net-ptq-float1": 0.895})
    assert play.stages[1:] == [["net-ptq-float1"]]
    assert play.search.stop_reason == "PTQ is 0.5 points below the original with 1 layer back in float: a"


def test_noise_is_asked_of_the_last_network() -> None:
    play = Play({"net-qat": 0.8, "net-qat-float1": 0.85, "net-qat-float2": 0.9}, methods=["qat"])
    assert list(dict.fromkeys(play.asked)) == ["digest of net-qat", "digest of net-qat-float1"]


def test_layers_in_float_from_the_start_stay_there() -> None:
    play = Play({"net-qat": 0.8, "net-qat-float1": 0.9}, methods=["qat"], spared=(SLOW,))
    assert play.float_layers == [["stem"], ["stem", "a"]]
    assert play.search.attempts[1].float_layers[0] == SLOW
    assert play.search.stop_reason == "QAT is equal to the original with 1 layer back in float: a"


def test_it_gives_up_after_so_many_layers() -> None:
    """The first attempt was the best; the next layer goes back on top of the last one all the same."""
    script = {"net-qat": 0.8, "net-qat-float1": 0.75, "net-qat-float2": 0.77}
    play = Play(script, methods=["qat"], max_fallbacks=2)
    assert play.float_layers == [[], ["a"], ["a", "fc"]]
    assert play.search.stop_reason == (
        "gave up after 2 layers: QAT is 10.0 points below the original, more than the 1 allowed"
    )


def test_no_layer_goes_back_where_none_may() -> None:
    play = Play({"net-qat": 0.8}, methods=["qat"], max_fallbacks=0, max_drop_points=2.5)
    assert play.search.stop_reason == (
        "QAT is 10.0 points below the original, more than the 2.5 allowed; quantise.max_fallbacks is 0"
    )


@pytest.mark.parametrize("noise", [{}, {"a": 3.0}, {"stem": 1.0, "a": 3.0}])
def test_the_last_layer_stays_quantised(noise: dict[str, float]) -> None:
    play = Play({"net-qat": 0.8}, methods=["qat"], spared=(SLOW,), noise=noise)
    assert play.search.stop_reason == (
        "QAT is 10.0 points below the original, more than the 1 allowed; no further layer could go back to float"
    )


def test_a_training_that_diverges_counts_as_a_layer_and_the_next_goes_back() -> None:
    play = Play({"net-qat": 0.8, "net-qat-float1": None, "net-qat-float2": 0.895}, methods=["qat"])
    assert play.float_layers == [[], ["a"], ["a", "fc"]]
    assert set(play.asked) == {"digest of net-qat"}
    assert play.search.stop_reason == (
        "QAT is 0.5 points below the original with 2 layers back in float: a, fc; "
        "1 of 3 networks did not come out usable"
    )


# Seeds


def test_seeds_train_side_by_side_and_measuring_ranges_needs_one() -> None:
    play = Play({"net-ptq": 0.9, "net-qat": 0.9, "net-qat-seed4": 0.1}, seeds=[0, 4])
    assert play.stages == [["net-ptq", "net-qat", "net-qat-seed4"]]
    assert [attempt.seed for attempt in play.search.attempts] == [0, 0, 4]


def test_other_seeds_follow_once_the_layers_are_settled() -> None:
    script = {"net-qat": 0.8, "net-qat-seed4": 0.95, "net-qat-float1": 0.9, "net-qat-float1-seed4": 0.7}
    play = Play(script, methods=["qat"], seeds=[0, 4])
    assert play.stages == [["net-qat", "net-qat-seed4"], ["net-qat-float1"], ["net-qat-float1-seed4"]]
    assert play.search.attempts[-1].float_layers == play.search.attempts[-2].float_layers
    assert play.search.stop_reason == "QAT is equal to the original with 1 layer back in float: a"


def test_other_seeds_don_t_follow_where_layers_went_back_in_vain() -> None:
    script = {"net-qat": 0.8, "net-qat-seed4": 0.8, "net-qat-float1": 0.75}
    play = Play(script, methods=["qat"], seeds=[0, 4], max_fallbacks=1)
    assert play.stages == [["net-qat", "net-qat-seed4"], ["net-qat-float1"]]


def test_more_seeds_take_the_same_decisions() -> None:
    script = {"net-qat": 0.8, "net-qat-float1": 0.9}
    few = Play(script, methods=["qat"])
    more = Play({**script, "net-qat-seed1": 0.99, "net-qat-float1-seed1": 0.2}, methods=["qat"], seeds=[0, 1])
    assert [a for a in more.search.attempts if a.seed == 0] == few.search.attempts


def test_the_run_s_seed_does_not_show_in_names() -> None:
    play = Play({"net-ptq": 0.9, "net-qat": 0.9, "net-qat-seed0": 0.9}, seeds=[7, 0], seed=7)
    assert [attempt.seed for attempt in play.search.attempts] == [7, 7, 0]


# Failures


def test_nothing_usable_is_an_error_that_says_why() -> None:
    with pytest.raises(RunError, match=r"no quantised network came out usable:\n  net-ptq +diverged  nan\n  net-qat"):
        Play({"net-ptq": None, "net-qat": None})


def test_without_the_first_seed_no_layer_goes_back() -> None:
    play = Play({"net-qat": None, "net-qat-seed1": 0.2}, methods=["qat"], seeds=[0, 1])
    assert len(play.stages) == 1
    assert play.search.stop_reason == (
        "nothing came out usable with the first seed, by which layers would go back; "
        "1 of 2 networks did not come out usable"
    )


def test_results_must_answer_the_proposal() -> None:
    search = Play({"net-qat": 0.9}, methods=["qat"]).search
    with pytest.raises(ValueError, match="1 results for 0 attempts"):
        search.tell([outcome(search.attempts[0], 0.5)])
