from collections.abc import Iterator
from pathlib import Path

import pytest

from compression.spec import Factors
from orchestrator.registry.registry import Registry
from orchestrator.report import State
from orchestrator.report.chain import render_chain
from orchestrator.report.html import render
from orchestrator.report.lineage_figure import Ancestry, Node, store_forest, trace
from orchestrator.report.quantise import render_quantise
from orchestrator.report.run_lineage import origins_of, run_forest
from orchestrator.report.states import read_states
from orchestrator.report.sweep import render_sweep
from orchestrator.report.transfer import render_transfer
from orchestrator.store import Store
from tests.orchestrator.sample_chain import chain_state
from tests.orchestrator.sample_quantise import quantise_state
from tests.orchestrator.sample_registry import (
    CONTROL,
    LOSER,
    PAS1,
    PAS2,
    RUN,
    TEACHER,
    make_store,
    pas_state,
    row,
    stored,
    taught,
    trial,
    write_trial,
)
from tests.orchestrator.sample_state import empty_state, sample_state
from tests.orchestrator.sample_sweep import sensitivity_state, sweep_state
from tests.orchestrator.sample_transfer import transfer_state
from tests.orchestrator.test_report import Page
from tests.trainers.tiny import SPEC
from trainers.files import write_json
from trainers.trial import Trial

PAGES = {
    "pas": lambda: render(sample_state(), {}),
    "sweep": lambda: render_sweep(sweep_state((0,), ())),
    "quantise": lambda: render_quantise(quantise_state()),
    "chain": lambda: render_chain(chain_state()),
    "transfer": lambda: render_transfer(transfer_state()),
}


def names(nodes: tuple[Node, ...]) -> list[str]:
    return [node.name for node in walk(nodes)]


def walk(nodes: tuple[Node, ...]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from walk(node.children)


def ancestry_of(store: Store) -> Ancestry:
    return trace(Registry.open(store).models, read_states(store)[0].values())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def test_forest_leads_from_the_base_to_everything_handed_on_and_nothing_else(store: Store) -> None:
    ancestry = ancestry_of(store)
    (base,) = store_forest(ancestry, ancestry.models.values())
    assert base.name == f"{RUN}/teacher"
    assert base.change == "trained, 3 epochs"
    assert base.numbers.startswith("90.0 % top-1 · ")
    below = {node.name: node for node in base.children}
    assert below.keys() == {f"{RUN}/PAS-1", "tiny-sweep/l1-0.5"}  # neither the loser nor the control
    assert below[f"{RUN}/PAS-1"].change == "side ÷ 1.4"
    assert below["tiny-sweep/l1-0.5"].change == "L1 at sparsity 0.5"


def test_shrunk_network_with_random_weights_hangs_below_what_it_was_shrunk_from(store: Store) -> None:
    """PAS-2 learnt from the teacher and inherited no weights: only the run knows that PAS-1 was shrunk to it."""
    assert PAS2.start is None
    ancestry = ancestry_of(store)
    assert ancestry.path(PAS2.digest) == [PAS2.digest, PAS1.digest, TEACHER.digest]
    assert ancestry.node(PAS2.digest).change == "channels ÷ 1.4, from random weights"
    alone = trace(ancestry.models.values(), [])
    assert alone.path(PAS2.digest) == [PAS2.digest, TEACHER.digest]


def test_tagged_models_are_drawn_though_no_run_hands_them_on(store: Store) -> None:
    write_json(store.registry_folder / "tags" / "odd-one", {"model": LOSER.digest})
    ancestry = ancestry_of(store)
    forest = store_forest(ancestry, ancestry.models.values())
    (tagged,) = [node for node in walk(forest) if node.tags]
    assert (tagged.name, tagged.tags) == (LOSER.name, ("odd-one",))
    assert CONTROL.name not in names(forest)


def test_a_copy_given_as_a_file_is_the_model_that_it_is_a_copy_of() -> None:
    base = stored(trial=TEACHER, kind="trained", aliases=("one/teacher",), weights_sha256="1" * 64)
    small = stored(trial=PAS1, aliases=("one/PAS-1",), weights_sha256="2" * 64)
    copy = stored(
        trial=trial("r2plus1d-teacher", network=PAS1.network, train=None, weights_sha256="2" * 64),
        kind="imported",
        aliases=("two/teacher",),
        tags=("copied",),
        weights_sha256="2" * 64,
    )
    later = stored(trial=trial("later", network=PAS1.network, start=copy.digest, seed=1), aliases=("two/later",))
    ancestry = trace([base, small, copy, later], [])
    assert ancestry.path(later.digest) == [later.digest, small.digest, base.digest]
    (tree,) = store_forest(ancestry, ancestry.models.values())
    assert names((tree,)) == ["one/teacher", "one/PAS-1", "two/later"]
    (node,) = tree.children
    assert (node.others, node.tags) == (("two/teacher",), ("copied",))


def test_weights_from_elsewhere_are_a_root_that_says_so() -> None:
    foreign = stored(trial=trial(train=None, weights_sha256="3" * 64), kind="imported", weights_sha256="3" * 64)
    (node,) = store_forest(trace([foreign], []), [foreign])
    assert (node.change, node.children) == ("weights from a file", ())


def test_what_the_store_has_lost_is_said() -> None:
    (root,) = store_forest(trace([stored()], []), [stored()])
    assert (root.name, root.kind, root.word) == (TEACHER.digest, None, "not in this store")
    assert names(root.children) == [f"{RUN}/PAS-1"]


def test_only_what_is_asked_for_is_drawn(store: Store) -> None:
    ancestry = ancestry_of(store)
    assert names(store_forest(ancestry, [ancestry.models[PAS1.digest]])) == [f"{RUN}/teacher", f"{RUN}/PAS-1"]
    assert store_forest(ancestry, []) == ()


def test_family_is_a_line_cells_are_sisters_and_steps_are_a_line() -> None:
    (line,) = run_forest(sample_state())
    assert names((line,)) == ["Teacher", "PAS-1", "PAS-2", "PAS-3"]
    assert [len(node.children) for node in walk((line,))] == [1, 1, 1, 0]
    (sisters,) = run_forest(sweep_state((0,), ()))
    assert {node.kind for node in sisters.children} == {"pruned"}
    assert len(sisters.children) > 1
    steps = chain_state()
    del steps["candidates"]  # left over from what the sample is made of
    (chain,) = run_forest(steps)
    assert [node.kind for node in walk((chain,))] == ["trained", "pas", "pruned", "quantised"]


@pytest.mark.parametrize("state", [empty_state(), sensitivity_state()], ids=["failed", "sensitivity"])
def test_run_that_hands_on_its_teacher_alone_has_no_tree(state: State) -> None:
    assert run_forest(state) == ()


def test_origins_stand_above_the_teacher() -> None:
    origins = tuple(
        Node(name=name, kind="pas", change="side ÷ 1.4", numbers="") for name in ("old/teacher", "old/PAS-1")
    )
    (tree,) = run_forest(sample_state(), origins)
    assert names((tree,))[:4] == ["old/teacher", "old/PAS-1", "Teacher", "PAS-1"]


def test_teacher_from_random_weights_needs_no_look_at_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "open", lambda _: pytest.fail("the store was read"))
    assert origins_of(store, pas_state()) == ()
    assert origins_of(Store(store.root / "nowhere"), pas_state()) == ()


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        (PAS1, [f"{RUN}/teacher"]),
        (PAS2, [f"{RUN}/teacher", f"{RUN}/PAS-1"]),
        (taught("again", PAS1, network=SPEC.replace(factors=Factors(s=1.4)), start=PAS1.digest), None),
    ],
    ids=["PAS-1", "PAS-2", "later"],
)
def test_origins_of_a_teacher_that_another_run_made(store: Store, teacher: Trial, expected: list[str] | None) -> None:
    if expected is None:
        write_trial(store, teacher, 0.9)
        expected = [f"{RUN}/teacher", f"{RUN}/PAS-1"]
    state = {**pas_state(), "teacher": {**row(PAS1), "trial": teacher.digest}}
    assert [node.name for node in origins_of(store, state)] == expected


@pytest.mark.parametrize("kind", PAGES)
def test_every_page_draws_the_lineage(kind: str) -> None:
    text = PAGES[kind]()
    page = Page(text)
    assert page.open == []
    assert "Lineage" in page.text
    assert '<div class="card tree">' in text
    assert "ul" in page.tags


def test_page_without_a_tree_says_nothing_of_lineage() -> None:
    assert "Lineage" not in Page(render(empty_state(), {})).text


def test_names_in_a_tree_are_escaped() -> None:
    origin = Node(name="<b>x</b>", kind="trained", change="<i>", numbers="", others=("<u>",), tags=())
    text = render(sample_state(), {}, [origin])
    assert "<b>x" not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert not {"b", "i", "u"} & set(Page(text).tags)
