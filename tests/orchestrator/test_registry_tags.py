"""Tags: one model each, set by one process at a time, and never guessed from a file that is damaged."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from configs.errors import UserError
from orchestrator.registry.registry import Registry
from orchestrator.registry.tags import fault_of, read_tags, remove_tag, set_tag
from orchestrator.store import Store
from trainers.files import read_json

FIRST, SECOND = "1" * 16, "2" * 16
NAMES = {FIRST: "run/PAS-1", SECOND: "run/PAS-2"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def tag_file(store: Store, name: str) -> Path:
    return store.registry_folder / "tags" / name


def write(store: Store, name: str, content: str) -> None:
    path = tag_file(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_a_tag_is_a_file_that_names_its_model(store: Store) -> None:
    set_tag(store, FIRST, "production", NAMES)
    set_tag(store, FIRST, "best-2024.1_a", NAMES)
    set_tag(store, FIRST, "production", NAMES)  # once more changes nothing
    assert json.loads(tag_file(store, "production").read_text()) == {"model": FIRST}
    tags = read_tags(store, NAMES)
    assert tags.of(FIRST) == ("best-2024.1_a", "production")
    assert (tags.of(SECOND), tags.problems) == ((), {})


def test_a_tag_of_another_model_is_moved_only_when_asked(store: Store) -> None:
    set_tag(store, FIRST, "production", NAMES)
    with pytest.raises(UserError, match=rf"^run/PAS-1 \({FIRST}\) has the tag production already; --move takes it"):
        set_tag(store, SECOND, "production", NAMES)
    assert read_tags(store, NAMES).models == {"production": FIRST}
    set_tag(store, SECOND, "production", NAMES, move=True)
    assert read_tags(store, NAMES).models == {"production": SECOND}


def test_a_tag_of_a_model_that_is_gone_is_not_taken_silently(store: Store) -> None:
    set_tag(store, "3" * 16, "production", {**NAMES, "3" * 16: "gone"})
    with pytest.raises(UserError, match=r"a model that is not in this store .* has the tag"):
        set_tag(store, FIRST, "production", NAMES)
    set_tag(store, FIRST, "production", NAMES, move=True)
    assert read_tags(store, NAMES).models == {"production": FIRST}


def test_a_tag_is_removed_from_the_model_that_has_it(store: Store) -> None:
    set_tag(store, FIRST, "production", NAMES)
    with pytest.raises(UserError, match=r"^run/PAS-2 .* does not have the tag production; it has none$"):
        remove_tag(store, SECOND, "production", NAMES)
    with pytest.raises(UserError, match=r"does not have the tag best; it has production$"):
        remove_tag(store, FIRST, "best", NAMES)
    remove_tag(store, FIRST, "production", NAMES)
    assert read_tags(store, NAMES).models == {}


@pytest.mark.parametrize("tag", ["production", "v1", "1", "a", "2024-01", "beef", "a.b_c-d", "1234567g"])
def test_words_that_can_be_tags(tag: str) -> None:
    assert fault_of(tag) is None


@pytest.mark.parametrize("tag", ["", "-a", ".a", "a b", "a/b", "../a", "Ü", "a\n", "decade", "123456", "0" * 16])
def test_words_that_can_not_be_tags(store: Store, tag: str) -> None:
    with pytest.raises(UserError, match="can't be a tag: "):
        set_tag(store, FIRST, tag, NAMES)
    assert not store.registry_folder.exists()


def test_capital_letters_are_answered_with_small_ones() -> None:
    assert "(production would do)" in (fault_of("Production") or "")


def test_a_run_s_name_can_not_be_a_tag(store: Store) -> None:
    store.run("slow-pas").write_state({"run": "slow-pas", "status": "finished"})
    with pytest.raises(UserError, match=r"a run in .* has that name"):
        set_tag(store, FIRST, "slow-pas", NAMES)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "{}", '{"model": 3}'])
def test_a_tag_that_can_not_be_read_is_a_problem_and_can_be_set_again(store: Store, content: str) -> None:
    write(store, "production", content)
    tags = read_tags(store, NAMES)
    assert tags.models == {}
    assert tags.problems["production"].startswith("tag production can't be read: ")
    set_tag(store, FIRST, "production", NAMES)
    assert read_tags(store, NAMES).problems == {}


def test_a_tag_of_a_model_that_is_not_here_is_a_problem(store: Store) -> None:
    write(store, "production", '{"model": "abcdefabcdefabcd"}')
    assert "names model abcdefabcdefabcd, which is not in" in read_tags(store, NAMES).problems["production"]


def test_two_tags_that_differ_in_case_are_a_problem_that_names_both(store: Store) -> None:
    for name, digest in (("production", FIRST), ("Production", SECOND)):
        write(store, name, json.dumps({"model": digest}))
    tags = read_tags(store, NAMES)
    assert tags.models == {}
    assert all("tags Production and production in" in tags.problems[name] for name in ("production", "Production"))
    with pytest.raises(UserError, match="Production and production"):
        set_tag(store, FIRST, "production", NAMES, move=True)
    assert json.loads(tag_file(store, "production").read_text()) == {"model": FIRST}


@pytest.mark.parametrize("name", ["production (copy)", "Best", "0123456789abcdef"])
def test_a_file_that_is_no_tag_is_a_problem(store: Store, name: str) -> None:
    write(store, name, json.dumps({"model": FIRST}))
    tags = read_tags(store, NAMES)
    assert tags.models == {}
    assert "is no tag, for" in tags.problems[name]


def test_what_a_write_leaves_behind_when_it_is_killed_is_no_tag(store: Store) -> None:
    write(store, ".production.0123.tmp", "{")
    assert read_tags(store, NAMES).problems == {}


def test_of_two_that_take_a_tag_at_once_one_is_refused(store: Store) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def take(digest: str) -> None:
        barrier.wait()
        try:
            set_tag(store, digest, "production", names)
            outcomes.append(digest)
        except UserError as error:
            outcomes.append(str(error))

    names = {f"{number:016d}": f"model {number}" for number in range(8)}
    threads = [threading.Thread(target=take, args=(digest,)) for digest in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if outcome in names]
    assert len(outcomes) == 8
    assert winners == [read_tags(store, names).models["production"]]


def test_a_registry_tells_of_damaged_tags_where_they_are_asked_for(store: Store) -> None:
    write(store, "production", "{")
    registry = Registry.open(store)
    assert list(registry.tag_problems) == ["production"]
    with pytest.raises(UserError, match="tag production can't be read"):
        registry.find("production")
    with pytest.raises(UserError, match="not whole:\n  tag production can't be read"):
        registry.require_whole()


def test_a_tag_that_is_not_ours_to_read_is_a_problem(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    set_tag(store, FIRST, "production", NAMES)
    file = store.registry_folder / "tags" / "production"

    def refuse(path: Path) -> object:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return read_json(path)

    monkeypatch.setattr("orchestrator.registry.tags.read_json", refuse)
    assert "can't be read" in read_tags(store, NAMES).problems["production"]
