"""What went wrong in a run: kept over its starts, counted, and shown only where there is something to show."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from ray import exceptions

from orchestrator.failures import CAUSES, Failure, FailureLog, retries
from orchestrator.ray_failures import address_in, cause_of_loss, process_in
from orchestrator.report.html import render
from orchestrator.runner import LocalRunner
from orchestrator.store import LEDGER_FILE, RunFolder
from tests.orchestrator import sample_state
from tests.orchestrator.scripted import Listener, Outcome, ScriptedSession, small_settings
from trainers.incidents import Cause, Incident
from trainers.site import Site
from trainers.trial import Trial, TrialResult

LOSS = Failure(trial="d1", name="slowfast-pas1-side", cause="node", node="10.0.0.7", at_epoch=3, action="retried")


def rows(*causes: Cause, action: str = "retried") -> list[dict[str, Any]]:
    return [{"cause": cause, "action": action} for cause in causes]


@pytest.mark.parametrize(
    ("failures", "sentence"),
    [
        ([], ""),
        (rows("process"), "1 retry: 1 process loss"),
        (rows("node", "memory", "node"), "3 retries: 2 node loss, 1 out of memory"),
        (rows("memory", "node", "node"), "3 retries: 2 node loss, 1 out of memory"),
        (rows("non-finite", action="given up"), ""),
        ([*rows("storage"), *rows("other", action="given up")], "1 retry: 1 storage full or refusing"),
    ],
)
def test_retries_are_counted_by_cause(failures: list[dict[str, Any]], sentence: str) -> None:
    assert retries({"failures": failures}) == sentence


def test_states_of_before_failures_were_counted_have_none() -> None:
    assert retries({}) == ""


def test_a_failure_is_told_in_a_sentence() -> None:
    assert str(LOSS) == (
        "slowfast-pas1-side: node loss on 10.0.0.7 after epoch 3, starting again from the last checkpoint"
    )
    assert str(replace(LOSS, node=None, at_epoch=0, cause="process")) == (
        "slowfast-pas1-side: process loss, starting again from the last checkpoint"
    )
    halved = replace(LOSS, cause="memory", action="halved", text="out of memory with micro-batch 16: going on with 8")
    assert str(halved) == "slowfast-pas1-side: out of memory with micro-batch 16: going on with 8"


# The log


def log_of(folder: Path) -> FailureLog:
    folder.mkdir(exist_ok=True)
    return FailureLog(RunFolder(folder))


def test_the_ledger_remembers_over_starts(tmp_path: Path) -> None:
    first = log_of(tmp_path / "mine")
    assert first.state() == {}
    first.add(LOSS)
    RunFolder(tmp_path / "mine").log("trial", name="another line")
    second = log_of(tmp_path / "mine")
    assert second.failures == [LOSS]
    assert second.state() == first.state()
    second.add(replace(LOSS, cause="memory"))
    assert [failure.cause for failure in log_of(tmp_path / "mine").failures] == ["node", "memory"]


def test_a_line_torn_by_a_kill_hides_no_other(tmp_path: Path) -> None:
    log_of(tmp_path / "mine").add(LOSS)
    with (tmp_path / "mine" / LEDGER_FILE).open("a") as ledger:
        ledger.write('{"event": "failure", "trial": "d2", "cau\n[1]\n')
    assert log_of(tmp_path / "mine").failures == [LOSS]


def test_a_full_disk_is_told_to_the_ledger_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = log_of(tmp_path / "mine")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", full)
        log.add(LOSS)
        assert log_of(tmp_path / "mine").failures == []
    log.add(replace(LOSS, at_epoch=4))
    assert log_of(tmp_path / "mine").failures == log.failures == [LOSS, replace(LOSS, at_epoch=4)]


# The run


def test_a_run_that_goes_on_counts_what_it_counted_before(digits: Path, tmp_path: Path) -> None:
    settings = small_settings(digits, tmp_path, "search.iterations=1")
    undisturbed = ScriptedSession(settings)
    assert "failures" not in undisturbed.execute()
    undisturbed.trial_disturbed(LOSS)
    assert undisturbed.listener.messages[-1] == str(LOSS)
    again = ScriptedSession(settings).execute()
    assert [row["cause"] for row in again["failures"]] == ["node"]
    assert again["failures"] == ScriptedSession(settings).execute()["failures"]


def test_a_driver_that_was_killed_is_counted_and_one_that_ended_is_not(digits: Path, tmp_path: Path) -> None:
    settings = small_settings(digits, tmp_path, "search.iterations=1")
    state = ScriptedSession(settings).execute()
    killed = ScriptedSession(settings)
    killed.run.write_state({**state, "status": "running"})
    counted = ScriptedSession(settings).execute()["failures"]
    assert [(row["cause"], row["action"]) for row in counted] == [("driver", "resumed")]
    assert retries({"failures": counted}) == "1 retry: 1 loss of the driver"
    killed.run.write_state({**state, "status": "interrupted"})
    assert ScriptedSession(settings).execute()["failures"] == counted


def test_a_result_of_a_smaller_micro_batch_says_so(digits: Path, tmp_path: Path) -> None:
    session = ScriptedSession(small_settings(digits, tmp_path, "search.iterations=1"), {"slowfast-teacher": Outcome()})
    session.open()
    done = TrialResult(trial=session.teacher.digest, name="slowfast-teacher", status="finished", micro_batch=2)
    session.results[session.teacher.digest] = done
    assert session.state("running")["teacher"]["reason"] == (
        "trained with micro-batch 2 in place of 8, for want of memory"
    )
    session.results[session.teacher.digest] = replace(done, micro_batch=None)
    assert session.state("running")["teacher"]["reason"] is None


# A trial in this process


class Heard(Listener):
    """Takes epochs as well."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[int] = []

    def epoch_finished(self, digest: str, metrics: dict[str, Any]) -> None:
        self.epochs.append(metrics["epoch"])


def train(reports: Sequence[Any], end: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Heard, list[Failure]]:
    """What is heard of a trial that reports something and then ends, by a result or an error."""
    session_trial = sample_trial()

    def run_trial(trial: Trial, site: Site) -> Any:
        yield from reports
        if isinstance(end, Exception):
            raise end
        return replace(end, trial=trial.digest)

    monkeypatch.setattr("orchestrator.runner.run_trial", run_trial)
    heard, failed = Heard(), list[Failure]()
    LocalRunner(Site(store=Path("nowhere-that-exists") / "x"), heard, failed=failed.append).train("s", [session_trial])
    return heard, failed


def sample_trial() -> Trial:
    from compression.spec import NetworkSpec
    from configs.schema import ClipSettings

    network = NetworkSpec(backbone="slowfast", classes=8, clip_frames=8, side=16, blocks=(1, 1, 1, 1))
    return Trial(name="a", network=network, data="d", train=None, seed=0, clips=ClipSettings())


INCIDENT = Incident(cause="storage", action="waited", at_epoch=1, text="the storage is full: waiting, 5 min left")


def test_what_a_trial_got_over_is_no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    done = TrialResult(trial="", name="a", status="finished", top1=0.5)
    heard, failed = train([{"epoch": 1}, INCIDENT, {"epoch": 2}], done, monkeypatch)
    assert heard.epochs == [1, 2]
    [failure] = failed
    assert (failure.trial, failure.cause, failure.action, failure.at_epoch, failure.text) == (
        sample_trial().digest, "storage", "waited", 1, INCIDENT.text,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (TrialResult(trial="", name="a", status="diverged", cause="non-finite", reason="nan"), "non-finite"),
        (MemoryError("no room"), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (ValueError("what"), "other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_ends_a_trial_is_counted_once_and_not_retried(
    end: Any, cause: Cause, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    heard, failed = train([], end, monkeypatch)
    [failure], [result] = failed, heard.results
    assert (failure.cause, failure.action, result.cause) == (cause, "given up", cause)
    assert result.transient == (cause == "storage")


def test_what_the_store_answers_is_no_new_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    known = TrialResult(trial="", name="a", status="diverged", cause="non-finite", reason="nan", cached=True)
    assert train([], known, monkeypatch)[1] == []


# The report


def test_a_report_without_failures_has_no_word_of_them() -> None:
    state = sample_state.sample_state()
    assert "Failures" not in render(state, {})


def test_a_report_counts_and_lists_them() -> None:
    failures = [LOSS.__dict__, {**LOSS.__dict__, "cause": "memory", "action": "halved", "text": "half of it"}]
    page = render({**sample_state.sample_state(), "failures": failures}, {})
    assert "2 retries: 1 node loss, 1 out of memory." in page
    assert "halved: half of it" in page
    assert "10.0.0.7" in page


def test_every_cause_has_words() -> None:
    assert set(CAUSES) == set(get_args(Cause))


# What Ray says

KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: TrialActor
\tactor_id: 3d1dba76c4a1c8e1f8b1a35101000000
\tpid: 3137
\tnamespace: 6b0a
\tip: 10.0.0.7
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. There are some potential root causes. (1) The process \
is killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop --force is called."""
NODE_DIED = (
    "The actor died unexpectedly before finishing this task.\n\tip: 10.0.0.7\nThe actor died because its node has "
    "died. Node Id: 51f2. the actor's node was terminated unexpectedly: health check failed"
)
MONITOR = (
    "Caught unexpected exception: Task was killed due to the node running low on memory.\nMemory on the node (IP: "
    "10.0.0.7, ID: 51f2) where the task (actor ID: 3d1d, name=TrialActor.train, pid=3137, memory used=2.1GB) was "
    "running was 15.2GB / 16.0GB"
)


def task_error(cause: Exception) -> exceptions.RayTaskError:
    return exceptions.RayTaskError("train", "…", cause)  # type: ignore[no-untyped-call]


def actor_error(text: str, *, preempted: bool = False) -> exceptions.RayActorError:
    return exceptions.RayActorError(error_msg=text, preempted=preempted)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (actor_error(KILLED), "process"),
        (actor_error(NODE_DIED), "node"),
        (actor_error(KILLED, preempted=True), "node"),
        (exceptions.ActorUnavailableError("RPC error: timed out", None), "node"),
        (exceptions.OutOfMemoryError(MONITOR), "memory"),  # type: ignore[no-untyped-call]
        (exceptions.NodeDiedError("gone"), "node"),  # type: ignore[no-untyped-call]
        (exceptions.WorkerCrashedError(), "process"),
        (exceptions.OutOfDiskError(), "storage"),
        (task_error(OSError(errno.ENOSPC, "No space left on device")), "storage"),
        (task_error(MemoryError()), "memory"),
        (task_error(ValueError("what")), "other"),
        (KILLED, "process"),
        (MONITOR, "memory"),
        (None, "other"),
        (ValueError("died"), "other"),
    ],
)
def test_what_ray_says_as_a_cause(error: BaseException | str | None, cause: Cause) -> None:
    assert cause_of_loss(error) == cause


@pytest.mark.parametrize("text", [KILLED, MONITOR])
def test_where_it_was(text: str) -> None:
    assert (address_in(text), process_in(text)) == ("10.0.0.7", 3137)


def test_an_error_that_names_no_place() -> None:
    assert (address_in("what"), process_in(None)) == (None, None)
