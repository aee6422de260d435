import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from configs.errors import UserError
from orchestrator.commands.report import report
from orchestrator.registry.registry import Registry
from orchestrator.report import percent
from orchestrator.report.all import (
    Overview,
    filter_choices,
    model_rows,
    overall_headline,
    read_overview,
    render_overview,
    write_overall_report,
)
from orchestrator.report.comparison import (
    compare_costs,
)
from orchestrator.report.states import effort_of, read_states
from orchestrator.store import STATE_FILE, Store
from orchestrator.views import VIEWS
from tests.orchestrator.sample_chain import chain_state
from tests.orchestrator.sample_comparison import FAMILY
from tests.orchestrator.sample_quantise import quantise_state
from tests.orchestrator.sample_registry import (
    CONTROL,
    PAS1,
    PAS2,
    PRUNED,
    RUN,
    SWEEP,
    TEACHER,
    make_store,
    pas_state,
)
from tests.orchestrator.sample_state import empty_state, sample_state
from tests.orchestrator.sample_sweep import sensitivity_state, sweep_state
from tests.orchestrator.test_report import Page
from trainers.files import write_json

app = typer.Typer()
app.command()(report)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Read only; tests that change something make their own."""
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def overview(store: Store) -> Overview:
    return read_overview(store)


@pytest.fixture(scope="module")
def page(overview: Overview) -> str:
    return render_overview(overview)


def test_effort_counts_every_trial_once() -> None:
    def state(cpus: float, *rows: dict[str, Any]) -> dict[str, Any]:
        return {"config": {"runtime": {"cpus_per_trial": cpus}}, "teacher": rows[0], "cells": list(rows[1:])}

    def row(trial: str, seconds: float | None, epochs: int) -> dict[str, Any]:
        return {"trial": trial, "seconds": seconds, "epochs": epochs}

    first = state(2.0, row("a", 10.0, 4), row("b", 5.0, 2), row("c", None, 0))
    second = state(1.0, row("a", 10.0, 4), row("b", 5.0, 2), row("b", 5.0, 2), row("d", 1.0, 0))
    effort = effort_of([first, second])
    assert (effort.trainings, effort.epochs) == (2, 6)
    assert effort.core_seconds == 2 * 10 + 2 * 5 + 1
    assert (effort.answered, effort.saved_core_seconds) == (2, 15)


@pytest.mark.parametrize(
    "state",
    [sample_state(), empty_state(), sweep_state((0,), ()), sensitivity_state(), quantise_state(), chain_state()],
    ids=["pas", "failed", "sweep", "sensitivity", "quantise", "chain"],
)
def test_every_kind_of_run_has_a_headline(state: dict[str, Any]) -> None:
    view = VIEWS[state["algorithm"]]
    assert view.headline(state).endswith(".")
    assert view.title


def test_headline_says_how_far_the_best_reach(overview: Overview) -> None:
    comparisons = compare_costs(FAMILY)
    given = {**vars(overview), "models": FAMILY}
    assert overall_headline(Overview(**given), comparisons) == (
        "4 models from 2 searches. On moving-digits the best reach from 70.0 % top-1 at 1.00 GMACs to 90.0 % at 10.0."
    )
    assert overall_headline(Overview(**{**given, "models": ()}), ()) == "0 models from 2 searches."


def test_front_comes_first_in_the_table_and_numbers_are_written_for_sorting() -> None:
    rows = model_rows(FAMILY, compare_costs(FAMILY))
    assert [(row["model"].trial.name, row["on_front"], row["is_knee"]) for row in rows] == [
        ("base", True, False),
        ("good", True, True),
        ("small", True, False),
        ("beaten", False, False),
    ]
    assert filter_choices(FAMILY) == [
        ("backbone", "Backbone", ["r2plus1d"]),
        ("kind", "Kind", ["base network", "shrunk", "pruned", "INT8"]),
        ("precision", "Precision", ["fp32"]),
        ("data", "Data", ["moving-digits"]),
    ]


def test_page_is_well_formed_and_needs_nothing_else(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.tags.count("script") == 1
    assert not {"link", "img", "iframe", "object"} & set(parsed.tags)
    assert re.findall(r"""src=["']|@import|https?://(?!www\.w3\.org)""", page) == []
    assert set(re.findall(r"""(?:href="|url\()#([^")]+)""", page)) <= set(parsed.ids)


def test_page_tells_of_every_search_and_model(page: str, store: Store) -> None:
    text = " ".join(Page(page).text.split())
    models = Registry.open(store).models
    assert text.startswith("All searches and models")
    assert len(models) == 6
    for one in models:
        assert one.digest in text
        assert percent(one.accuracy) in text
    for expected in (RUN, SWEEP, "PAS-2 reaches 85.0 % top-1, 5.0 points below the teacher's 90.0 %", "side ÷ 1.4"):
        assert expected in text
    assert "What can't be shown" not in text


def test_page_reads_without_its_script(page: str) -> None:
    assert re.search(r'<form class="filters" id="filters" hidden', page)
    assert not re.search(r"<tr[^>]* hidden", page)
    assert "<button" not in page.partition("<script>")[0]


def test_rows_carry_what_the_script_filters_by(page: str) -> None:
    rows = re.findall(r'<tr class="[^"]*" (data-[^>]+)>', page)
    attributes = [dict(re.findall(r'data-(\w+)="([^"]*)"', row)) for row in rows]
    assert len(attributes) == 6
    script = page.partition("<script>")[2]
    assert 'name="tagged"' in page
    for name in ("backbone", "kind", "precision", "data", "tagged"):
        assert f'name="{name}"' in page
        assert all(row[name] for row in attributes)
    assert sum(PAS1.digest in row["text"] and "tiny-pas/pas-1" in row["text"] for row in attributes) == 1
    assert "dataset.text" in script


def test_equal_stores_give_equal_bytes(page: str, store: Store, tmp_path: Path) -> None:
    assert render_overview(read_overview(store)) == page
    written = write_overall_report(store).read_bytes()
    assert written == page.encode()
    for folder in store.root.iterdir():
        os.utime(folder)
    (store.root / RUN / STATE_FILE).touch()
    assert write_overall_report(store).read_bytes() == written


def test_links_lead_to_reports_that_are_there(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / RUN / "report.html").write_text("its own")
    page = render_overview(read_overview(store))
    assert re.findall(r'<a href="([^"]+)"', page) == [f"{RUN}/report.html"]


def test_names_that_look_like_markup_stay_text(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    evil = "<script>alert(1)&quot;'"
    (tmp_path / RUN).rename(tmp_path / evil)
    (tmp_path / evil / "report.html").write_text("its own")
    state = json.loads((tmp_path / evil / STATE_FILE).read_text())
    state |= {"run": evil, "stop_reason": evil, "backbone": evil, "status": evil}
    (tmp_path / evil / STATE_FILE).write_text(json.dumps(state))
    page = render_overview(read_overview(store))
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.tags.count("script") == 1
    assert "alert(1)" not in page.partition("<script>\n")[2]
    assert evil in parsed.text
    assert 'href="%3Cscript%3Ealert%281%29%26quot%3B%27/report.html"' in page


def test_what_is_damaged_or_unreadable_is_listed(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    weights = store.trial_folder(PRUNED.digest) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for name, content in (
        ("garbage", "{"),
        ("list", "[]"),
        ("thin", '{"status": "finished"}'),
        ("future", json.dumps({**pas_state(), "run": "future", "algorithm": "annealing"})),
        ("odd", json.dumps({**pas_state(), "run": "odd", "family": [{"trial": "x"}]})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / STATE_FILE).write_text(content)
    text = " ".join(Page(render_overview(read_overview(store))).text.split())
    assert "What can't be shown" in text
    assert PRUNED.digest in text
    assert "model.safetensors is truncated" in text
    for name in ("garbage", "list", "thin", "future", "odd"):
        assert re.search(rf"run {name} ?unreadable: (state\.json|it is|its state)", text), name
    assert "it is of the kind 'annealing', which this version does not know" in text
    assert "PAS-2 reaches 85.0 %" in text  # the others are shown


def test_tags_are_shown_and_searched_for(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    write_json(store.registry_folder / "tags" / "production", {"model": PAS2.digest})
    page = render_overview(read_overview(store))
    assert '<span class="tag">production</span>' in page
    assert page.count('data-tagged="yes"') == 1


def test_condition_chooses_the_models(store: Store) -> None:
    overview = read_overview(store, "pruned or control")
    assert {one.digest for one in overview.models} == {PRUNED.digest, CONTROL.digest}
    text = " ".join(Page(render_overview(overview)).text.split())
    assert text.startswith("All searches and models")
    assert "2 models where pruned or control from 2 searches" in text
    assert "4 other models of this store are not shown." in text
    assert TEACHER.digest not in text


def test_condition_that_no_model_satisfies_leaves_a_page_that_says_so(store: Store) -> None:
    text = " ".join(Page(render_overview(read_overview(store, "top1>0.99"))).text.split())
    assert "None of the 6 models of this store is one where top1>0.99" in text


def test_store_with_runs_but_no_models_has_a_page(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.run("failed").path.mkdir(parents=True)
    store.run("failed").write_state(empty_state())
    text = " ".join(Page(render_overview(read_overview(store))).text.split())
    assert "No model is finished yet." in text
    assert "The search failed before a network was chosen: the teacher diverged." in text


@pytest.mark.parametrize("where", ["", "runs"])
def test_empty_store_is_an_error_that_says_what_to_do(tmp_path: Path, where: str) -> None:
    with pytest.raises(UserError, match=r"there is nothing in .* yet; `orchestrate pas` makes models"):
        write_overall_report(Store(tmp_path / where))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "neither a run nor --all is given"),
        (["a-run", "--all"], "both a run and --all are given"),
        (["a-run", "--where", "int8"], "--where chooses the models of --all"),
    ],
)
def test_command_refuses_what_it_can_not_mean(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(message)


def test_command_refuses_a_condition_that_it_can_not_read(store: Store) -> None:
    before = (store.root / "report.html").exists() and (store.root / "report.html").read_bytes()
    result = CliRunner().invoke(app, ["--all", "--where", "backbon=slowfast", "--runs", str(store.root)])
    assert isinstance(result.exception, UserError)
    assert ((store.root / "report.html").exists() and (store.root / "report.html").read_bytes()) == before


def test_command_writes_both_kinds_of_reports(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    one = CliRunner().invoke(app, [RUN, "--runs", str(tmp_path)])
    assert one.output.strip() == str(store.root / RUN / "report.html")
    everything = CliRunner().invoke(app, ["--all", "--runs", str(tmp_path)])
    assert everything.output.strip() == str(store.root / "report.html")
    assert f'<a href="{RUN}/report.html">' in (store.root / "report.html").read_text()


def test_states_are_read_in_the_order_of_names(store: Store) -> None:
    states, unreadable = read_states(store)
    assert list(states) == [RUN, SWEEP]
    assert unreadable == {}
