"""A package that is written once, and that nobody changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.store import Store
from tests.orchestrator.handoff.sample_written import hand_over
from tests.orchestrator.sample_registry import make_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Six tiny models; only packages are recorded in it."""
    return make_store(tmp_path_factory.mktemp("store") / "runs")


@pytest.fixture(scope="session")
def written(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PAS-1 of that store, handed over."""
    return hand_over(store, tmp_path_factory.mktemp("packages") / "pas-1").folder
