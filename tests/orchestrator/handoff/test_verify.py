"""A package that is whole passes; whatever was done to one is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from configs.errors import RunError, UserError
from orchestrator.commands.handoff import verify as verify_command
from orchestrator.handoff import load, verify
from orchestrator.handoff.manifest import MANIFEST_FILE, SIGNATURE_FILE
from orchestrator.handoff.reference import FLOAT_TOLERANCE, REFERENCE_FILE, computed
from orchestrator.handoff.signature import read_private_key
from orchestrator.handoff.verify import NAMED_PROBLEMS, check_files, read_handoff, verify_package
from orchestrator.handoff.write import sign
from orchestrator.measure.turns import thread_count
from tests.orchestrator.handoff.sample_keys import keys
from tests.orchestrator.handoff.sample_written import copy_of, renaming, reseal, setting
from tests.trainers.tiny import CLASSES
from trainers.files import sha256_of
from trainers.package import load_package

WEIGHTS = "model.safetensors"
Damage = Callable[[Path], object]


@pytest.fixture
def package(written: Path, tmp_path: Path) -> Path:
    """A package to be damaged."""
    return copy_of(written, tmp_path / "package")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    """Change the last byte; the size stays."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def make_pipe(path: Path) -> None:
    """What would never end to be read."""
    path.unlink()
    os.mkfifo(path)


def make_link(path: Path) -> None:
    """The same content, outside of the package."""
    moved = path.parents[1] / path.name
    path.rename(moved)
    path.symlink_to(moved)


# A package that is fine


def test_what_was_written_is_fine(written: Path) -> None:
    """On the machine that wrote it: the same bits."""
    found = verify_package(written)
    assert found.handoff == read_handoff(written)
    assert found.signature == "unsigned"
    assert found.comparison.bit_equal
    assert found.comparison.input_levels == 0
    assert found.to_dict()["files"] == len(found.handoff.files)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_copy_elsewhere_is_fine_by_a_relative_path(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(package)
    assert verify_package(Path()).comparison.bit_equal


def test_what_the_hub_adds_is_no_part_of_it(package: Path) -> None:
    shutil.copy(package / "card.md", package / "README.md")
    (package / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (package / ".cache" / "huggingface").mkdir(parents=True)
    (package / ".cache" / "huggingface" / "lock").touch()
    check_files(package, read_handoff(package))


# Files


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), r"model\.safetensors is missing"),
        (lambda folder: truncate(folder / WEIGHTS), r"model\.safetensors is truncated \([\d,]+ of [\d,]+ bytes\)"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), r"model\.safetensors is truncated \(0 of"),
        (lambda folder: flip(folder / WEIGHTS), r"model\.safetensors was changed \(its SHA-256"),
        (lambda folder: flip(folder / "card.md"), r"card\.md was changed"),
        (lambda folder: lengthen(folder / "card.md"), r"card\.md was changed \([\d,]+ bytes instead of"),
        (lambda folder: (folder / "extra.pt").touch(), r"extra\.pt is not part of it"),
        (lambda folder: (folder / ".hidden").touch(), r"\.hidden is not part of it"),
        (lambda folder: (folder / "README.md").write_text("another"), r"README\.md is not part of it, nor equal to"),
        (lambda folder: make_link(folder / WEIGHTS), r"model\.safetensors is a link"),
        (lambda folder: (folder / "sub").symlink_to(folder.parent), r"sub is not part of it"),
        (lambda folder: (folder / WEIGHTS).rename(folder / "x") and (folder / WEIGHTS).mkdir(), "is missing; x is not"),
        (lambda folder: make_pipe(folder / WEIGHTS), r"model\.safetensors is no file"),
    ],
)
def test_what_was_done_to_a_file_is_said_with_its_name(package: Path, damage: Damage, problem: str) -> None:
    damage(package)
    with pytest.raises(UserError, match=problem):
        verify_package(package)


def test_all_that_is_wrong_is_said_at_once(package: Path) -> None:
    (package / "network.json").unlink()
    truncate(package / WEIGHTS)
    flip(package / "card.md")
    (package / "more").mkdir()
    (package / "more" / "file").touch()
    with pytest.raises(UserError) as error:
        check_files(package, read_handoff(package))
    said = str(error.value)
    for part in ("network.json is missing", f"{WEIGHTS} is truncated", "card.md was changed", "more/file is not part"):
        assert part in said


def test_a_flood_of_problems_is_counted(package: Path) -> None:
    for number in range(NAMED_PROBLEMS + 3):
        (package / f"extra-{number}").touch()
    with pytest.raises(UserError, match=r"extra-5 is not part of it; and 3 more$"):
        check_files(package, read_handoff(package))


def test_a_file_of_another_size_is_not_hashed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(verify, "sha256_of", noted)
    truncate(package / WEIGHTS)
    with pytest.raises(UserError, match="truncated"):
        check_files(package, read_handoff(package))
    assert WEIGHTS not in hashed
    assert "card.md" in hashed


# handoff.json


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", r"handoff\.json is damaged, or no JSON"),
        (b'{"schema_version": 1, "name"', "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 200_000, "damaged"),
        (b'{"schema_version": NaN}', "NaN is no JSON"),
        (b'{"schema_version": 1, "name": "a", "name": "b"}', "the key 'name' is there twice"),
        (b"[1]", "schema_version is None"),
        (b"{}", "schema_version is None"),
        (b'{"schema_version": true}', "schema_version is True"),
        (b'{"schema_version": "1"}', "schema_version is '1'"),
        (b'{"schema_version": 0}', "schema_version is 0"),
        (b'{"schema_version": 2}', r"written by a newer version \(2\); this one reads 1: upgrade"),
        (b'{"schema_version": 1}', "breaks the contract: name: Field required"),
    ],
)
def test_a_damaged_contract_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read_handoff(tmp_path)


def test_every_truncation_of_the_contract_is_refused(written: Path, tmp_path: Path) -> None:
    content = (written / MANIFEST_FILE).read_bytes().rstrip()
    for length in range(0, len(content), 97):
        (tmp_path / MANIFEST_FILE).write_bytes(content[:length])
        with pytest.raises(UserError, match="damaged"):
            read_handoff(tmp_path)


def test_a_newer_version_may_say_anything(tmp_path: Path) -> None:
    """Nothing else of it is looked at."""
    (tmp_path / MANIFEST_FILE).write_text('{"schema_version": 7, "new": []}')
    with pytest.raises(UserError, match="newer version"):
        verify_package(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("colour", "green", r"colour: Extra inputs are not permitted"),
        ("cost.price", 5, r"cost\.price: Extra inputs are not permitted"),
        ("input.side", "16", r"input\.clip\.side: Input should be a valid integer"),
        ("precision", "fp16", r"precision: Input should be 'fp32' or 'int8'"),
    ],
)
def test_what_the_contract_does_not_know_is_named(
    written: Path, tmp_path: Path, path: str, value: object, problem: str
) -> None:
    with pytest.raises(UserError, match=f"breaks the contract: {problem}"):
        verify_package(copy_of(written, tmp_path / "package", setting(path, value)))


@pytest.mark.parametrize(
    "path", ["../card.md", "/etc/passwd", "a/../../card.md", "./card.md", "a//b", "C:\\card.md", ""]
)
def test_paths_that_lead_out_are_refused_before_anything_is_opened(
    written: Path, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "sha256_of", pytest.fail)
    with pytest.raises(UserError, match="breaks the contract: files"):
        verify_package(copy_of(written, tmp_path / "package", renaming("card.md", path)))


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_a_folder_without_contract_is_no_package(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"is no package: it has no handoff\.json"):
        verify_package(tmp_path / name)


# What it computes


def test_other_weights_compute_something_else(package: Path) -> None:
    """Hashes that were renewed don't help."""
    weights = load_file(package / WEIGHTS)
    weights["fc.bias"] += 10 * FLOAT_TOLERANCE
    save_file(weights, package / WEIGHTS)
    reseal(package)
    with pytest.raises(RunError, match=r"is whole, but its output differs here from the stored one by 0\.00\d"):
        verify_package(package)


def test_a_difference_within_tolerance_is_said_and_allowed(package: Path) -> None:
    weights = load_file(package / WEIGHTS)
    weights["fc.bias"] += FLOAT_TOLERANCE / 4
    save_file(weights, package / WEIGHTS)
    reseal(package)
    comparison = verify_package(package).comparison
    assert not comparison.bit_equal
    assert comparison.difference == pytest.approx(FLOAT_TOLERANCE / 4, rel=0.05)


def test_outputs_that_are_no_numbers_are_never_within_tolerance(package: Path) -> None:
    weights = load_file(package / WEIGHTS)
    weights["fc.bias"][0] = torch.nan
    save_file(weights, package / WEIGHTS)
    reseal(package)
    with pytest.raises(RunError, match="by inf"):
        verify_package(package)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("input.mean", [0.5, 0.5, 0.5]),
        ("input.resize.short_side", 17),
        ("input.frame_indices", [0] * 8),
        ("input.clips_per_video", 9),
        ("input.evaluation_span", 10**12),
        ("backbone", "slowfast"),
        ("classes", ["another", *CLASSES[1:]]),
    ],
)
@pytest.mark.parametrize("receive", [verify_package, load])
def test_a_contract_of_another_network_is_found_before_anything_is_computed(
    written: Path, tmp_path: Path, path: str, value: object, receive: Callable[[Path], object]
) -> None:
    """Of another input too: of a span without end, frames would fill the memory."""
    package = copy_of(written, tmp_path / "package", setting(path, value))
    with pytest.raises(UserError, match=f"than the contract does under {path.partition('.')[0]};"):
        receive(package)


@pytest.mark.parametrize("field", ["channels", "temporal_stride", "spatial_stride"])
def test_stages_are_measured_again(written: Path, tmp_path: Path, field: str) -> None:
    """A wrong stride would put a detector's boxes elsewhere, and no stored tensor would show it."""
    package = copy_of(written, tmp_path / "package", lambda said: said["stages"][1].update({field: 77}))
    with pytest.raises(UserError, match="than the contract does under stages;"):
        verify_package(package)


def test_preprocessing_is_held_against_what_evaluation_did(package: Path) -> None:
    tensors = load_file(package / REFERENCE_FILE)
    save_file({**tensors, "picture": 255 - tensors["picture"]}, package / REFERENCE_FILE)
    reseal(package)
    with pytest.raises(RunError, match="its preprocessing makes an input here that differs by"):
        verify_package(package)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("input", lambda tensor: tensor.long()),
        ("output", lambda tensor: tensor.half()),
        ("picture", lambda tensor: tensor.float()),
        ("picture", lambda tensor: tensor.flatten()),
    ],
)
def test_stored_tensors_of_another_kind_are_refused(
    package: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    tensors = load_file(package / REFERENCE_FILE)
    save_file({**tensors, name: change(tensors[name])}, package / REFERENCE_FILE)
    reseal(package)
    with pytest.raises(UserError, match=r"reference\.safetensors.* picture"):
        verify_package(package)


@pytest.mark.parametrize("receive", [verify_package, load])
@pytest.mark.parametrize(
    ("requires", "problem"),
    [
        ({"torch": "99.1", "numpy": "1"}, r"needs torch 99\.1 or newer, but here is torch \d.*install 'torch>=99\.1'"),
        ({"python": "3.99"}, r"needs python 3\.99 or newer, but here is python 3\.\S+; use a newer Python"),
        ({"torch": "new"}, r"requires\.torch is 'new', but must be a version"),
    ],
)
def test_what_is_installed_must_be_new_enough(
    written: Path, tmp_path: Path, requires: object, problem: str, receive: Callable[[Path], object]
) -> None:
    package = copy_of(written, tmp_path / "package", setting("requires", requires))
    with pytest.raises(UserError, match=problem):
        receive(package)


def test_what_can_not_be_asked_for_its_version_is_taken(written: Path, tmp_path: Path) -> None:
    """A program that was frozen into one file knows of none."""
    load(copy_of(written, tmp_path / "package", setting("requires", {"a-library-that-is-not-there": "1"})))


def make_manifest_a_pipe(package: Path) -> None:
    make_pipe(package / MANIFEST_FILE)


def make_manifest_endless(package: Path) -> None:
    (package / MANIFEST_FILE).unlink()
    (package / MANIFEST_FILE).symlink_to("/dev/zero")


def make_manifest_huge(package: Path) -> None:
    os.truncate(package / MANIFEST_FILE, verify.LARGEST_MANIFEST + 1)  # without its bytes on disk


@pytest.mark.parametrize("damage", [make_manifest_a_pipe, make_manifest_endless, make_manifest_huge])
def test_a_contract_that_does_not_end_is_not_read(package: Path, damage: Damage) -> None:
    damage(package)
    with pytest.raises(UserError, match=r"handoff\.json is no file of at most 64,000,000 bytes"):
        read_handoff(package)


def test_the_contract_describes_the_network_of_the_package(written: Path, tmp_path: Path) -> None:
    package = copy_of(written, tmp_path / "package", setting("network.dropout", 0.25))
    with pytest.raises(UserError, match="describes another network than the contract"):
        verify_package(package)


def test_a_reference_without_a_stage_is_refused(package: Path) -> None:
    tensors = load_file(package / REFERENCE_FILE)
    del tensors["stage.layer4"]
    save_file(tensors, package / REFERENCE_FILE)
    reseal(package)
    with pytest.raises(UserError, match="does not hold picture, input, output, stage"):
        verify_package(package)


def test_the_number_of_threads_does_not_matter(written: Path) -> None:
    """It is one while the reference is computed, and afterwards what it was."""
    stored = load_file(written / REFERENCE_FILE)
    network, _ = load_package(written)
    with thread_count(2):
        assert torch.equal(computed(network, stored["input"])["output"], stored["output"])
        assert torch.get_num_threads() == 2


# Signatures


@pytest.fixture
def signed(package: Path, tmp_path: Path) -> Path:
    """A package signed with key 1."""
    sign(package, read_private_key(keys(tmp_path)[0]))
    return package


def test_a_signature_is_checked_when_there_is_a_key(signed: Path, tmp_path: Path) -> None:
    assert verify_package(signed).signature == "signed, not checked"
    assert verify_package(signed, public_key=keys(tmp_path)[1]).signature == "valid"


def test_a_wrong_key_fails(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another key signed it"):
        verify_package(signed, public_key=keys(tmp_path, seed=2)[1])


def test_an_unsigned_package_fails_where_a_key_is_given(written: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not signed"):
        verify_package(written, public_key=keys(tmp_path)[1])


def test_tampering_with_care_does_not_help(signed: Path, tmp_path: Path) -> None:
    """Renewed hashes pass without a key, and fail with it, before anything is believed of what they say."""
    (signed / "card.md").write_text("# Another card\n")
    signature = (signed / SIGNATURE_FILE).read_bytes()
    (signed / SIGNATURE_FILE).unlink()
    reseal(signed)
    (signed / SIGNATURE_FILE).write_bytes(signature)
    assert verify_package(signed).signature == "signed, not checked"
    with pytest.raises(UserError, match="the package was changed"):
        verify_package(signed, public_key=keys(tmp_path)[1])


# The command


@pytest.fixture
def app() -> typer.Typer:
    """The command alone."""
    made = typer.Typer()
    made.command()(verify_command)
    return made


def test_the_command_says_what_was_checked(app: typer.Typer, written: Path) -> None:
    result = CliRunner().invoke(app, [str(written)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("tiny-pas/PAS-1 (")
    assert "is whole: 5 files" in lines[0]
    assert lines[1:] == [
        "Outputs and feature maps of the stored input are bit-equal; its preprocessing is bit-equal.",
        "It is not signed.",
    ]


def test_a_name_gives_no_commands_to_the_terminal(app: typer.Typer, written: Path, tmp_path: Path) -> None:
    package = copy_of(written, tmp_path / "package", setting("name", "PAS\x1b[2J\r1"))
    said = CliRunner().invoke(app, [str(package)])
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("PAS�[2J�1 (")


def test_the_command_prints_json(app: typer.Typer, written: Path) -> None:
    result = CliRunner().invoke(app, [str(written), "--json"])
    assert json.loads(result.stdout) == verify_package(written).to_dict()


def test_the_command_hands_errors_on(app: typer.Typer, package: Path) -> None:
    """`orchestrate` makes exit code 2 of them."""
    truncate(package / WEIGHTS)
    result = CliRunner().invoke(app, [str(package)])
    assert isinstance(result.exception, UserError)
    assert not result.stdout
