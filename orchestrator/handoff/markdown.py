"""Text of others within Markdown: shown as it is, whatever characters it has, and on one line.

Tables are padded, so that they can be read as plain text, too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

SPECIAL = re.compile(r"([\\`*_\[\]<>#~&])")
"""What can mean something within a line; a `|` only does in a table, see `table`."""


def plain(text: str) -> str:
    """Text on one line: white space becomes single spaces, what can't be printed becomes `�`."""
    line = " ".join(text.split())
    return "".join("\ufffd" if unicodedata.category(character) in ("Cc", "Cs") else character for character in line)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is; an underscore within a word means nothing and stays."""
    line = SPECIAL.sub(r"\\\1", plain(text))
    return re.sub(r"(?<=[A-Za-z0-9])\\_(?=[A-Za-z0-9])", "_", line)


def code(text: str) -> str:
    """Text as a code span; not for cells of a table, where nothing can protect `\\|` in it."""
    line = plain(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A table in the dialect of GitHub and the Hub.

    Args:
        head: heading of each column.
        rows: cells, which are Markdown but know nothing of tables.
        right: numbers of the columns that are aligned to the right.
    """
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in lines)) for column in range(len(head))]
    rule = [f"{'-' * (width - 1)}{':' if column in right else '-'}" for column, width in enumerate(widths)]
    padded = [
        [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in lines
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:]))
