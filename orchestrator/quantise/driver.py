"""How a session drives the search for an INT8 network: which layers may compute in integers is found out on the way."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

from compression.cost import empty_input
from compression.quantisation.layers import QuantisationError
from compression.quantisation.torch_ao import default_engine, prepare, quantisable_layers, use_engine
from compression.spec import NetworkSpec, Quantisation
from configs.errors import RunError, UserError
from orchestrator import state as states
from orchestrator.driver import Search, TrainDriver, Workshop
from orchestrator.gate import Verdict, judge
from orchestrator.latency import conditions, remembered_trial_latencies
from orchestrator.quantise.layer_times import LayerTimes, remembered_layer_times
from orchestrator.quantise.search import METHODS, Attempt, FloatLayer, QuantiseSearch, points_lost
from orchestrator.report import METRICS
from trainers.package import load_package
from trainers.quantisation import read_layers, with_reasons
from trainers.trial import Trial, TrialResult

TEACHER_PATH = "../teacher"
"""Where the original of an exported network is, seen from its folder."""


class QuantiseDriver(TrainDriver):
    """`orchestrate sweep qat`."""

    def __init__(self, session: Workshop) -> None:
        super().__init__(session)
        self.quantising: QuantiseSearch | None = None
        self.engine = ""
        self.layers: tuple[str, ...] = ()
        self.times = LayerTimes(())
        self.trials: dict[str, Trial] = {}
        self.latencies: dict[str, float] = {}
        """Of trained networks, by digest of their trial."""

    def check(self) -> None:
        """See `Driver`.

        Raises:
            UserError: a network that can't be quantised, layers that it does not have, kernels that are not here.
        """
        session = self.session
        require_no_features(session.settings.distillation.features)
        self.engine = engine_of(session.settings.quantise.engine)
        network = session.untrained()
        self.layers = quantisable_layers(network)
        excluded = excluded_layers(self.layers, session.settings.quantise.exclude)
        rule = Quantisation(engine=self.engine, float_layers=excluded)
        try:
            prepare(network, empty_input(network.spec), rule, training=False)
        except QuantisationError as error:
            raise UserError(f"quantise: {error}") from error

    def start(self) -> Search | None:
        """See `Driver`.

        Raises:
            RunError: every layer is slower in integers.
        """
        session = self.session
        quantise, original = session.settings.quantise, session.teacher_result.accuracy
        assert original is not None
        excluded = excluded_layers(self.layers, quantise.exclude)
        if not quantise.keep_slow:
            memory = session.run.path / "layer_times.json"
            network, _ = load_package(session.store.trial_folder(session.teacher.digest))
            self.times = remembered_layer_times(network, self.layers, excluded, self.engine, memory)
        spared = [FloatLayer(layer, "excluded by quantise.exclude") for layer in excluded]
        spared += [FloatLayer(time.layer, time.why_float) for time in self.times.slow if time.layer not in excluded]
        if len(spared) == len(self.layers):
            raise RunError(
                "every layer that is not excluded was measured to be slower in INT8 on this machine, so nothing is "
                "left to be quantised; --set quantise.keep_slow=true quantises them all the same"
            )
        self.quantising = QuantiseSearch(
            session.network.backbone,
            quantise,
            session.settings.seed,
            original=original,
            layers=self.layers,
            spared=spared,
            noise_of=self.noise_of,
        )
        self.search = self.quantising
        return self.search

    def noise_of(self, trial: str) -> Mapping[str, float]:
        """Signal to noise of the network of a trial when one layer alone is quantised, in dB, by layer."""
        rows = read_layers(self.session.store.trial_folder(trial))
        return {row["name"]: row["noise_db"] for row in rows if row["noise_db"] is not None}

    def trial(self, proposal: Attempt) -> Trial:
        """See `Driver`."""
        if proposal.name not in self.trials:
            float_layers = tuple(spared.layer for spared in proposal.float_layers)
            self.trials[proposal.name] = self.session.planner.quantised_trial(
                self.session.network,
                self.session.teacher.digest,
                method=proposal.method,
                rule=Quantisation(engine=self.engine, float_layers=float_layers),
                seed=proposal.seed,
                name=proposal.name,
            )
        return self.trials[proposal.name]

    def stage_name(self, proposed: Sequence[Attempt]) -> str:
        """`quantise`, or `float 2` where a second layer goes back to floating point."""
        return f"float {proposed[0].fallbacks}" if proposed[0].fallbacks else "quantise"

    def verdict(self, proposed: Sequence[Attempt]) -> str:
        """See `Driver`."""
        assert self.quantising is not None
        told = []
        for attempt in proposed:
            result = self._result(attempt)
            came = f"{result.accuracy:.3f}" if result and result.accuracy is not None else "not usable"
            told.append(f"{attempt.name.partition('-')[2]} {came}")
        reason = self.quantising.stop_reason
        return f"{METRICS[self.session.metric]}: {', '.join(told)}" + (f". {reason}" if reason else "")

    def conclude(self) -> None:
        """Measure latencies, now that no trial runs beside them."""
        usable = [self.trial(attempt).digest for attempt in self._attempts() if self._drop(attempt) is not None]
        folders = {digest: self.session.store.trial_folder(digest) for digest in (self.session.teacher.digest, *usable)}
        self.latencies = remembered_trial_latencies(folders, self.session.run.path / "latency.json")

    def measured(self, network: NetworkSpec) -> dict[str, Any]:
        """See `Driver`; of the network in floating point."""
        teacher = self.session.teacher
        return {
            "latency_ms": self.latencies.get(teacher.digest),
            "size_mb": self.session.store.weights_mb(teacher.digest),
        }

    def found(self) -> dict[str, Any]:
        """See `Driver`. What is exported is known once it is judged: nothing slower is handed on unmarked."""
        candidates = [self._candidate(attempt) for attempt in self._attempts()]
        judged = [candidate for candidate in candidates if candidate["accepted"] is not None]
        for method in METHODS:
            if rivals := [candidate for candidate in judged if candidate["method"] == method]:
                self._export(max(rivals, key=self._merit))
        if accepted := [candidate for candidate in judged if candidate["accepted"]]:
            max(accepted, key=self._merit)["best"] = True
        return {
            "candidates": candidates,
            "layer_times": [asdict(time) for time in self.times.layers],
            "slow_layers": self._slow_layers(),
            "engine": self.engine,
            "latency": conditions() if self.latencies else None,
            "max_drop_points": self.session.settings.quantise.max_drop_points,
        }

    def _slow_layers(self) -> dict[str, Any] | None:
        """Layers that look slow in INT8, and how fast the network is with and without them there; none without any."""
        looks_slow = [time.layer for time in self.times.layers if time.is_slow]
        if self.times.int8_ms is None:
            return None
        return {
            "layers": looks_slow,
            "int8_ms": self.times.int8_ms,
            "mixed_ms": self.times.mixed_ms,
            "faster": self.times.faster,
            "kept_in_float": bool(self.times.slow),
        }

    def _attempts(self) -> list[Attempt]:
        return self.quantising.attempts if self.quantising else []

    def _candidate(self, attempt: Attempt) -> dict[str, Any]:
        """What the state says of one network; what only exported ones have is filled in by `found`."""
        trial = self.trial(attempt)
        verdict = self._judged(attempt)
        return {
            "method": attempt.method,
            "seed": attempt.seed,
            "fallbacks": attempt.fallbacks,
            "float_layers": [{"layer": spared.layer, "reason": spared.reason} for spared in attempt.float_layers],
            "drop_points": self._drop(attempt),
            "latency_ms": self._latency_ms(attempt),
            "size_mb": self.session.store.weights_mb(trial.digest),
            "accepted": verdict.accepted if verdict else None,
            "rejected": list(verdict.reasons) if verdict else [],
            "best": False,
            "path": None,
            "original": TEACHER_PATH,
            "layers": [],
            "train_epochs": trial.train.epochs if trial.train else 0,
            **states.trial_state(trial, self.session.cost(trial.network), self._result(attempt)),
        }

    def _export(self, candidate: dict[str, Any]) -> None:
        """Mark a candidate as one that is handed on, and say of its layers why some are in floating point."""
        candidate["path"] = f"models/{candidate['method']}"
        reasons = {spared["layer"]: spared["reason"] for spared in candidate["float_layers"]}
        rows = read_layers(self.session.store.trial_folder(candidate["trial"]))
        candidate["layers"] = with_reasons(rows, reasons)

    def _merit(self, candidate: dict[str, Any]) -> tuple[bool, float, float]:
        """What is better compares higher: accepted, then accurate, then fast."""
        return candidate["accepted"], -candidate["drop_points"], -candidate["latency_ms"]

    def _judged(self, attempt: Attempt) -> Verdict | None:
        """The gate's verdict; none as long as there is no latency or no accuracy."""
        latency, drop = self._latency_ms(attempt), self._drop(attempt)
        if latency is None or drop is None:
            return None
        speedup = self.latencies[self.session.teacher.digest] / latency
        most = self.session.settings.quantise.max_drop_points
        return judge(speedup=speedup, drop_points=drop, max_drop_points=most)

    def _latency_ms(self, attempt: Attempt) -> float | None:
        """Measured latency; none before it is measured, and where training left no network."""
        return self.latencies.get(self.trial(attempt).digest)

    def _result(self, attempt: Attempt) -> TrialResult | None:
        return self.session.results.get(self.trial(attempt).digest)

    def _drop(self, attempt: Attempt) -> float | None:
        """Points lost against the network in floating point."""
        result = self._result(attempt)
        return points_lost(self.session.teacher_result.accuracy, result.accuracy if result else None)


def require_no_features(features: str) -> None:
    """Refuse distillation of feature maps, which a quantised network does not show.

    Raises:
        UserError: it is on.
    """
    if features != "none":
        raise UserError(
            f"distillation.features is {features}, but the maps inside a network that is quantised are integers; "
            "set distillation.features=none"
        )


def engine_of(asked: str) -> str:
    """The integer kernels that a setting means.

    Raises:
        UserError: this build of PyTorch, or this processor, does not have them.
    """
    try:
        engine = default_engine() if asked == "auto" else asked
        use_engine(engine)
    except QuantisationError as error:
        raise UserError(f"quantise.engine is {asked}: {error}") from error
    return engine


def excluded_layers(layers: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """The layers that stay in floating point on request, in the network's order.

    Args:
        layers: all that can be quantised.
        patterns: names, or patterns with `*`.

    Raises:
        UserError: a pattern matches nothing, or nothing is left.
    """
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            near = difflib.get_close_matches(pattern, layers)
            hint = f"did you mean {', '.join(near)}?" if near else f"layers are named like {', '.join(layers[:3])}"
            raise UserError(
                f"quantise.exclude names {pattern!r}, but no layer that can be quantised matches it; {hint}"
            )
    excluded = tuple(layer for layer in layers if any(fnmatchcase(layer, pattern) for pattern in patterns))
    if len(excluded) == len(layers):
        raise UserError(f"quantise.exclude is {list(patterns)}, which leaves no layer to be quantised; exclude fewer")
    return excluded
