"""The command line. Commands parse, call, and print; the work is elsewhere and is imported when it is needed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from configs.errors import RunError, UserError
from configs.loader import json_schema, load_settings, resolved_yaml
from configs.schema import RunSettings
from orchestrator.commands import execution
from orchestrator.commands.best import best
from orchestrator.commands.export import export
from orchestrator.commands.features import features
from orchestrator.commands.gc import gc
from orchestrator.commands.handoff import handoff, verify
from orchestrator.commands.jobs import jobs, logs, stop
from orchestrator.commands.measure import measure
from orchestrator.commands.models import lineage, models, tag
from orchestrator.commands.options import (
    AddressOption,
    BackboneOption,
    ConfigOption,
    CpusOption,
    DataOption,
    GpusOption,
    JsonOption,
    LogOption,
    MaxConcurrentOption,
    NameOption,
    PrintConfigOption,
    RunArgument,
    RunnerOption,
    RunsOption,
    SeedOption,
    SetOption,
    data_flags,
    settings_from,
)
from orchestrator.commands.push import push
from orchestrator.commands.report import report
from orchestrator.commands.simulate import simulate_search
from orchestrator.commands.submit import NoWaitOption, SubmitOption
from orchestrator.commands.sweep import sweep_app
from orchestrator.commands.transfer import transfer
from orchestrator.version_floors import require_safe_versions

app = typer.Typer(
    name="orchestrate",
    help="Search for small video networks: progressive shrinkage with distillation, on this machine or a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
data_app = typer.Typer(help="Make data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(sweep_app, name="sweep")


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the log; works with every command.")
    ] = False,
) -> None:
    """Applied before every command."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("matplotlib", "PIL", "fvcore", "ray", "filelock", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


@app.command()
def pas(
    backbone: BackboneOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    iterations: Annotated[int | None, typer.Option(help="Iterations at most; more than last time extends.")] = None,
    target_gmacs: Annotated[float | None, typer.Option(help="Stop at this cost per clip, in GMACs.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Stop before falling more points below the teacher.")] = None,
    control: Annotated[
        bool | None, typer.Option("--control/--no-control", help="Also train each winner without PAS.")
    ] = None,
    data: DataOption = None,
    teacher: Annotated[Path | None, typer.Option(help="Model folder or weights file of the teacher.")] = None,
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
    dashboard: Annotated[bool | None, typer.Option("--dashboard/--no-dashboard", help="Start Ray's dashboard.")] = None,
    dashboard_port: Annotated[int | None, typer.Option(help="Its port \\[default: 8265].")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; train nothing.")] = False,
    print_config: PrintConfigOption = False,
) -> None:
    """Shrink a network step by step (progressive architecture shrinkage). The same command again goes on."""
    settings = settings_from(
        config,
        set_,
        backbone=backbone,
        data=data,
        flags={
            "search.iterations": iterations,
            "search.target_gmacs": target_gmacs,
            "search.max_drop": max_drop,
            "search.control": control,
            "teacher.weights": teacher,
            "seed": seed,
            "runtime.name": name,
            "runtime.runs": runs,
            "runtime.cpus_per_trial": cpus_per_trial,
            "runtime.gpus_per_trial": gpus_per_trial,
            "runtime.max_concurrent": max_concurrent,
            "runtime.address": address,
            "runtime.runner": runner,
            "runtime.log": log or None,
            "runtime.dashboard": dashboard,
            "runtime.dashboard_port": dashboard_port,
        },
    )
    if print_config:
        typer.echo(resolved_yaml(settings), nl=False)
    elif dry_run:
        from orchestrator.dry_run import make_plan, print_plan

        print_plan(Console(), make_plan(settings))
    else:
        execution.execute(settings, "pas", submit=submit, wait=not no_wait)


@app.command()
def train(
    backbone: BackboneOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training videos.")] = None,
    data: DataOption = None,
    seed: SeedOption = None,
    name: NameOption = None,
    runs: RunsOption = None,
    gpus_per_trial: GpusOption = None,
    address: AddressOption = None,
    runner: RunnerOption = None,
    log: LogOption = None,
    submit: SubmitOption = None,
    no_wait: NoWaitOption = False,
) -> None:
    """Train a base network alone (recipe: the settings' teacher.train). A search with these settings reuses it."""
    flags = {
        "teacher.train.epochs": epochs,
        "seed": seed,
        "runtime.name": name,
        "runtime.runs": runs,
        "runtime.gpus_per_trial": gpus_per_trial,
        "runtime.address": address,
        "runtime.runner": runner,
        "runtime.log": log or None,
    }
    settings = settings_from(config, set_, backbone=backbone, data=data, flags=flags)
    execution.execute(settings, "train", submit=submit, wait=not no_wait)


@app.command()
def chain(
    backbone: BackboneOption = None,
    config: Annotated[
        str | None, typer.Option("--config", help="A preset's name or a YAML file, with chain.steps.")
    ] = None,
    set_: SetOption = None,
    data: DataOption = None,
    teacher: Annotated[Path | None, typer.Option(help="Model folder or weights file of the teacher.")] = None,
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
    """Shrink, prune, quantise: a list of steps, each from the network that the one before left (chain.steps)."""
    settings = settings_from(
        config,
        set_,
        backbone=backbone,
        data=data,
        flags={
            "teacher.weights": teacher,
            "seed": seed,
            "runtime.name": name,
            "runtime.runs": runs,
            "runtime.cpus_per_trial": cpus_per_trial,
            "runtime.gpus_per_trial": gpus_per_trial,
            "runtime.max_concurrent": max_concurrent,
            "runtime.address": address,
            "runtime.runner": runner,
            "runtime.log": log or None,
        },
    )
    if print_config:
        typer.echo(resolved_yaml(settings), nl=False)
    else:
        execution.execute(settings, "chain", submit=submit, wait=not no_wait)


@app.command()
def profile(
    backbone: BackboneOption = None,
    reduce: Annotated[str, typer.Option(help="Steps, e.g. c,s,t,s,f.")] = "",
    preset: Annotated[Literal["full", "tiny"], typer.Option(help="The paper's network, or the one for CPUs.")] = "full",
    classes: Annotated[int, typer.Option(min=1, help="Labels of the classifier.")] = 400,
    layers: Annotated[bool, typer.Option("--layers", help="Per-layer table of the last step (fvcore).")] = False,
    as_json: JsonOption = False,
    set_: SetOption = None,
) -> None:
    """MACs and parameters of a network after each reduction, without weights or data."""
    from orchestrator.profile import print_layers, print_profile, profile_steps

    flags = {"network.backbone": backbone, "network.preset": preset}
    settings = load_settings(None, set_ or (), flags)
    steps = profile_steps(settings.network, reduce, classes)
    if as_json:
        typer.echo(json.dumps({"backbone": settings.network.backbone, "steps": [step.to_dict() for step in steps]}))
        return
    print_profile(Console(), settings.network.backbone, steps)
    if layers:
        print_layers(Console(), steps[-1])


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder, e.g. runs/NAME/models/PAS-2.")],
    data: DataOption = None,
    split: Annotated[int | None, typer.Option(help="Official split of UCF101 and HMDB51.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to run.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Accuracy of a model folder, on its own validation data or on --data."""
    from orchestrator.evaluate import evaluate_model

    report = evaluate_model(model, data_flags(data) | {"data.split": split}, device=device)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        from orchestrator.evaluate import describe

        typer.echo(describe(report))


for command in (
    *(measure, export, models, lineage, tag, best, handoff, verify, features, push),
    *(transfer, report, gc, jobs, logs, stop),
):
    app.command()(command)
app.command("simulate")(simulate_search)


@app.command("ls")
def list_runs(runs: RunsOption = None, as_json: JsonOption = False) -> None:
    """List the runs."""
    from orchestrator.terminal import print_runs

    states = [state for run in store_at(runs).runs() if (state := run.read_state())]
    if as_json:
        typer.echo(json.dumps([{key: state[key] for key in ("run", "status", "backbone", "seed")} for state in states]))
    else:
        print_runs(Console(), states)


@app.command()
def show(run: RunArgument, runs: RunsOption = None, as_json: JsonOption = False) -> None:
    """Show what a run found."""
    from orchestrator.failures import retries
    from orchestrator.views import VIEWS

    state = store_at(runs).find_run(run).require_state()
    if as_json:
        typer.echo(json.dumps(state, indent=1))
    else:
        console = Console()
        VIEWS[state["algorithm"]].print_state(console, state)
        if text := retries(state):
            console.print(text, markup=False, highlight=False)


@data_app.command("make")
def make_data(
    source: Annotated[Literal["moving-digits", "synthetic-people"], typer.Argument(help="Which set.")],
    folder: Annotated[Path | None, typer.Option("--to", help="Where \\[default: the cache folder].")] = None,
) -> None:
    """Make an embedded data set of real video or image files, once; prints its folder."""
    from trainers.data.digits import make_moving_digits
    from trainers.data.people import make_synthetic_people

    typer.echo(make_moving_digits(folder) if source == "moving-digits" else make_synthetic_people(folder))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings, for editors."""
    typer.echo(json_schema())


def store_at(runs: Path | None) -> Any:
    """The store below a folder, by default the settings' one."""
    from orchestrator.store import Store

    return Store(runs or RunSettings().runtime.runs)


def run(arguments: list[str]) -> int:
    """Run a command line; prints errors, returns the exit code."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    errors = Console(stderr=True, soft_wrap=True)
    try:
        require_safe_versions()
        app(["--debug", *arguments] if debug else arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except (UserError, RunError) as error:
        if debug:
            errors.print_exception()
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:
        if debug:
            errors.print_exception()
        where = f"{error.filename}: " if error.filename else ""
        errors.print(f"[bold red]error:[/] {escape(f'{where}{error.strerror or error}')}", highlight=False)
        errors.print("Once that is mended (space, rights, mount), the same command goes on where it stopped.")
        return 1
    except Exception as error:
        if debug:
            errors.print_exception()
        errors.print(f"[bold red]error:[/] {escape(f'{type(error).__name__}: {error}')}", highlight=False)
        errors.print("This is unexpected; --debug shows where it happened.", style="dim")
        return 1
    return 0
