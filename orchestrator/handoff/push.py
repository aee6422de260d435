"""Publish a package: to a local folder, or to a repository of the Hugging Face Hub.

What arrives is the package, file by file as `handoff.json` lists them, and `README.md`: a copy of `card.md`, because
that is the name under which the Hub looks for a card. Verification knows such copies (`verify.COPIES`) and takes them
only while they are equal; so the package itself stays as it is, signature included, and what was pushed still passes
`orchestrate verify`, on the Hub's side too, where clients add `.gitattributes` and a cache (`verify.FOREIGN`).
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from configs.errors import UserError
from orchestrator.export.staging import whole_folder
from orchestrator.handoff.hub import HubOptions, require_client, upload
from orchestrator.handoff.manifest import MANIFEST_FILE, SIGNATURE_FILE, Handoff
from orchestrator.handoff.verify import COPIES, check_files, read_handoff
from orchestrator.handoff.write import require_target
from trainers.files import copy_file

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class PushedFile:
    """A file that arrives."""

    path: str
    """In the target, with forward slashes."""
    source: str
    """In the package."""
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What was pushed, or would be."""

    name: str
    """Of the model."""
    target: str
    """Absolute path of a folder, or a repository's name."""
    url: str | None
    """Of the commit; none: a folder, or nothing was sent."""
    files: tuple[PushedFile, ...]
    """What is there now, in order."""
    dry_run: bool
    """Whether nothing was written."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, of `orchestrate push --json`."""
        return {**asdict(self), "bytes": self.bytes}


def push_package(package: Path, target: str, options: HubOptions | None = None, *, dry_run: bool = False) -> Pushed:
    """Check a package, then copy it to a folder or upload it; an earlier package there is replaced.

    Args:
        package: its folder.
        target: `owner/name` of a repository of the Hub, or a folder: `./x`, `/x`, `~/x`, `file:///x`.
        options: of a repository; none of a folder.
        dry_run: check, and say what would be pushed, but write and send nothing.

    Raises:
        UserError: the package is not whole; the target is neither, or holds something else; options of a repository
            with a folder; the Hub's client is missing.
        RunError: the Hub refused, or can't be reached.
    """
    handoff = read_handoff(package)
    check_files(package, handoff)
    files = files_to_push(package, handoff)
    folder = local_folder(target)
    if folder is None:
        url = _to_hub(package, handoff, files, target, options or HubOptions(), dry_run=dry_run)
    else:
        url = None
        _to_folder(package, handoff, files, folder, options or HubOptions(), dry_run=dry_run)
    return Pushed(name=handoff.name, target=str(folder or target), url=url, files=files, dry_run=dry_run)


def local_folder(target: str) -> Path | None:
    """The folder that a target names; none: it names a repository of the Hub.

    Raises:
        UserError: it is neither.
    """
    if target.startswith("file:"):
        parts = urlparse(target)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
            raise UserError(f"TARGET is {target!r}, but a file address has three slashes and a path: file:///folder")
        return Path(unquote(parts.path))
    if target in (".", "..", "~") or target.startswith(("./", "../", "/", "~/")):
        return Path(target).expanduser().absolute()
    if REPOSITORY.fullmatch(target):
        return None
    raise UserError(
        f"TARGET is {target!r}, but must be owner/name of a repository on the Hugging Face Hub, or a folder that "
        f"starts with a dot or a slash, like ./{target.strip('/') or 'folder'}"
    )


def files_to_push(package: Path, handoff: Handoff) -> tuple[PushedFile, ...]:
    """What arrives of a package that is whole: its files, the contract, the signature, and the card once more."""
    sources = {path: path for path in handoff.files}
    sources |= {path: path for path in (MANIFEST_FILE, SIGNATURE_FILE) if (package / path).is_file()}
    sources |= {copy: original for copy, original in COPIES.items() if original in handoff.files}
    return tuple(
        PushedFile(path=path, source=source, bytes=(package / source).stat().st_size)
        for path, source in sorted(sources.items())
    )


def _to_folder(
    package: Path, handoff: Handoff, files: tuple[PushedFile, ...], folder: Path, options: HubOptions, *, dry_run: bool
) -> None:
    if options != HubOptions():
        raise UserError(
            f"{folder} is a folder, but --private, --revision and --message are for the Hub: leave them out"
        )
    if folder.resolve().is_relative_to(package.resolve()):
        raise UserError(f"{folder} is in the package itself, which would then hold more than it says; choose another")
    earlier = require_target(folder, force=True)
    if dry_run:
        return
    with whole_folder(folder, files=earlier) as staged:
        _stage(package, handoff, files, staged)


def _to_hub(
    package: Path,
    handoff: Handoff,
    files: tuple[PushedFile, ...],
    repository: str,
    options: HubOptions,
    *,
    dry_run: bool,
) -> str | None:
    """Upload a package; returns the address of the commit, none where nothing was sent."""
    require_client(repository)
    if dry_run:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        _stage(package, handoff, files, staged)
        return upload(staged, repository, options, name=handoff.name)


def _stage(package: Path, handoff: Handoff, files: tuple[PushedFile, ...], staged: Path) -> None:
    """Copy what is to arrive, and check the copy: the package may have changed since it was checked."""
    for file in files:
        copy_file(package / file.source, staged / file.path)
    if (staged / MANIFEST_FILE).read_bytes() != (package / MANIFEST_FILE).read_bytes():
        raise UserError(f"{package} was changed while it was copied; push it again")
    check_files(staged, handoff)
