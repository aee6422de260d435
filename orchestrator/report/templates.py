"""How the templates beside this file are read: all text is escaped, and a name that is missing is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2


def read_template(name: str, filters: Mapping[str, Callable[..., Any]]) -> jinja2.Template:
    """A template of this folder.

    Args:
        name: its file.
        filters: how it writes numbers, by the names that it uses.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
