"""Chains as state machines: which step is next, what it is given, and what becomes of its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from compression.spec import Quantisation
from configs.errors import RunError
from configs.schema import (
    ChainSettings,
    ChainStep,
    ClipSettings,
    PasStep,
    PruneStep,
    Pruning,
    QuantiseRecipe,
    QuantiseSettings,
    QuantiseStep,
    SearchSettings,
)
from orchestrator.chain.search import Chain, Link, Quantising, Shrinking, Single, trained_model
from orchestrator.pas import Hypothesis, Model, PasSearch
from orchestrator.quantise.search import Attempt, FloatLayer, QuantiseSearch
from tests.orchestrator.test_pas import TEACHER, Told, answer, made_up_cost
from trainers.trial import Trial, TrialResult

NOISE = {"a": 20.0, "b": 10.0, "c": 30.0}
"""Of the layers of the network that is quantised, in dB."""
GOOD = {
    "slowfast-pas1-side": ("finished", 0.78),
    "slowfast-pas2-side": ("finished", 0.76),
    "step2": ("finished", 0.72),
    "slowfast-qat": ("finished", 0.715),
}
"""The first axis is the better one in both iterations."""


def trial(name: str, model: Model, **changes: object) -> Trial:
    """Something done to a network; its name is its digest in these tests."""
    given = {"network": model.network, "start": model.trial, "clips": ClipSettings(), **changes}
    return Trial(name=name, data="data", train=None, seed=0, **given)  # type: ignore[arg-type]


class Play:
    """A chain played to its end; every proposal is asked for twice."""

    def __init__(
        self,
        told: Told,
        steps: tuple[ChainStep, ...] = ChainSettings().steps,
        *,
        open_error: str = "",
        **search: object,
    ) -> None:
        self.told = told
        self.open_error = open_error
        self.search = SearchSettings.model_validate({"axes": ["s", "c"], "iterations": 2, **search})
        self.opened: list[tuple[int, str, str]] = []
        """Number and kind of each step, and the trial that it was given."""
        self.stages: list[list[str]] = []
        self.chain = Chain(TEACHER, steps, self._open)

    def run(self) -> Play:
        while proposed := self.chain.propose():
            assert self.chain.propose() == proposed
            assert self.chain.stop_reason is None
            self.stages.append([proposal.name for proposal in proposed])
            self.chain.tell([self._result(proposal) for proposal in proposed])
        return self

    def _result(self, proposal: Hypothesis | Trial) -> TrialResult:
        return replace(answer(self.told, proposal.name), reason="no luck")

    def _open(self, number: int, step: ChainStep, model: Model) -> Link:
        self.opened.append((number, step.step, model.trial))
        if step.step == self.open_error:
            raise RunError("it does not fit")
        match step:
            case PasStep():
                return Shrinking(PasSearch(model, self.search, made_up_cost))
            case PruneStep():
                pruning = Pruning(pruner=step.pruner, sparsity=step.sparsity)
                return Single(trial(f"step{number}", model, pruning=pruning), model.cost, "AGP 0.5", ["one is left"])
            case QuantiseStep():
                return quantising(model, step)


def quantising(model: Model, step: QuantiseStep) -> Quantising:
    def trial_of(attempt: Attempt) -> Trial:
        rule = Quantisation(engine="onednn", float_layers=tuple(spared.layer for spared in attempt.float_layers))
        network = model.network.replace(quantisation=rule)
        return trial(attempt.name, model, network=network, quantise=QuantiseRecipe())

    search = QuantiseSearch(
        "slowfast",
        QuantiseSettings(methods=(step.method,), max_fallbacks=2),
        0,
        original=model.accuracy,
        layers=list(NOISE),
        spared=[FloatLayer("c", "slow")],
        noise_of=lambda _: NOISE,
    )
    return Quantising(search, trial_of, model.cost)


def titles(chain: Chain) -> list[str]:
    return [link.title for link in chain.links]


# Steps in a row


def test_each_step_begins_with_the_network_that_the_one_before_left() -> None:
    play = Play(GOOD).run()
    assert play.stages == [
        ["slowfast-pas1-side", "slowfast-pas1-channels"],
        ["slowfast-pas2-side", "slowfast-pas2-channels"],
        ["step2"],
        ["slowfast-qat"],
    ]
    assert play.opened == [(1, "pas", "teacher"), (2, "prune", "slowfast-pas2-side"), (3, "quantise", "step2")]
    assert play.chain.stop_reason == "3 of 3 steps done"
    assert titles(play.chain) == ["PAS-2 (s, s)", "AGP 0.5", "INT8 by QAT"]
    assert [play.chain.before(number).trial for number in (1, 2, 3)] == ["teacher", "slowfast-pas2-side", "step2"]


def test_nothing_is_planned_before_its_turn() -> None:
    play = Play(GOOD)
    first = play.chain.propose()
    assert (play.chain.number, len(play.opened)) == (1, 1)
    play.chain.tell([play._result(hypothesis) for hypothesis in first])
    play.chain.propose()
    assert (play.chain.number, len(play.opened)) == (1, 1)
    assert not play.chain.is_over(1)


def test_a_step_hands_on_its_accuracy_and_its_network() -> None:
    chain = Play(GOOD).run().chain
    accuracies = [link.model.accuracy for link in chain.links if link.model]
    assert accuracies == [0.76, 0.72, 0.715]
    last = chain.links[2].model
    assert last is not None
    assert last.network.quantisation == Quantisation(engine="onednn", float_layers=("c",))
    assert all(chain.is_over(number) for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("steps", "opened"),
    [
        ((PruneStep(),), [(1, "prune", "teacher")]),
        ((QuantiseStep(),), [(1, "quantise", "teacher")]),
        ((PruneStep(sparsity=0.3), PruneStep()), [(1, "prune", "teacher"), (2, "prune", "step1")]),
        ((PasStep(), QuantiseStep()), [(1, "pas", "teacher"), (2, "quantise", "slowfast-pas2-side")]),
    ],
)
def test_steps_may_be_left_out_or_repeated(steps: tuple[ChainStep, ...], opened: list[tuple[int, str, str]]) -> None:
    play = Play({**GOOD, "slowfast-qat": ("finished", 0.8)}, steps).run()
    assert play.opened == opened
    assert play.chain.stop_reason == f"{len(steps)} of {len(steps)} steps done"


def test_controls_of_the_search_belong_to_its_step() -> None:
    play = Play(GOOD, control=True).run()
    assert play.stages[1:4] == [
        ["slowfast-pas2-side", "slowfast-pas2-channels", "slowfast-pas1-control"],
        ["slowfast-pas2-control"],
        ["step2"],
    ]


def test_more_iterations_begin_as_fewer_did() -> None:
    shorter, longer = Play(GOOD).run(), Play(GOOD, iterations=3).run()
    assert longer.stages[:2] == shorter.stages[:2]
    assert longer.opened[1] == (2, "prune", "slowfast-pas3-side")


def test_a_search_that_finds_nothing_hands_on_the_teacher() -> None:
    """Both are more than a point below it."""
    play = Play({**GOOD, "slowfast-pas1-channels": ("finished", 0.5)}, max_drop=1).run()
    link = play.chain.links[0]
    assert (link.title, link.model) == ("PAS", None)
    assert list(link.notes) == [
        "the search ended: the best of iteration 1 is 2.0 points below the teacher, max_drop is 1",
        "no smaller network was accepted: the chain goes on with the teacher",
    ]
    assert play.opened[1] == (2, "prune", "teacher")
    assert play.chain.before(2) == TEACHER
    assert play.chain.is_over(1)


# Integers


def test_what_loses_too_much_is_quantised_again_with_a_layer_less() -> None:
    told = {**GOOD, "slowfast-qat": ("finished", 0.6), "slowfast-qat-float1": ("finished", 0.72)}
    play = Play(told).run()
    assert play.stages[3:] == [["slowfast-qat"], ["slowfast-qat-float1"]]
    link = play.chain.links[2]
    assert isinstance(link, Quantising)
    assert link.model is not None
    assert (link.model.trial, link.model.accuracy) == ("slowfast-qat-float1", 0.72)
    assert link.model.network.quantisation == Quantisation(engine="onednn", float_layers=("b", "c"))
    assert list(link.notes) == ["QAT is equal to the original with 1 layer back in float: b"]


def test_of_networks_that_all_lose_too_much_the_best_is_handed_on() -> None:
    """The limit of fallbacks is two, but of two layers one must stay in integers."""
    told = {**GOOD, "slowfast-qat": ("finished", 0.6), "slowfast-qat-float1": ("finished", 0.55)}
    link = Play(told).run().chain.links[2]
    assert link.model is not None
    assert link.model.trial == "slowfast-qat"


# Failures


@pytest.mark.parametrize(
    ("broken", "reason", "reached"),
    [
        ({"step2": ("diverged", None)}, "step 2 of 3, AGP 0.5: step2 diverged: no luck", "slowfast-pas2-side"),
        (
            {"slowfast-qat": ("failed", None)},
            "step 3 of 3, INT8 by QAT: no quantised network came out usable",
            "step2",
        ),
        (
            {"slowfast-pas1-side": ("failed", None), "slowfast-pas1-channels": ("diverged", None)},
            "step 1 of 3, PAS: no hypothesis of iteration 1 came out usable",
            "teacher",
        ),
    ],
)
def test_a_step_that_comes_to_nothing_ends_the_chain(
    broken: Mapping[str, tuple[str, None]], reason: str, reached: str
) -> None:
    play = Play({**GOOD, **broken})
    with pytest.raises(RunError) as error:
        play.run()
    chain = play.chain
    assert str(error.value) == chain.stop_reason
    assert chain.stop_reason is not None
    assert chain.stop_reason.startswith(reason)
    assert chain.failed == chain.number
    assert chain.links[-1].model is None
    assert chain.before(chain.number + 1).trial == reached
    assert not chain.is_over(chain.number)
    assert chain.propose() == []


def test_a_step_that_can_t_begin_ends_the_chain() -> None:
    play = Play(GOOD, open_error="quantise")
    with pytest.raises(RunError, match="step 3 of 3, quantise: it does not fit"):
        play.run()
    assert (play.chain.failed, play.chain.number) == (3, 2)
    assert play.chain.is_over(2)
    assert play.chain.propose() == []


def test_what_a_search_accepted_before_it_failed_is_kept() -> None:
    told = {**GOOD, "slowfast-pas2-side": ("failed", None), "slowfast-pas2-channels": ("failed", None)}
    play = Play(told)
    with pytest.raises(RunError, match="step 1 of 3, PAS-1 \\(s\\)"):
        play.run()
    model = play.chain.links[0].model
    assert model is not None
    assert model.trial == "slowfast-pas1-side"


def test_a_trial_without_an_accuracy_makes_no_network() -> None:
    with pytest.raises(RunError, match="one failed: no room"):
        trained_model(
            trial("one", TEACHER), TEACHER.cost, TrialResult(trial="1", name="one", status="failed", reason="no room")
        )
