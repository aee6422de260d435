"""`--dry-run`: the plan is the run's, and nothing is trained."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from compression.cost import Cost
from compression.spec import Factors
from configs.errors import UserError
from configs.schema import ReidSettings, RunSettings, TrainSettings
from orchestrator import dry_run
from orchestrator.dry_run import Plan, PlannedTrial, make_plan, measure_step, print_plan, workload
from tests.orchestrator.scripted import Outcome, ScriptedSession, small_settings
from trainers.backbones import BACKBONES
from trainers.data.identities import Crop, IdentityManifest
from trainers.trial import Trial


@pytest.fixture(autouse=True)
def _known_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass of the teacher takes a second per clip, a training step three."""
    monkeypatch.setattr(dry_run, "measure_step", lambda *_: (1.0, 3.0))


def test_the_plan_has_the_trials_of_the_run(digits: Path, tmp_path: Path) -> None:
    settings = small_settings(digits, tmp_path)
    plan = make_plan(settings)
    session = ScriptedSession(settings)
    state = session.execute()
    assert plan.run == state["run"]
    assert plan.teacher.trial.digest == state["teacher"]["trial"]
    first = [row["trial"] for row in state["iterations"][0]["hypotheses"]]
    assert [planned.trial.digest for planned in plan.first_iteration] == first


def test_nothing_is_trained_and_no_run_appears(digits: Path, tmp_path: Path) -> None:
    make_plan(small_settings(digits, tmp_path / "runs"))
    written = [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert [name for name in written if not name.startswith("probes-")] == []
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["data", "trials"]


def test_time_is_steps_times_cost(digits: Path, tmp_path: Path) -> None:
    """32 videos with 1 clip each in batches of 8, 1 epoch; 16 videos are evaluated on 1 clip, and at the end on 2."""
    plan = make_plan(small_settings(digits, tmp_path))
    assert plan.teacher.seconds == pytest.approx(32 * 3 + 16 * (2 + 1))
    side = plan.first_iteration[0]
    share = side.cost.macs / plan.teacher.cost.macs
    assert side.seconds == pytest.approx(32 * (3 * share + 1) + 16 * 3 * share)


CROP = Crop("a", 0, 1)
PEOPLE = IdentityManifest(
    root=Path("data"),
    source="market1501",
    classes=("a",),
    train=(CROP,) * 50,
    query=(CROP,) * 6,
    gallery=(CROP,) * 14,
    quarantined=(),
    fingerprint="f",
)


@pytest.mark.parametrize(("flip", "vectors"), [(False, 20), (True, 40)])
def test_images_are_trained_in_full_batches_and_evaluated_with_the_gallery(flip: bool, vectors: int) -> None:
    """50 images make 3 batches of 16; after each of 2 epochs and at the end queries and gallery are embedded."""
    settings = RunSettings(reid=ReidSettings(flip=flip))
    train = TrainSettings(epochs=2, batch=16, warmup_epochs=0)
    assert workload(train, PEOPLE, settings) == (2 * 3 * 16, vectors * 3)
    assert workload(train.model_copy(update={"batch": 64}), PEOPLE, settings)[0] == 2 * 64
    assert workload(None, PEOPLE, settings) == (0, vectors)


def test_plan_of_networks_that_re_identify_speaks_of_images() -> None:
    network = BACKBONES["reid"].presets["full"].replace(factors=Factors(s=1.4))
    trial = Trial(
        name="reid-teacher", network=network, data="d", reid=ReidSettings(), train=TrainSettings(epochs=6), seed=0
    )
    planned = PlannedTrial(trial, Cost(macs=5_000_000, params=700_000), 60.0, stored=False)
    plan = Plan(
        run="a", teacher=planned, first_iteration=[planned], iterations=1, controls=False, examples=912, slots=1
    )
    console = Console(width=100, file=io.StringIO(), record=True)
    print_plan(console, plan)
    text = " ".join(console.export_text().split())
    for expected in ("image GMACs", "91×46 0.00500", "over 912 training images"):
        assert expected in text


def test_counts_are_an_upper_bound_over_all_iterations(digits: Path, tmp_path: Path) -> None:
    plan = make_plan(small_settings(digits, tmp_path, "search.iterations=3", "search.control=true", "train.epochs=2"))
    assert plan.trial_epochs == 1 + 3 * (2 + 1) * 2
    side, channels = (planned.seconds for planned in plan.first_iteration)
    assert plan.seconds == pytest.approx(plan.teacher.seconds + 3 * (side + channels + max(side, channels)))
    assert replace(plan, slots=2).seconds < plan.seconds


def test_what_is_in_the_store_costs_nothing(digits: Path, tmp_path: Path) -> None:
    settings = small_settings(digits, tmp_path, "search.iterations=1")
    script = {"slowfast-pas1-channels": Outcome(None, "failed")}
    ScriptedSession(settings, script).execute()
    plan = make_plan(settings)
    assert plan.teacher.stored
    assert [planned.stored for planned in plan.first_iteration] == [True, False]
    assert plan.seconds == pytest.approx(plan.first_iteration[1].seconds)


def test_every_trial_is_listed_with_its_whole_name(digits: Path, tmp_path: Path) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    print_plan(console, make_plan(small_settings(digits, tmp_path, "search.iterations=3")))
    text = " ".join(console.export_text().split())
    for name in ("slowfast-teacher", "slowfast-pas1-side", "slowfast-pas1-channels"):
        assert name in text
    assert "At most 3 iterations: 7 trials, 7 trial-epochs over 32 training videos, 1 at a time." in text


def test_bad_input_is_refused_as_in_the_run(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="longer than every video"):
        make_plan(small_settings(digits, tmp_path, "network.clip_frames=99"))


def test_a_step_of_a_network_of_images_is_measured() -> None:
    network = BACKBONES["reid"].presets["tiny"]
    forward, step = measure_step(network, Cost(macs=5_500_000, params=700_000))
    assert 0 < forward < step


def test_a_step_is_measured_here(digits: Path, tmp_path: Path) -> None:
    session = ScriptedSession(small_settings(digits, tmp_path))
    session.open()
    forward, step = measure_step(session.network, session.cost(session.network))
    assert 0 < forward < step
