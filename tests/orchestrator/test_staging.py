"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from orchestrator.export.staging import whole_folder

FILES = ("a", "b")


def fill(target: Path, content: str) -> None:
    with whole_folder(target, files=FILES) as folder:
        (folder / "a").write_text(content)


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "some" / "place"
    with whole_folder(target, files=FILES) as folder:
        (folder / "a").write_text("new")
        assert not target.exists()
        assert folder.parent == target.parent, "on the same file system, or it can't be renamed"
    assert (target / "a").read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_an_earlier_one_stays_until_then(tmp_path: Path) -> None:
    target = tmp_path / "place"
    fill(target, "old")
    (target / "b").write_text("old")
    with whole_folder(target, files=FILES) as folder:
        (folder / "a").write_text("new")
        assert (target / "a").read_text() == "old"
    assert {path.name: path.read_text() for path in target.iterdir()} == {"a": "new"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("earlier", [False, True])
def test_after_an_error_everything_is_as_it_was(error: type[BaseException], earlier: bool, tmp_path: Path) -> None:
    target = tmp_path / "place"
    if earlier:
        fill(target, "old")

    def interrupted() -> None:
        with whole_folder(target, files=FILES) as folder:
            (folder / "a").write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == (["place"] if earlier else [])
    assert not earlier or (target / "a").read_text() == "old"


def test_an_earlier_one_comes_back_when_the_new_one_can_t_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "place"
    fill(target, "old")
    rename = Path.rename

    def full(path: Path, to: Path) -> Path:
        if (path / "a").is_file() and (path / "a").read_text() == "new":
            raise OSError("no space")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space"):
        fill(target, "new")
    assert (target / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_kill_leaves_nothing_in_its_place_and_the_next_call_tidies_up(tmp_path: Path) -> None:
    target = tmp_path / "place"
    program = (
        "import os, pathlib, signal, sys\n"
        "from orchestrator.export.staging import whole_folder\n"
        "with whole_folder(pathlib.Path(sys.argv[1]), files=()) as folder:\n"
        "    (folder / 'a').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(target)], check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    fill(target, "new")
    assert list(tmp_path.iterdir()) == [target]


def test_brackets_in_a_name_stand_for_themselves(tmp_path: Path) -> None:
    """What a kill left behind of a video named like this is found again."""
    (tmp_path / ".place[1].0123.tmp").mkdir()
    fill(tmp_path / "place[1]", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["place[1]"]


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "place"
    with whole_folder(target, files=FILES) as first:
        (first / "a").write_text("first")
        fill(target, "second")
        assert (first / "a").read_text() == "first"
        assert (target / "a").read_text() == "second"
    assert (target / "a").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "letters.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    with pytest.raises(UserError, match=r"holds 'letters.txt', which was not written by this command"):
        fill(tmp_path / "place", "new")
    with pytest.raises(UserError, match="is a file, but a folder is to be written"):
        fill(tmp_path / "file", "new")
    assert (tmp_path / "place" / "letters.txt").read_text() == "dear"
    assert (tmp_path / "file").read_text() == "dear"
    assert len(list(tmp_path.iterdir())) == 2


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        fill(tmp_path / "place", "new")
    assert len(os.listdir("/proc/self/fd")) == before
