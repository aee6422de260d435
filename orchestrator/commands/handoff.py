"""The commands `orchestrate handoff` and `orchestrate verify`: a model as a package, and whether one is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from orchestrator.commands.models import open_registry
from orchestrator.commands.options import JsonOption, RunsOption

if TYPE_CHECKING:
    from orchestrator.handoff.manifest import Handoff
    from orchestrator.handoff.reference import Comparison
    from orchestrator.handoff.verify import Verification
    from orchestrator.handoff.write import Written


def handoff(
    model: Annotated[str, typer.Argument(help="Tag, digest, RUN/NAME, or model folder.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to be written.")],
    licence: Annotated[
        str | None, typer.Option(metavar="SPDX", help="Licence of the weights, e.g. Apache-2.0 \\[default: not said].")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call it \\[default: as the store does].")] = None,
    sign_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Private ed25519 key to sign with \\[default: not signed].")
    ] = None,
    all_exports: Annotated[
        bool, typer.Option("--all-exports", help="Also take exports that the gate did not accept.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier package.")] = False,
    runs: RunsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model as a package that other programs load: weights, contract, reference, card."""
    from orchestrator.handoff.write import HandoffRequest, write_package

    request = HandoffRequest(
        target=folder, name=name, licence=licence, sign_key=sign_key, all_exports=all_exports, force=force
    )
    with Console(stderr=True).status("writing"):
        registry = open_registry(runs)
        written = write_package(registry, registry.find(model), request)
    if not written.recorded:
        said = f"Nothing can be written to {registry.store.root}: `orchestrate gc` there won't know of this package."
        Console(stderr=True).print(Text(said), soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(written.to_dict(), allow_nan=False))
    else:
        print_written(Console(), written)


def verify(
    package: Annotated[Path, typer.Argument(help="Folder that `orchestrate handoff` wrote.")],
    public_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Public ed25519 key that it must be signed by.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a package: contract, hash of every file, stored output, signature. Tampered or truncated: exit 2."""
    from orchestrator.handoff.verify import verify_package

    with Console(stderr=True).status("verifying"):
        verification = verify_package(package, public_key=public_key)
    if as_json:
        typer.echo(json.dumps(verification.to_dict(), allow_nan=False))
    else:
        print_verification(Console(), verification)


def print_written(console: Console, written: Written) -> None:
    """What is in the package, and what to do with it."""
    found = written.handoff
    _print(console, f"{found.name} ({found.digest}): {_measured(found)}")
    _print(
        console, f"Feature maps: {', '.join(stage.name for stage in found.stages) or 'none, it computes in integers'}"
    )
    if found.exports:
        _print(console, f"Exports: {', '.join(exported.format for exported in found.exports)}")
    _print(
        console, f"Licence: {found.licence.spdx}{'' if found.licence.spdx != 'NOASSERTION' else ' (--licence SPDX)'}"
    )
    signed = "signed" if written.signed else "not signed"
    _print(console, f"Written to {written.folder}: {_size(found)}, {signed}. {_compared(written.comparison)}")
    _print(console, f"Next: orchestrate verify {written.folder}", style="dim")


def print_verification(console: Console, verification: Verification) -> None:
    """What was checked, and how it came out."""
    found = verification.handoff
    _print(console, f"{found.name} ({found.digest}) is whole: {_size(found)}.")
    _print(console, _compared(verification.comparison))
    said = {
        "unsigned": "It is not signed.",
        "signed, not checked": "It is signed, not checked: --public-key PEM does.",
        "valid": "The signature is valid.",
    }
    _print(console, said[verification.signature])


def _print(console: Console, text: str, style: str = "") -> None:
    """A line of what a package says, without what a terminal would take for a command."""
    shown = "".join(character if character.isprintable() else "�" for character in text)
    console.print(Text(shown, style), soft_wrap=True)


def _measured(found: Handoff) -> str:
    from orchestrator.report import METRICS, gmacs, percent

    value = found.accuracy.top1 if found.accuracy.metric == "top1" else found.accuracy.map
    return f"{percent(value)} {METRICS[found.accuracy.metric]}, {gmacs(found.cost.gmacs)} GMACs, {found.precision}"


def _size(found: Handoff) -> str:
    return f"{len(found.files)} files, {sum(file.bytes for file in found.files.values()) / 1e6:.3g} MB"


def _compared(comparison: Comparison) -> str:
    """How the stored input came out here."""
    if comparison.bit_equal:
        outputs = "Outputs and feature maps of the stored input are bit-equal"
    else:
        outputs = (
            f"Outputs and feature maps of the stored input are within tolerance: {comparison.difference:.1e} of "
            f"{comparison.tolerance:g}"
        )
    levels = comparison.input_levels
    prepared = "bit-equal" if levels == 0 else f"within {levels:.2g} levels of 255"
    return f"{outputs}; its preprocessing is {prepared}."
