"""What is asked for, as settings: which networks are meant, and the recipe that they were trained by.

Networks are asked for by whatever people call them; a run gets their digests, so that it is the same run wherever its
settings are read again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import RunSettings, TeacherSettings
from orchestrator.models import model_name
from orchestrator.registry.model import StoredModel
from orchestrator.registry.registry import Registry
from orchestrator.store import STATE_FILE, Store
from orchestrator.transfer.driver import splits_of
from trainers.backbones import BACKBONES
from trainers.files import read_json, sha256_of
from trainers.package import (
    NETWORK_FILE,
    WEIGHTS_FILE,
    Description,
    load_package,
    read_description,
    read_weights,
    save_package,
)
from trainers.trial import Trial

DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A network that is to be fine-tuned."""

    name: str
    """What it is called in the run."""
    digest: str
    """Of its trial."""
    description: Description
    """What it is, and how its clips are cut."""
    run: str | None = None
    """The run that hands it on; none: there is none in this store."""
    outside: Path | None = None
    """Its model folder, where that is not in the store; see `place`."""


def choose(store: Store, asked: Sequence[str]) -> tuple[list[Chosen], list[str]]:
    """Networks by what people call them, each once.

    Args:
        store: where to look.
        asked: names of runs, all of whose networks are meant, or anything that `Registry.find` knows, or model folders
            from elsewhere.

    Returns:
        The networks, and what the runs have besides that can't be fine-tuned, as sentences.

    Raises:
        UserError: there is no such network, or it can't be fine-tuned.
    """
    registry = Registry.open(store)
    found: list[Chosen] = []
    left_out: list[str] = []
    for name in asked:
        if run := _run_of(store, name):
            members = [(model, _refusal(registry, model)) for model in registry.of_run(run)]
            found += [_stored(registry, model, run) for model, refused in members if refused is None]
            left_out += [refused for _, refused in members if refused is not None]
            if all(refused for _, refused in members):
                raise UserError(f"nothing of run {run} can be fine-tuned: {'; '.join(left_out)}")
        else:
            found.append(_single(registry, name))
    return _named_apart(found), left_out


def choose_named(store: Store, models: Mapping[str, str]) -> list[Chosen]:
    """The networks of `transfer.models`, under the names that they have there."""
    registry = Registry.open(store)
    return [replace(_single(registry, asked), name=name) for name, asked in models.items()]


def defaults_of(store: Store, chosen: Sequence[Chosen]) -> dict[str, Any]:
    """What the first network says where nothing else does, as settings: how clips are cut, and its run's recipe."""
    first = chosen[0]
    assert first.description.clips is not None
    clips = first.description.clips.model_dump(mode="json")
    defaults = {f"clips.{key}": value for key, value in clips.items()}
    if first.run is None:
        return defaults
    state = store.run(first.run).require_state()
    config = state["config"]["teacher"] if state["algorithm"] == "train" else state["config"]
    return defaults | {f"train.{key}": value for key, value in config["train"].items()}


def settled(settings: RunSettings, chosen: Sequence[Chosen]) -> RunSettings:
    """The settings as a session takes them: networks by digest, the first of the splits, and no teacher.

    Raises:
        UserError: splits are asked for that the data does not have.
    """
    backbone = chosen[0].description.spec.backbone
    models = {one.name: one.digest for one in chosen}
    first = splits_of(settings)[0]
    changes: dict[str, Any] = {
        "network": settings.network.model_copy(update={"backbone": backbone}),
        "data": settings.data.model_copy(update={"split": first or settings.data.split}),
        "teacher": TeacherSettings(),
        "transfer": settings.transfer.model_copy(update={"models": models}),
    }
    return RunSettings.model_validate(settings.model_copy(update=changes).model_dump())


def place(store: Store, chosen: Iterable[Chosen]) -> None:
    """Copy networks from elsewhere into the store, to where fine-tunings look for what they start from.

    Raises:
        UserError: weights that don't fit their description.
    """
    for one in chosen:
        folder = store.trial_folder(one.digest)
        if one.outside is not None and not (folder / NETWORK_FILE).is_file():
            network, description = load_package(one.outside)
            save_package(folder, network, description)


def _run_of(store: Store, name: str) -> str | None:
    """The run that is meant: its name, or its folder; none: something else is."""
    for folder in (store.root / name, Path(name).absolute()):
        if folder.parent == store.root and (folder / STATE_FILE).is_file():
            return folder.name
    return None


def _single(registry: Registry, name: str) -> Chosen:
    """One network.

    Raises:
        UserError: there is none of that name, or it can't be fine-tuned.
    """
    store, folder = registry.store, Path(name).expanduser()
    if (folder / NETWORK_FILE).is_file() and store.root.resolve() not in folder.resolve().parents:
        return _outside(registry, folder)
    placed = store.trial_folder(name)
    if DIGEST.fullmatch(name) and name not in registry.by_digest and (placed / NETWORK_FILE).is_file():
        return Chosen(name=name, digest=name, description=read_description(placed))  # from elsewhere, some time ago
    model = registry.find(name)
    if refused := _refusal(registry, model):
        raise UserError(refused)
    return _stored(registry, model, name.partition("/")[0])


def _stored(registry: Registry, model: StoredModel, run: str) -> Chosen:
    """A network of the store, called as in the given run, if that hands it on."""
    alias = next((alias for alias in model.aliases if alias.startswith(f"{run}/")), next(iter(model.aliases), None))
    return Chosen(
        name=alias.partition("/")[2] if alias else model_name(model.trial.name),
        digest=model.digest,
        description=read_description(registry.folder(model)),
        run=alias.partition("/")[0] if alias else None,
    )


def _refusal(registry: Registry, model: StoredModel) -> str | None:
    """Why a network of the store can't be fine-tuned; none: it can."""
    if BACKBONES[model.backbone].task != "classification":
        return (
            f"{model.name} is a {model.backbone}, which embeds images; only classifiers of videos can be fine-tuned on "
            "other videos"
        )
    if model.precision == "fp32":
        return None
    origin = registry.by_digest.get(model.trial.start or "")
    instead = f"give {origin.name} ({origin.digest}), " if origin else "give the network in floating point "
    return f"{model.name} computes in integers, which are not trained further; {instead}that it was made from"


def _outside(registry: Registry, folder: Path) -> Chosen:
    """A model folder that is not in the store; one whose weights are is a copy of what the store has.

    Raises:
        UserError: no package, or one that can't be fine-tuned.
    """
    description = read_description(folder)
    if description.clips is None or description.spec.quantisation is not None:
        what = "embeds images" if description.clips is None else "computes in integers, which are not trained further"
        raise UserError(f"{folder} {what}; give a classifier of videos in floating point")
    read_weights(folder)
    weights = sha256_of(folder / WEIGHTS_FILE)
    same = next((model for model in registry.models if model.weights_sha256 == weights), None)
    if same is not None and same.trial.network == description.spec:
        return _stored(registry, same, "")
    recorded = read_json(folder / "metrics.json")
    data = recorded.get("data") if isinstance(recorded, dict) else None
    trial = Trial(
        name=f"{description.spec.backbone}-imported",
        network=description.spec,
        data=str(data.get("fingerprint", "")) if isinstance(data, dict) else "",
        clips=description.clips,
        train=None,
        seed=0,
        weights_sha256=weights,
    )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-") or "model"
    return Chosen(name=name, digest=trial.digest, description=description, outside=folder)


def _named_apart(found: Sequence[Chosen]) -> list[Chosen]:
    """Each network once; those whose names are taken are called by run and name."""
    once: dict[str, Chosen] = {}
    for one in found:
        once.setdefault(one.digest, one)
    named: dict[str, Chosen] = {}
    for one in once.values():
        name = f"{one.run or one.digest}-{one.name}" if one.name in named else one.name
        named[name] = replace(one, name=name)
    return list(named.values())
