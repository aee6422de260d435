"""At the other end: a submitted run makes sure that the cluster's code is the code it was submitted with.

Results are filed by what was asked for, not by the code that computed them: two versions in one store would mix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version

from configs.errors import UserError
from orchestrator.jobs.submission import DISTRIBUTION
from orchestrator.state import commit

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells the driver of a job what it was submitted with."""
UNKNOWN = "unknown"
"""Commit of code that was installed without its history."""


def require_same_code() -> None:
    """Refuse to work on a job that other code submitted; a run that nobody submitted has nothing to fear.

    Raises:
        UserError: naming both versions.
    """
    if config := os.environ.get(JOB_CONFIG):
        compare(json.loads(config).get("metadata") or {}, {"version": version(DISTRIBUTION), "commit": commit()})


def compare(there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Compare versions, and commits where both are known.

    Args:
        there: metadata of the job, whoever submitted it.
        here: likewise, of the code that runs.

    Raises:
        UserError: they differ.
    """
    for key in ("version", "commit"):
        submitted, installed = there.get(key, UNKNOWN), here[key]
        if UNKNOWN not in (submitted, installed) and submitted != installed:
            raise UserError(
                f"this job was submitted from {key} {submitted}, but the cluster has {key} {installed}; "
                "install the same on both, so that one store holds the results of one code"
            )
