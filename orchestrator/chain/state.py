"""What a chain says of itself: a row per step, begun or not. Keys beside those of `states.trial_state`:

step, title     what kind it is, and what was done: `prune`, `AGP 0.5`
trained         trials of the step
notes           sentences about it
latency_ms      of its network, one thread, one input; null until all is trained
size_mb         of its weights, in 1e6 bytes
drop_points     accuracy of the step before minus its own, in percentage points
path            its model within the run; null while it has none of its own
accepted, rejected, original, layers, float_layers      of the step `quantise`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.schema import ChainStep, PasStep, PruneStep
from orchestrator import state as states
from orchestrator.chain.search import Chain, Link, Quantising, Shrinking
from orchestrator.chain.steps import title_of
from orchestrator.driver import Workshop
from orchestrator.gate import judge
from orchestrator.models import STEP_FOLDERS
from orchestrator.pas import Model
from orchestrator.quantise.search import METHODS
from trainers.quantisation import read_layers, with_reasons
from trainers.trial import Trial

NO_TRIAL: dict[str, Any] = {
    **dict.fromkeys(("top1", "top5", "map", "gmacs", "params", "frames", "side", "height", "width")),
    **{"warm_started": False, "seconds": None, "epochs": 0, "trial": None, "cached": False, "reason": None},
}
"""Of a step without a trial: as `states.trial_state`, but for name and status."""
FLOATING: dict[str, Any] = {
    **{"accepted": None, "rejected": [], "original": None, "engine": None, "layers": [], "float_layers": []},
}
"""Of a step whose network computes in floating point."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a chain has come."""

    session: Workshop
    chain: Chain | None
    """None before there is a teacher."""
    trials: Mapping[str, Trial]
    """Every trial asked for, by digest."""
    asked: tuple[tuple[str, ...], ...]
    """Digests of each step's trials."""
    latencies: Mapping[str, float]
    """Of what steps left, by digest of the trial, in ms; empty before they are measured."""

    @property
    def steps(self) -> tuple[ChainStep, ...]:
        """The steps asked for."""
        return self.session.settings.chain.steps

    def rows(self) -> list[dict[str, Any]]:
        """A row per step, in order."""
        return [self._row(number) for number in range(1, len(self.steps) + 1)]

    def measured(self, digest: str) -> dict[str, float | None]:
        """Latency of a trial's network, once it is known, and the size of its weights, once it has any."""
        return {"latency_ms": self.latencies.get(digest), "size_mb": self.session.store.weights_mb(digest)}

    def path(self, number: int) -> str | None:
        """Where a step's model goes, within the run; none while it has none of its own."""
        link = self._link(number)
        return f"models/{number}-{STEP_FOLDERS[self.steps[number - 1].step]}" if link and link.model else None

    def _row(self, number: int) -> dict[str, Any]:
        """One step, counted from 1."""
        step, link, model = self.steps[number - 1], self._link(number), self._model(number)
        compared: dict[str, Any] = {"latency_ms": None, "size_mb": None, "drop_points": None}
        if self.chain is not None and model is not None:
            drop = drop_points(self.chain.before(number), model)
            compared = {**self.measured(model.trial), "drop_points": drop}
        return {
            "step": step.step,
            "title": link.title if link else planned_title(step),
            "trained": len(self.asked[number - 1]),
            "notes": list(link.notes) if link else [],
            "path": self.path(number),
            **compared,
            **(self._quantised(number, link) if isinstance(link, Quantising) else FLOATING),
            **self._trial_state(number, link, model),
        }

    def _link(self, number: int) -> Link | None:
        return self.chain.links[number - 1] if self.chain and number <= self.chain.number else None

    def _model(self, number: int) -> Model | None:
        """The network that a step has come to, or has handed on as it was given it."""
        link = self._link(number)
        if self.chain is None or link is None:
            return None
        return link.model or (self.chain.before(number) if self.chain.is_over(number) else None)

    def _quantised(self, number: int, link: Quantising) -> dict[str, Any]:
        """What else there is to say of a network in integers; it is judged once latencies are known."""
        model, attempt = link.model, link.attempt
        if self.chain is None or model is None or attempt is None:
            return FLOATING
        before = self.chain.before(number)
        paths = [path for earlier in range(1, number) if (path := self.path(earlier))]
        reasons = {spared.layer: spared.reason for spared in attempt.float_layers}
        rows = read_layers(self.session.store.trial_folder(model.trial))
        rule = model.network.quantisation
        said: dict[str, Any] = {
            "original": "../" + (paths[-1] if paths else "models/teacher").removeprefix("models/"),
            "engine": rule.engine if rule else None,
            "layers": with_reasons(rows, reasons),
            "float_layers": [{"layer": layer, "reason": reason} for layer, reason in reasons.items()],
        }
        if model.trial not in self.latencies:
            return {**FLOATING, **said}
        verdict = judge(
            speedup=self.latencies[before.trial] / self.latencies[model.trial],
            drop_points=drop_points(before, model),
            max_drop_points=self.session.settings.quantise.max_drop_points,
        )
        return {**said, "accepted": verdict.accepted, "rejected": list(verdict.reasons)}

    def _trial_state(self, number: int, link: Link | None, model: Model | None) -> dict[str, Any]:
        """The trial of a step's network, else the one under way or the one that failed."""
        session, asked = self.session, self.asked[number - 1]
        if model is not None:
            trial = self.trials[model.trial]
        elif asked and not isinstance(link, Shrinking):
            trial = self.trials[asked[-1]]
        else:
            return self._without_trial(number)
        return states.trial_state(trial, session.cost(trial.network), session.results.get(trial.digest))

    def _without_trial(self, number: int) -> dict[str, Any]:
        chain = self.chain
        status, reason = ("failed", chain.stop_reason) if chain and chain.failed == number else ("pending", None)
        return {"name": planned_title(self.steps[number - 1]), **NO_TRIAL, "status": status, "reason": reason}


def planned_title(step: ChainStep) -> str:
    """What people call a step that is not begun."""
    if isinstance(step, PasStep):
        return "PAS"
    return title_of(step) if isinstance(step, PruneStep) else f"INT8 by {METHODS[step.method]}"


def drop_points(before: Model, after: Model) -> float:
    """Accuracy of one network minus that of another, in percentage points."""
    return round(100 * (before.accuracy - after.accuracy), 6)
