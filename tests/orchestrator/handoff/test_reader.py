"""What a detector gets: the network that was measured, by its contract, or a sentence why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import ClipSettings
from orchestrator.handoff import load
from orchestrator.handoff.manifest import MANIFEST_FILE
from orchestrator.validation import Validation
from tests.orchestrator.handoff.sample_package import FLOATING, REFERENCE, clip_input, write_contract, write_package
from tests.trainers import tiny
from trainers import backbones
from trainers.artefacts.base import ArtefactNetwork
from trainers.backbones import Network, fast_order
from trainers.data.clips import test_batches as validation_batches
from trainers.data.decode import decode_frames
from trainers.data.digits import MOTIONS
from trainers.data.identities import Crop
from trainers.data.manifest import Manifest
from trainers.data.sampling import test_starts as starts_of
from trainers.data.transforms import normalise
from trainers.files import sha256_of
from trainers.package import WEIGHTS_FILE, Description, load_package
from trainers.tasks.reid import embed

SPECS = {name: spec.replace(classes=len(MOTIONS)) for name, spec in tiny.SPECS.items()}
CLIPS = ClipSettings(resize=20, test=3)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that nobody changes."""
    return write_package(tmp_path_factory.mktemp("package") / "model")


@pytest.mark.parametrize("backbone", SPECS)
def test_logits_are_those_of_evaluation_bit_for_bit(tmp_path: Path, digits: Path, backbone: str) -> None:
    """The first batch of `orchestrate evaluate`, and the same clips decoded and read by a consumer."""
    spec = SPECS[backbone]
    folder = write_package(tmp_path / "model", spec, clips=CLIPS, classes=MOTIONS)
    manifest = data_of(folder, digits)
    network, description = load_package(folder)
    assert description.clips is not None
    batch = next(iter(validation_batches(manifest, description.clips, spec, batch=6)))
    row = backbones.backbone(spec)
    with torch.no_grad():
        expected = fast_order(network)(normalise(batch.clips, row.mean, row.std))
        model = load(folder)
        inputs = torch.cat([model.preprocess(frames) for frames in spans(manifest, spec, videos=2)])
        assert torch.equal(model(inputs), expected)


def data_of(folder: Path, digits: Path) -> Manifest:
    """The digits as `orchestrate evaluate` lists them."""
    flags = {"data.source": "csv", "data.path": digits}
    manifest = Validation.open(folder, load_package(folder)[1], flags).manifest
    assert isinstance(manifest, Manifest)
    return manifest


def spans(manifest: Manifest, spec: NetworkSpec, *, videos: int) -> list[Any]:
    """All frames of the evaluation clips of the first videos."""
    return [
        decode_frames(manifest.root / video.path, range(start, start + spec.clip_span))
        for video in manifest.val[:videos]
        for start in starts_of(video.frames, spec.clip_frames, CLIPS.test)
    ]


def test_embeddings_are_those_of_evaluation_bit_for_bit(tmp_path: Path) -> None:
    """With the images' mirrors, as the contract says."""
    folder = write_package(tmp_path / "model", tiny.REID_SPEC)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 50, 20, 3), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    crops = [Crop(f"{number}.png", identity=number, camera=0) for number in range(len(pictures))]
    expected = embed(fast_order(load_package(folder)[0]), tmp_path, crops, mirrors=True).vectors  # type: ignore[arg-type]
    model = load(folder)
    with torch.no_grad():
        assert torch.equal(model.embed(model.preprocess(pictures)), expected)


@pytest.mark.parametrize("spec", tiny.ALL_SPECS.values(), ids=lambda spec: spec.backbone)
def test_feature_maps_are_as_the_contract_describes_them(tmp_path: Path, spec: NetworkSpec) -> None:
    model = load(write_package(tmp_path / "model", spec))
    inputs = tiny.random_clips(spec, 2)
    maps = model.features(inputs)
    assert list(maps) == [stage.name for stage in model.stages] == list(model.network.stages)
    for stage in model.stages:
        assert maps[stage.name].shape == (2, *stage.shape)
        torch.testing.assert_close(maps[stage.name], model.network.features(inputs)[stage.name], rtol=0, atol=0)


def test_only_the_stages_asked_for_in_that_order(package: Path) -> None:
    model = load(package, stages=["layer4", "stem"])
    assert list(model.features(tiny.random_clips(tiny.SPEC))) == ["layer4", "stem"]
    assert [stage.name for stage in model.stages] == ["layer4", "stem"]
    assert model.stage("stem").spatial_stride == 2
    with pytest.raises(UserError, match="stage 'layer1' is not one of this model: it has layer4, stem"):
        model.stage("layer1")


def test_it_is_a_module_in_evaluation_mode_that_can_be_trained(package: Path) -> None:
    model = load(package)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.train()
    model.features(tiny.random_clips(tiny.SPEC))["layer2"].sum().backward()  # type: ignore[no-untyped-call]
    reached = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {"stem", "layer1", "layer2"}


def test_it_knows_its_labels_and_its_package(package: Path) -> None:
    model = load(str(package))
    assert model.classes == tiny.CLASSES
    assert model.contract.name == "tiny-pas/PAS-1"
    assert model.manifest_sha256 == sha256_of(package / MANIFEST_FILE)
    assert model.device == torch.device("cpu")


def test_weights_that_were_changed_are_refused_unless_told_otherwise(package: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(package, tmp_path / "copy"))
    weights = bytearray((folder / WEIGHTS_FILE).read_bytes())
    weights[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(weights)
    with pytest.raises(UserError, match=r"model\.safetensors was changed"):
        load(folder)
    assert load(folder, check=False).classes == tiny.CLASSES


def quantised(folder: Path, **changes: Any) -> Path:
    """A package that says that it computes in integers; what its weights are does not matter here."""
    return write_package(folder, precision="int8", stages=(), **changes)


ORIGIN = {
    **{"digest": FLOATING, "name": "r2plus1d-pas2-side", "kind": "pas", "relation": "start"},
    **{"accuracy": 0.75, "gmacs": 0.01, "weights_sha256": None},
}


def test_integers_have_no_stages_and_say_which_package_has(tmp_path: Path) -> None:
    """Of the ancestors the nearest whose weights it inherited in floating point."""
    steps = ({**ORIGIN, "kind": "quantised", "name": "qat"}, ORIGIN, {**ORIGIN, "kind": "trained", "name": "teacher"})
    folder = quantised(tmp_path / "model", lineage=steps)
    wanted = rf"computes in integers .* package of r2plus1d-pas2-side \({FLOATING}\), from which it was quantised"
    with pytest.raises(UserError, match=wanted):
        load(folder, stages=["layer4"])
    with pytest.raises(UserError, match=wanted):
        load(folder).features(tiny.random_clips(tiny.SPEC))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ["layer4", "layer9"]}, "stage 'layer9' is not one of this model: it has stem, layer1, .*layer4"),
        ({"format": "onnx"}, "format is 'onnx', but .* has package;"),
        ({"device": "gpu"}, "device is 'gpu', but PyTorch can't use it here: .*; give cpu"),
        ({"device": "cuda:99"}, "device is 'cuda:99', but PyTorch can't use it here: .*; give cpu"),
    ],
)
def test_what_it_does_not_have_is_named(package: Path, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(package, **options)


def test_a_classifier_gives_no_vectors(package: Path) -> None:
    with pytest.raises(UserError, match="gives logits, no vectors"):
        load(package).embed(torch.zeros(1, 3, 8, 8))


def edited(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / MANIFEST_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edited(schema_version=2), r"newer version \(2\); this one reads 1"),
        (edited(surprise=1), "surprise"),
        (lambda folder: (folder / MANIFEST_FILE).unlink(), r"is no package: it has no handoff\.json"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / REFERENCE).write_bytes(b"of no"), r"reference\.safetensors is truncated"),
    ],
)
def test_a_package_that_is_not_whole(
    package: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = Path(shutil.copytree(package, tmp_path / "copy"))
    damage(folder)
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an exported file, which is the network itself without its maps."""
    folder = write_package(tmp_path / "model")
    (folder / "exports" / "onnx").mkdir(parents=True)
    (folder / "exports" / "onnx" / "model.onnx").write_bytes(b"read by nobody")
    row = {"format": "onnx", "folder": "exports/onnx", "precision": "fp32", "accuracy": None, "accepted": True}
    write_contract(folder, tiny.SPEC, tiny.CLASSES, clip_input(tiny.SPEC, tiny.CLIPS), exports=(row,))
    network, description = load_package(folder)

    def load_artefact(path: Path) -> tuple[Network, Description]:
        assert path == folder / "exports" / "onnx"
        return ArtefactNetwork(tiny.SPEC, network.forward), description

    monkeypatch.setattr("trainers.artefacts.load_artefact", load_artefact)
    return folder


def test_the_outputs_of_an_export_are_the_networks(exported: Path) -> None:
    inputs = tiny.random_clips(tiny.SPEC)
    with torch.no_grad():
        torch.testing.assert_close(load(exported, format="onnx")(inputs), load(exported)(inputs))
    assert load(exported, format="onnx").format == "onnx"


def test_an_export_has_no_feature_maps(exported: Path) -> None:
    with pytest.raises(UserError, match="as onnx gives outputs only, no feature maps; load the package without"):
        load(exported, format="onnx", stages=["layer4"])
    with pytest.raises(UserError, match="as onnx gives outputs only, no feature maps; load the package without"):
        load(exported, format="onnx").features(tiny.random_clips(tiny.SPEC))


def test_an_export_stays_on_the_cpu(exported: Path) -> None:
    with pytest.raises(UserError, match="device is meta, but integers and exported files compute on the CPU"):
        load(exported, format="onnx", device="meta")


def test_formats_are_listed(exported: Path) -> None:
    assert load(exported, format="package").stages
    with pytest.raises(UserError, match="has package, onnx;"):
        load(exported, format="onnx-int8")
