"""Pushing: what arrives still verifies, what is there is not lost, and the token stays where it is."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import typer
from typer.testing import CliRunner

from configs.errors import RunError, UserError
from orchestrator.commands.push import push
from orchestrator.handoff.hub import HubOptions
from orchestrator.handoff.manifest import MANIFEST_FILE
from orchestrator.handoff.push import local_folder, push_package
from orchestrator.handoff.verify import check_files, read_handoff
from tests.orchestrator.handoff.sample_card import CONTENT, write_pushable
from tests.orchestrator.handoff.sample_hub import INITIAL, Hub, running_hub

CLIENT = huggingface_hub.HfApi
"""The library's own."""
TOKEN = "hf_" + "Secret" * 6
REPOSITORY = "people/small-net"
ARRIVE = {*CONTENT, "card.md", "README.md", MANIFEST_FILE}
"""Files of a pushed package."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that no test changes."""
    return write_pushable(tmp_path_factory.mktemp("packages") / "shared")


def content_of(folder: Path) -> dict[str, bytes]:
    """Files below a folder, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pushed_folder_verifies(shared: Path, tmp_path: Path) -> None:
    before = content_of(shared)
    pushed = push_package(shared, str(tmp_path / "there"))
    arrived = content_of(tmp_path / "there")
    assert arrived.keys() == ARRIVE
    assert arrived["README.md"] == arrived["card.md"]
    assert {path: arrived[path] for path in before} == before
    check_files(tmp_path / "there", read_handoff(tmp_path / "there"))
    assert content_of(shared) == before
    assert [file.path for file in pushed.files] == sorted(ARRIVE)
    assert pushed.bytes == sum(map(len, arrived.values()))
    assert pushed.to_dict()["target"] == str(tmp_path / "there")


def test_a_card_that_was_edited_there_does_not_verify(shared: Path, tmp_path: Path) -> None:
    push_package(shared, str(tmp_path / "there"))
    (tmp_path / "there" / "README.md").write_text("# Much better\n")
    with pytest.raises(UserError, match=r"README\.md is not part of it, nor equal to card\.md"):
        check_files(tmp_path / "there", read_handoff(tmp_path / "there"))


def test_a_signature_is_pushed(tmp_path: Path) -> None:
    package = write_pushable(tmp_path / "package")
    (package / "handoff.sig").write_bytes(b"signed")
    push_package(package, str(tmp_path / "there"))
    assert content_of(tmp_path / "there").keys() == ARRIVE | {"handoff.sig"}


def test_an_earlier_package_is_replaced_as_a_whole(shared: Path, tmp_path: Path) -> None:
    """What it had and the new one lacks would not verify."""
    slim = write_pushable(tmp_path / "slim", card="# Another\n", without="exports/onnx/model.onnx")
    (slim / "handoff.sig").write_bytes(b"signed")
    for package in (slim, shared, slim, slim):
        push_package(package, str(tmp_path / "there"))
        check_files(tmp_path / "there", read_handoff(tmp_path / "there"))
    assert content_of(tmp_path / "there").keys() == ARRIVE - {"exports/onnx/model.onnx"} | {"handoff.sig"}


def test_what_was_pushed_can_be_pushed_on(shared: Path, tmp_path: Path) -> None:
    push_package(shared, str(tmp_path / "one"))
    push_package(tmp_path / "one", str(tmp_path / "two"))
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")


@pytest.mark.parametrize("name", ["README.md", "notes.txt", "card.md"])
def test_a_folder_of_something_else_is_left_alone(name: str, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / name).write_text("mine")
    with pytest.raises(UserError, match="there exists and is no package that could be replaced"):
        push_package(shared, str(tmp_path / "there"), dry_run=True)
    with pytest.raises(UserError, match="there exists and is no package that could be replaced"):
        push_package(shared, str(tmp_path / "there"))
    assert content_of(tmp_path / "there") == {name: b"mine"}


@pytest.mark.parametrize("name", ["notes.txt", "exports/notes.txt", ".git/config"])
def test_a_file_beside_an_earlier_package_is_not_lost(name: str, shared: Path, tmp_path: Path) -> None:
    push_package(shared, str(tmp_path / "there"))
    (tmp_path / "there" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "there" / name).write_text("mine")
    with pytest.raises(UserError, match="holds '"):
        push_package(shared, str(tmp_path / "there"))
    assert content_of(tmp_path / "there").keys() == ARRIVE | {name}


@pytest.mark.parametrize("damage", ["model.safetensors", "exports/onnx/model.onnx", MANIFEST_FILE])
@pytest.mark.parametrize("target", ["there", REPOSITORY])
def test_a_damaged_package_is_not_pushed(
    damage: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_pushable(tmp_path / "package")
    (package / damage).write_bytes(b"damaged")
    monkeypatch.setattr("huggingface_hub.HfApi", None)  # would be called
    with pytest.raises(UserError, match=damage):
        push_package(package, target if "/" in target else str(tmp_path / target))
    assert not (tmp_path / "there").exists()


def test_a_folder_within_the_package_is_refused(shared: Path) -> None:
    before = content_of(shared)
    for target in (shared, shared / "copy"):
        with pytest.raises(UserError, match="in the package itself"):
            push_package(shared, str(target))
    assert content_of(shared) == before


@pytest.mark.parametrize("options", [HubOptions(private=True), HubOptions(revision="v1"), HubOptions(message="x")])
def test_options_of_the_hub_mean_nothing_to_a_folder(options: HubOptions, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are for the Hub: leave them out"):
        push_package(shared, str(tmp_path / "there"), options)
    assert not (tmp_path / "there").exists()


def test_targets_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    folders = {
        "./x": tmp_path / "x",
        "../x": tmp_path / ".." / "x",
        "/x/y": Path("/x/y"),
        "~/x": Path("/home/me/x"),
        "file:///x%20y/z": Path("/x y/z"),
        "file://localhost/x": Path("/x"),
        "owner/name": None,
        "o-1/a.b_c": None,
    }
    assert {target: local_folder(target) for target in folders} == folders


@pytest.mark.parametrize("target", ["name", "a/b/c", "a/", "", "file://x/y", "file:x", "https://x/y", "a b/c", "é/x"])
def test_what_is_no_target_says_what_is(target: str) -> None:
    with pytest.raises(UserError, match=r"^TARGET is "):
        local_folder(target)


def test_a_name_that_the_hub_refuses(shared: Path) -> None:
    with pytest.raises(UserError, match=r"TARGET is 'a--b/c', which the Hub takes for no repository"):
        push_package(shared, "a--b/c", dry_run=True)


def test_without_the_client_it_says_what_to_install(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install 'video-compression-orchestrator\[hub\]'"):
        push_package(shared, REPOSITORY)


class Recorder:
    """In place of `HfApi`: an empty repository that remembers what is called, and what a folder had when it was."""

    private = False
    calls: list[tuple[str, dict[str, Any]]]
    uploaded: dict[str, bytes]

    def __init__(self, **settings: Any) -> None:
        assert settings == {"library_name": "video-compression-orchestrator"}  # and no token

    def create_repo(self, repository: str, **options: Any) -> None:
        self.calls.append(("create_repo", {"repository": repository, **options}))

    def create_branch(self, repository: str, **options: Any) -> None:
        self.calls.append(("create_branch", {"repository": repository, **options}))

    def model_info(self, repository: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private)

    def list_repo_files(self, repository: str, *, revision: str | None) -> list[str]:
        return [".gitattributes"]

    def upload_folder(self, *, folder_path: Path, **options: Any) -> SimpleNamespace:
        self.uploaded.update(content_of(folder_path))
        self.calls.append(("upload_folder", options))
        return SimpleNamespace(commit_url="https://hub/commit/1")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(Recorder, "calls", [], raising=False)
    monkeypatch.setattr(Recorder, "uploaded", {}, raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi", Recorder)
    return Recorder


def test_what_is_asked_of_the_client(shared: Path, recorder: type[Recorder]) -> None:
    pushed = push_package(shared, REPOSITORY)
    assert recorder.calls == [
        ("create_repo", {"repository": REPOSITORY, "private": None, "exist_ok": True}),
        (
            "upload_folder",
            {
                "repo_id": REPOSITORY,
                "revision": None,
                "commit_message": "Hand over tiny-pas/PAS-1",
                "delete_patterns": None,
            },
        ),
    ]
    assert recorder.uploaded.keys() == ARRIVE
    assert (pushed.url, pushed.target) == ("https://hub/commit/1", REPOSITORY)


def test_options_reach_the_client(shared: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "private", True)
    push_package(shared, REPOSITORY, HubOptions(private=True, revision="v1", message="Second try"))
    (create, branch, upload) = recorder.calls
    assert create[1]["private"] is True
    assert branch == ("create_branch", {"repository": REPOSITORY, "branch": "v1", "exist_ok": True})
    assert (upload[1]["revision"], upload[1]["commit_message"]) == ("v1", "Second try")


def test_a_pull_request_is_no_branch_to_be_made(shared: Path, recorder: type[Recorder]) -> None:
    push_package(shared, REPOSITORY, HubOptions(revision="refs/pr/1"))
    assert [name for name, _ in recorder.calls] == ["create_repo", "upload_folder"]


def test_what_shall_be_private_is_not_pushed_to_a_public_place(shared: Path, recorder: type[Recorder]) -> None:
    """The Hub ignores the wish where the repository is there already."""
    with pytest.raises(UserError, match="is there already and is public"):
        push_package(shared, REPOSITORY, HubOptions(private=True))
    assert recorder.uploaded == {}


def test_a_dry_run_calls_nothing(shared: Path, recorder: type[Recorder], tmp_path: Path) -> None:
    pushed = push_package(shared, REPOSITORY, dry_run=True)
    local = push_package(shared, str(tmp_path / "there"), dry_run=True)
    assert recorder.calls == []
    assert not (tmp_path / "there").exists()
    assert pushed.url is None
    assert pushed.files == local.files
    assert {file.path for file in pushed.files} == ARRIVE


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub of our own, for the library's own client with a token."""
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub() as hub:
        monkeypatch.setattr("huggingface_hub.HfApi", functools.partial(CLIENT, endpoint=hub.endpoint))
        yield hub
    huggingface_hub.close_session()


def test_the_client_makes_a_repository(shared: Path, hub: Hub, tmp_path: Path) -> None:
    pushed = push_package(shared, REPOSITORY, HubOptions(private=True))
    files = hub.branches[REPOSITORY]["main"]
    assert files.keys() == ARRIVE | INITIAL.keys()
    assert hub.private == {REPOSITORY}
    assert hub.messages == ["Hand over tiny-pas/PAS-1"]
    assert hub.cards == ["# A card\n"]
    assert hub.tokens == {TOKEN}
    assert pushed.url == f"{hub.endpoint}/{REPOSITORY}/commit/{'c' * 40}"
    for path, content in files.items():  # as a clone has them
        (tmp_path / "clone" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / path).write_bytes(content)
    check_files(tmp_path / "clone", read_handoff(tmp_path / "clone"))


def test_the_client_replaces_an_earlier_package(shared: Path, hub: Hub, tmp_path: Path) -> None:
    slim = write_pushable(tmp_path / "slim", card="# Another\n", without="exports/onnx/model.onnx")
    hub.make(REPOSITORY, {"README.md": b"---\nlicense: mit\n---\n"})  # as the Hub's page makes it
    push_package(shared, REPOSITORY)
    push_package(slim, REPOSITORY)
    files = hub.branches[REPOSITORY]["main"]
    assert files.keys() == ARRIVE - {"exports/onnx/model.onnx"} | INITIAL.keys()
    assert files["README.md"] == b"# Another\n"


def test_the_client_pushes_to_a_branch(shared: Path, hub: Hub) -> None:
    for _ in range(2):
        push_package(shared, REPOSITORY, HubOptions(revision="v1"))
    assert hub.branches[REPOSITORY]["main"] == INITIAL
    assert hub.branches[REPOSITORY]["v1"].keys() == ARRIVE | INITIAL.keys()


def test_a_repository_of_something_else_is_left_alone(shared: Path, hub: Hub) -> None:
    hub.make(REPOSITORY, {"pytorch_model.bin": b"theirs"})
    with pytest.raises(UserError, match=r"holds 'pytorch_model\.bin', which is of no package"):
        push_package(shared, REPOSITORY)
    assert hub.branches[REPOSITORY]["main"] == {**INITIAL, "pytorch_model.bin": b"theirs"}
    assert hub.messages == []


def test_a_card_that_the_hub_refuses(hub: Hub, tmp_path: Path) -> None:
    package = write_pushable(tmp_path / "package", card="---\nlicense: wrong\n---\n")
    with pytest.raises(RunError, match=r"the Hub refused the push \(Invalid metadata in README\.md\. - wrong\)"):
        push_package(package, REPOSITORY)
    assert hub.branches[REPOSITORY]["main"] == INITIAL


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(push)
    return CliRunner().invoke(app, [*arguments])


@pytest.mark.parametrize("status", [401, 403, 404, 413])
def test_a_refusal_is_one_sentence_without_the_token(status: int, shared: Path, hub: Hub) -> None:
    hub.refusal = (status, f"nothing for Bearer {TOKEN}")
    result = run(str(shared), REPOSITORY)
    assert isinstance(result.exception, RunError)
    said = str(result.exception)
    assert said.startswith(f"{REPOSITORY}: the Hub refused the push ({status}: ")
    assert ("hf auth login" in said) == (status in (401, 403))
    assert TOKEN not in said + result.output
    assert result.exception.__cause__ is None
    assert result.exception.__suppress_context__


def test_a_hub_that_is_not_there_is_a_failure(shared: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", functools.partial(CLIENT, endpoint="http://127.0.0.1:9"))
    with pytest.raises(RunError, match="the Hub can't be reached"):
        push_package(shared, REPOSITORY)


def test_the_command_says_what_it_did(shared: Path, tmp_path: Path) -> None:
    result = run(str(shared), str(tmp_path / "there"))
    assert result.exit_code == 0
    megabytes = sum(map(len, content_of(tmp_path / "there").values())) / 1e6
    assert result.output == f"Pushed tiny-pas/PAS-1, 8 files, {megabytes:.3g} MB, to {tmp_path / 'there'}\n"


def test_the_command_lists_the_files_of_a_dry_run(shared: Path, tmp_path: Path) -> None:
    result = run(str(shared), str(tmp_path / "there"), "--dry-run")
    assert "README.md (a copy of card.md)" in result.output
    assert "exports/onnx/model.onnx" in result.output
    assert "Would push tiny-pas/PAS-1, 8 files" in result.output


def test_the_command_prints_json(shared: Path, tmp_path: Path) -> None:
    printed = json.loads(run(str(shared), str(tmp_path / "there"), "--json").output)
    assert {file.pop("path"): file for file in printed.pop("files")} == {
        path: {"source": "card.md" if path == "README.md" else path, "bytes": len(content)}
        for path, content in content_of(tmp_path / "there").items()
    }
    size = sum(map(len, content_of(tmp_path / "there").values()))
    assert printed == {
        **{"name": "tiny-pas/PAS-1", "target": str(tmp_path / "there"), "url": None},
        **{"dry_run": False, "bytes": size},
    }
