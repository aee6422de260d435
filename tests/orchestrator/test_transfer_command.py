"""`orchestrate transfer`: what the command makes of its options."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from configs.errors import UserError
from configs.schema import RunSettings
from orchestrator.commands import execution
from orchestrator.commands.transfer import transfer
from orchestrator.store import Store
from tests.orchestrator.sample_registry import PAS1, PAS2, RUN, TEACHER, make_store
from tests.orchestrator.sample_transfer import write_ucf101

app = typer.Typer()
app.command()(transfer)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Networks to start from; nobody changes it."""
    return make_store(tmp_path_factory.mktemp("store") / "runs")


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ucf101(tmp_path_factory.mktemp("ucf") / "ucf101")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunSettings, str]]:
    """What the command would have executed."""
    calls: list[tuple[RunSettings, str]] = []
    monkeypatch.setattr(execution, "execute", lambda settings, algorithm, **_: calls.append((settings, algorithm)))
    return calls


def run(store: Store, *arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments), "--runs", str(store.root)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_options_become_settings(store: Store, ucf101: Path, asked: list[tuple[RunSettings, str]]) -> None:
    options = ["--epochs=2", "--splits=2,3", "--seeds=0,1", "--seed=4", "--name=mine", "--runner=local"]
    options += ["--set", "train.batch=6"]
    assert run(store, RUN, "--data", f"ucf101:{ucf101}", *options).exit_code == 0
    ((settings, algorithm),) = asked
    given = settings.transfer
    assert algorithm == "transfer"
    assert given.models == {"teacher": TEACHER.digest, "PAS-1": PAS1.digest, "PAS-2": PAS2.digest}
    assert (given.epochs, given.splits, given.seeds, settings.seed) == (2, (2, 3), (0, 1), 4)
    assert (settings.data.source, settings.data.path, settings.data.split) == ("ucf101", ucf101, 2)
    assert (settings.network.backbone, settings.clips) == ("r2plus1d", PAS1.clips)
    assert (settings.train.epochs, settings.train.batch) == (5, 6)  # of the run, and of --set
    assert (settings.runtime.name, settings.runtime.runs, settings.runtime.runner) == ("mine", store.root, "local")


def test_the_settings_that_are_printed_make_the_same_run(
    store: Store, ucf101: Path, tmp_path: Path, asked: list[tuple[RunSettings, str]]
) -> None:
    models = [f"{RUN}/PAS-1", f"{RUN}/teacher"]
    printed = run(store, *models, "--data", f"ucf101:{ucf101}", "--print-config").stdout
    assert asked == []
    file = tmp_path / "settings.yaml"
    file.write_text(printed)
    assert run(store, "--config", file).exit_code == 0
    assert run(store, *models, "--data", f"ucf101:{ucf101}").exit_code == 0
    assert asked[0] == asked[1]
    assert list(yaml.safe_load(printed)["transfer"]["models"]) == ["PAS-1", "teacher"]


def test_settings_may_name_networks_like_people(
    store: Store, ucf101: Path, tmp_path: Path, asked: list[tuple[RunSettings, str]]
) -> None:
    file = tmp_path / "settings.yaml"
    said = {
        "teacher": {"weights": "gone"},
        "transfer": {"models": {"small": f"{RUN}/PAS-2"}},
        "clips": {"flip": True},
        "train": {"warmup_epochs": 0},
    }
    file.write_text(yaml.safe_dump(said))
    run(store, "--config", file, "--data", f"ucf101:{ucf101}")
    ((settings, _),) = asked
    assert settings.transfer.models == {"small": PAS2.digest}
    assert settings.teacher.weights is None  # nothing is distilled
    assert (settings.clips.flip, settings.clips.test) == (True, PAS2.clips.test if PAS2.clips else None)


def test_a_dry_run_lists_what_would_be_trained(
    store: Store, ucf101: Path, asked: list[tuple[RunSettings, str]]
) -> None:
    before = sorted(path.name for path in store.root.iterdir())
    text = run(store, f"{RUN}/PAS-1", "--data", f"ucf101:{ucf101}", "--epochs", "3", "--dry-run").stdout
    assert "3 fine-tunings on ucf101" in text
    assert "r2plus1d-PAS-1-ucf101-split3" in text
    assert "18 training and 6 validation videos" in " ".join(text.split())
    assert asked == []
    assert sorted(path.name for path in store.root.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny-pas"], "no data is given"),
        (["--data", "folders:videos"], "no network is given"),
        (["nobody", "--data", "folders:videos"], "there is no model 'nobody'"),
        (
            ["tiny-pas", "--data", "ucf101:videos", "--splits", "4"],
            r"transfer\.splits\.0 is 4, but must be one of 1, 2",
        ),
        (["tiny-pas", "--data", "ucf101:videos", "--dry-run"], r"data\.path is .*videos, but there is no such folder"),
    ],
)
def test_what_is_missing_is_said(store: Store, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(store, *arguments)
