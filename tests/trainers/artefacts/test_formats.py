"""Every format computes what the network did, says what it is, and is written whole or not at all."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compression.quantisation.torch_ao import quantisable_layers
from configs.errors import RunError, UserError
from tests.trainers import tiny
from tests.trainers.artefacts import sample_exports as sample
from trainers.artefacts import (
    FORMATS,
    artefact_files,
    base,
    format_of,
    load_artefact,
    onnx_format,
    onnx_int8,
    size_bytes,
    torch_export,
)
from trainers.backbones import BACKBONES, build
from trainers.package import NETWORK_FILE, save_package

Exported = Callable[[str, str, str], Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A folder per format, kind of network and backbone, written once and changed by nobody."""
    root = tmp_path_factory.mktemp("exports")

    def folder(name: str, source: str, backbone: str) -> Path:
        path = root / f"{name}-{source}-{backbone}"
        if not path.exists():
            sample.export(path, name, sample.make(backbone, source))
        return path

    return folder


def outputs(network: torch.nn.Module, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        result: Tensor = network(batch)
    return result


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_a_float_format_computes_what_the_network_does(exported: Exported, name: str, backbone: str) -> None:
    """For batches of any size, those included that it was not exported with."""
    network, _ = load_artefact(exported(name, "float", backbone))
    for size in (1, 2, 5):
        clips = tiny.random_clips(network.spec, size, seed=size)
        torch.testing.assert_close(outputs(network, clips), outputs(sample.make(backbone), clips), rtol=1e-4, atol=1e-4)


def test_onnx_in_integers_is_close_to_floating_point(exported: Exported) -> None:
    """8 bits leave a relative noise of some 1e-3 in all; an error in the graph gives one of about 1."""
    network, _ = load_artefact(exported("onnx-int8", "float", "reid"))
    for size in (1, 5):
        images = tiny.random_clips(network.spec, size, seed=1)
        assert 0 < sample.noise(outputs(network, images), outputs(sample.make("reid"), images)) < 0.02


@pytest.mark.parametrize("backbone", BACKBONES)
def test_onnx_of_integers_computes_the_same_integers(exported: Exported, backbone: str) -> None:
    """Within a few steps of rounding of the network that PyTorch computes, in batches of any size."""
    network, _ = load_artefact(exported("onnx-int8", "integers", backbone))
    clips = tiny.random_clips(network.spec, 5, seed=7)
    expected = outputs(sample.make(backbone, "integers"), clips)
    step = float(expected.max() - expected.min()) / 255
    assert float((outputs(network, clips) - expected).abs().max()) <= 16 * step  # 2 to 4.4 where this was written


def test_an_int8_package_computes_the_same_bits(exported: Exported) -> None:
    network, description = load_artefact(exported("int8", "integers", "reid"))
    original = sample.make("reid", "integers")
    clips = tiny.random_clips(network.spec)
    assert torch.equal(outputs(network, clips), outputs(original, clips))
    assert description == sample.describe(original.spec)


@pytest.mark.parametrize(("name", "source"), sample.EXPORTS)
def test_a_folder_says_what_it_holds(exported: Exported, name: str, source: str) -> None:
    folder = exported(name, source, "reid")
    network, description = load_artefact(folder, threads=1)
    assert format_of(folder) == name
    assert description == sample.describe(sample.make("reid", source).spec)
    assert network.spec == description.spec
    (file,) = artefact_files(folder)
    assert {path.name for path in folder.iterdir()} == {NETWORK_FILE, file.name}
    assert size_bytes(folder) == len(file.read_bytes())


def test_a_package_is_read_as_one(tmp_path: Path) -> None:
    network = sample.make("reid")
    save_package(tmp_path, network, sample.describe(network.spec))
    loaded, _ = load_artefact(tmp_path)
    assert format_of(tmp_path) == "package"
    assert [file.name for file in artefact_files(tmp_path)] == ["model.safetensors"]
    torch.testing.assert_close(loaded.state_dict(), network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(("source", "backbone"), [("float", "reid"), ("integers", "reid"), ("integers", "slowfast")])
def test_no_layer_is_left_in_float_without_a_word(exported: Exported, source: str, backbone: str) -> None:
    """Every layer is either among the integer ones or named; and only those that read the input may be."""
    artefact = json.loads((exported("onnx-int8", source, backbone) / NETWORK_FILE).read_text())["artefact"]
    layers = quantisable_layers(sample.make(backbone))
    assert artefact["integer_layers"] + len(artefact["float_layers"]) == len(layers)
    assert set(artefact["float_layers"]) <= {"stem.slow.conv", "stem.fast.conv", "conv1"}


def test_equal_biases_do_not_keep_layers_from_integers(tmp_path: Path) -> None:
    """As initialised all biases are 0; an exporter that stores equal ones once makes them unknown to the quantiser."""
    network = build(tiny.SPEC).eval()
    sample.export(tmp_path, "onnx-int8", network)
    artefact = json.loads((tmp_path / NETWORK_FILE).read_text())["artefact"]
    assert artefact["integer_layers"] >= len(quantisable_layers(network)) - 1


@pytest.mark.parametrize(("name", "source"), sample.EXPORTS)
def test_exporting_leaves_the_network_alone_and_the_terminal_empty(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, source: str
) -> None:
    network = sample.make("reid", source)
    if source == "float":
        network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    handlers = list(logging.root.handlers)
    sample.export(tmp_path, name, network)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert network.training == (source == "float")
    assert logging.root.handlers == handlers
    assert not logging.root.manager.disable
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["onnx", "onnx-int8", "torch-export"])
def test_a_file_has_no_paths_of_the_machine_that_wrote_it(exported: Exported, name: str) -> None:
    (file,) = artefact_files(exported(name, "float", "reid"))
    content = file.read_bytes()
    assert b".py" not in content
    assert str(Path.home()).encode() not in content


@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_integers_are_refused_by_float_formats(tmp_path: Path, name: str) -> None:
    network = sample.make("reid", "integers")
    with pytest.raises(UserError, match=rf"--format is {name}, but this reid is INT8; give the floating-point network"):
        sample.export(tmp_path / "out", name, network)
    assert not (tmp_path / "out").exists()


def test_floating_point_is_refused_by_integer_packages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--format is int8, but this reid computes in floating point; quantise it"):
        sample.export(tmp_path / "out", "int8", sample.make("reid"))
    assert not (tmp_path / "out").exists()


def test_ranges_need_something_to_be_measured_on(tmp_path: Path) -> None:
    network = sample.make("reid")
    with pytest.raises(ValueError, match="needs inputs to measure the ranges on"):
        FORMATS["onnx-int8"].write(network, sample.describe(network.spec), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "source", "module", "limit"),
    [
        ("onnx", "float", onnx_format, "TOLERANCE"),
        ("torch-export", "float", torch_export, "TOLERANCE"),
        ("onnx-int8", "integers", onnx_int8, "DIFFERENCE"),
    ],
)
def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, module: object, limit: str
) -> None:
    monkeypatch.setattr(module, limit, -1.0)
    with pytest.raises(RunError, match=r"outputs differ .* nothing was written"):
        sample.export(tmp_path / "out", name, sample.make("reid", source))
    assert not (tmp_path / "out").exists()


def test_outputs_that_are_not_numbers_are_a_difference() -> None:
    inputs = [torch.zeros(1, 2)]
    with pytest.raises(RunError, match="differ"):
        base.require_agreement(torch.nn.Identity(), lambda x: x * torch.nan, inputs, 1e-4)


def test_the_difference_is_relative_above_one_and_absolute_below() -> None:
    """|100.001 − 100| / 100 = 1e-5 and |0.5001 − 0.5| / 1 = 1e-4."""
    shift = torch.tensor([[1e-3, 1e-4]])
    worst = base.require_agreement(torch.nn.Identity(), lambda x: x + shift, [torch.tensor([[100.0, 0.5]])], 1e-3)
    assert worst == pytest.approx(1e-4, rel=1e-2)


def test_without_its_description_a_file_is_no_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies between the two files leaves nothing that is taken for a model, and no temporary file."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "write_json", die)
    with pytest.raises(KeyboardInterrupt):
        sample.export(tmp_path, "torch-export", sample.make("reid"))
    assert list(sample.files_below(tmp_path)) == ["model.pt2"]
    with pytest.raises(
        UserError, match=r"neither a model folder nor an exported one: it needs a readable network\.json"
    ):
        format_of(tmp_path)


def test_libraries_of_formats_are_not_imported_before_they_are_used() -> None:
    code = "import sys, trainers.artefacts; print({'onnx', 'onnxruntime', 'onnxscript'} & sys.modules.keys() or 'none')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "none"
