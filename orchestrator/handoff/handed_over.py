"""Which models of a store were handed over, and to which folders: `<store>/registry/packages.json`.

A model that somewhere is in use keeps its ancestors: `orchestrate gc` reads this file. It says {digest: [folder, …]}.
"""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from orchestrator.store import Store
from trainers.files import exclusive, read_json, write_json

FILE = "packages.json"
LOCK_SECONDS = 10.0
"""Writing takes milliseconds; who waits longer than that waits for a process that hangs."""


def record_package(store: Store, digest: str, folder: Path) -> None:
    """Take down that a model was handed over to a folder; once, however often it is.

    Raises:
        UserError: the file is damaged, or another process holds it.
        OSError: nothing can be written to the store.
    """
    try:
        with exclusive(store.registry_folder / "packages.lock", what=FILE, wait_seconds=LOCK_SECONDS):
            known = read_packages(store)
            folders = sorted({*known.get(digest, ()), str(folder.absolute())})
            write_json(store.registry_folder / FILE, {**known, digest: folders})
    except TimeoutError as error:
        raise UserError(f"{error}; try again") from None


def read_packages(store: Store) -> dict[str, list[str]]:
    """Folders by digest.

    Raises:
        UserError: the file is damaged: what it protected would be lost.
    """
    path = store.registry_folder / FILE
    if not path.exists():
        return {}
    known = read_json(path)
    if not isinstance(known, dict) or not all(
        isinstance(folders, list) and all(isinstance(folder, str) for folder in folders) for folders in known.values()
    ):
        raise UserError(
            f"{path} is damaged: it must be JSON that lists folders by digest. Take it from a backup, or remove it and "
            "hand the models over again"
        )
    return known
