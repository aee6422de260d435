"""The oldest Ray and PyTorch that this program works with, each because of a hole that older ones have.

`pyproject.toml` asks pip for the same; this is for environments that pip did not make, such as a cluster's image.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from configs.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The oldest version of a package that is safe here."""

    oldest: str
    """Refused below it."""
    cve: str
    """What older versions suffer from."""


FLOORS = {
    "ray": Floor(oldest="2.54", cve="CVE-2026-27482"),
    "torch": Floor(oldest="2.11", cve="CVE-2026-24747"),
}
"""By the name of the distribution."""


def require_safe_versions() -> None:
    """Refuse to work with a version that has a known hole.

    Raises:
        UserError: naming the package, the hole and the command that mends it.
    """
    for package, floor in FLOORS.items():
        try:
            installed = version(package)
        except PackageNotFoundError:  # a machine that only trains may lack Ray
            continue
        if Version(installed) < Version(floor.oldest):
            raise UserError(
                f"{package} is {installed}, but must be {floor.oldest} or newer ({floor.cve}); "
                f"run `python -m pip install '{package}>={floor.oldest}'`, on every node of a cluster"
            )
