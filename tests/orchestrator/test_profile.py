"""`orchestrate profile`: the source's cost tables, and the JSON that is documented."""

from __future__ import annotations

import json

import pytest

from configs.errors import UserError
from configs.schema import NetworkSettings
from orchestrator.cli import run
from orchestrator.profile import profile_steps

CHOSEN = {
    "r2plus1d": ("c,f,t,t,t", (40.8, 20.4, 10.2, 5.4, 3.2, 2.5), (40.5, 20.8, 10.4, 5.5, 3.3, 2.5)),
    "slowfast": ("c,s,t,s,f", (36.6, 18.9, 10.2, 5.1, 2.9, 1.4), (36.1, 19.3, 10.4, 5.2, 2.95, 1.48)),
}
"""Sequence that the source chose, its costs (Table 6.1), and those of a faithful network, convolutions and classifier
alone (specification, section 6)."""


@pytest.mark.parametrize("backbone", CHOSEN)
def test_costs_are_those_of_the_source(backbone: str) -> None:
    sequence, published, counted = CHOSEN[backbone]
    steps = profile_steps(NetworkSettings.model_validate({"backbone": backbone, "preset": "full"}), sequence, 400)
    measured = [step.cost.gmacs for step in steps]
    assert measured == pytest.approx(counted, rel=0.03)
    assert measured[:-1] == pytest.approx(published[:-1], rel=0.04)


def test_json_is_the_documented_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "--backbone", "slowfast", "--preset", "tiny", "--reduce", "c, s", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["backbone"] == "slowfast"
    assert [step["axis"] for step in printed["steps"]] == [None, "c", "s"]
    assert all(step.keys() == {"axis", "gmacs", "params", "frames", "side"} for step in printed["steps"])
    gmacs = [step["gmacs"] for step in printed["steps"]]
    assert gmacs == sorted(gmacs, reverse=True)
    assert [step["side"] for step in printed["steps"]] == [36, 36, 26]
    assert printed["steps"][1]["params"] == printed["steps"][2]["params"] < printed["steps"][0]["params"]


def test_table_has_a_row_per_step_and_layers_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--preset", "tiny", "--reduce", "s", "--layers", "--set", "network.width=0.03125"]
    assert run(["profile", "--backbone", "r2plus1d", *flags]) == 0
    out = capsys.readouterr().out
    assert "unreduced" in out
    assert "side" in out
    step = profile_steps(NetworkSettings(backbone="r2plus1d", width=0.03125), "s", 400)[-1]
    assert f"{step.cost.macs / 1e6:.3f}" in out


@pytest.mark.parametrize(
    ("reductions", "problem"),
    [("x", "step 1: axis is 'x', but must be one of s, t, f, c, l"), ("s,l,l", "step 3: axis l (layers) is exhausted")],
)
def test_steps_that_cannot_be_taken_are_named(reductions: str, problem: str) -> None:
    settings = NetworkSettings(backbone="r2plus1d", preset="full")
    with pytest.raises(UserError) as error:
        profile_steps(settings, reductions, 400)
    assert str(error.value).startswith(f"--reduce {reductions}: {problem}")
    assert str(error.value).endswith("write them like c,s,t")
