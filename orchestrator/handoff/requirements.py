"""Whether what is installed here is as new as a package asks for (`requires`)."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from configs.errors import UserError

PYTHON = "python"


def require_versions(name: str, requires: Mapping[str, str]) -> None:
    """Refuse a package that needs something newer than there is.

    Args:
        name: of the package, for the error.
        requires: lowest versions, by distribution, and of `python`.

    Raises:
        UserError: naming what is too old, and the command that mends it.
    """
    if old := list(_too_old(name, requires)):
        needed, found = (", ".join(f"{what} {row[side]}" for what, *row in old) for side in (0, 1))
        wanted = " ".join(f"'{what}>={lowest}'" for what, lowest, _ in old if what != PYTHON)
        advice = f"python -m pip install {wanted}" if wanted else "use a newer Python"
        raise UserError(f"{name} needs {needed} or newer, but here is {found}; {advice}")


def _too_old(name: str, requires: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """What is too old: its name, the lowest version, and the one that is here."""
    from packaging.version import InvalidVersion, Version

    for what, lowest in requires.items():
        try:
            wanted = Version(lowest)
        except InvalidVersion:
            raise UserError(f"{name}: requires.{what} is {lowest!r}, but must be a version like 2.11") from None
        try:
            found = platform.python_version() if what == PYTHON else version(what)
            if Version(found) < wanted:
                yield what, lowest, found
        except (PackageNotFoundError, InvalidVersion):  # frozen into a program, or built by hand: nothing is known
            continue
