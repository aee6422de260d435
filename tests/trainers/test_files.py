"""Files that appear whole, and locks between processes."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainers.files import copy_file, exclusive, is_locked, read_json, sha256_of, write_atomically, write_json

HOLDER = """
import sys, time
from pathlib import Path
from trainers.files import exclusive
with exclusive(Path(sys.argv[1]), wait_seconds=0, what="it"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_writer_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_content_replaces_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b.json", [1])
    assert read_json(tmp_path / "a" / "b.json") == [1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_such_number(tmp_path: Path, value: float) -> None:
    path = tmp_path / "file.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"top1": value})
    assert read_json(path) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"", b'{"half": ', b"\xff\xfe", b"[" * 200_000])
def test_what_is_no_json_reads_as_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) is None


def test_sha256_and_copy(tmp_path: Path) -> None:
    """The digest of `abc` is the standard's first example (FIPS 180-2, B.1)."""
    (tmp_path / "a").write_bytes(b"abc")
    copy_file(tmp_path / "a", tmp_path / "b")
    assert sha256_of(tmp_path / "b") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def holder(tmp_path: Path):  # type: ignore[no-untyped-def] # noqa: ANN201
    """A process that holds the lock `tmp_path/lock`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_one_process_at_a_time(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """The lock ends with its process, however that ends."""
    lock = tmp_path / "lock"
    assert is_locked(lock)
    with (
        pytest.raises(TimeoutError, match="trial 7 is in use by another process"),
        exclusive(lock, wait_seconds=0.0, what="trial 7"),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    started = time.monotonic()
    with exclusive(lock, wait_seconds=10.0, what="trial 7"):
        assert is_locked(lock)
    assert time.monotonic() - started < 5
    assert not is_locked(lock)


def test_the_lock_is_freed_when_its_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "lock", wait_seconds=0.0, what="it"):
        raise ZeroDivisionError
    assert not is_locked(tmp_path / "lock")


def test_nobody_holds_a_lock_that_never_was(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")


def test_a_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    """safetensors makes files that nobody else can read, which does not suit a shared folder of models."""
    ordinary = tmp_path / "ordinary"
    ordinary.touch()

    def write(path: Path) -> None:
        path.touch(mode=0o600)

    write_atomically(tmp_path / "ours", write)
    assert (tmp_path / "ours").stat().st_mode == ordinary.stat().st_mode
