"""A data set of tiny videos, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.orchestrator.scripted import make_digits


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("data") / "digits")
