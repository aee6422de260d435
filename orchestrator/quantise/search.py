"""Quantising to INT8 as a pure state machine: which ways are tried, and which layers go back to floating point.

No clock, no files, no Ray, no tensors: what quantising one layer alone does to the network is asked of a function.

First all ways × seeds are proposed at once; measuring ranges has nothing random in it, so that one seed does for PTQ.
While the best network of the first seed loses more than it may, the better way is tried again with one more layer in
floating point: the one that does the most harm. Only once that is settled do the other seeds follow, so that a search
with more seeds takes the same decisions.

Units: accuracies are fractions, drops are percentage points, noise is the signal-to-noise ratio in dB of the network's
output when one layer alone is quantised (the lower, the more harm).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from configs.errors import RunError
from configs.schema import QuantiseSettings
from trainers.trial import TrialResult

Method = Literal["ptq", "qat"]
NoiseOf = Callable[[str], Mapping[str, float]]
"""Noise of the quantised layers of a trial, by its digest; layers in floating point have none."""

METHODS: dict[Method, str] = {"ptq": "PTQ", "qat": "QAT"}
"""Ways to quantise, and what people call them."""


@dataclass(frozen=True)
class FloatLayer:
    """A layer that stays in floating point."""

    layer: str
    """Name of a convolution or linear layer."""
    reason: str
    """Why, for people."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One network that is quantised."""

    method: Method
    seed: int
    float_layers: tuple[FloatLayer, ...]
    """Layers that stay in floating point: those that were so from the start, then those that went back."""
    fallbacks: int
    """Layers that went back for the sake of accuracy."""
    name: str
    """What an operator reads, e.g. `reid-qat-float1`."""


class QuantiseSearch:
    """Proposes attempts and takes their results."""

    def __init__(
        self,
        backbone: str,
        quantise: QuantiseSettings,
        seed: int,
        *,
        original: float,
        layers: Sequence[str],
        spared: Sequence[FloatLayer],
        noise_of: NoiseOf,
    ) -> None:
        """Start from a trained network.

        Args:
            backbone: for the names.
            quantise: ways, seeds and limits.
            seed: the run's, where `quantise` names none; other seeds show in the names.
            original: accuracy of the network in floating point.
            layers: all layers that could be quantised.
            spared: those that stay in floating point from the start.
            noise_of: asked of the last finished attempt, for the layer that goes back next.
        """
        self.backbone = backbone
        self.quantise = quantise
        self.seed = seed
        self.original = original
        self.layers = tuple(layers)
        self.spared = tuple(spared)
        self.noise_of = noise_of
        self.attempts: list[Attempt] = []
        self.results: dict[str, TrialResult] = {}
        """By the name of the attempt."""
        self.stop_reason: str | None = None
        self._pending = [
            self._attempt(method, number, self.spared, 0)
            for method in quantise.methods
            for number in self._seeds(method)
        ]
        self._settled: str | None = None

    def propose(self) -> list[Attempt]:
        """What is to be tried now; nothing when the search is over."""
        self.attempts += [attempt for attempt in self._pending if attempt not in self.attempts]
        return list(self._pending)

    def tell(self, results: Sequence[TrialResult]) -> None:
        """Take the results of the last proposal, in its order.

        Raises:
            RunError: nothing came out usable; lists what happened to each.
        """
        if len(results) != len(self._pending):
            raise ValueError(f"{len(results)} results for {len(self._pending)} attempts")
        self.results |= {attempt.name: result for attempt, result in zip(self._pending, results, strict=True)}
        if all(result.accuracy is None for result in self.results.values()):
            reasons = "\n".join(f"  {r.name:<28} {r.status:<9} {r.reason or ''}" for r in results)
            raise RunError(f"no quantised network came out usable:\n{reasons}")
        self._pending = self._next()
        if not self._pending:
            self.stop_reason = f"{self._settled}{self._lost()}"

    def drop(self, attempt: Attempt) -> float | None:
        """Points that an attempt loses against the original; negative where it gained, none without an accuracy."""
        result = self.results.get(attempt.name)
        return points_lost(self.original, result.accuracy if result else None)

    def _next(self) -> list[Attempt]:
        """One more layer in floating point with the first seed, else the other seeds of what was settled on."""
        best = self._best()
        if self._settled is None:
            if best is None:
                self._settled = "nothing came out usable with the first seed, by which layers would go back"
                return []
            if further := self._further(best):
                return [further]
            self._settled = self._outcome(best)
        if best is None:
            return []
        seeds = self._seeds(best.method)
        settled = [self._attempt(best.method, seed, best.float_layers, best.fallbacks) for seed in seeds]
        return [attempt for attempt in settled if attempt.name not in self.results]

    def _best(self) -> Attempt | None:
        """The most accurate attempt with the first seed; of equals the earliest."""
        drops = [(drop, attempt) for attempt in self._first_seed() if (drop := self.drop(attempt)) is not None]
        return min(drops, key=lambda item: item[0])[1] if drops else None

    def _first_seed(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.seed == self._seeds(attempt.method)[0]]

    def _seeds(self, method: Method) -> tuple[int, ...]:
        return (self.seed,) if method == "ptq" else self.quantise.seeds or (self.seed,)

    def _last(self, best: Attempt) -> Attempt:
        """The attempt with the most layers in floating point, by which the next one is made."""
        return max(self._first_seed(), key=lambda attempt: (attempt.fallbacks, attempt == best))

    def _further(self, best: Attempt) -> Attempt | None:
        """The better way with one more layer in floating point; none if that is not needed, or no longer possible."""
        last = self._last(best)
        if self._is_kept(best) or last.fallbacks >= self.quantise.max_fallbacks or not self._left(last):
            return None
        layer, noise = min(self._left(last).items(), key=lambda item: item[1])
        reason = f"hurts accuracy: signal to noise {noise:.1f} dB when it alone is quantised, the lowest"
        float_layers = (*last.float_layers, FloatLayer(layer, reason))
        return self._attempt(last.method, last.seed, float_layers, last.fallbacks + 1)

    def _left(self, last: Attempt) -> dict[str, float]:
        """Noise of the layers that could still go back; none if only one is left, without which nothing is INT8.

        It is that of the last attempt that has a network: a training that diverged measured nothing.
        """
        measured = [
            attempt
            for attempt in self._first_seed()
            if attempt.method == last.method and self.drop(attempt) is not None
        ]
        noise = self.noise_of(self.results[measured[-1].name].trial)
        taken = {spared.layer for spared in last.float_layers}
        left = {layer: noise[layer] for layer in self.layers if layer not in taken and layer in noise}
        return left if len(left) > 1 else {}

    def _is_kept(self, attempt: Attempt) -> bool:
        drop = self.drop(attempt)
        return drop is not None and drop <= self.quantise.max_drop_points

    def _outcome(self, best: Attempt) -> str:
        """What came of the first seed, in words."""
        last = self._last(best)
        where = f"{METHODS[best.method]} is {_distance(self.drop(best))} the original"
        if self._is_kept(best):
            back = [spared.layer for spared in best.float_layers[len(self.spared) :]]
            return (
                f"{where} with {_layers(len(back))} back in float: {', '.join(back)}"
                if back
                else (f"{where}; nothing had to go back to float")
            )
        limit = f"more than the {self.quantise.max_drop_points:g} allowed"
        if last.fallbacks < self.quantise.max_fallbacks:
            return f"{where}, {limit}; no further layer could go back to float"
        if last.fallbacks == 0:
            return f"{where}, {limit}; quantise.max_fallbacks is 0"
        return f"gave up after {_layers(last.fallbacks)}: {where}, {limit}"

    def _lost(self) -> str:
        """A remark about attempts without an accuracy."""
        failed = sum(result.accuracy is None for result in self.results.values())
        return f"; {failed} of {len(self.results)} networks did not come out usable" if failed else ""

    def _attempt(self, method: Method, seed: int, float_layers: tuple[FloatLayer, ...], fallbacks: int) -> Attempt:
        name = f"{self.backbone}-{method}"
        name += f"-float{fallbacks}" if fallbacks else ""
        name += "" if seed == self.seed else f"-seed{seed}"
        return Attempt(method=method, seed=seed, float_layers=float_layers, fallbacks=fallbacks, name=name)


def points_lost(original: float | None, accuracy: float | None) -> float | None:
    """Percentage points between two fractions; none where one is not known.

    Rounded, because 90 % − 89 % is a little more than a point in floating point.
    """
    return None if original is None or accuracy is None else round(100 * (original - accuracy), 6)


def _distance(drop: float | None) -> str:
    """Where an accuracy is beside the original's: `0.3 points below`, `equal to`."""
    if not drop:
        return "equal to"
    size = f"{abs(drop):.1f}" if abs(drop) >= 0.05 else f"{abs(drop):.1g}"
    return f"{size} points {'below' if drop > 0 else 'above'}"


def _layers(number: int) -> str:
    return f"{number} layer{'' if number == 1 else 's'}"
