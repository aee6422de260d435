"""A run as a Ray job: its command, what travels with it, and what can't.

What travels is one file, the resolved settings. Code does not: the cluster has its own, and refuses to work where it is
another version (`arrival.py`). Data and store are paths, which must be the same on all machines.
"""

from __future__ import annotations

import secrets
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from configs.errors import UserError
from configs.loader import resolved_yaml
from configs.schema import RunSettings
from orchestrator.identity import default_name

COMMANDS = {
    "train": ("train",),
    "pas": ("pas",),
    "sweep-prune": ("sweep", "prune"),
    "sweep-sensitivity": ("sweep", "sensitivity"),
    "sweep-qat": ("sweep", "qat"),
    "chain": ("chain",),
    "transfer": ("transfer",),
}
"""The command of each algorithm of `SEARCHES`."""
DISTRIBUTION = "video-compression-orchestrator"
SETTINGS_FILE = "settings.yaml"
"""What the job's working folder holds, and nothing else."""
NAME_LENGTH = 60
"""Characters of a run's name in a job's id, which becomes part of file names."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A run that is ready to be handed over."""

    id: str
    """New every time: `slowfast-pas-1a2b3c-9f86d0`, the run's name and a lot."""
    run: str
    """Name of the run."""
    runs: str
    """Folder of the store."""
    entrypoint: str
    """The command, as the job's shell reads it."""
    metadata: dict[str, str]
    """What Ray's Jobs page shows."""
    settings: str
    """Contents of the settings file."""


def plan_submission(settings: RunSettings, algorithm: str) -> Submission:
    """Everything that a job consists of.

    Raises:
        UserError: the settings can't be followed on another machine.
    """
    from orchestrator.state import commit  # which imports PyTorch: not for those who only list jobs

    require_portable(settings)
    run = settings.runtime.name or default_name(settings, algorithm)
    runtime = settings.runtime.model_copy(update={"name": run, "address": None})
    return Submission(
        id=f"{run[:NAME_LENGTH]}-{secrets.token_hex(3)}",
        run=run,
        runs=str(runtime.runs),
        entrypoint=shlex.join(
            ["orchestrate", *COMMANDS[algorithm], "--config", SETTINGS_FILE, "--address", "auto"],
        ),
        metadata={
            "job_name": run,
            "algorithm": algorithm,
            "backbone": settings.network.backbone,
            "run": run,
            "runs": str(runtime.runs),
            "commit": commit(),
            "version": version(DISTRIBUTION),
        },
        settings=resolved_yaml(settings.model_copy(update={"runtime": runtime})),
    )


def require_portable(settings: RunSettings) -> None:
    """Refuse settings that mean something on this machine only.

    Raises:
        UserError: a relative path, or a runner or cluster that is not the one submitted to.
    """
    runtime = settings.runtime
    if runtime.runner != "ray":
        raise UserError(
            f"runtime.runner is {runtime.runner!r}, but --submit hands the run to a Ray cluster; leave --runner out"
        )
    if runtime.address not in (None, "auto"):
        raise UserError(
            f"runtime.address is {runtime.address!r}, but --submit hands the run to a cluster that it names itself; "
            "leave --address out"
        )
    for name, path, wanted in (
        ("runtime.runs", runtime.runs, "--runs a full path, like /shared/runs,"),
        ("data.path", settings.data.path, "--data a full path"),
        ("teacher.weights", settings.teacher.weights, "--teacher a full path"),
    ):
        if path is not None and not is_everywhere(path):
            raise UserError(
                f"{name} is {str(path)!r}, which starts from the folder where you are, but must mean the same on every "
                f"node of the cluster; give {wanted} that all of them mount"
            )


def is_everywhere(path: Path | str) -> bool:
    """Whether a path can mean the same on all machines: a full path or a URL."""
    return Path(path).is_absolute() or "://" in str(path)
