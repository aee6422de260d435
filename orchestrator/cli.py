"""The command line. Commands parse, call, and print; the work is elsewhere and is imported when it is needed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
import yaml
from rich.console import Console
from rich.markup import escape

from configs.errors import RunError, UserError
from configs.loader import embedded_preset, json_schema, load_settings, resolved_yaml
from configs.schema import NetworkSettings, RunSettings

INTERRUPTED = 130
SWEPT = "reid"
"""The backbone that a sweep trains and prunes when it is not told otherwise: the one that the source pruned."""

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
sweep_app = typer.Typer(help="Prune a network in every way asked for, as parallel trials.", no_args_is_help=True)
app.add_typer(sweep_app, name="sweep")

ConfigOption = Annotated[str | None, typer.Option("--config", help="A preset's name or a YAML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Any setting, e.g. train.lr=0.1.")
]
BackboneOption = Annotated[str | None, typer.Option(help="slowfast, r2plus1d or reid.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of weights, sampling and order.")]
NameOption = Annotated[str | None, typer.Option(help="Name of the run's folder.")]
RunsOption = Annotated[Path | None, typer.Option(help="Folder of all runs [default: ./runs].")]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="moving-digits, csv:DIR, ucf101:DIR, hmdb51:DIR, folders:DIR; for reid synthetic-people, market1501:DIR."
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Model folder (runs/NAME/models/…), or a backbone's name: trained first [default: reid]."),
]
MaxConcurrentOption = Annotated[int | None, typer.Option(help="Trials at a time at most.")]
PrintConfigOption = Annotated[bool, typer.Option("--print-config", help="Print every setting as YAML.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Name or folder of a run.")]
CpusOption = Annotated[float | None, typer.Option(help="CPUs (and threads) per trial.")]
GpusOption = Annotated[float | None, typer.Option(help="GPUs per trial; fractions share one.")]
AddressOption = Annotated[str | None, typer.Option(help="Ray cluster: auto or host:port [default: in this process].")]
RunnerOption = Annotated[str | None, typer.Option(help="ray, or local: one trial after the other, without Ray.")]


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
    dashboard: Annotated[bool | None, typer.Option("--dashboard/--no-dashboard", help="Start Ray's dashboard.")] = None,
    dashboard_port: Annotated[int | None, typer.Option(help="Its port [default: 8265].")] = None,
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
        execute(settings, "pas")


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
    }
    execute(settings_from(config, set_, backbone=backbone, data=data, flags=flags), "train")


@sweep_app.command("prune")
def sweep_prune(
    model: ModelOption = None,
    pruners: Annotated[str | None, typer.Option(help="l1,l2,fpgm,agp; also l1-iterative …, random.")] = None,
    sparsity: Annotated[str | None, typer.Option(help="Shares of filters to remove, e.g. 0.3,0.5,0.9.")] = None,
    finetune_epochs: Annotated[int | None, typer.Option(help="Epochs of every cell; the budget is one.")] = None,
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
        "distillation.weight": 0.0 if distill is False else None,
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
    }
    settings = settings_of_model(model, config, set_, data=data, flags=flags)
    if print_config:
        typer.echo(resolved_yaml(settings), nl=False)
    elif dry_run:
        from orchestrator.sweep_plan import print_cells

        print_cells(Console(), settings)
    else:
        execute(settings, "sweep-prune")


@sweep_app.command("sensitivity")
def sweep_sensitivity(
    model: ModelOption = None,
    pruner: Annotated[Literal["l1", "l2", "fpgm"], typer.Option(help="How filters are scored.")] = "l1",
    sparsity: Annotated[str, typer.Option(help="Shares of a layer's filters to remove.")] = "0.25,0.5,0.75",
    max_drop: Annotated[float | None, typer.Option(help="Points that one layer alone may cost.")] = None,
    engine: Annotated[str | None, typer.Option(help="Who chooses the filters: own or nni.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    seed: SeedOption = None,
    name: NameOption = None,
    runs: RunsOption = None,
    gpus_per_trial: GpusOption = None,
    max_concurrent: MaxConcurrentOption = None,
    address: AddressOption = None,
    runner: RunnerOption = None,
) -> None:
    """Prune one layer at a time, without fine-tuning: which layers can lose how much."""
    flags = {
        "sweep.pruners": [pruner],
        "sweep.sparsity": listed(sparsity),
        "sweep.max_drop": max_drop,
        "prune.engine": engine,
        "seed": seed,
        "runtime.name": name,
        "runtime.runs": runs,
        "runtime.gpus_per_trial": gpus_per_trial,
        "runtime.max_concurrent": max_concurrent,
        "runtime.address": address,
        "runtime.runner": runner,
    }
    execute(settings_of_model(model, config, set_, data=data, flags=flags), "sweep-sensitivity")


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
    from orchestrator.views import VIEWS

    state = store_at(runs).find_run(run).require_state()
    if as_json:
        typer.echo(json.dumps(state, indent=1))
    else:
        VIEWS[state["algorithm"]].print_state(Console(), state)


@app.command()
def report(run: RunArgument, runs: RunsOption = None) -> None:
    """Write a run's report.html and report.png again."""
    from orchestrator.views import VIEWS

    store = store_at(runs)
    folder = store.find_run(run)
    state = folder.require_state()
    typer.echo(VIEWS[state["algorithm"]].write_report(store, state, folder.path))


@data_app.command("make")
def make_data(
    source: Annotated[Literal["moving-digits", "synthetic-people"], typer.Argument(help="Which set.")],
    folder: Annotated[Path | None, typer.Option("--to", help="Where [default: the cache folder].")] = None,
) -> None:
    """Make an embedded data set of real video or image files, once; prints its folder."""
    from trainers.data.digits import make_moving_digits
    from trainers.data.people import make_synthetic_people

    typer.echo(make_moving_digits(folder) if source == "moving-digits" else make_synthetic_people(folder))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings, for editors."""
    typer.echo(json_schema())


def settings_from(
    config: str | None, overrides: list[str] | None, *, backbone: str | None, data: str | None, flags: dict[str, Any]
) -> RunSettings:
    """Settings from a preset or file, options and overrides; the embedded preset of the backbone by default."""
    if config is None and backbone is not None:
        config = embedded_preset(backbone)
    forget_path = ["data.path=null"] if data and ":" not in data else []  # a preset's path is of its own source
    return load_settings(
        config, [*forget_path, *(overrides or ())], {"network.backbone": backbone, **data_flags(data), **flags}
    )


def settings_of_model(
    model: str | None, config: str | None, overrides: list[str] | None, *, data: str | None, flags: dict[str, Any]
) -> RunSettings:
    """Settings of a sweep over a model folder, or over a backbone whose network is trained first.

    A folder brings its backbone, and the data it was made with unless others are given.

    Raises:
        UserError: neither a model folder nor a backbone.
    """
    backbones = get_args(NetworkSettings.model_fields["backbone"].annotation)
    if model is None or model in backbones:
        backbone = model or (None if config else SWEPT)
        return settings_from(config, overrides, backbone=backbone, data=data, flags=flags)
    folder = Path(model)
    if not folder.exists():
        raise UserError(
            f"--model is {model!r}, but there is no such folder; give a model folder like runs/NAME/models/teacher, "
            f"or a backbone to be trained first: {', '.join(backbones)}"
        )
    from orchestrator.evaluate import recorded_data
    from trainers.package import read_description

    backbone = read_description(folder).spec.backbone
    recorded = {f"data.{key}": value for key, value in recorded_data(folder).items()} if data is None else {}
    return settings_from(
        config, overrides, backbone=backbone, data=data, flags={**recorded, **flags, "teacher.weights": folder}
    )


def listed(text: str | None) -> list[Any] | None:
    """`0.3,0.5` as values of a list; what is no value is left for the settings to refuse."""
    return None if text is None else [value_of(part) for part in text.split(",")]


def value_of(text: str) -> Any:
    """A number or a word; text that is no YAML as it is."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def read_layer_sparsity(path: Path) -> dict[str, Any]:
    """`prune.max_sparsity` of a file that `sweep sensitivity` wrote.

    Raises:
        UserError: it can't be read, or is something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        sparsities: dict[str, Any] = dict(content["prune"]["max_sparsity"])
    except OSError as error:
        raise UserError(f"--layer-sparsity {path} can't be read ({error.strerror})") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--layer-sparsity {path} has no prune.max_sparsity; give the sensitivity.yaml of `sweep sensitivity`"
        ) from error
    return sparsities


def data_flags(data: str | None) -> dict[str, Any]:
    """`csv:DIR` as settings."""
    if data is None:
        return {}
    source, _, path = data.partition(":")
    return {"data.source": source, "data.path": path or None}


def store_at(runs: Path | None) -> Any:
    """The store below a folder, by default the settings' one."""
    from orchestrator.store import Store

    return Store(runs or RunSettings().runtime.runs)


def execute(settings: RunSettings, algorithm: str) -> None:
    """Do a run with a live display, and say at the end what came of it."""
    from orchestrator.session import Session
    from orchestrator.terminal import choose_observer
    from orchestrator.views import VIEWS

    console = Console()
    with choose_observer(console) as observer:
        session = Session(settings, observer, algorithm=algorithm)
        try:
            state = session.execute()
        except KeyboardInterrupt:
            observer.message(f"Interrupted. The same command goes on where this one stopped (run {session.name}).")
            raise typer.Exit(INTERRUPTED) from None
    VIEWS[algorithm].print_result(console, state, session.run.path / "report.html")


def run(arguments: list[str]) -> int:
    """Run a command line; prints errors, returns the exit code."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    errors = Console(stderr=True, soft_wrap=True)
    try:
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
