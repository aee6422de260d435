"""Where a trial runs: folders, device, threads. Nothing here changes its result, so nothing here is in its digest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a trial runs, and how often it saves."""

    store: Path
    """Root of the store; see `trial_folder` and `manifest_file`."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    threads: int = 1
    """CPU threads of the trial."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints."""
    loader_workers: int = 0
    """Decoding processes; 0 decodes in a thread."""
    cache_mb: int = 512
    """Memory for decoded frames, in MiB."""
    max_quarantined: float = 0.02
    """Largest share of videos that may turn out unreadable before the trial fails."""
    halve_on_oom: bool = True
    """Whether a trial that does not fit into memory goes on with half the micro-batch."""
    storage_patience_seconds: float = 0.0
    """How long a write is tried again while the store is full or refuses."""

    def trial_folder(self, digest: str) -> Path:
        """Folder of a trial: checkpoints, metrics, weights and result."""
        return trial_folder(self.store, digest)

    def manifest_file(self, fingerprint: str) -> Path:
        """File of a data manifest."""
        return manifest_file(self.store, fingerprint)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        return {**asdict(self), "store": str(self.store)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Site:
        """Read what `to_dict` wrote."""
        return cls(**{**data, "store": Path(data["store"])})


def trial_folder(store: Path, digest: str) -> Path:
    """Folder of a trial in the store."""
    return store / "trials" / digest


def manifest_file(store: Path, fingerprint: str) -> Path:
    """File of a data manifest in the store."""
    return store / "data" / f"{fingerprint}.json"
