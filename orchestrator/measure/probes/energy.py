"""Energy counters: RAPL of the processor's packages, NVML of the GPU. Where there is none, nothing is estimated.

Units: joules. A counter tells of the whole package or GPU: of its idling too, and of whatever else runs on it.

Sources:
    [1] Linux, Documentation/power/powercap/powercap.rst: `energy_uj` counts microjoules up to `max_energy_range_uj`
        and starts again from zero. Since 2020 only root may read it (CVE-2020-8694).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
NO_COUNTER = "no counter"


class EnergyCounter(Protocol):
    """Something that counts joules."""

    source: str
    """Its name, as reports give it."""

    def start(self) -> None:
        """Count from now on.

        Raises:
            OSError: it no longer can be read.
        """

    def joules(self) -> float:
        """Joules since `start`.

        Raises:
            OSError: it no longer can be read.
        """


@dataclass(frozen=True)
class NoCounter:
    """Why there is none."""

    reason: str


class RaplCounter:
    """Sum over the processor's packages; right as long as none wraps around twice (minutes apart) between two calls.

    Args:
        zones: folders of the packages.

    Raises:
        OSError: one can't be read.
    """

    def __init__(self, zones: list[Path]) -> None:
        self.source = "RAPL " + ", ".join(_text(zone / "name") for zone in zones)
        self._zones = {zone: int(_text(zone / "max_energy_range_uj")) for zone in zones}
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._started = self._read()

    def joules(self) -> float:
        """Joules since `start`."""
        now = self._read()
        spent = ((now[zone] - self._started[zone], most) for zone, most in self._zones.items())
        return sum(used if used >= 0 else used + most for used, most in spent) / 1e6

    def _read(self) -> dict[Path, int]:
        return {zone: int(_text(zone / "energy_uj")) for zone in self._zones}


class NvmlCounter:
    """One GPU, since Volta.

    Args:
        nvml: the module `pynvml`, initialised.
        handle: its name for the GPU.

    Raises:
        OSError: this GPU does not count.
    """

    source = "NVML"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._started = self._read()

    def joules(self) -> float:
        """Joules since `start`."""
        return (self._read() - self._started) / 1e3

    def _read(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML counts no energy of this GPU: {error}") from error


def find_rapl(powercap: Path = POWERCAP) -> RaplCounter | NoCounter:
    """The processor's energy counter, or why there is none.

    Args:
        powercap: the folder in which Linux has its counters.
    """
    try:
        zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if _text(zone / "name").startswith("package")]
        if not zones:
            return NoCounter(f"there is no RAPL package in {powercap}")
        return RaplCounter(zones)
    except PermissionError as error:
        return NoCounter(f"{error.filename} may not be read by this user")
    except (OSError, ValueError) as error:
        return NoCounter(f"RAPL can't be read: {error}")


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
