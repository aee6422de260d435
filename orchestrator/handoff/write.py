"""Write a package: a model with its contract, whole or not at all.

model of the store → weights compared with their hash → copied with exports → reference, card → handoff.json (→ signed)
                   → verified as its receiver will → recorded in the store → renamed into place

Equal models of equal stores give equal bytes on one machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import UserError
from orchestrator.export.staging import whole_folder
from orchestrator.handoff.contract import input_of, output_of, stages_of
from orchestrator.handoff.handed_over import record_package
from orchestrator.handoff.manifest import (
    MANIFEST_FILE,
    NETWORK_FILE,
    REQUIRED_FILES,
    SIGNATURE_FILE,
    WEIGHTS_FILE,
    ExportedFile,
    File,
    Handoff,
    Reference,
)
from orchestrator.handoff.record import (
    accuracy_of,
    ancestors_of,
    cost_of,
    data_list,
    family_of,
    frame_rates,
    licence_of,
    provenance_of,
)
from orchestrator.handoff.reference import REFERENCE_FILE, Comparison, tolerance_of, write_reference
from orchestrator.handoff.signature import read_private_key
from orchestrator.handoff.verify import COPIES, files_in, read_handoff, verify_package
from orchestrator.registry.model import Exported, StoredModel
from orchestrator.registry.registry import Registry
from trainers.artefacts import FORMATS, artefact_files
from trainers.files import copy_file, read_json, sha256_of, write_atomically, write_json
from trainers.package import load_package
from trainers.results import RESULT_FILE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

REQUIRES = {"python": "3.11", "torch": "2.11", "safetensors": "0.5", "numpy": "2.0", "pydantic": "2.10"}
"""Lowest versions of what reads a package, as in pyproject.toml."""
EXPORTS = "exports"
"""Folder of the other formats in a package."""


@dataclass(frozen=True, kw_only=True)
class HandoffRequest:
    """What is asked of a package."""

    target: Path
    """Folder to be written."""
    name: str | None = None
    """For people; none: as the store calls the model."""
    licence: str | None = None
    """SPDX expression; none: nobody said."""
    sign_key: Path | None = None
    """PEM file of a private ed25519 key; none: not signed."""
    all_exports: bool = False
    """Take along also those exports that the gate rejected or nobody judged."""
    force: bool = False
    """Replace an earlier package."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What came of it."""

    folder: Path
    """The package."""
    handoff: Handoff
    """Its contract."""
    signed: bool
    """Whether it has a signature."""
    comparison: Comparison
    """How its verification went, from its files."""
    recorded: bool
    """Whether the store remembers it; else nothing can be written there."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, of `orchestrate handoff --json`."""
        return {
            "folder": str(self.folder),
            "sha256": sha256_of(self.folder / MANIFEST_FILE),
            "signed": self.signed,
            "recorded": self.recorded,
            "reference": self.comparison.to_dict(),
            "handoff": self.handoff.model_dump(mode="json"),
        }


def write_package(registry: Registry, model: StoredModel, request: HandoffRequest) -> Written:
    """Hand a model over to a folder.

    After an error there is nothing, or the package that was there before.

    Args:
        registry: the store that the model is of.
        model: which one.
        request: where to, and under what name and licence.

    Raises:
        UserError: the folder is in use, the model is damaged, or the request makes no sense.
        RunError: what was written computes something else than the model.
    """
    licence = licence_of(request.licence)
    key = read_private_key(request.sign_key) if request.sign_key else None
    target = request.target.expanduser().absolute()
    earlier = require_target(target, force=request.force)
    name = name_of(model, request)
    trial = registry.folder(model)
    versions = require_weights(trial)
    network, description = load_package(trial)
    data = data_list(registry.store, model)
    contract = input_of(description, frame_rates(data))
    with whole_folder(target, files=earlier) as folder:
        for file in REQUIRED_FILES:
            copy_file(trial / file, folder / file)
        exports = copy_exports(folder, model, everything=request.all_exports)
        write_reference(folder, network, description, contract)
        handoff = Handoff(
            name=name,
            digest=model.digest,
            backbone=model.backbone,
            precision=model.precision,
            network=description.spec.to_dict(),
            stages=stages_of(description.spec),
            input=contract,
            output=output_of(description.spec),
            classes=description.classes,
            accuracy=accuracy_of(model, description, data),
            cost=cost_of(model),
            licence=licence,
            lineage=ancestors_of(registry.ancestors(model)),
            provenance=provenance_of(model, versions),
            reference=Reference(file=REFERENCE_FILE, tolerance=tolerance_of(model.precision)),
            exports=exports,
            requires=REQUIRES,
            files=hashes_of(folder),
        )
        handoff = with_card(folder, handoff, family_of(registry, model))
        write_json(folder / MANIFEST_FILE, handoff.model_dump(mode="json"))
        if key is not None:
            sign(folder, key)
        comparison = verify_package(folder).comparison
        recorded = _recorded(registry, model, target)
    return Written(folder=target, handoff=handoff, signed=key is not None, comparison=comparison, recorded=recorded)


def require_target(target: Path, *, force: bool) -> set[str]:
    """Refuse to write over anything but an earlier package, and over that unless it is wanted.

    Returns:
        Names at the top of the earlier package; none of a folder that is not there, or empty.

    Raises:
        UserError: naming what is in the way.
    """
    if target.is_symlink():
        raise UserError(f"{target} is a link; give the folder that it leads to, or another")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return set()
    try:
        handoff = read_handoff(target)
    except UserError as error:
        raise UserError(
            f"{target} exists and is no package that could be replaced ({error}); move it, or give another folder"
        ) from None
    ours = {*handoff.files, MANIFEST_FILE, SIGNATURE_FILE, *COPIES}
    if others := sorted(files_in(target).keys() - ours):
        raise UserError(
            f"{target} is a package, but also holds {others[0]!r}, which would be lost; move it, or give another folder"
        )
    if not force:
        raise UserError(f"{target} is a package already, of {handoff.name}; --force replaces it")
    return {path.partition("/")[0] for path in ours}


def name_of(model: StoredModel, request: HandoffRequest) -> str:
    """What the package is called.

    Raises:
        UserError: it would not be a line of text.
    """
    name = model.name if request.name is None else request.name.strip()
    if not (name and name.isprintable()):
        raise UserError(f"--name is {request.name!r}, but must be a line of text; leave it out for {model.name}")
    return name


def require_weights(trial: Path) -> dict[str, str]:
    """See that a trial's weights are those that its result was written for.

    Returns:
        The versions that it was run with.

    Raises:
        UserError: they are not, or are missing.
    """
    record = read_json(trial / RESULT_FILE)
    weights = trial / WEIGHTS_FILE
    try:
        wanted, versions = record["weights_sha256"], dict(record["versions"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{trial / RESULT_FILE} can't be read; copy the store again") from None
    if not weights.is_file() or sha256_of(weights) != wanted:
        raise UserError(
            f"{weights} is missing or was changed: its SHA-256 is not the one in {RESULT_FILE}; copy the store again, "
            "or remove the folder and train the model again"
        )
    return versions


def copy_exports(folder: Path, model: StoredModel, *, everything: bool) -> tuple[ExportedFile, ...]:
    """Copy a model's exports into a package, one per format: model file and network.json, and not what was measured on
    whose data.

    Args:
        folder: the package.
        model: whose exports.
        everything: also those that the gate did not let pass.

    Raises:
        UserError: a file is missing.
    """
    chosen: dict[str, Exported] = {}
    for exported in sorted(model.exports, key=lambda one: (one.format, not one.accepted, one.folder)):
        if exported.accepted or everything:
            chosen.setdefault(exported.format, exported)
    return tuple(_copied(folder, exported) for exported in chosen.values())


def with_card(folder: Path, handoff: Handoff, family: tuple[StoredModel, ...]) -> Handoff:
    """Write the card and its picture; the same contract with their hashes."""
    from orchestrator.handoff.card import write_card  # draws: matplotlib

    write_card(folder, handoff, family)
    return handoff.model_copy(update={"files": hashes_of(folder)})


def hashes_of(folder: Path) -> dict[str, File]:
    """Every file below a folder, by path."""
    return {
        path: File(sha256=sha256_of(folder / path), bytes=found.st_size)
        for path, found in sorted(files_in(folder).items())
    }


def sign(folder: Path, key: Ed25519PrivateKey) -> None:
    """Sign a package as it is now."""
    signature = key.sign((folder / MANIFEST_FILE).read_bytes())
    write_atomically(folder / SIGNATURE_FILE, lambda path: _write(path, signature))


def _copied(folder: Path, exported: Exported) -> ExportedFile:
    source, target = Path(exported.folder), f"{EXPORTS}/{exported.format}"
    for file in (*artefact_files(source), source / NETWORK_FILE):
        if not file.is_file():
            raise UserError(f"{file} is missing; export it again: orchestrate export --format {exported.format}")
        copy_file(file, folder / target / file.name)
    return ExportedFile(
        format=exported.format,
        folder=target,
        precision=FORMATS[exported.format].precision,
        accuracy=exported.accuracy,
        accepted=exported.accepted,
    )


def _recorded(registry: Registry, model: StoredModel, target: Path) -> bool:
    """Tell the store, before the package is there: what is recorded for nothing is merely kept."""
    try:
        record_package(registry.store, model.digest, target)
    except OSError:  # somebody else's store
        return False
    return True


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
