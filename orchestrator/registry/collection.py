"""What a store no longer needs: checkpoints of trials that are over, and trials that nothing refers to.

A checkpoint is there to go on from. A trial that has its result is never gone on with: run again, it is answered from
its result. So its checkpoints can go, once the weights are seen to be those of the result. Kept nevertheless is all of
tagged models, of models that were handed over, and of what either came from.

With `unused`, whole trials go as well: those that no run's state names, and that none of the above came from.

Every folder that goes is first renamed, to a hidden name beside it that no reader looks at. So a trial is there as a
whole or not at all, wherever a kill strikes, and what it leaves behind is removed by the next collection.

Units: megabytes, 1e6 bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.errors import UserError
from orchestrator.handoff.handed_over import read_packages
from orchestrator.registry.registry import Registry
from orchestrator.store import LOCK_FILE, STATE_FILE, Store
from trainers.files import exclusive, is_locked, read_json, temporary_beside
from trainers.results import RESULT_FILE

CHECKPOINTS, LOCK = "checkpoints", "lock"
What = Literal["checkpoints", "trial", "leftover"]
Why = Literal["needed", "unfinished", "at work"]


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A folder that goes."""

    path: Path
    """Where it is."""
    digest: str
    """Of the trial."""
    name: str
    """Of the trial; its digest where no result names it."""
    what: What
    """Checkpoints of a trial that is over; a whole trial that is not used; what an interrupted collection left."""
    size_mb: float
    """What its files take."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"digest": self.digest, "name": self.name, "what": self.what, "mb": self.size_mb, "path": str(self.path)}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What goes, and what stays."""

    removals: tuple[Removal, ...]
    """In the order in which they are removed."""
    kept: tuple[tuple[str, Why], ...]
    """Digests of trials whose checkpoints stay, and why: `needed` by a tagged or handed-over model, or such a one;
    `unfinished`: it goes on from them; `at work`: a process holds it."""

    @property
    def size_mb(self) -> float:
        """Of all that goes."""
        return sum(removal.size_mb for removal in self.removals)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "mb": self.size_mb,
            "removed": [removal.to_dict() for removal in self.removals],
            "kept": [{"digest": digest, "why": why} for digest, why in self.kept],
        }


def collect(store: Store, *, unused: bool = False) -> Plan:
    """Remove what is not needed; what a process took hold of meanwhile stays.

    Args:
        store: whose.
        unused: whether whole trials go as well.

    Returns:
        What was removed, and what was kept.

    Raises:
        UserError: as `plan`; another collection is at work; or `unused`, and a run is. Nothing is removed then.
        OSError: something can't be removed; what was removed before is in order.
    """
    if not store.root.is_dir():
        return Plan(removals=(), kept=())  # a lock would create it
    with ExitStack() as stack:
        stack.enter_context(_alone(store.registry_folder / "collection.lock", "the store", "wait for it"))
        if unused:
            for run in store.runs():
                cure = "--unused could take what it is about to use: wait for it, or leave --unused out"
                stack.enter_context(_alone(run.path / LOCK_FILE, f"run {run.path.name}", cure))
        planned = plan(store, unused=unused)
        removed = tuple(removal for removal in planned.removals if _remove(removal))
    held: list[tuple[str, Why]] = [(one.digest, "at work") for one in planned.removals if one not in removed]
    return Plan(removals=removed, kept=(*planned.kept, *held))


def plan(store: Store, *, unused: bool = False) -> Plan:
    """What `collect` would remove now; changes nothing.

    Raises:
        UserError: the store is not whole, or what is needed can't be told.
    """
    registry = Registry.open(store)
    registry.require_whole()
    tagged = [model.digest for model in registry.models if model.tags]
    needed = with_ancestors(registry, [*tagged, *read_packages(store)])
    used = with_ancestors(registry, [*needed, *referred_to(registry)]) if unused else None
    removals = leftovers(store)
    kept: list[tuple[str, Why]] = []
    for folder in sorted(path for path in store.root.glob("trials/[!.]*") if path.is_dir()):
        digest, over = folder.name, (folder / RESULT_FILE).is_file()
        if is_locked(folder / LOCK):
            kept.append((digest, "at work"))
        elif used is not None and digest not in used:
            removals.append(_removal(folder, folder, "trial"))
        elif (folder / CHECKPOINTS).is_dir() and over and digest not in needed:
            removals.append(_removal(folder, folder / CHECKPOINTS, "checkpoints"))
        elif (folder / CHECKPOINTS).is_dir():
            kept.append((digest, "needed" if over else "unfinished"))
    require_weights(store, [removal.digest for removal in removals if removal.what == "checkpoints"])
    return Plan(removals=tuple(removals), kept=tuple(kept))


def with_ancestors(registry: Registry, digests: Iterable[str]) -> set[str]:
    """Some trials and all that they came from, whether they are models or left no network."""
    found: set[str] = set()
    waiting = list(digests)
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        found.add(digest)
        if model := registry.by_digest.get(digest):
            waiting += [step.digest for step in registry.ancestors(model)]
        else:
            stored = read_json(registry.store.trial_folder(digest) / RESULT_FILE)
            trial = stored.get("trial", {}) if isinstance(stored, dict) else {}
            waiting += [parent for key in ("start", "teacher") if (parent := trial.get(key))]
    return found


def referred_to(registry: Registry) -> set[str]:
    """Every trial that a run's state names.

    Raises:
        UserError: a state can't be read, so that nobody knows what its run needs.
    """
    known = {run.name for run in registry.runs}
    for run in registry.store.runs():
        if run.path.name not in known:
            raise UserError(
                f"{run.path / STATE_FILE} can't be read, so that nobody knows which trials run {run.path.name} needs; "
                "the command that made the run writes it again, or leave --unused out"
            )
    return {digest for run in registry.runs for digest in run.roles}


def require_weights(store: Store, digests: Iterable[str]) -> None:
    """Refuse to remove the checkpoints of trials whose result no longer holds: they are what is left of them.

    Raises:
        UserError: names the first such trial.
    """
    for digest in digests:
        if store.result(digest) is None:
            raise UserError(
                f"the weights of trial {digest} in {store.root} are not those of its result, so that the checkpoints "
                "are all that is left of it; copy the trial again, or run its search, which trains it from there"
            )


def leftovers(store: Store) -> list[Removal]:
    """What an interrupted collection renamed and did not come to remove."""
    trials = store.root / "trials"
    return [
        *(_removal(path, path, "leftover") for path in sorted(trials.glob(".*.tmp")) if path.is_dir()),
        *(_removal(path.parent, path, "leftover") for path in sorted(trials.glob(f"[!.]*/.{CHECKPOINTS}.*.tmp"))),
    ]


def _removal(trial: Path, path: Path, what: What) -> Removal:
    stored = read_json(trial / RESULT_FILE)
    digest = trial.name if what != "leftover" else trial.name.strip(".").partition(".")[0]
    named = stored.get("trial", {}).get("name") if isinstance(stored, dict) else None
    return Removal(path=path, digest=digest, name=named or digest, what=what, size_mb=_bytes(path) / 1e6)


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _remove(removal: Removal) -> bool:
    """Remove a folder, unless a process took hold of the trial meanwhile; returns whether it is gone."""
    if removal.what == "leftover":
        shutil.rmtree(removal.path, ignore_errors=True)  # what is stubborn is a leftover next time, too
        return True
    trial = removal.path if removal.what == "trial" else removal.path.parent
    try:
        with exclusive(trial / LOCK, what=f"trial {removal.digest}", wait_seconds=0.0):
            hidden = temporary_beside(removal.path)
            removal.path.rename(hidden)
    except TimeoutError:
        return False
    shutil.rmtree(hidden)
    return True


@contextmanager
def _alone(lock: Path, what: str, cure: str) -> Iterator[None]:
    """Hold a lock that nobody else holds.

    Raises:
        UserError: somebody does.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(lock, what=what, wait_seconds=0.0))
        except TimeoutError as error:
            raise UserError(f"{error}; {cure}; nothing was removed") from None
        yield
