"""Packages as `orchestrate handoff` writes them, of the small store, and what people do to them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.handoff.manifest import MANIFEST_FILE
from orchestrator.handoff.write import HandoffRequest, Written, hashes_of, write_package
from orchestrator.registry.registry import Registry
from orchestrator.store import Store

PAS1 = "tiny-pas/PAS-1"
"""The model that is handed over."""


def hand_over(store: Store, target: Path, model: str = PAS1, **asked: Any) -> Written:
    """Write a package of a model of a store."""
    registry = Registry.open(store)
    return write_package(registry, registry.find(model), HandoffRequest(target=target, **asked))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def copy_of(package: Path, target: Path, change: Callable[[dict[str, Any]], Any] | None = None) -> Path:
    """A copy of a package, with something changed in what `handoff.json` says."""
    shutil.copytree(package, target)
    if change is not None:
        manifest = target / MANIFEST_FILE
        said = json.loads(manifest.read_text())
        change(said)
        manifest.write_text(json.dumps(said))
    return target


def setting(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change that puts a value at a dotted place."""

    def change(said: dict[str, Any]) -> None:
        *above, key = path.split(".")
        for part in above:
            said = said[part]
        said[key] = value

    return change


def reseal(package: Path) -> None:
    """Make the contract name the files as they are now, as somebody would who tampers with care."""
    manifest = package / MANIFEST_FILE
    said = json.loads(manifest.read_text())
    said["files"] = {path: file.model_dump() for path, file in hashes_of(package).items() if path != MANIFEST_FILE}
    manifest.write_text(json.dumps(said))


def renaming(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    """A change that lists a file under another path."""

    def change(said: dict[str, Any]) -> None:
        files: dict[str, Mapping[str, Any]] = said["files"]
        files[new] = files.pop(old)

    return change
