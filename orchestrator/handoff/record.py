"""What a store knows of a model, as a package says it: accuracy, cost, ancestors, and how it was made.

Nothing in here may depend on the machine that writes the package: no dates, no paths, no user's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from configs.errors import UserError
from orchestrator.handoff.manifest import Accuracy, Ancestor, Cost, Energy, Latency, Licence
from orchestrator.registry.lineage import Step, base_of
from orchestrator.registry.model import Measured, StoredModel
from orchestrator.registry.registry import Registry
from orchestrator.store import Store
from trainers.data.identities import IdentityManifest
from trainers.data.manifest import Manifest
from trainers.package import Description
from trainers.tasks import DataManifest

NO_LICENCE = "NOASSERTION"
"""What SPDX calls a licence of which nobody said anything."""
UNKNOWN = "unknown"
"""How an ancestor was made that the store has lost."""


def data_list(store: Store, model: StoredModel) -> DataManifest | None:
    """The data that a model was evaluated on; none where the store has lost the list."""
    kind: type[Manifest] | type[IdentityManifest] = Manifest if model.trial.clips is not None else IdentityManifest
    try:
        return kind.load(store.manifest_file(model.trial.data))
    except UserError:
        return None


def frame_rates(data: DataManifest | None) -> list[float]:
    """Frames per second of the validation videos; empty of images, and where the list is lost."""
    return [video.fps for video in data.val] if isinstance(data, Manifest) else []


def accuracy_of(model: StoredModel, description: Description, data: DataManifest | None) -> Accuracy:
    """What a model reached."""
    examples = len(data.val) if data is not None else None
    return Accuracy(
        metric=model.metric,
        top1=model.top1,
        top5=model.top5,
        map=model.map,
        drop_points=model.drop_points,
        how=how_measured(description, examples),
        data_source=model.data_source,
        fingerprint=model.trial.data,
        examples=examples,
    )


def how_measured(description: Description, examples: int | None) -> str:
    """How evaluation measures accuracy, in a sentence."""
    many = "the" if examples is None else f"the {examples}"
    if description.clips is not None:
        clips = description.clips.test
        taken = f"{clips} clips, uniform in time," if clips > 1 else "the clip midway"
        return f"Of the mean softmax over {taken} of each of {many} validation videos, cut in the centre."
    assert description.reid is not None  # whatever is fed images re-identifies
    reid = description.reid
    area = "by trapezoids" if reid.average_precision == "trapezoid" else "as the mean precision at the hits"
    mirrored = ", vectors of an image and its mirror added" if reid.flip else ""
    unmatched = "; queries without a match count as 0" if reid.count_unmatched else ""
    return (
        f"Of {many} queries, each of which ranks the gallery by the cosine{mirrored}; Market-1501's protocol, average "
        f"precision {area}{unmatched}."
    )


def cost_of(model: StoredModel) -> Cost:
    """What a model costs."""
    network = model.trial.network
    shape = " × ".join(map(str, network.input_shape))
    item = "clip" if network.aspect is None else "image"
    floating = "" if network.quantisation is None else " of the same network in floating point"
    return Cost(
        gmacs=model.gmacs,
        params=model.params,
        size_mb=model.size_mb,
        how=f"Counted in a forward pass{floating} over one {item} of {shape}: convolutions and linear layers, each "
        "multiply-add once.",
        latency=latency_of(model.latency),
        energy=energy_of(model.energy),
    )


def latency_of(measured: Measured | None) -> Latency | None:
    """A latency with its conditions, if it was measured."""
    if measured is None:
        return None
    return Latency(ms=measured.value, conditions=without_paths(measured.conditions))


def energy_of(measured: Measured | None) -> Energy | None:
    """An energy with its conditions, if it was measured."""
    if measured is None:
        return None
    return Energy(mj=measured.value, conditions=without_paths(measured.conditions))


def ancestors_of(steps: Sequence[Step]) -> tuple[Ancestor, ...]:
    """The way back, with what the store knows of each."""
    return tuple(
        Ancestor(
            digest=step.digest,
            name=step.model.trial.name if step.model else step.digest,
            kind=step.model.kind if step.model else UNKNOWN,
            relation=step.relation,
            of=step.of,
            accuracy=step.model.accuracy if step.model else None,
            gmacs=step.model.gmacs if step.model else None,
            weights_sha256=step.model.weights_sha256 if step.model else None,
        )
        for step in steps
    )


def family_of(registry: Registry, model: StoredModel) -> tuple[StoredModel, ...]:
    """The base network of a model, and all that came of it on the same data, in the registry's order."""
    base = base_of(model, registry.by_digest) or model
    return tuple(
        other
        for other in registry.models
        if other.trial.data == model.trial.data
        and (other in (base, model) or base_of(other, registry.by_digest) == base)
    )


def provenance_of(model: StoredModel, versions: Mapping[str, str]) -> dict[str, Any]:
    """The trial as it was run, and the versions it was run with."""
    return {"trial": without_paths(model.trial.to_dict()), "versions": without_paths(versions)}


def licence_of(spdx: str | None) -> Licence:
    """A licence by its SPDX expression; none: nobody said.

    Raises:
        UserError: SPDX has no such expression.
    """
    if spdx is None or spdx == NO_LICENCE:
        note = "Nobody has said under what licence this model may be used: ask whoever made it."
        return Licence(spdx=NO_LICENCE, note=note)
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        expression = str(canonicalize_license_expression(spdx))
    except InvalidLicenseExpression as error:
        raise UserError(
            f"--licence is {spdx!r}, but must be an SPDX expression such as Apache-2.0, CC-BY-NC-4.0 or "
            f"LicenseRef-NAME ({error})"
        ) from None
    note = "It covers the weights, in every format of this package; the code that loads them has its own."
    return Licence(spdx=expression, note=note)


def without_paths(value: Any) -> Any:
    """The same JSON value with every absolute path cut down to its last part, which says nothing of a machine."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str):
        for flavour in (PurePosixPath, PureWindowsPath):
            if (path := flavour(value)).is_absolute():
                return path.name
    return value
