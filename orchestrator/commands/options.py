"""The options that commands share, and what options, a settings file and a model folder say together as settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import yaml

from configs.errors import UserError
from configs.loader import EMBEDDED, embedded_preset, load_settings, value_said
from configs.schema import NetworkSettings, RunSettings

SWEPT = "reid"
"""The backbone that a sweep trains and prunes when it is not told otherwise: the one that the source pruned."""

ConfigOption = Annotated[str | None, typer.Option("--config", help="A preset's name or a YAML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Any setting, e.g. train.lr=0.1.")
]
BackboneOption = Annotated[str | None, typer.Option(help="slowfast, r2plus1d or reid.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of weights, sampling and order.")]
NameOption = Annotated[str | None, typer.Option(help="Name of the run's folder.")]
RunsOption = Annotated[Path | None, typer.Option(help="Folder of all runs \\[default: ./runs].")]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="moving-digits, csv:DIR, csv:FILE, ucf101:DIR, hmdb51:DIR, folders:DIR; "
        "for reid synthetic-people, market1501:DIR."
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Model folder (runs/NAME/models/…), or a backbone's name: trained first \\[default: reid]."),
]
MaxConcurrentOption = Annotated[int | None, typer.Option(help="Trials at a time at most.")]
PrintConfigOption = Annotated[bool, typer.Option("--print-config", help="Print every setting as YAML.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Name or folder of a run.")]
CpusOption = Annotated[float | None, typer.Option(help="CPUs (and threads) per trial.")]
GpusOption = Annotated[float | None, typer.Option(help="GPUs per trial; fractions share one.")]
AddressOption = Annotated[str | None, typer.Option(help="Ray cluster: auto or host:port \\[default: in this process].")]
LogOption = Annotated[
    list[str] | None, typer.Option("--log", help="tensorboard, mlflow or mlflow:URI; may be repeated.")
]
RunnerOption = Annotated[str | None, typer.Option(help="ray, or local: one trial after the other, without Ray.")]


def settings_from(
    config: str | None,
    overrides: Sequence[str] | None,
    *,
    backbone: str | None,
    data: str | None,
    flags: Mapping[str, Any],
    defaults: Mapping[str, Any] = {},
) -> RunSettings:
    """Settings from a preset or file, options and overrides; the embedded preset of the backbone by default.

    Args:
        config: value of `--config`.
        overrides: values of `--set`.
        backbone: of the network, whatever the file says.
        data: value of `--data`.
        flags: other options, as for `load_settings`.
        defaults: likewise; a backbone among them chooses the preset as well.
    """
    forget_path = ["data.path=null"] if data and ":" not in data else []  # a preset's path is of its own source
    known = backbone or defaults.get("network.backbone")
    return load_settings(
        config,
        [*forget_path, *(overrides or ())],
        {"network.backbone": backbone, **data_flags(data), **flags},
        preset=embedded_preset(known) if known else EMBEDDED,
        defaults=defaults,
    )


def settings_of_model(
    model: str | None,
    config: str | None,
    overrides: Sequence[str] | None,
    *,
    data: str | None,
    flags: Mapping[str, Any],
    defaults: Mapping[str, Any] = {},
) -> RunSettings:
    """Settings of a sweep over a model folder, or over a backbone whose network is trained first.

    Args:
        model: value of `--model`. A folder brings its backbone, how its clips are cut or its identities learnt, and
            its data, as far as neither `--config` nor an option or override says otherwise.
        config: as for `settings_from`, like the rest.
        overrides: likewise.
        data: likewise.
        flags: likewise.
        defaults: likewise.

    Raises:
        UserError: neither a model folder nor a backbone; a folder that names no data where nothing else does.
    """
    backbones = get_args(NetworkSettings.model_fields["backbone"].annotation)
    if model is None or model in backbones:
        backbone = model or (None if config else SWEPT)
        return settings_from(config, overrides, backbone=backbone, data=data, flags=flags, defaults=defaults)
    folder = Path(model)
    if not folder.exists():
        raise UserError(
            f"--model is {model!r}, but there is no such folder; give a model folder like runs/NAME/models/teacher, "
            f"or a backbone to be trained first: {', '.join(backbones)}"
        )
    brought = defaults_of_model(folder)
    if data is None:
        brought |= data_of_model(folder, value_said("data.source", config, overrides or ()))
    return settings_from(
        config,
        overrides,
        backbone=None,
        data=data,
        flags={**flags, "teacher.weights": folder.absolute()},
        defaults={**brought, **defaults},
    )


def defaults_of_model(folder: Path) -> dict[str, Any]:
    """What `network.json` says, as settings: the backbone, and how clips are cut or identities are learnt.

    Raises:
        UserError: no model folder.
    """
    from trainers.package import read_description

    description = read_description(folder)
    defaults: dict[str, Any] = {"network.backbone": description.spec.backbone}
    for group, settings in (("clips", description.clips), ("reid", description.reid)):
        if settings is not None:
            values = settings.model_dump(mode="json")
            defaults |= {f"{group}.{key}": value for key, value in values.items()}
    return defaults


def data_of_model(folder: Path, source: Any) -> dict[str, Any]:
    """The data that a model was made with, as settings; nothing where it is of another source than is asked for.

    Args:
        folder: of the model.
        source: `data.source` as a file or an override has it; none: nobody names it.

    Raises:
        UserError: the folder names no data, and nobody else does.
    """
    from orchestrator.validation import recorded_data

    try:
        recorded = recorded_data(folder)
    except UserError:
        if source is None:
            raise
        return {}
    return {f"data.{key}": value for key, value in recorded.items()} if source in (None, recorded["source"]) else {}


def data_flags(data: str | None) -> dict[str, Any]:
    """`csv:DIR` as settings."""
    if data is None:
        return {}
    source, _, path = data.partition(":")
    return {"data.source": source, "data.path": path or None}


def listed(text: str | None) -> list[Any] | None:
    """`0.3,0.5` as values of a list; what is no value is left for the settings to refuse."""
    return None if text is None else [value_of(part) for part in text.split(",")]


def value_of(text: str) -> Any:
    """A number or a word; text that is no YAML as it is."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
