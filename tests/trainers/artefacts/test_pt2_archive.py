"""A `.pt2` file is looked through before PyTorch loads it: what could run code is refused."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from trainers.artefacts import torch_export
from trainers.artefacts.pt2_archive import require_harmless

Members = dict[str, bytes]
GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
INPUTS = "data/sample_inputs/model.pt"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path, str], int], tuple[Path, str]]:
        return Path.write_text, (self.path, "sprung")


@pytest.fixture(scope="module")
def content() -> bytes:
    return torch_export.export(nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval(), torch.zeros(2, 3))


def rewritten(content: bytes, change: Callable[[Members], None]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in members.items():
            archive.writestr(f"model/{name}", value)
    return buffer.getvalue()


def in_json(name: str, old: str, new: str) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        text = members[name].decode()
        assert old in text
        members[name] = text.replace(old, new).encode()

    return change


def test_what_is_written_is_harmless_and_has_no_pickle(content: bytes) -> None:
    require_harmless(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            assert not archive.read(name).startswith((b"\x80", b"PK")), name


def test_what_is_written_computes_the_same(content: bytes) -> None:
    torch.manual_seed(0)
    graph = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval()
    inputs = torch.randn(5, 3)
    with torch.inference_mode():
        found = torch_export.load(torch_export.export(graph, inputs[:2]))(inputs)
        torch.testing.assert_close(found, graph(inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({"data/aotinductor/model/a.so": b"x"}), r"a\.so, which is neither weights nor a graph"),
        (lambda m: m.update({"data/constants/custom_obj_0": b"x"}), "custom_obj_0, which is neither"),
        (lambda m: m.update({"data/weights/model.pt": b"x"}), r"weights/model\.pt, which is neither"),
        (lambda m: m.update({"models/other.json": b"{}"}), "other.json, which is neither"),
        (lambda m: m.update({"serialized_state_dict.pt": b"x"}), "serialized_state_dict.pt, which is neither"),
        (in_json(WEIGHTS, '"use_pickle": false', '"use_pickle": true'), "it has pickled tensors"),
        (in_json(GRAPH, "torch.ops.aten.relu.default", "os.system"), "its graph calls os.system"),
        (
            in_json(GRAPH, "torch.ops.aten.relu.default", "torch.ops.mine.relu.default"),
            "its graph calls torch.ops.mine",
        ),
        (in_json(GRAPH, '"expr_str": "Symbol(', '"expr_str": "exec('), "a size in its graph is .exec"),
        (in_json(GRAPH, '"guards_code": []', '"guards_code": ["print(1)"]'), "it has guards, which are Python code"),
    ],
)
def test_more_than_arithmetic_is_refused(content: bytes, change: Callable[[Members], None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch_export.load(rewritten(content, change))


def test_a_pickle_in_it_is_not_opened(content: bytes, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    pickled = pickle.dumps(Trap(trap))
    with pytest.raises(ValueError, match="example inputs, which are pickled"):
        torch_export.load(rewritten(content, lambda members: members.update({INPUTS: pickled})))
    assert not trap.exists()


def test_the_same_archive_written_anew_is_accepted(content: bytes) -> None:
    """So that the refusals above are due to what was changed, and to nothing else."""
    require_harmless(rewritten(content, lambda members: None))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"GIF89a"])
def test_what_is_no_archive_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is no \.pt2 archive"):
        torch_export.load(damage)
