"""The contract: what `handoff.json` may say, and its published JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from orchestrator.handoff import manifest
from orchestrator.handoff.manifest import MANIFEST_FILE, FilePath, Handoff, Resize, json_schema
from tests.orchestrator.handoff.sample_card import IMAGES, sample_handoff
from tests.orchestrator.handoff.sample_written import renaming, setting
from trainers import package

SCHEMA = Path(manifest.__file__).with_name("handoff.schema.json")
Change = Callable[[dict[str, Any]], None]


def test_the_published_schema_is_current() -> None:
    """Renew it: json_schema() of orchestrator/handoff/manifest.py says what handoff.schema.json has."""
    assert SCHEMA.read_text(encoding="utf-8") == json_schema()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema()))


@pytest.mark.parametrize("changes", [{}, IMAGES], ids=["clips", "images"])
def test_a_contract_comes_back_from_json_and_fits_the_schema(changes: dict[str, Any]) -> None:
    handoff = sample_handoff(**changes)
    said = handoff.model_dump_json()
    assert Handoff.model_validate_json(said, strict=True) == handoff
    jsonschema.validate(json.loads(said), json.loads(json_schema()))


def test_a_written_package_fits_the_schema(written: Path) -> None:
    jsonschema.validate(json.loads((written / MANIFEST_FILE).read_text()), json.loads(json_schema()))


@pytest.mark.parametrize(
    "change",
    [
        setting("colour", "green"),
        setting("input.fps", 0),
        setting("input.fps", "30"),
        setting("schema_version", 2),
        setting("accuracy.top1", 1.5),
        lambda said: said["stages"][0].update(name="../stage"),
        setting("files", {"model.safetensors": {"sha256": "a", "bytes": 1}}),
        renaming("family.png", "../family.png"),
        renaming("family.png", "/etc/family.png"),
    ],
)
def test_model_and_schema_refuse_the_same(change: Change) -> None:
    said = json.loads(sample_handoff().model_dump_json())
    change(said)
    with pytest.raises(ValidationError):
        Handoff.model_validate_json(json.dumps(said), strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(said, json.loads(json_schema()))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (renaming("network.json", "net.json"), "files lacks network.json"),
        (renaming("model.safetensors", "weights"), "files lacks model.safetensors"),
        (setting("reference.file", "other.safetensors"), "files lacks other.safetensors"),
        (renaming("family.png", "handoff.sig"), "handoff.sig, whose hash it can't know"),
        (setting("classes", ["one"]), "classes has 1 names, but output.dimension is 3"),
        (setting("input.frames", 2), r"has 8 frame_indices, but frames is 2"),
        (setting("input.frame_indices", [0, 2, 1, 3, 4, 5, 6, 7]), "must ascend"),
        (setting("input.frame_indices", [0, 1, 2, 3, 4, 5, 6, 8]), "less than span, which is 8"),
        (setting("input.evaluation_span", 4), "evaluation_span is 4, but span is 8"),
        (setting("input.resize", {"interpolation": "bilinear"}), "either short_side or size"),
        (lambda said: said["stages"].append(said["stages"][0]), "two of one name"),
        (
            lambda said: said["exports"].append(
                {"format": "onnx", "folder": "exports/x", "precision": "fp32", "accuracy": None, "accepted": None}
            ),
            "nothing in exports/x",
        ),
    ],
)
def test_what_does_not_hang_together_is_refused(change: Change, problem: str) -> None:
    said = json.loads(sample_handoff().model_dump_json())
    change(said)
    with pytest.raises(ValidationError, match=problem):
        Handoff.model_validate(said)


def test_both_resize_rules_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match="either"):
        Resize(short_side=20, size=(20, 20), interpolation="bilinear")


@given(st.text(alphabet="ab._-/\\: \n\0é", max_size=8))
def test_no_path_of_the_contract_leads_out_of_the_package(path: str) -> None:
    """Whatever passes stays inside, on every system: no `..`, no drive, no empty or hidden part."""
    try:
        TypeAdapter(FilePath).validate_python(path)
    except ValidationError:
        return
    assert not {"\\", ":", "\n", "\0"} & set(path)
    assert all(part and not part.startswith(".") for part in path.split("/"))


@pytest.mark.parametrize("path", ["model.safetensors", "exports/onnx-int8/model.onnx", "a/b.c/d_e"])
def test_ordinary_paths_pass(path: str) -> None:
    assert TypeAdapter(FilePath).validate_python(path) == path


def test_it_means_the_files_that_networks_are_loaded_from() -> None:
    """The contract is read without PyTorch, so it has their names once more."""
    assert (manifest.WEIGHTS_FILE, manifest.NETWORK_FILE) == (package.WEIGHTS_FILE, package.NETWORK_FILE)
