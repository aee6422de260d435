"""What is said of the layers of a quantised network: plain data, whichever library did the quantising."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

INT8, FLOAT = "int8", "float"


class QuantisationError(ValueError):
    """A network, or a layer of it, that can't be quantised; says which and why."""


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One operation with weights, or one that joins maps, of a quantised network."""

    name: str
    """The module's path in the floating-point network; of an addition or concatenation, its node in the graph."""
    kind: str
    """`conv2d`, `conv3d`, `linear`, `add`, `cat`, `pool`."""
    precision: Literal["int8", "float"]
    """In what it computes."""
    fused: tuple[str, ...] = ()
    """Batch norm and activation that run within it, by module path."""
    reason: str | None = None
    """Why it was left in float."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "fused": list(self.fused)}
