"""The gate: whether a file may be handed on, given what was measured of it and of its floating-point original."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

ROUNDING = 1e-9
"""Points by which a difference of two fractions may be off: 93 % − 92 % is 1.0000000000000009 points."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a file."""

    accepted: bool
    """Whether nothing that was measured speaks against it."""
    reasons: tuple[str, ...]
    """What speaks against it, each a sentence without a subject; empty where it is accepted."""
    unjudged: tuple[str, ...] = ()
    """What was not measured and so not judged: `latency`, `accuracy`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"accepted": self.accepted, "reasons": list(self.reasons), "unjudged": list(self.unjudged)}

    def describe(self) -> str:
        """The verdict in one line."""
        said = "accepted" if self.accepted else f"rejected: {'; '.join(self.reasons)}"
        return said + (f" ({' and '.join(self.unjudged)} not measured)" if self.unjudged else "")


def judge(*, speedup: float | None, drop_points: float | None, max_drop_points: float) -> Verdict:
    """Reject what is slower than its floating-point original, or loses too much of its accuracy.

    Args:
        speedup: how many times as fast the file is as the original, no unit; none: not measured.
        drop_points: accuracy of the original minus that of the file, in points; none: not measured.
        max_drop_points: largest loss allowed, >= 0.

    Raises:
        ValueError: the limit is negative or no number.
    """
    if not max_drop_points >= 0:  # also refuses NaN
        raise ValueError(f"max_drop_points is {max_drop_points}, but must be >= 0")
    reasons = []
    if speedup is not None and not speedup >= 1:
        reasons.append(f"{_slower(speedup)} than its FP32 original")
    if drop_points is not None and not within(drop_points, max_drop_points):
        reasons.append(
            f"loses {_apart(drop_points, max_drop_points)} points of accuracy, more than the {max_drop_points:g} "
            "allowed (--max-drop-points)"
        )
    unjudged = [name for name, value in (("latency", speedup), ("accuracy", drop_points)) if value is None]
    return Verdict(not reasons, tuple(reasons), tuple(unjudged))


def within(drop_points: float, max_drop_points: float) -> bool:
    """Whether a loss of accuracy is allowed, both in points; no number never is."""
    return drop_points <= max_drop_points + ROUNDING


def _slower(speedup: float) -> str:
    """How much more time it takes; never `0 % slower`."""
    if not speedup > 0:
        return f"slower (ratio {speedup:g})"
    percent = 100 * (1 / speedup - 1)
    return f"{percent:.0f} % slower" if percent >= 10 else f"{percent:.2g} % slower"


def _apart(value: float, limit: float) -> str:
    """A number with as many decimals as it takes to tell it from a limit, at least one."""
    if not math.isfinite(value):
        return f"{value:g}"
    texts = (f"{value:.{digits}f}" for digits in range(1, 10))
    return next((text for text in texts if float(text) > limit), repr(value))
