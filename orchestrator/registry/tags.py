"""Labels that people give to models: a file per tag in `<store>/registry/tags/`, which holds the digest of its model.

A tag belongs to one model, a model may have several. Tag files are read as they are: whatever keeps one from naming one
model of the store is kept as a problem, and told to whoever asks for that tag.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from orchestrator.store import Store
from trainers.files import exclusive, read_json, write_json

GRAMMAR = re.compile(r"[a-z0-9][a-z0-9._-]*")
LIKE_A_DIGEST = re.compile(r"[0-9a-f]{6,}")
"""Six hexadecimal digits are enough to name a trial by."""
LOCK_SECONDS = 10.0
"""A tag is set in milliseconds; who waits longer than that waits for a process that hangs."""


@dataclass(frozen=True, kw_only=True)
class Tags:
    """All tags of a store."""

    models: dict[str, str]
    """Digest by tag, of those that name one model of the store."""
    problems: dict[str, str]
    """What is wrong with the others, as sentences, by tag (the name of its file)."""

    def of(self, digest: str) -> tuple[str, ...]:
        """Tags of a model, sorted."""
        return tuple(sorted(tag for tag, owner in self.models.items() if owner == digest))


def read_tags(store: Store, digests: Collection[str]) -> Tags:
    """All tags.

    Args:
        store: whose.
        digests: the models that a tag can name.
    """
    files = [path for path in sorted(_folder(store).glob("[!.]*")) if path.is_file()]
    alike = defaultdict(list)
    for path in files:
        alike[path.name.casefold()].append(path.name)
    models, problems = {}, {}
    for path in files:
        digest = _digest_in(path)
        if len(names := alike[path.name.casefold()]) > 1:
            problems[path.name] = (
                f"tags {' and '.join(names)} in {path.parent} differ only in their letters' case, so that both claim "
                "to be one tag; remove the file that is wrong"
            )
        elif fault := fault_of(path.name):
            problems[path.name] = f"{path} is no tag, for {fault}; remove or rename the file"
        elif digest is None:
            problems[path.name] = (
                f"tag {path.name} can't be read: {path} must be JSON with the digest of a model; "
                "remove it, or tag the model again"
            )
        elif digest not in digests:
            problems[path.name] = (
                f"tag {path.name} names model {digest}, which is not in {store.root}; copy that trial here, "
                f"or remove {path}"
            )
        else:
            models[path.name] = digest
    return Tags(models=models, problems=problems)


def fault_of(tag: str) -> str | None:
    """What keeps a word from being a tag, as a clause; none: nothing."""
    if not GRAMMAR.fullmatch(tag):
        lower = tag.lower()
        hint = f" ({lower} would do)" if GRAMMAR.fullmatch(lower) else ""
        return f"a tag has small letters, digits, '.', '_' and '-', and starts with a letter or digit{hint}"
    if LIKE_A_DIGEST.fullmatch(tag):
        return "it could be the start of a trial's digest"
    return None


def set_tag(store: Store, digest: str, tag: str, names: Mapping[str, str], *, move: bool = False) -> None:
    """Give a tag to a model; it may have it already.

    Args:
        store: where.
        digest: the model.
        tag: its label.
        names: what all models of the store are called, by digest.
        move: whether to take it from the model that has it.

    Raises:
        UserError: the word can't be a tag, or another model has it.
    """
    if fault := fault_of(tag):
        raise UserError(f"{tag!r} can't be a tag: {fault}")
    if tag in {run.path.name for run in store.runs()}:
        raise UserError(f"{tag!r} can't be a tag: a run in {store.root} has that name; choose another")
    with _locked(store):
        _require_unrivalled(read_tags(store, names), tag)
        owner = _digest_in(_folder(store) / tag)
        if owner not in (None, digest) and not move:
            whose = names.get(owner, "a model that is not in this store")
            raise UserError(f"{whose} ({owner}) has the tag {tag} already; --move takes it from there")
        write_json(_folder(store) / tag, {"model": digest})


def remove_tag(store: Store, digest: str, tag: str, names: Mapping[str, str]) -> None:
    """Take a tag from a model; arguments as of `set_tag`.

    Raises:
        UserError: the model does not have it.
    """
    with _locked(store):
        tags = read_tags(store, names)
        if tags.models.get(tag) != digest:
            others = ", ".join(tags.of(digest)) or "none"
            raise UserError(f"{names[digest]} ({digest}) does not have the tag {tag}; it has {others}")
        (_folder(store) / tag).unlink()


def _require_unrivalled(tags: Tags, tag: str) -> None:
    """Refuse to write a tag beside one that a file system or a reader could take for it."""
    for name, problem in tags.problems.items():
        if name.casefold() == tag and name != tag:
            raise UserError(problem)


def _digest_in(path: Path) -> str | None:
    try:
        content = read_json(path)
    except OSError:  # not ours to read
        return None
    digest = content.get("model") if isinstance(content, dict) else None
    return digest if isinstance(digest, str) else None


def _folder(store: Store) -> Path:
    return store.registry_folder / "tags"


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """Keep others from changing tags meanwhile."""
    try:
        with exclusive(store.registry_folder / "tags.lock", what="the tags", wait_seconds=LOCK_SECONDS):
            yield
    except TimeoutError as error:
        raise UserError(f"{error}; try again") from None
