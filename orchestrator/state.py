"""What a run says of itself: the JSON behind `show --json`, the report and the model cards.

Accuracies are fractions, costs are GMACs per clip or image, sizes are pixels.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from compression.cost import Cost
from compression.spec import NetworkSpec
from configs.schema import DataSettings, RunSettings
from orchestrator.pas import Hypothesis, Iteration, PasSearch
from trainers import results
from trainers.data.identities import IdentityManifest
from trainers.memory import share_at_a_time
from trainers.tasks.base import DataManifest
from trainers.trial import Trial, TrialResult

State = dict[str, Any]


def trial_state(trial: Trial, cost: Cost, result: TrialResult | None) -> dict[str, Any]:
    """One trained network; accuracies are null until it is finished."""
    return {
        "name": trial.name,
        "status": result.status if result else "pending",
        **_accuracies(result),
        "gmacs": cost.gmacs,
        "params": cost.params,
        **_input(trial.network),
        "warm_started": trial.start is not None,
        "seconds": result.seconds if result else None,
        "epochs": result.epochs if result else 0,
        "trial": trial.digest,
        "cached": bool(result and result.cached),
        "reason": result.reason or _deviation(trial, result) if result else None,
    }


def _deviation(trial: Trial, result: TrialResult) -> str | None:
    """How a result was computed otherwise than its recipe says."""
    if result.micro_batch is None or trial.train is None:
        return None
    recipe = share_at_a_time(trial.train, processes=1)
    return f"trained with micro-batch {result.micro_batch} in place of {recipe}, for want of memory"


def iteration_state(
    iteration: Iteration, trial_of: Callable[[Hypothesis], Trial], known: Mapping[str, TrialResult]
) -> dict[str, Any]:
    """One iteration: its hypotheses, what was chosen and why; `known` has the results so far, by digest."""

    def entry(hypothesis: Hypothesis) -> dict[str, Any]:
        trial = trial_of(hypothesis)
        return {"axis": hypothesis.axis, **trial_state(trial, hypothesis.cost, known.get(trial.digest))}

    selection = iteration.selection
    return {
        "iteration": iteration.number,
        "rule": selection.rule if selection else None,
        "why": selection.why if selection else None,
        "winner": selection.winner.axis if selection else None,
        "accepted": iteration.accepted,
        "skipped": [{"axis": axis, "reason": reason} for axis, reason in iteration.skipped.items()],
        "hypotheses": [entry(hypothesis) for hypothesis in iteration.hypotheses],
        "control": entry(iteration.control) if iteration.control else None,
    }


def family_state(search: PasSearch) -> list[dict[str, Any]]:
    """PAS-1 … PAS-T, where they are saved."""
    family = []
    sequence = ""
    for iteration in search.family:
        assert iteration.winner is not None
        hypothesis, result = iteration.hypotheses[iteration.winner], iteration.results[iteration.winner]
        sequence += hypothesis.axis
        family.append(
            {
                "name": f"PAS-{iteration.number}",
                "axis": hypothesis.axis,
                "sequence": sequence,
                **_accuracies(result),
                "gmacs": hypothesis.cost.gmacs,
                "params": hypothesis.cost.params,
                **_input(hypothesis.network),
                "path": f"models/PAS-{iteration.number}",
                "trial": result.trial,
            }
        )
    return family


def _accuracies(result: TrialResult | None) -> dict[str, float | None]:
    return {key: getattr(result, key) if result else None for key in ("top1", "top5", "map")}


def _input(network: NetworkSpec) -> dict[str, int | None]:
    """What the network is given; an image has no frames."""
    _, *frames, height, width = network.input_shape
    return {"frames": frames[0] if frames else None, "side": network.input_side, "height": height, "width": width}


def data_state(settings: RunSettings, manifest: DataManifest) -> dict[str, Any]:
    """Which data it was."""
    return {
        "source": settings.data.source,
        "path": str(data_path(settings.data, manifest)),
        "split": settings.data.split,
        "max_quarantined": settings.data.max_quarantined,
        "fingerprint": manifest.fingerprint,
        **_sizes(manifest),
        "classes": list(manifest.classes),
        "quarantined": [{"path": str(path), "reason": reason} for path, reason in manifest.quarantined],
    }


def data_path(data: DataSettings, manifest: DataManifest) -> Path:
    """What `data.path` is to be to find the same data again: the folder, or the file that lists it."""
    return data.path.absolute() if data.path is not None and data.path.is_file() else manifest.root


def _sizes(manifest: DataManifest) -> dict[str, int]:
    if isinstance(manifest, IdentityManifest):
        counted = {"train_images": manifest.train, "queries": manifest.query, "gallery_images": manifest.gallery}
        return {name: len(images) for name, images in counted.items()}
    return {"train_videos": len(manifest.train), "val_videos": len(manifest.val)}


def statistics(results: Collection[TrialResult], wall_seconds: float, cpus_per_trial: float) -> dict[str, Any]:
    """What the run trained, and what it did not have to."""
    trained = [result for result in results if not result.cached]
    return {
        "trained": len(trained),
        "cached": len(results) - len(trained),
        "trial_epochs": sum(result.epochs for result in trained),
        "seconds": round(wall_seconds, 1),
        "core_seconds": round(sum(result.seconds for result in trained) * cpus_per_trial, 1),
    }


def versions() -> dict[str, str]:
    """Versions behind a run."""
    return {"commit": commit(), **results.versions()}


def commit() -> str:
    """Commit of this checkout, with `+changes` where it is not clean; `unknown` outside a checkout."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--abbrev=12", "--match="],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()
