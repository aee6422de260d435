"""Versions with known holes are refused, and pip is asked for the same floors."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from configs.errors import UserError
from orchestrator import version_floors
from orchestrator.version_floors import FLOORS, require_safe_versions

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def pretend(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Have these versions installed, and newest ones of the others."""
    monkeypatch.setattr(version_floors, "version", lambda package: versions.get(package, "999"))


def test_what_is_installed_here_is_safe() -> None:
    require_safe_versions()


@pytest.mark.parametrize(
    ("package", "installed", "hole"),
    [
        ("ray", "2.53.0", "CVE-2026-27482"),
        ("torch", "2.10.1+cu130", "CVE-2026-24747"),
        ("ray", "2.9", "CVE-2026-27482"),
    ],
)
def test_an_older_version_is_refused_with_hole_and_command(
    package: str, installed: str, hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.9 is older than 2.54, which comparing texts would get wrong."""
    pretend(monkeypatch, **{package: installed})
    with pytest.raises(UserError) as refusal:
        require_safe_versions()
    assert f"{package} is {installed}, but must be" in str(refusal.value)
    assert hole in str(refusal.value)
    assert f"pip install '{package}>={FLOORS[package].oldest}'" in str(refusal.value)


@pytest.mark.parametrize("package", FLOORS)
def test_the_floor_itself_is_accepted(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, **{package: FLOORS[package].oldest})
    require_safe_versions()


@pytest.mark.parametrize("package", FLOORS)
def test_pip_is_asked_for_the_same(package: str) -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    required = {requirement.name: requirement for requirement in map(Requirement, project["dependencies"])}
    floors = [limit.version for limit in required[package].specifier if limit.operator == ">="]
    assert [Version(floor) for floor in floors] == [Version(FLOORS[package].oldest)]
