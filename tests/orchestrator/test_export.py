"""`orchestrate export`: what is written, how the gate judges it, and what is left after a failure.

Formats are made up here, and files take as long and score as well as they are told; real ones are exported at the end.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compression.quantisation.torch_ao import default_engine, quantisable_layers
from compression.spec import NetworkSpec, Quantisation
from configs.errors import RunError, UserError
from configs.schema import ClipSettings
from orchestrator import cli
from orchestrator.export import export
from orchestrator.export import request as export_request
from orchestrator.export.export import export_model
from orchestrator.export.request import ExportRequest
from orchestrator.measure.turns import Conditions, time_in_turns
from orchestrator.validation import Validation
from trainers.artefacts import FORMATS, Format, load_artefact
from trainers.artefacts.base import Artefact
from trainers.backbones import Network, build
from trainers.files import read_json, write_json
from trainers.package import Description, load_package, read_description, save_package
from trainers.quantisation import read_layers

Captured = pytest.CaptureFixture[str]
SPEC = NetworkSpec(backbone="r2plus1d", classes=8, clip_frames=4, side=16, blocks=(1, 1, 1, 1), width=1 / 32)
RUNS = Conditions(runs=3, warm_up=1)
CLASSES = ("left", "right", "up", "down", "clockwise", "counter-clockwise", "horizontal-shuttle", "vertical-shuttle")
CLIPS = ClipSettings(test=1, resize=24)


@dataclass
class Workshop:
    """What is to come of an export."""

    milliseconds: float = 1.0
    """How long its forward pass takes; the original's takes 4 ms."""
    asleep: bool = False
    """Whether both really take that long; else that is said by a made-up clock."""
    top1: float = 0.89
    """Its accuracy; the original's is 0.9."""
    notes: list[str] = field(default_factory=lambda: ["stems stay in float: [faster]"])
    written: list[tuple[str, int]] = field(default_factory=list)
    """Format and number of calibration inputs of every file written."""
    error: BaseException | None = None
    """Raised once the model file is there."""

    def write(
        self, name: str, network: Network, description: Description, folder: Path, calibration: Sequence[Tensor]
    ) -> list[str]:
        save_package(folder, network, description)
        self.written.append((name, sum(len(batch) for batch in calibration)))
        if self.error:
            raise self.error
        return self.notes


class Sleeper(Network):
    """A network that takes its time."""

    def __init__(self, spec: NetworkSpec, seconds: float) -> None:
        super().__init__(spec)
        self.seconds = seconds

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return inputs


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch, model: Path) -> Workshop:
    shop = Workshop()

    def timed(networks: Sequence[Network], conditions: Conditions) -> list[list[float]]:
        if shop.asleep:
            return time_in_turns(networks, conditions)
        return [[4.0] * conditions.runs, [shop.milliseconds] * conditions.runs]

    def write(row: Format, *arguments: Any) -> list[str]:
        return shop.write(next(name for name in FORMATS if FORMATS[name] == row), *arguments)

    def load(path: Path, *, threads: int | None = None) -> tuple[Network, Description]:
        description = read_description(path)
        milliseconds = 4.0 if path.resolve() == model else shop.milliseconds
        return Sleeper(description.spec.floating, milliseconds / 1e3), description

    def scores(_: Validation, network: Network, description: Description, name: Path) -> dict[str, float]:
        return {"top1": 0.9 if name.resolve() == model else shop.top1, "top5": 1.0}

    monkeypatch.setattr(Format, "write", write)
    monkeypatch.setattr(export, "load_artefact", load)
    monkeypatch.setattr(export, "time_in_turns", timed)
    monkeypatch.setattr(Validation, "scores", scores)
    return shop


@pytest.fixture
def model(digits: Path, tmp_path: Path) -> Path:
    """A model folder as a search leaves it, beside nothing else."""
    return make_model(tmp_path / "models" / "PAS-2", digits)


def make_model(folder: Path, digits: Path, spec: NetworkSpec = SPEC) -> Path:
    torch.manual_seed(0)
    description = Description(spec=spec, classes=CLASSES, clips=CLIPS)
    save_package(folder, build(spec), description)
    write_json(folder / "metrics.json", {"name": "PAS-2", "data": recorded(digits)})
    return folder


CLIPS = ClipSettings(test=1, resize=24)


def recorded(digits: Path) -> dict[str, Any]:
    return {"source": "csv", "path": str(digits), "split": 1, "max_quarantined": 0.02, "fingerprint": "f"}


def request(model: Path, **asked: Any) -> ExportRequest:
    return ExportRequest(**{"model": model, "format": "onnx", "conditions": RUNS, **asked})


def run(*arguments: object) -> int:
    return cli.run(["export", *map(str, arguments), "--runs", "3"])


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The gate


def test_a_faster_file_that_loses_little_is_accepted(workshop: Workshop, model: Path, capsys: Captured) -> None:
    assert run(model, "--format", "onnx") == 0
    numbers = read_json(model / "exports/onnx/metrics.json")
    assert numbers["verdict"] == {"accepted": True, "reasons": [], "unjudged": []}
    assert numbers["speedup"] == 4.0
    assert numbers["drop_points"] == pytest.approx(1.0)
    assert "rejected" not in (model / "exports/onnx/card.md").read_text()
    assert "rejected" not in capsys.readouterr().out


def test_a_deliberately_slow_file_is_rejected(workshop: Workshop, model: Path, capsys: Captured) -> None:
    """It sleeps ten times as long as its original: the folder is written, says so on top, and the exit code is 1."""
    workshop.asleep, workshop.milliseconds = True, 40.0
    assert run(model, "--format", "onnx") == 1
    folder = model / "exports/onnx"
    numbers = read_json(folder / "metrics.json")
    (reason,) = numbers["verdict"]["reasons"]
    assert re.fullmatch(r"\d+ % slower than its FP32 original", reason)
    card = (folder / "card.md").read_text()
    assert card.startswith("# **rejected**: PAS-2 as onnx\n")
    assert f"- {reason}" in card.split("| | this file")[0]
    assert f"rejected: {reason}" in capsys.readouterr().out


def test_too_great_a_loss_is_rejected(workshop: Workshop, model: Path, capsys: Captured) -> None:
    workshop.top1 = 0.86
    assert run(model, "--format", "onnx") == 1
    reason = "loses 4.0 points of accuracy, more than the 1 allowed (--max-drop-points)"
    assert read_json(model / "exports/onnx/metrics.json")["verdict"]["reasons"] == [reason]
    assert f"- {reason}" in (model / "exports/onnx/card.md").read_text()
    assert reason in capsys.readouterr().out
    assert run(model, "--format", "onnx", "--max-drop-points", "4") == 0


def test_force_ends_well_but_the_card_says_the_same(workshop: Workshop, model: Path, capsys: Captured) -> None:
    workshop.milliseconds = 8.0
    assert run(model, "--format", "onnx", "--force") == 0
    assert (model / "exports/onnx/card.md").read_text().startswith("# **rejected**")
    assert "rejected" in capsys.readouterr().out


def test_json_is_all_that_is_printed(workshop: Workshop, model: Path, capsys: Captured) -> None:
    workshop.milliseconds = 8.0
    assert run(model, "--format", "onnx", "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("folder") == str(model / "exports/onnx")
    assert printed == read_json(model / "exports/onnx/metrics.json")
    assert not printed["verdict"]["accepted"]


# What is written


def test_an_export_holds_the_file_and_what_is_known_of_it(workshop: Workshop, model: Path, digits: Path) -> None:
    made = export_model(request(model))
    assert files_of(made.folder) == ["card.md", "metrics.json", "model.safetensors", "network.json"]
    numbers = made.numbers
    assert numbers["top1"] == 0.89
    assert numbers["fp32"]["top1"] == 0.9
    bytes_written = (made.folder / "model.safetensors").stat().st_size
    assert numbers["size_mb"] == numbers["fp32"]["size_mb"] == bytes_written / 1e6
    assert numbers["smaller"] == 1.0
    assert numbers["speedup"] == numbers["fp32"]["latency_ms"] / numbers["latency_ms"]
    assert numbers["latency_ms"] <= numbers["p95_ms"]
    assert (made.folder / numbers["original"]).resolve() == model
    assert (made.folder / numbers["model"]).resolve() == model
    assert numbers["data"]["path"] == str(digits)
    assert numbers["conditions"]["runs"] == 3
    assert numbers == read_json(made.folder / "metrics.json")


def test_files_that_are_quantised_here_are_calibrated_on_training_data(workshop: Workshop, model: Path) -> None:
    export_model(request(model, format="onnx-int8", calibration=5))
    export_model(request(model, format="onnx", calibration=5))
    assert workshop.written == [("onnx-int8", 5), ("onnx", 0)]
    assert read_json(model / "exports/onnx-int8/metrics.json")["calibration"] == 5
    assert read_json(model / "exports/onnx/metrics.json")["calibration"] is None


def test_another_folder_can_be_given(workshop: Workshop, model: Path, tmp_path: Path) -> None:
    assert run(model, "--format", "onnx", "--to", tmp_path / "here") == 0
    numbers = read_json(tmp_path / "here" / "metrics.json")
    assert numbers["original"] == "../models/PAS-2"
    assert not (model / "exports").exists()


def test_an_export_is_exported_once_more_beside_it(quantised: Path, model: Path) -> None:
    """Not within it: it could not be replaced any more."""
    first = export_model(request(quantised, format="int8"))
    again = export_model(request(first.folder, format="onnx-int8"))
    assert again.folder == quantised / "exports" / "int8-as-onnx-int8"
    assert (again.folder / again.numbers["original"]).resolve() == model
    export_model(request(quantised, format="int8"))


def test_what_can_t_be_exported_again_is_refused(workshop: Workshop, model: Path, capsys: Captured) -> None:
    folder = export_model(request(model)).folder
    artefact = Artefact(format="onnx", file="model.onnx").to_dict()
    write_json(folder / "network.json", {**read_json(folder / "network.json"), "artefact": artefact})
    assert run(folder, "--format", "torch-export") == 2
    assert "is an export in format onnx; give the model folder that it was made from" in capsys.readouterr().err


def test_the_terminal_shows_both_and_the_notes(
    workshop: Workshop, model: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(model, "--format", "onnx") == 0
    printed = capsys.readouterr().out
    (table,) = re.findall(r"┏.*┘", printed, re.S)
    assert max(map(len, table.splitlines())) <= 80
    assert re.search(r"FP32 original .* MB │ +\d+\.\d\d ms │ +\d+\.\d\d ms │ +90\.0 %", table)
    assert re.search(r"onnx +│ .* │ +89\.0 %", table)
    assert re.search(r"1\.00× smaller │ +\d\.\d\d× as fast │ +│ −1\.0 points", table)
    assert "stems stay in float: [faster]\n" in printed
    assert "accepted\n" in printed


# What is not measured


def test_accuracy_can_be_left_out(workshop: Workshop, model: Path, capsys: Captured) -> None:
    (model / "metrics.json").unlink()
    assert run(model, "--format", "onnx", "--no-accuracy") == 0
    numbers = read_json(model / "exports/onnx/metrics.json")
    assert numbers["verdict"]["unjudged"] == ["accuracy"]
    assert numbers["drop_points"] is None
    assert "top1" not in numbers
    assert "Not measured, and so not judged: accuracy." in (model / "exports/onnx/card.md").read_text()
    assert "accepted (accuracy not measured)" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("onnx",), ("int8", "--no-accuracy")], ids=" ".join)
def test_data_is_needed_for_accuracy_and_for_calibration(
    arguments: tuple[str, ...], workshop: Workshop, model: Path, capsys: Captured
) -> None:
    (model / "metrics.json").unlink()
    assert run(model, "--format", *arguments) == 2
    assert "has no metrics.json to name its data; say which with --data SOURCE:DIR" in capsys.readouterr().err
    assert not (model / "exports").exists()


def test_data_can_be_given(workshop: Workshop, model: Path, digits: Path) -> None:
    (model / "metrics.json").unlink()
    assert run(model, "--format", "onnx", "--data", f"csv:{digits}") == 0
    data = read_json(model / "exports/onnx/metrics.json")["data"]
    assert (data["source"], data["path"], data["examples"]) == ("csv", str(digits), 16)


# The original


def integers(folder: Path, **numbers: Any) -> Path:
    """A folder that says that its network computes in INT8; its weights don't matter here."""
    description = read_json(folder / "network.json")
    description["spec"]["quantisation"] = {"engine": "onednn", "float_layers": []}
    write_json(folder / "network.json", description)
    write_json(folder / "metrics.json", {**read_json(folder / "metrics.json"), **numbers})
    return folder


@pytest.fixture
def quantised(workshop: Workshop, model: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An INT8 model that names `model` as its original."""
    folder = integers(make_model(model.parent / "qat", digits), original="../PAS-2")

    def load(path: Path) -> tuple[Network, Description]:
        description = read_description(path)
        return Sleeper(description.spec, 0.0), description

    monkeypatch.setattr(export_request, "load_package", load)
    monkeypatch.setattr(workshop, "write", write_plain)
    return folder


def write_plain(name: str, network: Network, description: Description, folder: Path, _: Sequence[Tensor]) -> list[str]:
    write_json(folder / "network.json", description.to_dict())
    (folder / "model.safetensors").write_bytes(b"weights")
    return []


@pytest.mark.parametrize("how", ["as its numbers say", "as given"])
def test_an_integer_model_is_compared_with_what_it_was_made_from(
    how: str, quantised: Path, model: Path, workshop: Workshop
) -> None:
    workshop.milliseconds = 6.0
    if how == "as given":
        integers(quantised, original="../gone")
    made = export_model(request(quantised, format="int8", original=model if how == "as given" else None))
    assert (made.folder / made.numbers["original"]).resolve() == model
    assert made.numbers["fp32"]["top1"] == 0.9
    assert made.numbers["calibration"] is None, "it has its ranges already"
    assert not made.verdict.accepted, "6 ms against 4 ms"


def test_an_integer_model_without_an_original_is_refused(quantised: Path, capsys: Captured) -> None:
    write_json(quantised / "metrics.json", {"data": None})
    assert run(quantised, "--format", "int8") == 2
    assert "names no original; say with --original MODEL" in capsys.readouterr().err


def test_an_original_that_is_gone_is_refused(quantised: Path, capsys: Captured) -> None:
    integers(quantised, original="../gone")
    assert run(quantised, "--format", "int8") == 2
    assert re.search(
        r"names ../gone as the original, but .* is no folder; say with --original", capsys.readouterr().err
    )


def test_an_original_is_the_same_network_in_floating_point(quantised: Path, digits: Path, capsys: Captured) -> None:
    """Against a larger or an integer network every file would look fast."""
    larger = make_model(quantised.parent / "larger", digits, SPEC.replace(width=1 / 16))
    assert run(quantised, "--format", "int8", "--original", larger) == 2
    assert "is no original of" in (said := capsys.readouterr().err)
    assert "its width is 0.0625, the model's 0.03125" in said
    assert run(quantised, "--format", "int8", "--original", quantised) == 2
    assert "it computes in INT8 itself" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_floating_point_formats_take_no_integer_model(name: str, quantised: Path, capsys: Captured) -> None:
    assert run(quantised, "--format", name) == 2
    assert f"--format is {name}, which is for floating point" in capsys.readouterr().err


# Bad input, failures


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "tflite"], "tflite"),
        (["--format", "onnx", "--max-drop-points", "-1"], "--max-drop-points is -1, but must be a number >= 0"),
        (["--format", "onnx", "--max-drop-points", "inf"], "--max-drop-points is inf, but must be a number >= 0"),
        (["--format", "onnx", "--calibration", "0"], "--calibration is 0"),
        (["--format", "onnx", "--batch", "0"], "--batch is 0"),
        (["--format", "onnx", "--data", "synthetic-people"], "which is evaluated on one of moving-digits"),
        ([], "--format"),
    ],
    ids=" ".join,
)
def test_bad_input_is_2(arguments: list[str], said: str, workshop: Workshop, model: Path, capsys: Captured) -> None:
    assert run(model, *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (model / "exports").exists()


def test_no_model_is_2(tmp_path: Path, capsys: Captured) -> None:
    assert run(tmp_path / "none", "--format", "onnx") == 2
    assert "none" in capsys.readouterr().err


def test_data_with_other_classes_is_2(workshop: Workshop, model: Path, capsys: Captured) -> None:
    network, description = load_package(model)
    other = Description(spec=description.spec, classes=("a", "b", "c", "d", "e", "f", "g", "h"), clips=CLIPS)
    save_package(model, network, other)
    assert run(model, "--format", "onnx") == 2
    assert "give data with the same classes" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["the model", "its original", "a folder of somebody", "another model"])
def test_nothing_but_an_earlier_export_is_replaced(
    where: str, workshop: Workshop, model: Path, digits: Path, tmp_path: Path, capsys: Captured
) -> None:
    other = make_model(tmp_path / "other", digits)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("…")
    to = {"the model": model, "a folder of somebody": tmp_path / "theirs"}.get(where, other)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    extra = ["--original", other] if where == "its original" else []
    assert run(model, "--format", "onnx", "--to", to, *extra) == 2
    assert "lost" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    ("error", "code"), [(RunError("no"), 1), (UserError("no"), 2), (MemoryError(), 1), (KeyboardInterrupt(), 130)]
)
def test_a_failure_in_the_middle_leaves_nothing_half_written(
    error: BaseException, code: int, earlier: bool, workshop: Workshop, model: Path
) -> None:
    before = {}
    if earlier:
        folder = export_model(request(model)).folder
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
    workshop.error = error
    assert run(model, "--format", "onnx") == code
    exports = model / "exports"
    assert sorted(path.name for path in exports.iterdir()) == (["onnx"] if earlier else [])
    assert not earlier or {path.name: path.read_bytes() for path in (exports / "onnx").iterdir()} == before


def test_outputs_that_are_no_numbers_are_refused(model: Path, capsys: Captured) -> None:
    network, description = load_package(model)
    next(iter(network.parameters())).data.fill_(float("nan"))
    save_package(model, network, description)
    assert run(model, "--format", "onnx") == 1
    assert "are not finite numbers" in capsys.readouterr().err
    assert not (model / "exports").exists()


# Real files


def test_a_real_network_in_integers(model: Path, digits: Path) -> None:
    """From floating point to a folder that `load_artefact` reads, and that scores what its numbers say."""
    made = export_model(request(model, format="int8", calibration=16, max_drop_points=100.0))
    assert files_of(made.folder) == ["card.md", "layers.json", "metrics.json", "model.safetensors", "network.json"]
    network, description = load_artefact(made.folder)
    assert description.spec == SPEC.replace(quantisation=Quantisation(engine=default_engine()))
    layers = read_layers(made.folder)
    assert {layer["name"] for layer in layers} >= set(quantisable_layers(build(SPEC)))
    assert {layer["precision"] for layer in layers} == {"int8"}
    card = (made.folder / "card.md").read_text()
    assert all(f"| `{layer['name']}` | {layer['kind']} | int8 | – |" in card for layer in layers)
    scores = Validation.open(made.folder, description, {}).scores(network, description, made.folder)
    assert scores["top1"] == made.numbers["top1"]
    assert made.numbers["smaller"] > 1
    assert made.numbers["calibration"] == 16
    assert (made.folder / "card.md").read_text().startswith("# **rejected**") != made.verdict.accepted


def test_a_real_network_in_floating_point(model: Path) -> None:
    made = export_model(request(model, format="torch-export"))
    assert files_of(made.folder) == ["card.md", "metrics.json", "model.pt2", "network.json"]
    assert made.numbers["drop_points"] == 0
    assert made.numbers["size_mb"] == (made.folder / "model.pt2").stat().st_size / 1e6
