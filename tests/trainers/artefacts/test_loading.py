"""What can't be loaded is named, with what to do about it; what can behaves like any network."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import UserError
from tests.trainers import tiny
from tests.trainers.artefacts import sample_exports as sample
from trainers.artefacts import artefact_files, load_artefact, size_bytes
from trainers.package import NETWORK_FILE

FORMATS = ("onnx", "torch-export")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    for name in FORMATS:
        sample.export(root / name, name, sample.make("reid"))
    return root


@pytest.fixture(params=FORMATS)
def folder(request: pytest.FixtureRequest, originals: Path, tmp_path: Path) -> Path:
    """An exported folder of the test's own."""
    return Path(shutil.copytree(originals / request.param, tmp_path / "exported"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((folder / NETWORK_FILE).read_text())
    change(data)
    (folder / NETWORK_FILE).write_text(json.dumps(data))


def test_it_behaves_like_a_network(folder: Path) -> None:
    """Moved, switched to training, given inputs that need a gradient or lie in another order, it computes the same."""
    network, _ = load_artefact(folder, threads=1)
    images = tiny.random_clips(network.spec, 2)
    expected = sample.make("reid")(images).detach()
    network.to("cpu", torch.float64).train()
    assert not network.training
    assert not list(network.parameters())
    assert network.stages == ()
    assert network.stage_ends() == {}
    for given in (images.requires_grad_(), images.detach().to(memory_format=torch.channels_last), images.double()):
        found = network(given)
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(NotImplementedError, match="offers no feature maps"):
        network.features(images)


@pytest.mark.parametrize("damage", [b"", b"GIF89a", None])
def test_a_damaged_file_is_named(folder: Path, damage: bytes | None) -> None:
    (file,) = artefact_files(folder)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(UserError, match=rf"{file.name} can't be used.* Export it again"):
        load_artefact(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (file,) = artefact_files(folder)
    file.unlink()
    with pytest.raises(UserError, match=rf"{file.name} can't be read: No such file"):
        load_artefact(folder)
    with pytest.raises(UserError, match=rf"{file.name} is missing: copy it beside"):
        size_bytes(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["artefact"].update(format="tflite"), "artefact.format is 'tflite', but this version reads onnx, "),
        (lambda d: d["artefact"].update(file="../model.onnx"), "must be the name of a file in this folder"),
        (lambda d: d["artefact"].update(colour="red"), "artefact describes no exported file .* Export it again"),
        (lambda d: d.update(artefact=None), "artefact describes no exported file"),
        (lambda d: d["spec"].update(schema=99), "schema is 99, but this version reads 1"),
    ],
)
def test_a_description_that_can_not_be_read_is_named(
    folder: Path,
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    rewrite(folder, change)
    with pytest.raises(UserError, match=message):
        load_artefact(folder)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no model folder"):
        load_artefact(tmp_path)
    for look in (artefact_files, size_bytes):
        with pytest.raises(UserError, match="neither a model folder nor an exported one"):
            look(tmp_path)


def test_a_file_of_another_network_is_named(originals: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(originals / "onnx", tmp_path / "exported"))
    rewrite(folder, lambda d: d["spec"].update(side=20))
    with pytest.raises(UserError, match=r"takes .*\(3, 32, 16\).* network that takes \(3, 40, 20\).* copy both"):
        load_artefact(folder)


def test_a_missing_library_is_named_when_a_file_is_opened(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # makes its import fail
    with pytest.raises(UserError, match="needs onnxruntime, which can't be imported here: pip install onnxruntime"):
        load_artefact(originals / "onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_library_is_named_when_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=f"needs {missing}, which can't be imported here: pip install {missing}"):
        sample.export(tmp_path / "out", "onnx", sample.make("reid"))
