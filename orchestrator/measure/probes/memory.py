"""The most memory that this process has held, and from when on.

Linux's own high-water mark of this program (`VmHWM`) is read and not `ru_maxrss`: the latter starts at what the parent
process held when it started this one (400 MB of a parent were seen in a child that needs 14), and cannot be reset.

Units: MB, 1e6 bytes. Resident memory: also files that are mapped, the libraries' code among them.
"""

from __future__ import annotations

from pathlib import Path

PROCESS = Path("/proc/self")
RESET_PEAK = "5"
"""What `clear_refs` takes for: the high-water mark starts again from what is held now (proc(5))."""


class PeakMemory:
    """How far this process' memory grows beyond what it holds now.

    Args:
        process: the folder in which Linux tells of this process.

    Raises:
        OSError: the system does not tell.
    """

    def __init__(self, process: Path = PROCESS) -> None:
        self._status = process / "status"
        (process / "clear_refs").write_text(RESET_PEAK, encoding="ascii")
        self._before = self._read("VmRSS")

    def growth_mb(self) -> float:
        """The most that was held at a time since then, beyond what was held then."""
        return max(0.0, self._read("VmHWM") - self._before)

    def _read(self, field: str) -> float:
        for line in self._status.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024 / 1e6
        raise OSError(f"{self._status} has no {field}")
