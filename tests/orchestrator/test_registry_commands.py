"""The commands `models`, `lineage` and `tag`: what they print at 80 and 120 columns, and as JSON."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from configs.errors import UserError
from orchestrator.commands.models import lineage, models, tag
from orchestrator.registry.listing import KEYS, grouped, sorted_by
from orchestrator.registry.model import Measured
from orchestrator.registry.registry import Registry
from orchestrator.registry.terminal import describe_conditions, drop, print_models
from orchestrator.store import Store
from tests.orchestrator.sample_registry import (
    CONDITIONS,
    LOSER,
    PAS1,
    PAS2,
    PRUNED,
    TEACHER,
    TRIALS,
    make_store,
    stored,
    taught,
    trial,
    write_trial,
)
from trainers.package import WEIGHTS_FILE

app = typer.Typer()
for command in (models, lineage, tag):
    app.command()(command)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "runs")


def run(store: Store, *arguments: str, columns: int = 80) -> Result:
    """Run a command; errors of the user are raised."""
    environment = {"COLUMNS": str(columns), "TERM": "dumb"}
    return CliRunner().invoke(app, [*arguments, "--runs", str(store.root)], env=environment, catch_exceptions=False)


def as_json(store: Store, *arguments: str) -> Any:
    result = run(store, *arguments, "--json")
    assert result.stderr == ""
    return json.loads(result.stdout)


def listed(store: Store, *arguments: str) -> list[str]:
    """Names of the trials that `models` lists, in its order."""
    names = {made.digest: made.name.removeprefix("r2plus1d-") for made in TRIALS}
    return [names[model["digest"]] for model in as_json(store, "models", *arguments)]


def test_models_are_those_handed_on_unless_all_are_asked_for(store: Store) -> None:
    assert listed(store) == ["pas1-side", "teacher", "l1-0.5", "pas2-channels"]
    assert listed(store, "--all") == [
        *("pas1-side", "teacher", "l1-0.5", "pas2-channels", "pas1-rate", "pas1-control"),
    ]
    run(store, "tag", LOSER.digest, "kept")
    assert "pas1-rate" in listed(store)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--where", "pruned or trained"], ["teacher", "l1-0.5"]),
        (["--where", "run=tiny-pas and drop<0"], ["pas1-side"]),
        (["--where", "control"], []),
        (["--where", "control", "--all"], ["pas1-control"]),
        (["--sort", "latency"], ["l1-0.5", "teacher", "pas1-side", "pas2-channels"]),
        (["--sort", "drop"], ["pas1-side", "l1-0.5", "pas2-channels", "teacher"]),
        (["--sort", "name"], ["pas1-side", "pas2-channels", "teacher", "l1-0.5"]),
    ],
)
def test_models_are_chosen_and_sorted(store: Store, arguments: list[str], found: list[str]) -> None:
    assert listed(store, *arguments) == found


def test_models_of_a_tag(store: Store) -> None:
    run(store, "tag", "tiny-pas/PAS-2", "production")
    assert listed(store, "--tag", "production") == ["pas2-channels"]
    with pytest.raises(UserError, match=r"no model in .* has the tag 'prod'; tags there: production$"):
        run(store, "models", "--tag", "prod")


@pytest.mark.parametrize("key", KEYS)
def test_every_order_is_best_first_with_unknown_values_last(key: str) -> None:
    best = stored(
        top1=0.9, map=0.9, gmacs=1.0, params=1, size_mb=1.0, drop_points=1.0, aliases=("a",), digest="1" * 16,
        latency=Measured(value=1.0, conditions=CONDITIONS),
    )  # fmt: skip
    worst = stored(
        top1=0.8, map=0.8, gmacs=2.0, params=2, size_mb=2.0, drop_points=2.0, aliases=("b",), digest="2" * 16,
        latency=Measured(value=2.0, conditions=CONDITIONS),
    )  # fmt: skip
    found = [best, worst]
    if key in ("top1", "map", "latency", "drop"):
        unknown: dict[str, Any] = {KEYS[key]: None}
        found.append(dataclasses.replace(best, digest="0" * 16, **unknown))
    assert sorted_by(found[::-1], key) == found


def test_equals_are_in_the_order_of_their_names_and_digests() -> None:
    twins = [stored(aliases=(name,), digest=digest) for name, digest in (("a", "2"), ("b", "0"), ("b", "1"))]
    assert sorted_by(twins[::-1], "gmacs") == twins


def test_models_of_different_data_stand_apart() -> None:
    other = stored(trial=trial(data="e" * 64))
    person = dataclasses.replace(other, map=0.5)
    assert list(grouped([stored(), other, person]).values()) == [[stored()], [other], [person]]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_table_keeps_to_the_width_and_breaks_no_number(store: Store, columns: int) -> None:
    run(store, "tag", "tiny-pas/PAS-1", "production")
    out = run(store, "models", "--all", columns=columns).stdout
    lines = out.splitlines()
    assert all(len(line) <= columns for line in lines[:-1])  # the last is not folded
    row = next(line for line in lines if "tiny-pas/PAS-1" in line)
    cells = ["tiny-pas/PAS-1", "pas", "fp32", "92.5 %", "−2.5", "0.000171", "12.8 k", "0.0640", "–"]
    assert row.split() == [word for cell in cells if columns == 120 or cell != "fp32" for word in cell.split()]
    assert lines[lines.index(row) + 1].strip() == "production"
    assert lines[-1] == f"6 of 6 models in {store.root}"


def printed(found: list[Any], width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        print_models(console, found)
    return capture.get()


def test_columns_that_do_not_fit_are_left_out_and_named() -> None:
    long = [stored(aliases=("slowfast-chain-1f675a/2-prune",), params=491_252, gmacs=0.00411)]
    wide, narrow, slim = (" ".join(printed(long, width).split()) for width in (120, 80, 60))
    assert "params" in wide
    assert "left out" not in wide
    assert "left out for want of width: bits (--json has all)" in narrow
    assert "left out for want of width: bits, params, MB (--json has all)" in slim
    assert all("92.5 %" in text and "0.00411" in text for text in (wide, narrow, slim))


def test_times_of_different_conditions_are_marked() -> None:
    elsewhere = Measured(value=3.0, conditions={**CONDITIONS, "machine": "Big CPU", "runs": 9})
    text = printed([stored(), stored(latency=elsewhere), stored(latency=None)], 120)
    assert " 1.50 a " in text
    assert " 3.00 b " in text
    assert "ms a: Little CPU @ 1.00GHz, AVX2, 1 thread, batch 1, torch 2.15.0" in text
    assert "ms b: Big CPU, AVX2, 1 thread, batch 1, torch 2.15.0" in text


def test_the_number_of_runs_makes_no_difference_to_what_is_compared() -> None:
    one, other = (Measured(value=1.0, conditions={**CONDITIONS, "runs": runs}) for runs in (30, 50))
    assert describe_conditions(one) == describe_conditions(other)
    assert describe_conditions(Measured(value=1.0, conditions={"threads": 2, "counter": "rapl"})) == (
        '2 threads, counter "rapl"'
    )


@pytest.mark.parametrize(("points", "said"), [(None, "–"), (2.04, "2.0"), (-2.5, "−2.5"), (-0.04, "0.0"), (0.0, "0.0")])
def test_drops_in_words(points: float | None, said: str) -> None:
    assert drop(points) == said


def test_an_empty_store_says_what_to_run(tmp_path: Path) -> None:
    nowhere = Store(tmp_path / "nowhere")
    assert "There are no models in" in run(nowhere, "models").stdout
    assert "`orchestrate pas`" in run(nowhere, "models").stdout
    assert as_json(nowhere, "models") == []


def test_what_can_not_be_used_is_said_on_stderr(store: Store) -> None:
    (store.trial_folder(LOSER.digest) / WEIGHTS_FILE).unlink()
    for name in ("Best", "best"):
        (store.registry_folder / "tags").mkdir(parents=True, exist_ok=True)
        (store.registry_folder / "tags" / name).write_text(json.dumps({"model": PAS1.digest}))
    result = run(store, "models", "--json")
    assert len(json.loads(result.stdout)) == 4
    damaged, tags = result.stderr.splitlines()  # what is wrong with the tags is said once
    assert damaged == f"warning: trials/{LOSER.digest} is left out: model.safetensors is missing"
    assert tags.startswith("warning: tags Best and best in ")


def test_much_damage_is_counted(store: Store) -> None:
    for seed in range(12):
        (write_trial(store, trial(seed=100 + seed), 0.5) / WEIGHTS_FILE).unlink()
    assert run(store, "models").stderr.splitlines()[-1] == "warning: and 2 more like these"


def test_a_model_is_tagged_moved_and_set_free(store: Store) -> None:
    said = run(store, "tag", "tiny-pas/PAS-1", "production").stdout
    assert said == f"tiny-pas/PAS-1 ({PAS1.digest}) has the tag production.\n"
    with pytest.raises(UserError, match=r"tiny-pas/PAS-1 .* has the tag production already; --move"):
        run(store, "tag", "tiny-pas/PAS-2", "production")
    run(store, "tag", "tiny-pas/PAS-2", "production", "--move")
    assert Registry.open(store).find("production").trial == PAS2
    assert "no longer has the tag" in run(store, "tag", "production", "production", "--remove").stdout
    assert not any(model.tags for model in Registry.open(store).models)


def test_moving_and_removing_at_once_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="--move and --remove"):
        run(store, "tag", "tiny-pas/PAS-1", "production", "--move", "--remove")


def test_a_lineage_leads_to_the_base_with_what_changed(store: Store) -> None:
    lines = run(store, "lineage", "tiny-pas/PAS-1").stdout.splitlines()
    assert lines == [
        f"tiny-pas/PAS-1 {PAS1.digest}",
        "pas · 92.5 % top-1 · 0.000171 GMACs · drop −2.5 · seed 0",
        "└── side ÷ 1.4; from, and taught by",
        f"    tiny-pas/teacher {TEACHER.digest}",
        "    trained · 90.0 % top-1 · 0.000278 GMACs · seed 0",
    ]
    assert "side ÷ 1.4, channels ÷ 1.4; from random weights, taught by" in run(store, "lineage", PAS2.digest).stdout


def test_a_lineage_goes_on_with_what_was_made(store: Store) -> None:
    out = run(store, "lineage", "tiny-pas/teacher", "--children").stdout
    _, made = out.split("Made from it:")
    for name in ("tiny-pas/PAS-1", "tiny-pas/PAS-2", "tiny-sweep/l1-0.5", "r2plus1d-pas1-rate"):
        assert made.count(name) == 1
    assert "control" not in made
    assert "Nothing was made from it." in run(store, "lineage", PRUNED.digest, "--children").stdout


@pytest.mark.parametrize("seed", range(4))  # so that it comes before its parent as well as after it
def test_a_child_stands_below_what_it_started_from_not_below_its_teacher(store: Store, seed: int) -> None:
    write_trial(store, taught("grandchild", TEACHER, start=PAS1.digest, seed=seed), 0.5)
    lines = run(store, "lineage", "tiny-pas/teacher", "--children").stdout.split("Made from it:")[1].splitlines()
    (line,) = (line for line in lines if "grandchild" in line)
    parent = next(line for line in lines if "tiny-pas/PAS-1" in line)
    assert line.index("grandchild") == parent.index("tiny-pas") + 4
    assert lines.index(line) > lines.index(parent)


def test_an_ancestor_that_is_gone_is_said(store: Store) -> None:
    orphan = trial("orphan", network=PAS1.network, start="0123456789abcdef")
    write_trial(store, orphan, 0.5)
    assert "0123456789abcdef (not in this store)" in run(store, "lineage", "orphan").stdout
    (store.trial_folder(TEACHER.digest) / WEIGHTS_FILE).unlink()
    out = " ".join(run(store, "lineage", PAS1.digest).stdout.split())
    assert f"{TEACHER.digest} (damaged: model.safetensors is missing)" in out


def test_a_lineage_as_json(store: Store) -> None:
    found = as_json(store, "lineage", "tiny-pas/PAS-1", "--children")
    assert found["model"]["digest"] == PAS1.digest
    (step,) = found["ancestors"]
    assert (step["digest"], step["relation"], step["of"]) == (TEACHER.digest, "start", PAS1.digest)
    assert (step["change"], step["model"]["name"]) == ("side ÷ 1.4", "tiny-pas/teacher")
    assert found["children"] == []
    assert "children" not in as_json(store, "lineage", "tiny-pas/PAS-1")
    made = as_json(store, "lineage", "tiny-pas/teacher", "--children")["children"]
    assert {child["digest"]: child["relation"] for child in made} == {
        PAS1.digest: "start", LOSER.digest: "start", PRUNED.digest: "start", PAS2.digest: "teacher",
    }  # fmt: skip
