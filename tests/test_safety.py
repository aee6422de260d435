"""No data that runs as code, no shell: the syntax trees of everything we ship, and exceptions by name and reason.

A name counts wherever it is mentioned, called or not, and under whatever name it was imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("orchestrator", "trainers", "compression", "configs", "benchmarks", "cluster")

FORBIDDEN = {
    "builtins.eval", "builtins.exec",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads",
    "ray.cloudpickle.load", "ray.cloudpickle.loads",
    "dill.load", "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "pandas.read_pickle",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
    "torch.export.load", "torch.jit.load", "torch.package.PackageImporter",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "tempfile.mktemp",
}  # fmt: skip
"""What runs what it reads, starts a shell, or names a file that somebody else may make first."""

GUARDED = {"torch.load": "weights_only"}
"""Allowed only when called with this argument."""

SWITCHES = {"weights_only": "True", "shell": "False", "allow_pickle": "False"}
"""Arguments that may be given this value only, whatever is called."""

EXCEPTIONS = {
    ("trainers/artefacts/torch_export.py", "torch.export.load"): (
        "reads .pt2 archives; trainers/artefacts/pt2_archive.py refuses those with pickled parts before"
    ),
}
"""File and finding, and why it is safe there."""


def findings(root: Path) -> list[tuple[str, int, str]]:
    """File, line and name of everything unsafe below the shipped folders of a root."""
    found = []
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [(path.relative_to(root).as_posix(), line, what) for line, what in sorted(set(unsafe(tree)))]
    return found


def unsafe(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything unsafe in a file."""
    origins = imported_names(tree)
    guarded = {id(call.func) for call in ast.walk(tree) if isinstance(call, ast.Call) and is_guarded(call, origins)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = full_name(node, origins)
            if name in FORBIDDEN or (name in GUARDED and id(node) not in guarded):
                yield node.lineno, name.removeprefix("builtins.")
        elif isinstance(node, ast.keyword) and node.arg in SWITCHES and ast.unparse(node.value) != SWITCHES[node.arg]:
            yield node.value.lineno, f"{node.arg}={ast.unparse(node.value)}"


def imported_names(tree: ast.Module) -> dict[str, str]:
    """What each name that a file imports stands for (`np` for `numpy`, `read` for `pickle.loads`)."""
    origins = {"eval": "builtins.eval", "exec": "builtins.exec"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                origins |= {alias.asname: alias.name} if alias.asname else {top(alias.name): top(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module:
            origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return origins


def full_name(node: ast.expr, origins: dict[str, str]) -> str:
    """Dotted name of an expression as its module calls it; empty for what is no name, or a variable's."""
    if isinstance(node, ast.Name):
        return origins.get(node.id, "")
    if isinstance(node, ast.Attribute) and (owner := full_name(node.value, origins)):
        return f"{owner}.{node.attr}"
    return ""


def is_guarded(call: ast.Call, origins: dict[str, str]) -> bool:
    """Whether a call has the argument that makes it safe; `SWITCHES` says which value it may have."""
    argument = GUARDED.get(full_name(call.func, origins))
    return argument is not None and argument in [keyword.arg for keyword in call.keywords]


def plant(path: Path, code: str) -> None:
    """Write a file to be found."""
    path.parent.mkdir(parents=True)
    path.write_text(code, encoding="utf-8")


def top(module: str) -> str:
    """The name that `import a.b.c` makes known: `a`."""
    return module.split(".")[0]


def test_nothing_that_is_shipped_runs_what_it_reads() -> None:
    assert [f"{file}:{line} {what}" for file, line, what in findings(ROOT) if (file, what) not in EXCEPTIONS] == []


def test_every_exception_is_still_needed() -> None:
    assert {(file, what) for file, _, what in findings(ROOT)} >= EXCEPTIONS.keys()


BAD = [
    ("eval(text)", "eval"),
    ("exec(text)", "exec"),
    ("import pickle\npickle.load(file)", "pickle.load"),
    ("import pickle\nrows = map(pickle.loads, parts)", "pickle.loads"),
    ("from pickle import loads as read\nread(data)", "pickle.loads"),
    ("import pickle as p\np.Unpickler(file)", "pickle.Unpickler"),
    ("import cloudpickle\ncloudpickle.loads(data)", "cloudpickle.loads"),
    ("from ray import cloudpickle\ncloudpickle.loads(data)", "ray.cloudpickle.loads"),
    ("import joblib\njoblib.load(path)", "joblib.load"),
    ("import yaml\nyaml.load(text, Loader=yaml.SafeLoader)", "yaml.load"),
    ("import yaml\nyaml.unsafe_load(text)", "yaml.unsafe_load"),
    ("from yaml import full_load\nfull_load(text)", "yaml.full_load"),
    ("import torch\ntorch.load(path)", "torch.load"),
    ("import torch\ntorch.load(path, weights_only=flag)", "weights_only=flag"),
    ("import torch\nread = torch.load", "torch.load"),
    ("from torch import load\nload(path)", "torch.load"),
    ("import torch.export\ntorch.export.load(path)", "torch.export.load"),
    ("from torch import jit\njit.load(path)", "torch.jit.load"),
    ("import os\nos.system('ls')", "os.system"),
    ("import subprocess as s\ns.getoutput('ls')", "subprocess.getoutput"),
    ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
    ("import subprocess\nsubprocess.run('ls', shell=True)", "shell=True"),
    ("import subprocess\nsubprocess.run('ls',\n  shell=wanted)", "shell=wanted"),
    ("import numpy as np\nnp.load(path, allow_pickle=True)", "allow_pickle=True"),
    ("anything(weights_only=False)", "weights_only=False"),
]


@pytest.mark.parametrize(("code", "what"), BAD)
def test_each_bad_sample_is_found_where_it_stands(code: str, what: str, tmp_path: Path) -> None:
    plant(tmp_path / "trainers" / "deep" / "sample.py", f"\n{code}\n")
    assert findings(tmp_path) == [("trainers/deep/sample.py", 1 + len(code.splitlines()), what)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_walked(folder: str, tmp_path: Path) -> None:
    plant(tmp_path / folder / "sample.py", "eval(text)")
    assert findings(tmp_path) == [(f"{folder}/sample.py", 1, "eval")]


GOOD = [
    "import torch\ntorch.load(path, weights_only=True)",
    "import yaml\nyaml.safe_load(text)",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)",
    "network.eval()\nself.load(path)\nload(path)",
    "import json\njson.loads(text)",
    "def load(path):\n    return path\n\nload(3)",
    "import pickle\npickle.dumps(1)",
]


@pytest.mark.parametrize("code", GOOD)
def test_what_is_safe_is_let_be(code: str, tmp_path: Path) -> None:
    plant(tmp_path / "trainers" / "sample.py", code)
    assert findings(tmp_path) == []


def test_every_folder_with_python_files_is_walked() -> None:
    """A new folder at the top must be added above (tests are not shipped; the rest has none)."""
    holding = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("[!.]*/**/*.py") if "build" not in path.parts}
    assert holding - {"tests", "dist", "runs"} <= set(FOLDERS)
