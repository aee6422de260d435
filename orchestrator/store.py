"""The store: every trial ever trained here, by digest, and a folder per run that points to them.

    runs/
      trials/<digest>/      what a trial left: result.json, network.json, model.safetensors, metrics.jsonl, checkpoints/
      data/<fingerprint>.json   data manifests
      registry/             what people and measurements say of models: tags/, measurements.json, packages.json
      <run>/                state.json, config.yaml, ledger.jsonl, report.html, models/, trials/ (links)

The trials are the truth. A run's folder can be deleted and comes back, at no cost, with the command that made it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from configs.errors import UserError
from trainers.files import exclusive, is_locked, read_json, temporary_beside, write_json
from trainers.package import WEIGHTS_FILE
from trainers.results import read_metrics, read_result
from trainers.site import manifest_file, trial_folder
from trainers.trial import TrialResult

RESERVED = ("trials", "data", "registry")
STATE_FILE, LEDGER_FILE, LOCK_FILE = "state.json", "ledger.jsonl", "lock"


class Store:
    """All trials and runs below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def data_folder(self) -> Path:
        """Data manifests, and what is remembered of video files."""
        return self.root / "data"

    @property
    def registry_folder(self) -> Path:
        """What people and measurements say of models: tags, measurements, packages."""
        return self.root / "registry"

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            UserError: it can't be created or written to.
        """
        try:
            for folder in (self.root / "trials", self.data_folder):
                folder.mkdir(parents=True, exist_ok=True)
            probe = temporary_beside(self.root / "writable")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"runtime.runs is {self.root}, but nothing can be written there ({error.strerror}); "
                "give a folder that you own with --runs DIR"
            ) from error

    def result(self, digest: str) -> TrialResult | None:
        """Result of a trial; None when it isn't finished."""
        return read_result(trial_folder(self.root, digest))

    def metrics(self, digest: str) -> list[dict[str, Any]]:
        """Metrics of the epochs that a trial has done."""
        return read_metrics(trial_folder(self.root, digest))

    def trial_folder(self, digest: str) -> Path:
        """Folder of a trial."""
        return trial_folder(self.root, digest)

    def weights_mb(self, digest: str) -> float | None:
        """Megabytes (1e6 bytes) of a trial's weights; none before there are any."""
        weights = self.trial_folder(digest) / WEIGHTS_FILE
        return weights.stat().st_size / 1e6 if weights.is_file() else None

    def manifest_file(self, fingerprint: str) -> Path:
        """File of a data manifest."""
        return manifest_file(self.root, fingerprint)

    def run(self, name: str) -> RunFolder:
        """A run's folder, which need not exist yet.

        Raises:
            UserError: the name belongs to the store itself.
        """
        if name in RESERVED:
            raise UserError(f"runtime.name is {name!r}, but that folder belongs to the store; choose another --name")
        return RunFolder(self.root / name)

    def find_run(self, name: str) -> RunFolder:
        """An existing run, by name or by path.

        Raises:
            UserError: there is none; names those that are close.
        """
        for folder in (Path(name), self.root / name):
            if (folder / STATE_FILE).is_file():
                return RunFolder(folder.absolute())
        names = [run.path.name for run in self.runs()]
        near = get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"runs there: {', '.join(names) or 'none'}."
        raise UserError(f"there is no run {name!r} in {self.root}; {hint} `--runs DIR` looks elsewhere.")

    def runs(self) -> list[RunFolder]:
        """All runs, newest first."""
        states = self.root.glob(f"*/{STATE_FILE}")
        return [RunFolder(path.parent) for path in sorted(states, key=lambda path: -path.stat().st_mtime)]


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second driver out while this one works.

        Raises:
            UserError: another one is at work.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(self.path / LOCK_FILE, wait_seconds=5.0, what=f"run {self.path.name}"))
            except TimeoutError as error:
                raise UserError(f"{error}; wait for it, stop it, or choose another --name") from None
            yield

    def read_state(self) -> dict[str, Any] | None:
        """What the run last said of itself; None for a new run. A run whose driver died is called interrupted."""
        state: dict[str, Any] | None = read_json(self.path / STATE_FILE)
        if state and state["status"] == "running" and not is_locked(self.path / LOCK_FILE):
            state["status"] = "interrupted"
        return state

    def require_state(self) -> dict[str, Any]:
        """The state of a run that must have one.

        Raises:
            UserError: it can't be read.
        """
        if state := self.read_state():
            return state
        raise UserError(f"{self.path / STATE_FILE} can't be read; the command that made the run writes it again")

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the state; readers see the old one or the new one."""
        write_json(self.path / STATE_FILE, state)

    def log(self, event: str, **details: Any) -> None:
        """Append a line to the ledger: for people, and for counting; no search decides anything from it."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **details}
        with (self.path / LEDGER_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def events(self, event: str) -> list[dict[str, Any]]:
        """Lines of the ledger of one kind, without its name; what a kill tore apart is passed over."""
        try:
            lines = (self.path / LEDGER_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []
        rows = [row for line in lines if isinstance(row := _parsed(line), dict)]
        return [row for row in rows if row.pop("event", None) == event]

    def link_trial(self, name: str, folder: Path) -> None:
        """Point to a trial under its name, so that a person finds it."""
        link = self.path / "trials" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(link)
        temporary.symlink_to(os.path.relpath(folder, link.parent))
        temporary.replace(link)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
