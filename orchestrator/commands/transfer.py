"""`orchestrate transfer`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from configs.errors import UserError
from configs.loader import resolved_yaml, value_said
from configs.schema import RunSettings
from orchestrator.commands import execution
from orchestrator.commands.options import (
    AddressOption,
    ConfigOption,
    CpusOption,
    GpusOption,
    LogOption,
    MaxConcurrentOption,
    NameOption,
    PrintConfigOption,
    RunnerOption,
    RunsOption,
    SeedOption,
    SetOption,
    listed,
    settings_from,
)
from orchestrator.commands.submit import NoWaitOption, SubmitOption

if TYPE_CHECKING:
    from orchestrator.store import Store
    from orchestrator.transfer.request import Chosen


def transfer(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Tag, digest, RUN/NAME or model folder of a network, or a run: its whole family "
            "\\[default: transfer.models of the settings].",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The other videos: ucf101:DIR, hmdb51:DIR, csv:FILE, csv:DIR, folders:DIR.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of fine-tuning \\[default: as it was trained].")] = None,
    splits: Annotated[str | None, typer.Option(help="Official splits, e.g. 1,2 \\[default: 1,2,3].")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of fine-tuning, e.g. 0,1,2.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    name: NameOption = None,
    runs: RunsOption = None,
    cpus_per_trial: CpusOption = None,
    gpus_per_trial: GpusOption = None,
    max_concurrent: MaxConcurrentOption = None,
    address: AddressOption = None,
    runner: RunnerOption = None,
    log: LogOption = None,
    submit: SubmitOption = None,
    no_wait: NoWaitOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; train nothing.")] = False,
    print_config: PrintConfigOption = False,
) -> None:
    """Fine-tune a network, or a whole family, on other videos. The same command again goes on; more extends."""
    from orchestrator.store import Store
    from orchestrator.transfer.request import defaults_of, place, settled

    if data is None and value_said("data.source", config, set_ or ()) is None:
        raise UserError("no data is given; say on which videos to fine-tune, e.g. --data ucf101:DIR")
    store = Store(runs or Path(value_said("runtime.runs", config, set_ or ()) or RunSettings().runtime.runs))
    chosen = chosen_models(store, models or [], value_said("transfer.models", config, set_ or ()))
    flags = {
        "transfer.epochs": epochs,
        "transfer.splits": listed(splits),
        "transfer.seeds": listed(seeds),
        "seed": seed,
        "runtime.name": name,
        "runtime.runs": runs,
        "runtime.cpus_per_trial": cpus_per_trial,
        "runtime.gpus_per_trial": gpus_per_trial,
        "runtime.max_concurrent": max_concurrent,
        "runtime.address": address,
        "runtime.runner": runner,
        "runtime.log": log or None,
    }
    backbone = chosen[0].description.spec.backbone
    settings = settled(
        settings_from(config, set_, backbone=backbone, data=data, flags=flags, defaults=defaults_of(store, chosen)),
        chosen,
    )
    if print_config:
        typer.echo(resolved_yaml(settings), nl=False)
        return
    place(store, chosen)
    if dry_run:
        from orchestrator.transfer.plan import print_tunings

        print_tunings(Console(), settings)
    else:
        execution.execute(settings, "transfer", submit=submit, wait=not no_wait)


def chosen_models(store: Store, asked: list[str], named: Any) -> list[Chosen]:
    """The networks that arguments name, else those of the settings.

    Args:
        store: where they are.
        asked: the arguments.
        named: `transfer.models` as a file or an override has it; none: neither has.

    Raises:
        UserError: there is no such network, or nobody names any.
    """
    from orchestrator.transfer.request import choose, choose_named

    if not asked:
        if isinstance(named, dict) and named:
            return choose_named(store, {str(name): str(model) for name, model in named.items()})
        raise UserError("no network is given; say which is to be fine-tuned: orchestrate transfer MODEL --data …")
    chosen, left_out = choose(store, asked)
    for sentence in left_out:
        Console(stderr=True).print(f"Left out: {sentence}", markup=False, highlight=False, soft_wrap=True)
    return chosen
