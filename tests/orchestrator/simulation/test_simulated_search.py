"""A simulated search takes the decisions of a real one, and the time that arithmetic gives it."""

from __future__ import annotations

import functools
import json

import pytest
import typer
from typer.testing import CliRunner

from compression.cost import Cost, measure_cost
from compression.reduction import reduce
from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import SearchSettings, TrainSettings
from orchestrator.commands.simulate import checkpoint_choices, seconds_in, simulate_search
from orchestrator.simulation.cluster import ClusterPlan
from orchestrator.simulation.search import Outcome, Workload, middle, simulate
from trainers.backbones import BACKBONES, build

TEACHER = BACKBONES["r2plus1d"].presets["tiny"].replace(classes=4)


@functools.cache
def cost(network: NetworkSpec) -> Cost:
    """Measured once for all tests."""
    return measure_cost(network, build)


def workload(**changes: object) -> Workload:
    """Two iterations over two axes; a second of time per GMAC."""
    given = {
        "teacher": TEACHER,
        "search": SearchSettings(iterations=2, axes=("s", "c")),
        "recipe": TrainSettings(epochs=10, warmup_epochs=0),
        "videos": 1000,
        "clips_per_video": 1,
        "gpus_per_trial": 1,
        "gmacs_per_second": 1.0,
        "checkpoint_seconds": 0.0,
        "start_seconds": 0.0,
        "stage_seconds": 0.0,
    }
    return Workload(**{**given, **changes})  # type: ignore[arg-type]


def test_time_is_multiply_adds_over_speed() -> None:
    """Two hypotheses side by side: an iteration takes as long as its dearer one, 1000 clips × 10 epochs."""
    found = simulate(workload(sequence="s,s"), ClusterPlan(gpus=2, gpus_per_node=1), cost, seed=0)
    base, seconds, spent, current = cost(TEACHER).gmacs, 0.0, 0.0, TEACHER
    for _ in range(2):
        hypotheses = [reduce(current, axis, None) for axis in ("s", "c")]
        times = [10_000 * (base + 3 * cost(hypothesis).gmacs) for hypothesis in hypotheses]
        seconds, spent, current = seconds + max(times), spent + sum(times), hypotheses[0]
    assert found.trainings == 4
    assert found.seconds == pytest.approx(seconds)
    assert found.gpu_hours == pytest.approx(spent / 3600)
    assert found.idle_gpu_hours == pytest.approx((2 * seconds - spent) / 3600)
    assert found.redone_gpu_hours == 0


def test_the_sequence_decides_what_the_second_iteration_costs() -> None:
    plan = ClusterPlan(gpus=2, gpus_per_node=1)
    after = {first: simulate(workload(sequence=first), plan, cost, seed=0).gpu_hours for first in ("s", "c")}
    assert after["s"] != after["c"]
    with pytest.raises(ValueError, match="axis 't' is to win, but iteration 1 tries s, c"):
        simulate(workload(sequence="t"), plan, cost, seed=0)


def test_losses_cost_time_and_checkpoints_save_some() -> None:
    found = {}
    for every, losses in ((10, None), (1, 2000.0), (10, 2000.0)):
        plan = ClusterPlan(gpus=2, gpus_per_node=1, seconds_between_losses=losses, repair_seconds=60)
        found[every, losses] = middle(
            [simulate(workload(checkpoint_every=every), plan, cost, seed=seed) for seed in range(20)]
        )
    assert found[10, None].seconds < found[1, 2000.0].seconds < found[10, 2000.0].seconds
    assert found[1, 2000.0].redone_gpu_hours < found[10, 2000.0].redone_gpu_hours / 2
    assert found[1, 2000.0].losses > 0


def test_controls_have_no_teacher_to_wait_for() -> None:
    plan = ClusterPlan(gpus=1, gpus_per_node=1)
    settings = SearchSettings(iterations=1, axes=("c",))
    alone = simulate(workload(search=settings), plan, cost, seed=0)
    both = simulate(workload(search=settings.model_copy(update={"control": True})), plan, cost, seed=0)
    small = cost(TEACHER).gmacs
    assert both.trainings == 2
    assert alone.gpu_hours < both.gpu_hours < 2 * alone.gpu_hours
    assert both.gpu_hours == pytest.approx(2 * alone.gpu_hours - 10_000 * small / 3600)


def test_the_middle_is_taken_of_each_figure() -> None:
    one = Outcome(seconds=1, trainings=4, gpu_hours=9, redone_gpu_hours=0, idle_gpu_hours=0, losses=0, restarts=0)
    three = Outcome(seconds=3, trainings=4, gpu_hours=1, redone_gpu_hours=0, idle_gpu_hours=2, losses=3, restarts=1)
    two = Outcome(seconds=2, trainings=4, gpu_hours=5, redone_gpu_hours=1, idle_gpu_hours=1, losses=1, restarts=9)
    assert middle([one, three, two]) == Outcome(
        seconds=2, trainings=4, gpu_hours=5, redone_gpu_hours=0, idle_gpu_hours=1, losses=1, restarts=1
    )


@pytest.mark.parametrize(("text", "seconds"), [("6h", 21600), ("10 min", 600), ("90s", 90), ("0.5d", 43200)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_in(text, "--repair") == seconds


@pytest.mark.parametrize("text", ["6", "h", "-6h", "6 weeks", "inf h", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--repair is .*, but must be a number and a unit"):
        seconds_in(text, "--repair")


def test_intervals_are_no_longer_than_the_training() -> None:
    assert checkpoint_choices(45) == [1, 2, 5, 15, 45]
    assert checkpoint_choices(3) == [1, 2, 3]
    assert checkpoint_choices(1) == [1]


def command(*arguments: str) -> str:
    """What the command prints."""
    app = typer.Typer()
    app.command()(simulate_search)
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


EMBEDDED = ("--config", "embedded-r2plus1d", "--set", "search.axes=[s, c]", "--gpus", "2", "--gpus-per-trial", "1")


def test_the_command_compares_intervals() -> None:
    rows = json.loads(command(*EMBEDDED, "--node-loss-every", "1h", "--seeds", "3", "--json"))
    assert [row["checkpoint_every"] for row in rows] == checkpoint_choices(rows[-1]["checkpoint_every"])
    assert all(row["trainings"] == 4 for row in rows)
    text = command(*EMBEDDED)
    assert "4 trainings; no node is lost." in text
    assert "wall time" in text


def test_the_command_refuses_what_can_never_run() -> None:
    with pytest.raises(UserError, match=r"can't be simulated: .* needs 8 GPUs, but the cluster has 2"):
        command(*EMBEDDED[:-1], "8")
