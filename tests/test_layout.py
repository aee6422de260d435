"""House rules that no type checker knows: which way imports go, who may import Ray, and no data that runs as code."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "configs": set(),
    "compression": set(),
    "trainers": {"configs", "compression"},
    "orchestrator": {"configs", "compression", "trainers"},
}  # fmt: skip
"""Shipped folders, and which of the others each may import."""

Check = Callable[[Path, ast.AST], Iterator[str]]


def violations(root: Path, check: Check) -> list[str]:
    """`folder/file.py:line what` for everything that a check finds in the shipped code below a root."""
    found = []
    for folder in MAY_IMPORT:
        for path in sorted((root / folder).rglob("*.py")):
            relative = path.relative_to(root)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.stmt | ast.expr):
                    found += [f"{relative.as_posix()}:{node.lineno} {what}" for what in check(relative, node)]
    return found


def imported(node: ast.AST) -> set[str]:
    """Top-level names that a statement imports from elsewhere."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        return {node.module.split(".")[0]}
    return set()


def imports_against_the_arrows(path: Path, node: ast.AST) -> Iterator[str]:
    folder = path.parts[0]
    yield from (
        f"imports {name}" for name in sorted(imported(node) & (MAY_IMPORT.keys() - MAY_IMPORT[folder] - {folder}))
    )


def relative_imports(path: Path, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.level:
        yield "imports by a relative path, which hides where it comes from"


def ray_outside_its_files(path: Path, node: ast.AST) -> Iterator[str]:
    if "ray" in imported(node) and not (path.parts[0] == "orchestrator" and "ray" in path.stem):
        yield "imports ray"


def torch_in_configs(path: Path, node: ast.AST) -> Iterator[str]:
    if path.parts[0] == "configs" and "torch" in imported(node):
        yield "imports torch"


CHECKS: list[Check] = [
    imports_against_the_arrows,
    relative_imports,
    ray_outside_its_files,
    torch_in_configs,
]


@pytest.mark.parametrize("check", CHECKS)
def test_shipped_code_keeps_the_rule(check: Check) -> None:
    assert violations(ROOT, check) == []


def test_the_walk_sees_every_folder() -> None:
    for folder in MAY_IMPORT:
        assert list((ROOT / folder).rglob("*.py")), f"{folder}/ holds no Python file"


PLANTED = [
    ("compression/x.py", "import trainers.loop", "compression/x.py:1 imports trainers"),
    ("compression/x.py", "def f():\n    from configs.schema import RunSettings", "compression/x.py:2 imports configs"),
    ("configs/x.py", "if True:\n\n    import orchestrator", "configs/x.py:3 imports orchestrator"),
    ("trainers/data/x.py", "from orchestrator import selection", "trainers/data/x.py:1 imports orchestrator"),
    ("trainers/x.py", "import os, ray.train", "trainers/x.py:1 imports ray"),
    ("orchestrator/store.py", "from ray import tune", "orchestrator/store.py:1 imports ray"),
    ("configs/x.py", "import torch.nn as nn", "configs/x.py:1 imports torch"),
    ("trainers/x.py", "from .y import z",
     "trainers/x.py:1 imports by a relative path, which hides where it comes from"),
]  # fmt: skip

ALLOWED = [
    ("orchestrator/ray_runner.py", "import ray\nfrom ray import tune\nimport trainers, compression, configs"),
    ("trainers/x.py", "import torch\nfrom configs.schema import RunSettings\nimport trainers.loop"),
    ("compression/x.py", "import torch\nfrom compression.spec import NetworkSpec\nimport rayon"),
]


def plant(root: Path, file: str, code: str) -> list[str]:
    path = root / file
    path.parent.mkdir(parents=True)
    path.write_text(code, encoding="utf-8")
    return [violation for check in CHECKS for violation in violations(root, check)]


@pytest.mark.parametrize(("file", "code", "message"), PLANTED)
def test_a_planted_violation_is_found(file: str, code: str, message: str, tmp_path: Path) -> None:
    assert plant(tmp_path, file, code) == [message]


@pytest.mark.parametrize(("file", "code"), ALLOWED)
def test_what_is_allowed_is_not_reported(file: str, code: str, tmp_path: Path) -> None:
    assert plant(tmp_path, file, code) == []


def test_compression_has_no_init_file() -> None:
    """Python 3.14 has a standard package of that name (PEP 784): a namespace package never hides it."""
    assert not (ROOT / "compression" / "__init__.py").exists()


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_each_folder_is_imported_from_this_checkout(name: str) -> None:
    """Asked of every module, because `compression` may be spread over several places (`tests/compression` is one)."""
    for path in (ROOT / name).glob("[!_]*.py"):
        spec = importlib.util.find_spec(f"{name}.{path.stem}")
        assert spec is not None
        assert spec.origin == str(path)
