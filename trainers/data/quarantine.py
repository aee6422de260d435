"""Videos or images that can't be used: remembered with the reason, tolerated up to a share."""

from collections.abc import Iterable

from configs.errors import UserError

SHOWN = 10
"""Files named in the error; a report has them all."""


class Quarantine:
    """Unusable files of a data set.

    Args:
        files: number of files listed, good and bad.
        max_share: largest share of them that may be bad.
        known: those found bad earlier, as (path, reason).
    """

    def __init__(self, files: int, max_share: float, known: Iterable[tuple[str, str]] = ()) -> None:
        self._files = files
        self._max_share = max_share
        self._reasons = dict(known)

    def items(self) -> list[tuple[str, str]]:
        """(path, reason) of every unusable file, by path."""
        return sorted(self._reasons.items())

    def add(self, path: str, reason: str) -> None:
        """Note a file that failed; the first reason stays.

        Raises:
            UserError: now too many have failed.
        """
        self._reasons.setdefault(path, reason)
        self.check()

    def check(self) -> None:
        """See that not too many files are unusable.

        Raises:
            UserError: more than the share; names the first ten.
        """
        bad = len(self._reasons)
        if bad <= self._max_share * self._files:
            return
        lines = [f"  {path}: {reason}" for path, reason in self.items()[:SHOWN]]
        rest = [f"  … and {bad - SHOWN} more"] if bad > SHOWN else []
        raise UserError(
            "\n".join(
                [
                    f"{bad} of {self._files} files can't be used, but data.max_quarantined allows a share of "
                    f"{self._max_share:g}. Repair or unlist them, or raise data.max_quarantined:",
                    *lines,
                    *rest,
                ]
            )
        )
