"""Metrics: what they are worth, how they are written, and that nothing that goes wrong with them stops a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from configs.errors import UserError
from orchestrator.telemetry.fan import Fan
from orchestrator.telemetry.meter import Meter
from orchestrator.telemetry.metrics import METRICS, TRIALS_SHOWN, Progress, Sample, cause_of
from orchestrator.telemetry.prometheus import PrometheusFile, exposition
from orchestrator.telemetry.watching import watched
from tests.orchestrator.sample_telemetry import epoch, progress, result, row, state
from tests.orchestrator.scripted import Listener, Outcome, ScriptedSession, small_settings
from trainers.trial import TrialResult


def values(told: Progress, metric: str, label: str) -> dict[str, float]:
    """Values of a metric by one of its labels."""
    return {sample.labels[label]: sample.value for sample in told.samples() if sample.metric == metric}


def one(told: Progress, metric: str) -> float:
    (sample,) = [sample for sample in told.samples() if sample.metric == metric]
    return sample.value


def parsed(text: str) -> dict[tuple[str, str], float]:
    """Values of an exposition by metric and trial, member, state or cause."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            rest = [value for name, value in sample.labels.items() if name in ("trial", "member", "state", "cause")]
            found[(sample.name, rest[0] if rest else "")] = sample.value
    return found


def test_a_trial_goes_from_pending_to_over() -> None:
    told = progress()
    told.stage_started([row("a"), row("b"), row("c"), row("d")])
    assert values(told, "orchestrate_trials", "state")["pending"] == 4
    told.epoch_finished("a", epoch(1, loss=2.0, top1=0.5))
    told.trial_finished(result("b", cached=True))
    told.trial_finished(result("c", status="diverged"))
    states = values(told, "orchestrate_trials", "state")
    assert states == {"pending": 1, "running": 1, "finished": 0, "diverged": 1, "failed": 0, "cached": 1}
    assert values(told, "orchestrate_loss", "trial") == {"net-a": 2.0}
    assert values(told, "orchestrate_data_wait_share", "trial") == {"net-a": 0.125}
    assert values(told, "orchestrate_clips_per_second", "trial")["net-a"] == 20.0
    told.trial_finished(result("a"))
    assert values(told, "orchestrate_clips_per_second", "trial")["net-a"] == 0.0
    assert values(told, "orchestrate_accuracy", "trial") == {"net-a": 0.75, "net-b": 0.75}


def test_an_epoch_without_evaluation_leaves_the_last_accuracy() -> None:
    told = progress()
    told.stage_started([row("a")])
    told.epoch_finished("a", epoch(1, top1=0.5))
    told.epoch_finished("a", epoch(2, top1=None))
    assert values(told, "orchestrate_accuracy", "trial") == {"net-a": 0.5}
    assert values(told, "orchestrate_epoch", "trial") == {"net-a": 2.0}


def test_effort_is_those_of_trials_times_what_each_holds() -> None:
    """Half an hour trained and half an hour saved, on half a GPU and two cores."""
    told = progress()
    told.stage_started([row("a"), row("b")])
    told.epoch_finished("a", epoch(1))
    assert one(told, "orchestrate_gpu_seconds_used") == pytest.approx(30 * 0.5)
    told.trial_finished(result("a"))
    told.trial_finished(result("b", cached=True))
    told.trial_finished(result("a", cached=True))  # a later stage asks for it again: it was trained all the same
    assert one(told, "orchestrate_gpu_seconds_used") == pytest.approx(900)
    assert one(told, "orchestrate_gpu_seconds_saved") == pytest.approx(900)
    assert (
        one(told, "orchestrate_core_seconds_used") == one(told, "orchestrate_core_seconds_saved") == pytest.approx(3600)
    )


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (result("a"), None),
        (result("a", status="diverged", reason="the loss was nan"), "non_finite"),
        (result("a", status="failed", reason="lost 4 times: killed", transient=True), "lost"),
        (result("a", status="failed", reason="OutOfMemoryError: CUDA"), "memory"),
        (result("a", status="failed", reason="No space left", transient=True), "outside"),
        (result("a", status="failed", reason="ValueError: no"), "error"),
    ],
)
def test_a_failure_has_a_cause(outcome: TrialResult, cause: str | None) -> None:
    assert cause_of(outcome) == cause
    told = progress()
    told.stage_started([row("a")])
    told.trial_finished(outcome)
    causes = values(told, "orchestrate_failures", "cause")
    assert causes == {name: float(name == cause) for name in causes}
    assert sum(causes.values()) == (cause is not None)


def test_the_state_says_members_changes_and_iteration() -> None:
    told = progress()
    told.stage_started([row("t"), row("a")])
    told.found(state())
    assert one(told, "orchestrate_iteration") == 1
    assert values(told, "orchestrate_member_accuracy", "member") == {"teacher": 0.9, "PAS-1": 0.75}
    assert values(told, "orchestrate_member_gmacs", "member") == {"teacher": 1.0, "PAS-1": 0.5}
    assert values(told, "orchestrate_member_on_front", "member") == {"teacher": 1.0, "PAS-1": 1.0}
    assert {s.labels["trial"]: s.labels["change"] for s in told.samples() if s.metric == "orchestrate_gmacs"} == {
        "net-t": "",
        "net-a": "s",
    }
    worse = state()
    worse["family"][0]["gmacs"] = 1.5
    told.found(worse)
    assert values(told, "orchestrate_member_on_front", "member") == {"teacher": 1.0, "PAS-1": 0.0}


def test_only_the_last_trials_have_series_of_their_own() -> None:
    told = progress()
    told.stage_started([row(str(number)) for number in range(TRIALS_SHOWN + 5)])
    shown = values(told, "orchestrate_gmacs", "trial")
    assert len(shown) == TRIALS_SHOWN
    assert "net-4" not in shown
    assert values(told, "orchestrate_trials", "state")["pending"] == TRIALS_SHOWN + 5


def test_every_sample_has_the_labels_of_its_metric_and_no_series_comes_twice() -> None:
    told = progress()
    told.stage_started([row("a"), row("b")])
    told.epoch_finished("a", epoch(1, top1=0.5))
    told.stage_started([replace(row("c"), name="net-a")])
    told.found(state())
    samples = told.samples()
    assert {sample.metric for sample in samples} == METRICS.keys()
    assert all(tuple(sample.labels) == METRICS[sample.metric].labels for sample in samples)
    assert len({(sample.metric, *sample.labels.values()) for sample in samples}) == len(samples)


@given(st.text(), st.floats(allow_nan=False))
def test_any_label_and_value_can_be_read_back(text: str, value: float) -> None:
    sample = Sample(metric="orchestrate_loss", labels={"trial": text}, value=value)
    (family,) = text_string_to_metric_families(exposition([sample]))
    assert (family.name, family.type) == ("orchestrate_loss", "gauge")
    assert [(read.labels["trial"], read.value) for read in family.samples] == [(text, value)]


class BrokenSink:
    def __init__(self) -> None:
        self.writes = 0

    def write(self, samples: Sequence[Sample]) -> None:
        self.writes += 1
        raise OSError(28, "No space left on device")


def test_a_sink_that_fails_is_told_of_once_and_the_others_go_on(tmp_path: Path) -> None:
    told: list[str] = []
    broken, file = BrokenSink(), PrometheusFile(tmp_path)
    meter = Meter(progress(), [("the sink fails", broken), ("", file)], state=lambda: None, tell=told.append)
    meter.stage_started("teacher", [row("a")])
    meter.trial_finished(result("a"))
    meter.close()
    assert broken.writes == 2
    (warning,) = told
    assert "the sink fails" in warning
    assert "No space left" in warning
    assert parsed(file.path.read_text())[("orchestrate_trials", "finished")] == 1


def test_values_are_written_by_a_thread_when_something_has_changed(tmp_path: Path) -> None:
    file = PrometheusFile(tmp_path)
    meter = Meter(progress(), [("", file)], state=state, tell=print, period_seconds=0.01)
    meter.stage_started("teacher", [row("a")])
    meter.epoch_finished("a", epoch(1, loss=3.0))
    deadline = time.monotonic() + 10
    while ("orchestrate_loss", "net-a") not in parsed(file.path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    written = file.path.stat().st_ino
    time.sleep(0.05)
    assert file.path.stat().st_ino == written, "nothing has changed, but it was written again"
    meter.close()


def test_a_run_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    meter = Meter(progress(), [("", PrometheusFile(tmp_path / "none"))], state=lambda: None, tell=print)
    meter.close()
    assert not (tmp_path / "none").exists()


class Deaf:
    """An observer that breaks with every call."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("deaf")


def test_a_fan_passes_everything_on_and_keeps_errors_of_watchers_from_the_run() -> None:
    first, second = Listener(), Listener()
    fan = Fan(first, [("watching fails", Deaf()), ("", second)])
    fan.stage_started("teacher", [row("a")])
    fan.trial_finished(result("a"))
    fan.stage_finished("done")
    fan.message("hello")
    assert first.results == second.results == [result("a")]
    assert second.messages == ["teacher: net-a", "done", "hello"]
    assert [text for text in first.messages if text not in second.messages] == [
        "watching fails: deaf. The run goes on without."
    ]
    with pytest.raises(AssertionError, match="no epochs"):  # the first observer's errors are the run's own
        fan.epoch_finished("a", epoch(1))


def test_a_search_leaves_its_last_values(digits: Path, tmp_path: Path) -> None:
    settings = small_settings(digits, tmp_path / "runs", "search.iterations=1", "runtime.name=mine")
    script = {"slowfast-teacher": Outcome(top1=0.9), "slowfast-pas1-side": Outcome(status="diverged", top1=None)}

    def search() -> dict[tuple[str, str], float]:
        session = ScriptedSession(settings, script)
        with watched(settings, "pas", session.listener) as session.observer:
            session.execute()
        return parsed((tmp_path / "runs" / "mine" / "metrics.prom").read_text())

    found = search()
    assert found[("orchestrate_trials", "finished")] == 2
    assert found[("orchestrate_failures", "non_finite")] == 1
    assert found[("orchestrate_iteration", "")] == 1
    assert found[("orchestrate_member_accuracy", "teacher")] == 0.9
    assert found[("orchestrate_member_accuracy", "PAS-1")] == 0.5
    assert found[("orchestrate_core_seconds_used", "")] == pytest.approx(30)
    again = search()
    assert again[("orchestrate_trials", "cached")] == 2
    assert again[("orchestrate_failures", "non_finite")] == 1
    assert again[("orchestrate_core_seconds_saved", "")] == pytest.approx(30)
    assert again[("orchestrate_core_seconds_used", "")] == 0


@pytest.mark.parametrize("log", ["tensorbord", "tensorboard:here", "wandb"])
def test_a_log_that_there_is_not_is_refused(digits: Path, tmp_path: Path, log: str) -> None:
    settings = small_settings(digits, tmp_path / "runs")
    with pytest.raises(UserError, match="must be tensorboard, mlflow"), watched(settings, "pas", Listener(), [log]):
        pass
    assert not (tmp_path / "runs").exists()
