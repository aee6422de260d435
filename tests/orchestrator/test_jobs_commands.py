"""`--submit`, `jobs`, `logs` and `stop` against a dashboard that answers as Ray's does."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import typer
from typer.testing import CliRunner, Result

from configs.errors import RunError, UserError
from configs.loader import load_settings, resolved_yaml
from configs.schema import RunSettings
from orchestrator.commands.jobs import jobs, logs, stop
from orchestrator.commands.submit import refuse_no_wait, submit
from orchestrator.jobs import follow as following
from orchestrator.jobs import ray_client
from orchestrator.jobs.follow import RECONNECTIONS, follow
from orchestrator.jobs.ray_client import ADDRESS, API_ADDRESS, as_url, connect
from orchestrator.jobs.submission import SETTINGS_FILE
from orchestrator.ray_access import Answer
from tests.orchestrator.sample_dashboard import Dashboard, details, serving

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's own call
app = typer.Typer()
for command in (jobs, logs, stop):
    app.command()(command)


@pytest.fixture(autouse=True)
def _no_word_of_ray_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (API_ADDRESS, ADDRESS, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    with serving(Dashboard()) as served:
        yield served


def run(dashboard: Dashboard, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--address", dashboard.url], catch_exceptions=False)


def settings(*overrides: str) -> RunSettings:
    return load_settings("embedded", ["runtime.runs=/shared/runs", "runtime.name=mine", *overrides])


# Submitting


def test_a_run_is_handed_over_with_its_settings_and_nothing_else(
    dashboard: Dashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(settings("seed=7"), "sweep-qat", dashboard.url, wait=False) == 0
    (sent,) = dashboard.submitted
    assert sent["entrypoint"] == "orchestrate sweep qat --config settings.yaml --address auto"
    assert sent["metadata"]["algorithm"] == "sweep-qat"
    assert not {key for key in sent if key.startswith("entrypoint_")} - {"entrypoint_num_cpus"}
    assert not sent.get("entrypoint_num_cpus")  # else the driver may be put on a node that is taken away
    assert int(sent["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 30
    (package,) = dashboard.packages
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        assert archive.namelist() == [SETTINGS_FILE]
        assert archive.read(SETTINGS_FILE).decode() == resolved_yaml(settings("seed=7"))
    said = capsys.readouterr().err
    assert f"Submitted as job {sent['submission_id']}" in said
    assert f"{dashboard.url}/#/jobs/{sent['submission_id']}" in said


def test_the_log_is_followed_to_the_end(dashboard: Dashboard, capsys: pytest.CaptureFixture[str]) -> None:
    dashboard.logs = [("one\ntwo\n", False)]
    assert submit(settings(), "pas", dashboard.url) == 0
    assert capsys.readouterr().out == "one\ntwo\n"


def test_the_exit_code_of_a_stopped_run_is_that_of_ctrl_c(dashboard: Dashboard) -> None:
    dashboard.logs, dashboard.ends_as = [("one\n", False)], "STOPPED"
    assert submit(settings(), "pas", dashboard.url) == 130


def test_ctrl_c_leaves_the_job_alone_and_says_so(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dashboard.logs = [("one\n", False)]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(typer, "echo", interrupted)
    assert submit(settings(), "pas", dashboard.url) == 130
    assert dashboard.stopped == []
    assert "goes on" in capsys.readouterr().err


def test_a_run_that_is_at_work_is_not_handed_over_twice(dashboard: Dashboard) -> None:
    dashboard.jobs["mine-1"] = details("mine-1")
    with pytest.raises(UserError, match="at work already, as job mine-1"):
        submit(settings(), "pas", dashboard.url)
    dashboard.jobs["mine-1"]["status"] = "STOPPED"
    assert submit(settings(), "pas", dashboard.url, wait=False) == 0


def test_another_ray_is_refused_before_anything_is_sent(dashboard: Dashboard) -> None:
    dashboard.version = "2.10.0"
    with pytest.raises(UserError, match=f"has Ray 2.10.0, but here is Ray {ray.__version__}"):
        submit(settings(), "pas", dashboard.url)
    assert (dashboard.submitted, dashboard.packages) == ([], [])
    assert run(dashboard, "jobs").exit_code == 0  # looking does no harm


def test_no_wait_is_refused_where_nothing_is_submitted() -> None:
    refuse_no_wait(wait=True)
    with pytest.raises(UserError, match="without --submit"):
        refuse_no_wait(wait=False)


# Connections that break


def test_a_broken_connection_is_made_anew_and_no_line_is_written_twice(dashboard: Dashboard) -> None:
    dashboard.jobs["mine-1"] = details("mine-1")
    dashboard.logs = [("one\nt", True), ("one\ntwo\n", True), ("one\ntwo\nthree\n", False)]
    written: list[str] = []
    ended = follow(connect(dashboard.url), "mine-1", written.append, pause=lambda _: None)
    assert ended.status == "succeeded"
    assert "".join(written) == "one\ntwo\nthree\n"


def test_a_connection_that_ends_politely_too_early_is_made_anew(dashboard: Dashboard) -> None:
    """As when the dashboard is restarted."""
    dashboard.jobs["mine-1"] = details("mine-1")
    dashboard.logs = [("one\n", False), ("one\ntwo\n", False)]
    written: list[str] = []
    follow(connect(dashboard.url), "mine-1", written.append, pause=lambda _: None)
    assert written == ["one\n", "two\n"]


def test_a_cluster_out_of_reach_is_given_up_after_a_while(dashboard: Dashboard) -> None:
    pauses: list[float] = []
    with serving(Dashboard(jobs={"mine-1": details("mine-1")})) as gone:
        client = connect(gone.url)
    with pytest.raises(RunError, match="out of reach"):
        follow(client, "mine-1", lambda _: None, pause=pauses.append)
    assert len(pauses) == RECONNECTIONS
    assert 60 < sum(pauses) < 300


def test_a_dashboard_that_is_only_just_starting_is_asked_again(dashboard: Dashboard) -> None:
    dashboard.jobs["mine-1"] = details("mine-1")
    dashboard.logs, dashboard.faults = [("one\n", True), ("one\n", True), ("one\ntwo\n", False)], 2
    written: list[str] = []
    assert follow(connect(dashboard.url), "mine-1", written.append, pause=lambda _: None).status == "succeeded"
    assert written == ["one\n", "two\n"]


def test_a_cluster_that_forgot_the_job_is_not_asked_again(dashboard: Dashboard) -> None:
    dashboard.logs = [("", False)]
    with pytest.raises(RunError, match="no longer knows job mine-1"):
        follow(connect(dashboard.url), "mine-1", lambda _: None, pause=lambda _: pytest.fail("no use"))


def test_silence_is_no_end(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that was cut says nothing: after a while, the log is asked for again."""
    monkeypatch.setattr(following, "QUIET_SECONDS", 0.0)
    dashboard.jobs["mine-1"] = details("mine-1")
    client = connect(dashboard.url)

    def over_soon(_: float) -> None:
        dashboard.jobs["mine-1"]["status"] = "SUCCEEDED"

    assert follow(client, "mine-1", lambda _: None, pause=over_soon).status == "succeeded"


# Looking and stopping


def test_jobs_lists_our_runs_and_with_all_everything(dashboard: Dashboard) -> None:
    dashboard.jobs = {"mine-1": details("mine-1"), "theirs": details("theirs", metadata={})}
    assert [job["id"] for job in json.loads(run(dashboard, "jobs", "--json").stdout)] == ["mine-1"]
    assert len(json.loads(run(dashboard, "jobs", "--all", "--json").stdout)) == 2
    assert "mine-1" in run(dashboard, "jobs").stdout


def test_a_driver_that_was_started_by_hand_is_listed_too(dashboard: Dashboard) -> None:
    """Ray gives it no submission, but knows its metadata."""
    dashboard.jobs = {"x": details("x", type="DRIVER", submission_id=None, job_id="03000000")}
    (job,) = json.loads(run(dashboard, "jobs", "--json").stdout)
    assert (job["id"], job["submitted"], job["run"]) == ("03000000", False, "mine")


def test_logs_of_a_run_are_shown(dashboard: Dashboard) -> None:
    dashboard.jobs["mine-1"] = details("mine-1")
    dashboard.logs = [("one\n", False)]
    assert run(dashboard, "logs", "mine").stdout == "one\n"


def test_logs_that_are_followed_end_with_the_job_s_exit_code(dashboard: Dashboard) -> None:
    dashboard.jobs["mine-1"] = details("mine-1", driver_exit_code=2)
    dashboard.logs, dashboard.ends_as = [("one\n", False)], "FAILED"
    answer = run(dashboard, "logs", "mine", "--follow")
    assert answer.stdout == "one\n"
    assert "failed with exit code 2" in answer.stderr
    assert answer.exit_code == 2


def test_stop_waits_for_the_end_and_says_how_to_go_on(dashboard: Dashboard) -> None:
    dashboard.jobs["mine-1"] = details("mine-1")
    answer = run(dashboard, "stop", "mine")
    assert dashboard.stopped == ["mine-1"]
    assert "The same command goes on" in answer.stderr
    assert answer.exit_code == 0


def test_a_job_that_is_over_is_left_alone(dashboard: Dashboard) -> None:
    dashboard.jobs["mine-1"] = details("mine-1", "SUCCEEDED")
    assert "over already" in run(dashboard, "stop", "mine").stderr
    assert dashboard.stopped == []


# Reaching a dashboard


def test_a_token_is_shown_only_where_it_is_asked_for(
    dashboard: Dashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard.token = "t" * 64
    with pytest.raises(UserError, match=r"asks for a token.*ray get-auth-token.*RAY_AUTH_TOKEN"):
        connect(dashboard.url)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    with pytest.raises(UserError, match="refuses the token"):
        connect(dashboard.url)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 64)
    assert connect(dashboard.url).all() == []
    dashboard.token = None
    assert "Authorization" not in connect(dashboard.url)._headers


def test_nothing_there_and_something_else_there_are_told_apart(dashboard: Dashboard) -> None:
    with serving(Dashboard()) as gone:
        pass
    with pytest.raises(UserError, match="nothing answers there"):
        connect(gone.url)
    with pytest.raises(UserError, match="no dashboard of Ray"):
        connect(f"{dashboard.url}/elsewhere")


def test_the_address_that_is_given_wins_over_the_environment(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray has it the other way round."""
    monkeypatch.setenv(API_ADDRESS, "http://127.0.0.1:1")
    monkeypatch.setenv(ADDRESS, "http://127.0.0.1:1")
    assert connect(dashboard.url).url == dashboard.url
    monkeypatch.setenv(API_ADDRESS, dashboard.url)
    assert connect("auto").url == dashboard.url


def test_auto_asks_ray_s_own_address_for_its_dashboard(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, "127.0.0.1:1")
    with pytest.raises(UserError, match="no cluster that RAY_ADDRESS names"):
        connect("auto")
    monkeypatch.setattr(ray_client, "ask", lambda _: Answer(refused=False))
    monkeypatch.setattr(ray_client, "ray_address_to_api_server_url", lambda _: dashboard.url)
    assert connect("auto").url == dashboard.url


@pytest.mark.parametrize(
    ("address", "url"), [("head:8265", "http://head:8265"), ("https://head/", "https://head"), ("h", "http://h")]
)
def test_an_address_without_scheme_is_a_dashboard_s(address: str, url: str) -> None:
    assert as_url(address) == url


def test_ray_s_client_address_is_refused() -> None:
    with pytest.raises(UserError, match="through its dashboard"):
        as_url("ray://head:10001")
