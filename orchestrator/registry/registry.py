"""The registry: every model of a store by whatever people call it.

It is read off the trials and the runs each time, and has no state of its own but what people and measurements add
(`<store>/registry/`): tags, measured latencies, packages handed over. A store that was copied takes all of it along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from configs.errors import UserError
from orchestrator.registry.assembly import assemble
from orchestrator.registry.exports import METRICS_FILE
from orchestrator.registry.lineage import Relation, Step, ancestors, children
from orchestrator.registry.model import StoredModel
from orchestrator.registry.records import Damage
from orchestrator.registry.runs import RunRecord
from orchestrator.store import Store
from trainers.files import read_json

__all__ = ["Damage", "Registry"]

PREFIX = re.compile(r"[0-9a-f]{6,16}")
"""What may be the start of a digest."""
SHOWN = 5
"""Names that an error lists at most."""


@dataclass(frozen=True)
class Registry:
    """All models of a store, as they were when it was opened."""

    store: Store
    models: tuple[StoredModel, ...]
    """By name, then digest."""
    damaged: tuple[Damage, ...]
    """Trials that should be models and can't be used, by digest."""
    runs: tuple[RunRecord, ...] = ()
    """What runs say of trials, newest first."""
    tag_problems: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with tags that name no model, as sentences, by tag."""

    @classmethod
    def open(cls, store: Store) -> Registry:
        """Read the whole store; writes nothing but what was counted of networks.

        A folder that does not exist is an empty store.
        """
        contents = assemble(store)
        return cls(
            store=store,
            models=tuple(sorted(contents.models, key=lambda model: (model.name, model.digest))),
            damaged=tuple(sorted(contents.damaged, key=lambda damage: damage.digest)),
            runs=contents.runs,
            tag_problems=contents.tags.problems,
        )

    @cached_property
    def by_digest(self) -> dict[str, StoredModel]:
        """All models by digest."""
        return {model.digest: model for model in self.models}

    def find(self, name: str) -> StoredModel:
        """A model by tag, digest (its first six digits, if no other has them), `RUN/NAME`, trial name, or folder.

        Args:
            name: whichever; they are tried in this order.

        Raises:
            UserError: there is none, or several go by that name, or the one meant is damaged.
        """
        if name in self.tag_problems:
            raise UserError(self.tag_problems[name])
        if found := self._called(name):
            return self._only(name, found)
        aliases = {f"{run.name}/{folder}": digest for run in self.runs for folder, digest in run.handed_on}
        for damage in self.damaged:
            if damage.digest == aliases.get(name) or (PREFIX.fullmatch(name) and damage.digest.startswith(name)):
                raise UserError(
                    f"model {damage.digest} of {self.store.root} is damaged: {damage.reason}; copy it again"
                )
        raise UserError(f"there is no model {name!r} in {self.store.root}; {self._hint(name)}")

    def of_run(self, run: str) -> tuple[StoredModel, ...]:
        """What a run hands on, in the run's order: teacher first, then PAS-1, …

        Raises:
            UserError: no such run, or nothing that it hands on so far, or part of that is not there.
        """
        folder = self.store.find_run(run).path
        name = folder.name
        if folder.parent.resolve() != self.store.root.resolve():
            raise UserError(f"run {folder} is not in {self.store.root}; `--runs {folder.parent}` looks there")
        record = next((record for record in self.runs if record.name == name), None)
        if record is None:
            raise UserError(
                f"{self.store.root / name / 'state.json'} can't be read; the command that made the run writes it again"
            )
        if not record.handed_on:
            raise UserError(f"run {name} hands on no model yet; `orchestrate show {name}` shows how far it is")
        for alias, digest in record.handed_on:
            if digest not in self.by_digest:
                reason = next(damage.reason for damage in self.damaged if damage.digest == digest)
                raise UserError(f"{name}/{alias} is damaged: trial {digest}: {reason}; copy it again")
        return tuple(self.by_digest[digest] for _, digest in record.handed_on)

    def require_whole(self) -> None:
        """Refuse a store of which a part is missing: what is not seen can be neither chosen nor kept.

        Raises:
            UserError: says what is damaged and what to do.
        """
        lines = [f"  trials/{damage.digest}: {damage.reason}" for damage in self.damaged]
        lines += [f"  {problem}" for problem in dict.fromkeys(self.tag_problems.values())]
        if lines:
            more = [f"  … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            raise UserError(
                "\n".join([f"{self.store.root} is not whole:", *lines[:SHOWN], *more])
                + "\nCopy the store again; or remove these folders, and what was in them is trained again when needed."
            )

    def folder(self, model: StoredModel) -> Path:
        """The model's trial: network.json, model.safetensors, result.json, metrics.jsonl."""
        return self.store.trial_folder(model.digest)

    def ancestors(self, model: StoredModel) -> tuple[Step, ...]:
        """What a model came from; see `lineage.ancestors`."""
        return ancestors(model, self.by_digest)

    def children(self, model: StoredModel) -> tuple[tuple[StoredModel, Relation], ...]:
        """What was made from a model; see `lineage.children`."""
        return children(model, self.by_digest)

    def _called(self, name: str) -> list[StoredModel]:
        """Models that go by a name, in the first of the ways in which any does."""
        ways = [
            [model for model in self.models if name in model.tags],
            [model for model in self.models if PREFIX.fullmatch(name) and model.digest.startswith(name)],
            [model for model in self.models if name in model.aliases],
            [model for model in self.models if model.trial.name == name],
            [model for model in [self._in_folder(Path(name))] if model],
        ]
        return next((found for found in ways if found), [])

    def _in_folder(self, folder: Path) -> StoredModel | None:
        """The model of a trial's folder, or of a model folder of a run of this store."""
        root = self.store.root.resolve()
        try:
            folder = folder.expanduser().resolve()
            if not folder.is_dir() or root not in folder.parents:
                return None
        except (OSError, RuntimeError):  # too long for a path, or the home of nobody: it is no folder
            return None
        numbers = read_json(folder / METRICS_FILE)
        digest = numbers.get("trial") if isinstance(numbers, dict) else folder.name
        return self.by_digest.get(str(digest))

    def _only(self, name: str, found: Sequence[StoredModel]) -> StoredModel:
        if len(found) == 1:
            return found[0]
        shown = [f"{model.digest} ({model.name})" for model in found[:SHOWN]]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UserError(f"{name!r} may be any of {len(found)} models: {', '.join(shown)}{more}; give the digest of one")

    def _hint(self, name: str) -> str:
        """What may have been meant."""
        if PREFIX.fullmatch(name) and any(self.store.root.glob(f"trials/{name}*")):
            return "a trial of that digest left no network: it failed, is not finished, or was only looked at"
        for run in self.runs:
            if run.name == name and run.handed_on:
                return f"of that run there are {', '.join(f'{name}/{folder}' for folder, _ in run.handed_on)}"
        names = [word for model in self.models for word in (*model.tags, *model.aliases, model.trial.name)]
        if near := get_close_matches(name, dict.fromkeys(names), n=3, cutoff=0.5):
            return f"did you mean {' or '.join(near)}?"
        return "`orchestrate models` lists them; `--runs DIR` looks elsewhere" if names else "it has none at all"
