"""Which `.pt2` files may be read: those that can do nothing but arithmetic.

PyTorch calls `torch.export.load` unsafe on files from others, and it is. As of 2.15 it unpickles example inputs,
tensors of subclasses and custom objects, loads compiled libraries, and hands symbolic sizes to a parser that
evaluates Python. None of it is needed: weights are raw bytes, and what we write has no example inputs. So a file is
looked through before PyTorch sees it, and refused if anything in it is more than tensors and a graph of ATen operators.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

MEMBERS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/(version|serialization_id)|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+))"
)
"""Every file that an archive may hold."""
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
OPERATORS = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.\w+")
"""What a graph may call."""
SIZES = re.compile(r"(Symbol\('s\d+', positive=True, integer=True\)|Mul|Add|Pow|Integer|[(),\s\d-])+")
"""How a size that depends on the batch may be written; a parser evaluates it."""


def require_harmless(content: bytes) -> None:
    """Refuse an archive with anything but tensors and a graph of ATen operators.

    Raises:
        ValueError: says what else it has, or that it is no such archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _require_known_members(archive.namelist())
            members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist() if _is_small(name)}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ValueError(f"it is no .pt2 archive: {error}") from error
    if members.get("data/sample_inputs/model.pt"):
        raise ValueError("it has example inputs, which are pickled")
    for name in CONFIGS:
        for entry in json.loads(members.get(name, b'{"config": {}}'))["config"].values():
            if entry["use_pickle"] is not False:
                raise ValueError("it has pickled tensors")
    _require_arithmetic(json.loads(members.get("models/model.json", b"{}")))


def _require_known_members(names: list[str]) -> None:
    if unknown := [name for name in names if not MEMBERS.fullmatch(name)]:
        raise ValueError(f"it has {unknown[0]}, which is neither weights nor a graph")
    if len(set(names)) != len(names) or len({name.partition("/")[0] for name in names}) != 1:
        raise ValueError("its members are not in one folder, each once")


def _require_arithmetic(model: Any) -> None:
    if model.get("guards_code"):
        raise ValueError("it has guards, which are Python code")
    for key, value in _items(model):
        if key == "target" and isinstance(value, str) and not OPERATORS.fullmatch(value):
            raise ValueError(f"its graph calls {value}")
        if key == "expr_str" and not SIZES.fullmatch(str(value)):
            raise ValueError(f"a size in its graph is {value!r}")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of nested dictionaries and lists."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield from current.items()
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _is_small(name: str) -> bool:
    """Whether it says how to read the archive, rather than being a tensor of it."""
    return not re.search(r"/(weight|tensor)_\d+$", name)
