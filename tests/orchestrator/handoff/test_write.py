"""A package holds the model, whole and by itself, or there is none."""

from __future__ import annotations

import dataclasses
import getpass
import json
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement
from typer.testing import CliRunner

import orchestrator
from compression.spec import Quantisation
from configs.errors import UserError
from configs.schema import QuantiseRecipe
from orchestrator.commands.handoff import handoff as handoff_command
from orchestrator.handoff import card, write
from orchestrator.handoff.handed_over import read_packages, record_package
from orchestrator.handoff.manifest import MANIFEST_FILE, SIGNATURE_FILE, Handoff
from orchestrator.handoff.record import family_of, licence_of, without_paths
from orchestrator.handoff.verify import check_files, read_handoff, verify_package
from orchestrator.handoff.write import REQUIRES, HandoffRequest, write_package
from orchestrator.registry.model import Exported, StoredModel
from orchestrator.registry.registry import Registry
from orchestrator.store import Store
from tests.orchestrator.handoff.sample_keys import keys
from tests.orchestrator.handoff.sample_written import PAS1, contents, hand_over
from tests.orchestrator.sample_registry import (
    ACCURACIES,
    FINGERPRINT,
    LOSER,
    PAS2,
    PRUNED,
    TEACHER,
    cost_of,
    make_store,
    trial,
    write_trial,
)
from tests.orchestrator.sample_registry import PAS1 as PAS1_TRIAL
from trainers.files import read_json, sha256_of, write_json
from trainers.package import NETWORK_FILE, WEIGHTS_FILE

FILES = {"card.md", "family.png", WEIGHTS_FILE, NETWORK_FILE, "reference.safetensors"}


@pytest.fixture
def quick_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card without its picture, which takes most of the time."""

    def write_card(folder: Path, handoff: Handoff, family: Sequence[StoredModel]) -> list[str]:
        (folder / "card.md").write_text(f"# {handoff.name}\n")
        return ["card.md"]

    monkeypatch.setattr(card, "write_card", write_card)


@pytest.fixture
def own_store(store: Store, tmp_path: Path) -> Store:
    """A store that may be damaged; nothing of it was handed over."""
    shutil.copytree(store.root, tmp_path / "own", symlinks=True)
    (tmp_path / "own" / "registry" / "packages.json").unlink(missing_ok=True)
    return Store(tmp_path / "own")


# What is in it


def test_the_contract_says_what_the_store_knows(store: Store, written: Path) -> None:
    handoff = read_handoff(written)
    assert handoff.files.keys() == FILES
    assert (handoff.name, handoff.digest, handoff.precision) == (PAS1, PAS1_TRIAL.digest, "fp32")
    assert handoff.network == PAS1_TRIAL.network.to_dict()
    assert handoff.accuracy.top1 == ACCURACIES[PAS1_TRIAL.name]
    assert handoff.accuracy.drop_points == pytest.approx(-2.5)
    assert (handoff.accuracy.fingerprint, handoff.accuracy.examples) == (FINGERPRINT, 3)
    assert handoff.cost.gmacs == cost_of(PAS1_TRIAL.network).gmacs
    assert round(handoff.cost.size_mb * 1e6) == handoff.files[WEIGHTS_FILE].bytes
    assert handoff.licence.spdx == "NOASSERTION"
    assert handoff.provenance["trial"] == PAS1_TRIAL.to_dict()
    (teacher,) = handoff.lineage
    assert (teacher.digest, teacher.relation, teacher.of) == (TEACHER.digest, "start", PAS1_TRIAL.digest)
    assert teacher.weights_sha256 == sha256_of(store.trial_folder(TEACHER.digest) / WEIGHTS_FILE)


def test_the_model_is_copied_bit_by_bit(store: Store, written: Path) -> None:
    trial_files, package = contents(store.trial_folder(PAS1_TRIAL.digest)), contents(written)
    for name in (WEIGHTS_FILE, NETWORK_FILE):
        assert package[name] == trial_files[name]


def test_a_store_elsewhere_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    """No dates, no paths, no random numbers."""
    again = hand_over(make_store(tmp_path / "another" / "place"), tmp_path / "package").folder
    assert contents(again) == contents(written)


def test_nothing_says_where_and_by_whom_it_was_made(store: Store, written: Path) -> None:
    content = b"".join(contents(written).values())
    for trace in (str(store.root), str(written.parent), str(Path.home()) + "/", f"/{getpass.getuser()}/", "/videos"):
        assert trace.encode() not in content


def test_the_card_belongs_to_the_package(written: Path) -> None:
    assert (written / "card.md").read_text().startswith("---\n")
    assert (written / "family.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("quick_card")
def test_integers_are_handed_over_without_maps(own_store: Store, tmp_path: Path) -> None:
    rule = Quantisation(engine="onednn")
    made = trial(
        "r2plus1d-ptq",
        network=TEACHER.network.replace(quantisation=rule),
        start=TEACHER.digest,
        train=None,
        quantise=QuantiseRecipe(),
    )
    write_trial(own_store, made, 0.875)
    written = hand_over(own_store, tmp_path / "package", model=made.digest)
    assert (written.handoff.precision, written.handoff.stages) == ("int8", ())
    assert written.comparison.bit_equal


@pytest.mark.usefixtures("quick_card")
def test_what_a_store_has_lost_is_unknown(own_store: Store, tmp_path: Path) -> None:
    """The list of the data, and the teacher."""
    own_store.manifest_file(FINGERPRINT).unlink()
    shutil.rmtree(own_store.trial_folder(TEACHER.digest))
    handoff = hand_over(own_store, tmp_path / "package").handoff
    assert handoff.accuracy.examples is None
    (teacher,) = handoff.lineage
    assert (teacher.digest, teacher.kind, teacher.accuracy) == (TEACHER.digest, "unknown", None)


def test_required_versions_are_those_of_this_program() -> None:
    text = (Path(orchestrator.__file__).parents[1] / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    lowest = {}
    for requirement in map(Requirement, project["dependencies"]):
        bounds = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        lowest[requirement.name] = bounds[0] if bounds else None
    lowest["python"] = project["requires-python"].partition(",")[0].removeprefix(">=")
    assert {name: lowest[name] for name in REQUIRES} == REQUIRES


def test_the_family_is_what_came_of_the_base_network(store: Store) -> None:
    """Not the control, which inherited from nobody."""
    registry = Registry.open(store)
    family = {made.digest for made in (TEACHER, PAS1_TRIAL, LOSER, PAS2, PRUNED)}
    for digest in family:
        assert {other.digest for other in family_of(registry, registry.by_digest[digest])} == family


# Names and licences


@pytest.mark.usefixtures("quick_card")
def test_name_and_licence_are_taken_down(store: Store, tmp_path: Path) -> None:
    handoff = hand_over(store, tmp_path / "package", name=" Action, small ", licence="apache-2.0").handoff
    assert (handoff.name, handoff.licence.spdx) == ("Action, small", "Apache-2.0")


@pytest.mark.parametrize(
    ("given", "spdx"),
    [
        (None, "NOASSERTION"),
        ("NOASSERTION", "NOASSERTION"),
        ("mit", "MIT"),
        ("MIT or Apache-2.0", "MIT OR Apache-2.0"),
        ("LicenseRef-In-House", "LicenseRef-In-House"),
    ],
)
def test_licences_of_spdx(given: str | None, spdx: str) -> None:
    assert licence_of(given).spdx == spdx


@pytest.mark.parametrize("given", ["", "free", "MIT AND", "Apache 2"])
def test_other_licences_are_refused(given: str) -> None:
    with pytest.raises(UserError, match=f"--licence is '{given}', but must be an SPDX expression"):
        licence_of(given)


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "\x1b[31mred"])
def test_names_that_are_no_line_are_refused(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"--name is .*, but must be a line of text"):
        hand_over(store, tmp_path / "package", name=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "scrubbed"),
    [
        ("/home/somebody/data/set", "set"),
        ("C:\\Users\\somebody\\set", "set"),
        ("2.15.0+cu132", "2.15.0+cu132"),
        ("slow-pas/PAS-2", "slow-pas/PAS-2"),
        ({"a": ["/x/y", 1, None, 0.5, True]}, {"a": ["y", 1, None, 0.5, True]}),
    ],
)
def test_paths_are_cut_down_to_their_last_part(value: Any, scrubbed: Any) -> None:
    assert without_paths(value) == scrubbed


# Exports


def exported(folder: Path, format: str = "onnx", *, accepted: bool | None = True) -> Exported:
    """A folder as `orchestrate export` leaves it."""
    folder.mkdir(parents=True)
    artefact = {"format": format, "file": "model.onnx", "integer_layers": 0, "float_layers": []}
    write_json(folder / NETWORK_FILE, {"artefact": artefact})
    (folder / "model.onnx").write_bytes(f"graph of {folder.name}".encode())
    write_json(folder / "metrics.json", {"data": {"path": "/home/somebody/data"}})
    numbers = {"accuracy": 0.5, "size_mb": 0.1, "latency_ms": 1.0}
    return Exported(format=format, folder=str(folder), accepted=accepted, **numbers)


def with_exports(store: Store, *exports: Exported) -> tuple[Registry, StoredModel]:
    """PAS-1, as if these had been made of it."""
    registry = Registry.open(store)
    return registry, dataclasses.replace(registry.find(PAS1), exports=exports)


@pytest.mark.usefixtures("quick_card")
@pytest.mark.parametrize(("everything", "formats"), [(False, ["onnx"]), (True, ["onnx", "onnx-int8", "torch-export"])])
def test_exports_that_passed_are_taken_along(
    store: Store, tmp_path: Path, everything: bool, formats: list[str]
) -> None:
    made = (
        exported(tmp_path / "rejected", "onnx", accepted=False),
        exported(tmp_path / "z", "onnx"),
        exported(tmp_path / "slow", "onnx-int8", accepted=False),
        exported(tmp_path / "unjudged", "torch-export", accepted=None),
    )
    registry, model = with_exports(store, *made)
    request = HandoffRequest(target=tmp_path / "package", all_exports=everything)
    handoff = write_package(registry, model, request).handoff
    assert [export.format for export in handoff.exports] == formats
    assert handoff.exports[0].accepted
    assert (tmp_path / "package/exports/onnx/model.onnx").read_bytes() == b"graph of z"
    assert {path.name for path in (tmp_path / "package/exports/onnx").iterdir()} == {"model.onnx", NETWORK_FILE}


@pytest.mark.usefixtures("quick_card")
def test_an_export_without_its_file_is_an_error(store: Store, tmp_path: Path) -> None:
    registry, model = with_exports(store, exported(tmp_path / "made"))
    (tmp_path / "made" / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.onnx is missing; export it again"):
        write_package(registry, model, HandoffRequest(target=tmp_path / "package"))
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


# Nothing half-written, nothing lost


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_weights_that_are_not_the_trial_s_are_refused(own_store: Store, tmp_path: Path, damage: str) -> None:
    registry = Registry.open(own_store)
    model = registry.find(PAS1)
    weights = registry.folder(model) / WEIGHTS_FILE
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content) if damage == "flip" else weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing or was changed"):
        write_package(registry, model, HandoffRequest(target=tmp_path / "package"))
    assert not (tmp_path / "package").exists()
    assert PAS1_TRIAL.digest not in read_packages(own_store)


def test_a_package_is_replaced_only_by_force(written: Path, store: Store, tmp_path: Path) -> None:
    target = shutil.copytree(written, tmp_path / "package")
    before = contents(target)
    with pytest.raises(UserError, match=f"is a package already, of {PAS1}; --force replaces it"):
        hand_over(store, target, model="tiny-pas/PAS-2")
    assert contents(target) == before


@pytest.mark.usefixtures("quick_card")
def test_force_replaces_all_of_it(written: Path, own_store: Store, tmp_path: Path) -> None:
    """Also what only the earlier one had: a picture, a signature, the Hub's copy of the card."""
    target = shutil.copytree(written, tmp_path / "package")
    (target / SIGNATURE_FILE).write_bytes(b"signed")
    shutil.copy(target / "card.md", target / "README.md")
    made = hand_over(own_store, target, model="tiny-pas/PAS-2", force=True)
    assert made.handoff.digest == PAS2.digest
    assert set(contents(target)) == {*FILES - {"family.png"}, MANIFEST_FILE}
    check_files(target, read_handoff(target))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder", "extra", "nested", "git", "link", "damaged"])
def test_nothing_else_is_ever_replaced(written: Path, store: Store, tmp_path: Path, kind: str, force: bool) -> None:
    target = tmp_path / "package"
    if kind in ("extra", "nested", "git", "damaged"):
        shutil.copytree(written, target)
    if kind == "file":
        target.write_text("letters")
    elif kind == "link":
        target.symlink_to(written)
    elif kind == "damaged":
        (target / MANIFEST_FILE).write_text("{")
    else:
        place = {"folder": "letters", "extra": "letters", "nested": "sub/letters", "git": ".git/letters"}[kind]
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_text("letters")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=str(target)):
        hand_over(store, target, force=force)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("quick_card")
def test_an_empty_folder_may_be_filled(own_store: Store, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    assert hand_over(own_store, tmp_path / "package").folder.is_dir()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_after_an_error_the_earlier_package_is_there(
    written: Path, own_store: Store, tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    target = shutil.copytree(written, tmp_path / "package")
    before = contents(target)
    monkeypatch.setattr(card, "write_card", fail)
    with pytest.raises(error):
        hand_over(own_store, target, model="tiny-pas/PAS-2", force=True)
    assert contents(target) == before
    assert {path.name for path in tmp_path.iterdir()} == {"own", "package"}
    assert PAS2.digest not in read_packages(own_store)


@pytest.mark.usefixtures("quick_card")
def test_what_does_not_verify_is_not_handed_over(
    own_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is looked at as its receiver will, before it has its name."""
    monkeypatch.setattr(write, "stages_of", lambda _: ())
    with pytest.raises(UserError, match="describes another network than the contract does under stages"):
        hand_over(own_store, tmp_path / "package")
    assert {path.name for path in tmp_path.iterdir()} == {"own"}


# Signed, recorded


@pytest.mark.usefixtures("quick_card")
def test_a_package_is_signed_on_demand(own_store: Store, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    written = hand_over(own_store, tmp_path / "package", sign_key=private)
    assert written.signed
    assert verify_package(tmp_path / "package", public_key=public).signature == "valid"


def test_a_key_that_is_none_is_found_out_first(own_store: Store, tmp_path: Path) -> None:
    _, public = keys(tmp_path)
    with pytest.raises(UserError, match="no private key"):
        hand_over(own_store, tmp_path / "package", sign_key=public)
    assert not (tmp_path / "package").exists()


@pytest.mark.usefixtures("quick_card")
def test_the_store_knows_where_its_models_went(own_store: Store, tmp_path: Path) -> None:
    """By folder, sorted, each once."""
    record_package(own_store, PAS1_TRIAL.digest, tmp_path / "b")
    assert hand_over(own_store, tmp_path / "a").recorded
    record_package(own_store, PAS1_TRIAL.digest, tmp_path / "a")
    expected = {PAS1_TRIAL.digest: [str(tmp_path / "a"), str(tmp_path / "b")]}
    assert read_packages(own_store) == expected
    assert read_json(own_store.registry_folder / "packages.json") == expected


@pytest.mark.usefixtures("quick_card")
def test_a_store_that_can_t_be_written_to_hands_over_all_the_same(
    own_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(write, "record_package", refuse)
    written = hand_over(own_store, tmp_path / "package")
    assert not written.recorded
    assert written.folder.is_dir()


@pytest.mark.parametrize("content", ["", "[]", '{"a": "b"}', '{"a": [1]}'])
def test_a_damaged_record_is_not_written_over(tmp_path: Path, content: str) -> None:
    """It says what must be kept."""
    store = Store(tmp_path)
    store.registry_folder.mkdir()
    path = store.registry_folder / "packages.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"packages\.json is damaged"):
        record_package(store, "0" * 16, tmp_path / "package")
    assert path.read_text() == content


# The command


@pytest.fixture
def app() -> typer.Typer:
    """The command alone."""
    made = typer.Typer()
    made.command()(handoff_command)
    return made


@pytest.mark.usefixtures("quick_card")
def test_the_command_says_what_was_written(app: typer.Typer, own_store: Store, tmp_path: Path) -> None:
    target = tmp_path / "package"
    result = CliRunner().invoke(app, [PAS1, str(target), "--runs", str(own_store.root), "--licence", "MIT"])
    assert result.exit_code == 0, result.output
    assert "92.5 % top-1" in result.stdout
    assert "Feature maps: stem, layer1, layer2, layer3, layer4" in result.stdout
    assert "Licence: MIT\n" in result.stdout
    assert f"Written to {target}: 4 files" in result.stdout
    assert result.stdout.endswith(f"Next: orchestrate verify {target}\n")


@pytest.mark.usefixtures("quick_card")
def test_the_command_prints_json(app: typer.Typer, own_store: Store, tmp_path: Path) -> None:
    target = tmp_path / "package"
    result = CliRunner().invoke(app, [PAS1, str(target), "--runs", str(own_store.root), "--json"])
    printed = json.loads(result.stdout)
    assert printed["handoff"] == json.loads((target / MANIFEST_FILE).read_text())
    assert printed["sha256"] == sha256_of(target / MANIFEST_FILE)
    assert (printed["folder"], printed["signed"], printed["recorded"]) == (str(target), False, True)
