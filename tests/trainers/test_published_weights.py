"""Weights from files: the published names, the round trip, and files that are none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from configs.errors import UserError
from trainers.backbones import BACKBONES, build
from trainers.backbones.published import load_weights

FULL = {name: row.presets["full"] for name, row in BACKBONES.items()}
SPEC = {name: row.presets["tiny"].replace(classes=4, width=1 / 16) for name, row in BACKBONES.items()}

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def pytorchvideo_names() -> set[str]:
    """Entries of `create_slowfast(model_depth=50)`, written down from its models/slowfast.py, resnet.py and stem.py."""

    def layer(conv: str, norm: str) -> set[str]:
        return {f"{conv}.weight", *(f"{norm}.{entry}" for entry in NORM)}

    names = {"blocks.6.proj.weight", "blocks.6.proj.bias"}
    for side in (0, 1):
        names |= layer(*(f"blocks.0.multipathway_blocks.{side}.{part}" for part in ("conv", "norm")))
    for stage in range(4):
        fusion = f"blocks.{stage}.multipathway_fusion"
        names |= layer(f"{fusion}.conv_fast_to_slow", f"{fusion}.norm")
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for side in (0, 1):
            for block in range(blocks):
                prefix = f"blocks.{stage}.multipathway_blocks.{side}.res_blocks.{block}"
                for part in "abc":
                    names |= layer(f"{prefix}.branch2.conv_{part}", f"{prefix}.branch2.norm_{part}")
                if block == 0:
                    names |= layer(f"{prefix}.branch1_conv", f"{prefix}.branch1_norm")
    return names


def published(backbone: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {BACKBONES[backbone].published_key(name): tensor for name, tensor in state.items()}


def random_state(backbone: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build(SPEC[backbone]).state_dict()


def test_slowfast_names_are_a_bijection_onto_pytorchvideo_s() -> None:
    with torch.device("meta"):
        ours = build(FULL["slowfast"]).state_dict()
    theirs = published("slowfast", ours)
    assert len(theirs) == len(ours)
    assert theirs.keys() == pytorchvideo_names()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blocks.0.multipathway_blocks.0.conv.weight", (64, 3, 1, 7, 7)),
        ("blocks.0.multipathway_blocks.1.conv.weight", (8, 3, 5, 7, 7)),
        ("blocks.0.multipathway_fusion.conv_fast_to_slow.weight", (16, 8, 5, 1, 1)),
        ("blocks.1.multipathway_blocks.0.res_blocks.0.branch1_conv.weight", (256, 80, 1, 1, 1)),
        ("blocks.2.multipathway_blocks.0.res_blocks.3.branch2.conv_a.weight", (128, 512, 1, 1, 1)),
        ("blocks.3.multipathway_blocks.0.res_blocks.0.branch2.conv_a.weight", (256, 640, 3, 1, 1)),
        ("blocks.3.multipathway_fusion.conv_fast_to_slow.weight", (256, 128, 5, 1, 1)),
        ("blocks.4.multipathway_blocks.1.res_blocks.2.branch2.conv_b.weight", (64, 64, 1, 3, 3)),
        ("blocks.4.multipathway_blocks.0.res_blocks.2.branch2.norm_c.running_var", (2048,)),
        ("blocks.6.proj.weight", (400, 2304)),
    ],
)
def test_shapes_of_published_slowfast_weights(name: str, shape: tuple[int, ...]) -> None:
    """Worked out from [1] Table 1 with β = 1/8 and PyTorchVideo's stage widths."""
    with torch.device("meta"):
        state = published("slowfast", build(FULL["slowfast"]).state_dict())
    assert state[name].shape == shape


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("naming", [lambda _, state: state, published], ids=["ours", "published"])
@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("w.safetensors", lambda state, path: save_file(state, path)),
        ("w.pth", lambda state, path: torch.save(state, path)),
        ("w.pyth", lambda state, path: torch.save({"model_state": state, "epoch": 3}, path)),
    ],
    ids=["safetensors", "pth", "pyth"],
)
def test_weights_come_back_as_they_were(
    backbone: str,
    naming: Callable[[str, dict[str, Tensor]], dict[str, Tensor]],
    file: str,
    write: Callable[[dict[str, Tensor], Path], None],
    tmp_path: Path,
) -> None:
    state = random_state(backbone)
    write(naming(backbone, state), tmp_path / file)
    loaded = load_weights(tmp_path / file, SPEC[backbone])
    build(SPEC[backbone]).load_state_dict(loaded)
    torch.testing.assert_close(loaded, dict(state), rtol=0, atol=0)


def test_weights_of_another_backbone_name_what_differs(tmp_path: Path) -> None:
    save_file(random_state("r2plus1d"), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"another network than this slowfast: \d+ missing \(stem\.slow.* unexpected"):
        load_weights(tmp_path / "w.safetensors", SPEC["slowfast"])


def test_weights_of_another_width_name_the_shapes(tmp_path: Path) -> None:
    save_file(published("slowfast", random_state("slowfast")), tmp_path / "w.safetensors")
    wider = SPEC["slowfast"].replace(width=1 / 8)
    with pytest.raises(UserError, match=r"of another shape \(\S*blocks\.6\.proj\.weight \[4, 192\], not \[4, 384\]"):
        load_weights(tmp_path / "w.safetensors", wider)


@pytest.mark.parametrize("backbone", [name for name, row in BACKBONES.items() if row.task == "classification"])
def test_weights_of_other_classes_say_how_many(backbone: str, tmp_path: Path) -> None:
    save_file(published(backbone, random_state(backbone)), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="tells 4 classes apart, but the data has 7"):
        load_weights(tmp_path / "w.safetensors", SPEC[backbone].replace(classes=7))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match=f"{path} is not a file"):
            load_weights(path, SPEC["r2plus1d"])


def test_other_file_types_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"ends in '\.onnx', but weights end in \.safetensors"):
        load_weights(path, SPEC["r2plus1d"])


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"fc.weight": 3}, torch.zeros(2), {"model_state": 1}])
def test_a_pickle_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        load_weights(tmp_path / "w.pth", SPEC["r2plus1d"])


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    torch.save(Payload(tmp_path / "ran"), tmp_path / "w.pth")
    with pytest.raises(UserError, match="can't be read as weights"):
        load_weights(tmp_path / "w.pth", SPEC["r2plus1d"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    state = random_state("r2plus1d")
    save_file(state, whole) if suffix == ".safetensors" else torch.save(state, whole)
    part.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(UserError, match="can't be read as weights"):
        load_weights(part, SPEC["r2plus1d"])


@given(content=st.binary(max_size=64), suffix=st.sampled_from([".pth", ".safetensors"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_arbitrary_bytes_give_one_clear_error(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bytes{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="bytes"):
        load_weights(path, SPEC["r2plus1d"])
