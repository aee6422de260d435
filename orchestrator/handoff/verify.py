"""Whether a package is whole: its contract parses, its files are the ones that the contract names, it still computes.

The reader imports this module before anything of a package is loaded. So it needs the standard library and pydantic;
PyTorch is imported only to compute, and `cryptography` only to check a signature.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from configs.errors import UserError
from orchestrator.handoff.manifest import MANIFEST_FILE, SCHEMA_VERSION, SIGNATURE_FILE, File, Handoff
from orchestrator.handoff.requirements import require_versions
from trainers.files import sha256_of

if TYPE_CHECKING:
    from orchestrator.handoff.reference import Comparison

COPIES = {"README.md": "card.md"}
"""Files that may stand beside those of a package if they equal one of them: what the Hub calls the card."""
FOREIGN = (".git", ".gitattributes", ".cache")
"""What the Hub and its clients leave in a folder; nothing in a package has a name that starts with a dot."""
LARGEST_MANIFEST = 64_000_000
"""Bytes; no contract of ours has a thousandth, and one that never ends would fill the memory."""
NAMED_PROBLEMS = 6
"""How many an error names; the others are counted."""

Signed = Literal["unsigned", "signed, not checked", "valid"]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found of a package that is fine."""

    handoff: Handoff
    """Its contract."""
    signature: Signed
    """Whether it is signed, and by the key that was given."""
    comparison: Comparison
    """What its network makes of the stored input."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, of `orchestrate verify --json`."""
        return {
            "name": self.handoff.name,
            "digest": self.handoff.digest,
            "schema_version": self.handoff.schema_version,
            "files": len(self.handoff.files),
            "bytes": sum(file.bytes for file in self.handoff.files.values()),
            "signature": self.signature,
            "reference": self.comparison.to_dict(),
        }


def verify_package(folder: Path, *, public_key: Path | None = None) -> Verification:
    """Check everything about a package: signature, files, and what its network computes.

    Args:
        folder: the package.
        public_key: PEM file of the key that it must be signed by; none: whoever signed it.

    Raises:
        UserError: it is no package, not whole, not signed by that key, or needs something newer than is installed.
        RunError: it is whole, but its network computes something else here than where it was written.
    """
    from orchestrator.handoff.reference import compare_reference
    from orchestrator.handoff.signature import check_signature

    content = read_manifest(folder)
    signature: Signed = "signed, not checked" if os.path.lexists(folder / SIGNATURE_FILE) else "unsigned"
    if public_key is not None:  # before what is signed is believed
        check_signature(folder, content, public_key)
        signature = "valid"
    handoff = parse_manifest(content, folder / MANIFEST_FILE)
    require_versions(str(folder), handoff.requires)
    check_files(folder, handoff)
    return Verification(handoff=handoff, signature=signature, comparison=compare_reference(folder, handoff))


def read_handoff(folder: Path) -> Handoff:
    """The contract of a package.

    Raises:
        UserError: the folder is no package, or its `handoff.json` is damaged, or of a newer version.
    """
    return parse_manifest(read_manifest(folder), folder / MANIFEST_FILE)


def read_manifest(folder: Path) -> bytes:
    """The bytes of `handoff.json`, over which a package is signed.

    Raises:
        UserError: there are none.
    """
    path = folder / MANIFEST_FILE
    try:
        found = path.stat()
        if stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode) or found.st_size > LARGEST_MANIFEST:
            raise UserError(f"{path} is no file of at most {LARGEST_MANIFEST:,} bytes; copy the package again")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is no package: it has no {MANIFEST_FILE}; `orchestrate handoff MODEL DIR` writes one"
        ) from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error


def parse_manifest(content: bytes, path: Path) -> Handoff:
    """The contract in the bytes of a `handoff.json`.

    Args:
        content: the bytes.
        path: how to call it in an error.

    Raises:
        UserError: it is no JSON, of a newer version, or says something else than the contract asks for.
    """
    try:
        data = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repetition)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{path} is damaged, or no JSON: {error}. Copy the package again") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise UserError(
            f"{path}: schema_version is {version!r}, but must be a whole number from 1 to {SCHEMA_VERSION}; "
            "this is no package of ours"
        )
    if version > SCHEMA_VERSION:
        raise UserError(f"{path} was written by a newer version ({version}); this one reads {SCHEMA_VERSION}: upgrade")
    try:
        return Handoff.model_validate_json(content, strict=True)
    except ValidationError as error:
        problems = [_described(problem["loc"], problem["msg"]) for problem in error.errors(include_url=False)]
        raise UserError(f"{path} breaks the contract: {_listed(problems)}. Copy the package again") from error


def check_files(folder: Path, handoff: Handoff) -> None:
    """See that a package has the files that its contract names, unchanged, and no others.

    Raises:
        UserError: naming those that are missing, truncated, changed, links, or not part of it.
    """
    if problems := list(file_problems(folder, handoff)):
        raise UserError(f"{folder} is not the package that its {MANIFEST_FILE} describes: {_listed(problems)}")


def file_problems(folder: Path, handoff: Handoff) -> Iterator[str]:
    """What is wrong with the files of a package, a phrase each; a file of another size is not hashed."""
    found = files_in(folder)
    for path, file in sorted(handoff.files.items()):
        if problem := _problem(folder, path, found.get(path), file):
            yield problem
    for path in sorted(found.keys() - handoff.files.keys() - {MANIFEST_FILE, SIGNATURE_FILE}):
        original = COPIES.get(path)
        if original not in handoff.files:
            yield f"{path} is not part of it"
        elif _problem(folder, path, found[path], handoff.files[original]):
            yield f"{path} is not part of it, nor equal to {original}"


def files_in(folder: Path) -> dict[str, os.stat_result]:
    """Everything below a folder that is no folder, by its path there; links are not followed, those to folders listed.

    What the Hub's clients leave at the top is skipped.
    """
    found = {}
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        if here == folder:
            folders[:] = [name for name in folders if name not in FOREIGN]
            files = [name for name in files if name not in FOREIGN]
        links = [name for name in folders if (here / name).is_symlink()]
        for name in (*files, *links):
            path = here / name
            found[path.relative_to(folder).as_posix()] = path.lstat()
    return found


def _problem(folder: Path, path: str, found: os.stat_result | None, wanted: File) -> str | None:
    """What is wrong with a file of the package; none: nothing."""
    if found is None:
        return f"{path} is missing"
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a link, but must be a file (copy the package with `cp -rL`)"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is no file"
    if found.st_size < wanted.bytes:
        return f"{path} is truncated ({found.st_size:,} of {wanted.bytes:,} bytes)"
    if found.st_size > wanted.bytes:
        return f"{path} was changed ({found.st_size:,} bytes instead of {wanted.bytes:,})"
    try:
        same = sha256_of(folder / path) == wanted.sha256
    except OSError as error:
        return f"{path} can't be read ({error.strerror})"
    return None if same else f"{path} was changed (its SHA-256 is another)"


def _listed(problems: list[str]) -> str:
    """Problems in one sentence, the first few by name."""
    more = len(problems) - NAMED_PROBLEMS
    return "; ".join(problems[:NAMED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def _described(loc: tuple[int | str, ...], message: str) -> str:
    """A problem that pydantic found, after the place where it is."""
    said = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, loc))}: {said}" if loc else said


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _refuse_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are each there once: of two, other readers may believe the other one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (repeated, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {repeated!r} is there twice")
    return found
