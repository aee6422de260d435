"""The sweeps: every pruner at every sparsity, one layer at a time, and quantising to INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from configs.errors import UserError
from configs.loader import resolved_yaml
from configs.schema import RunSettings
from orchestrator.commands import execution
from orchestrator.commands.options import (
    AddressOption,
    ConfigOption,
    CpusOption,
    DataOption,
    GpusOption,
    LogOption,
    MaxConcurrentOption,
    ModelOption,
    NameOption,
    PrintConfigOption,
    RunnerOption,
    RunsOption,
    SeedOption,
    SetOption,
    listed,
    settings_of_model,
)
from orchestrator.commands.submit import NoWaitOption, SubmitOption
from orchestrator.sweep.sensitivity_file import read_layer_sparsity

NO_DISTILLATION = {"distillation.weight": 0.0, "distillation.features": "none"}
"""What `--no-distill` sets; `distillation.source_alpha` has to be taken back as well."""
ONE_LAYER_AT_A_TIME = {"sweep.pruners": ["l1"], "sweep.sparsity": [0.25, 0.5, 0.75]}
"""What a sensitivity analysis tries where nothing says otherwise; the schema's defaults are a whole sweep's."""

sweep_app = typer.Typer(help="Prune or quantise a network in every way asked for, in parallel.", no_args_is_help=True)


@sweep_app.command("prune")
def sweep_prune(
    model: ModelOption = None,
    pruners: Annotated[str | None, typer.Option(help="l1,l2,fpgm,agp; also l1-iterative …, random.")] = None,
    sparsity: Annotated[str | None, typer.Option(help="Shares of filters to remove, e.g. 0.3,0.5,0.9.")] = None,
    finetune_epochs: Annotated[int | None, typer.Option(help="Epochs of fine-tuning, the same for every cell.")] = None,
    distill: Annotated[
        bool | None, typer.Option("--distill/--no-distill", help="Learn from the unpruned network as well.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of fine-tuning, e.g. 0,1,2: mean ± deviation.")] = None,
    controls: Annotated[str | None, typer.Option(help="scratch,random: the same size from nothing; by lot.")] = None,
    engine: Annotated[str | None, typer.Option(help="Who chooses the filters: own or nni.")] = None,
    scope: Annotated[str | None, typer.Option(help="local: per layer; global: over the whole network.")] = None,
    layer_sparsity: Annotated[
        Path | None, typer.Option(help="sensitivity.yaml: no layer loses more than it says.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    data: DataOption = None,
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells; train nothing.")] = False,
    print_config: PrintConfigOption = False,
) -> None:
    """Prune with every pruner at every sparsity, fine-tune, compare. The same command again goes on; more extends."""
    flags = {
        "sweep.pruners": listed(pruners),
        "sweep.sparsity": listed(sparsity),
        "sweep.seeds": listed(seeds),
        "sweep.controls": listed(controls),
        "train.epochs": finetune_epochs,
        **(NO_DISTILLATION if distill is False else {}),
        "prune.engine": engine,
        "prune.scope": scope,
        "prune.max_sparsity": read_layer_sparsity(layer_sparsity) if layer_sparsity else None,
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
    forget_alpha = ["distillation.source_alpha=null"] if distill is False else []  # an option can't take a value back
    settings = settings_of_model(model, config, [*forget_alpha, *(set_ or ())], data=data, flags=flags)
    if distill:
        require_distillation(settings)
    if print_config:
        typer.echo(resolved_yaml(settings), nl=False)
    elif dry_run:
        from orchestrator.sweep.plan import print_cells

        print_cells(Console(), settings)
    else:
        execution.execute(settings, "sweep-prune", submit=submit, wait=not no_wait)


@sweep_app.command("sensitivity")
def sweep_sensitivity(
    model: ModelOption = None,
    pruner: Annotated[
        Literal["l1", "l2", "fpgm"] | None, typer.Option(help="How filters are scored \\[default: l1].")
    ] = None,
    sparsity: Annotated[
        str | None, typer.Option(help="Shares of a layer's filters to remove \\[default: 0.25,0.5,0.75].")
    ] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points that one layer alone may cost.")] = None,
    engine: Annotated[str | None, typer.Option(help="Who chooses the filters: own or nni.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    data: DataOption = None,
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
    print_config: PrintConfigOption = False,
) -> None:
    """Prune one layer at a time, without fine-tuning: which layers can lose how much."""
    flags = {
        "sweep.pruners": [pruner] if pruner else None,
        "sweep.sparsity": listed(sparsity),
        "sweep.max_drop": max_drop,
        "prune.engine": engine,
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
    settings = settings_of_model(model, config, set_, data=data, flags=flags, defaults=ONE_LAYER_AT_A_TIME)
    if print_config:
        typer.echo(resolved_yaml(settings), nl=False)
    else:
        execution.execute(settings, "sweep-sensitivity", submit=submit, wait=not no_wait)


@sweep_app.command("qat")
def sweep_qat(
    model: ModelOption = None,
    methods: Annotated[str | None, typer.Option(help="ptq,qat: ranges measured only; trained with them.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of quantisation-aware training.")] = None,
    calibration: Annotated[int | None, typer.Option(help="Training clips on which ranges are measured.")] = None,
    max_drop_points: Annotated[
        float | None, typer.Option(help="Points that may be lost; beyond, layers go back to float one by one.")
    ] = None,
    distill: Annotated[
        bool | None, typer.Option("--distill/--no-distill", help="Learn from the floating-point network as well.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of qat, e.g. 0,1,2: mean ± deviation.")] = None,
    engine: Annotated[str | None, typer.Option(help="Integer kernels: auto, onednn, x86 or qnnpack.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    data: DataOption = None,
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
    print_config: PrintConfigOption = False,
) -> None:
    """Quantise to INT8, with and without training, and compare. The same command again goes on; more extends."""
    flags = {
        "quantise.methods": listed(methods),
        "quantise.epochs": epochs,
        "quantise.calibration": calibration,
        "quantise.max_drop_points": max_drop_points,
        **(NO_DISTILLATION if distill is False else {}),
        "quantise.seeds": listed(seeds),
        "quantise.engine": engine,
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
    forget_alpha = ["distillation.source_alpha=null"] if distill is False else []
    settings = settings_of_model(model, config, [*forget_alpha, *(set_ or ())], data=data, flags=flags)
    if distill:
        require_distillation(settings)
    if print_config:
        typer.echo(resolved_yaml(settings), nl=False)
    else:
        execution.execute(settings, "sweep-qat", submit=submit, wait=not no_wait)


def require_distillation(settings: RunSettings) -> None:
    """Refuse `--distill` where there is no loss to distil with.

    Raises:
        UserError: every distillation loss is off.
    """
    given = settings.distillation
    if given.weight == 0 and given.source_alpha is None and given.features == "none":
        raise UserError(
            "--distill is given, but the settings switch distillation off: distillation.weight is 0 and there is no "
            "distillation.source_alpha; set a weight, e.g. --set distillation.weight=1.25, or leave out --distill"
        )
