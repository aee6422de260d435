"""A network on disk: what is written is read, and what can't be read is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compression.reduction import reduce
from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import ReidSettings
from tests.trainers import tiny
from trainers.backbones import BACKBONES
from trainers.package import (
    NETWORK_FILE,
    WEIGHTS_FILE,
    Description,
    build_with,
    load_package,
    read_description,
    save_package,
)


def save(folder: Path, backbone: str = "r2plus1d") -> Path:
    network = tiny.random_network(reduce(tiny.ALL_SPECS[backbone], "c"))
    images = network.spec.aspect is not None
    network.to(memory_format=torch.channels_last if images else torch.channels_last_3d)  # as in training
    save_package(folder, network, describe(network.spec))
    return folder


def describe(spec: NetworkSpec) -> Description:
    given: dict[str, Any] = {"clips": tiny.CLIPS} if spec.aspect is None else {"reid": ReidSettings(margin=0.5)}
    return Description(spec=spec, classes=tiny.CLASSES, **given)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return save(tmp_path / "model")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_network_that_is_read_computes_what_the_saved_one_did(tmp_path: Path, backbone: str) -> None:
    save(tmp_path, backbone)
    saved = tiny.random_network(reduce(tiny.ALL_SPECS[backbone], "c")).eval()
    network, description = load_package(tmp_path)
    clips = tiny.random_clips(saved.spec)
    torch.testing.assert_close(network.state_dict(), saved.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(network(clips), saved(clips))
    assert not network.training
    assert description == describe(saved.spec)


def test_no_file_needs_pickle(package: Path) -> None:
    assert {path.name for path in package.iterdir()} == {NETWORK_FILE, WEIGHTS_FILE}
    assert json.loads((package / NETWORK_FILE).read_text())["spec"]["backbone"] == "r2plus1d"
    assert load_file(package / WEIGHTS_FILE).keys() == tiny.random_network(tiny.SPEC).state_dict().keys()


def test_the_input_is_written_out_for_others(package: Path) -> None:
    """Axis c leaves it alone: 8 frames, 16 pixels."""
    contract = json.loads((package / NETWORK_FILE).read_text())["input"]
    assert (contract["frames"], contract["side"], contract["raw_frame_indices"]) == (8, 16, list(range(8)))
    assert contract["mean"] == list(BACKBONES["r2plus1d"].mean)


def test_the_input_of_images_is_written_out_too(tmp_path: Path) -> None:
    contract = json.loads((save(tmp_path, "reid") / NETWORK_FILE).read_text())["input"]
    assert (contract["height"], contract["width"]) == (32, 16)
    assert contract["layout"] == "image, channel (RGB), height, width"


def test_a_network_is_built_without_random_weights(package: Path) -> None:
    """Nothing is left on the meta device, everything can be trained, and no random number is drawn."""
    torch.manual_seed(0)
    state = torch.get_rng_state()
    network = build_with(read_description(package).spec, load_file(package / WEIGHTS_FILE))
    assert torch.equal(torch.get_rng_state(), state)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in network.parameters())


def rewrite(change: Callable[[dict], None]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def damage(package: Path) -> None:
        description = json.loads((package / NETWORK_FILE).read_text())
        change(description)
        (package / NETWORK_FILE).write_text(json.dumps(description))

    return damage


def reshape(package: Path) -> None:
    weights = load_file(package / WEIGHTS_FILE)
    save_file({**weights, "fc.weight": weights["fc.weight"][:, :-1].contiguous()}, package / WEIGHTS_FILE)


def retype(package: Path) -> None:
    weights = load_file(package / WEIGHTS_FILE)
    save_file({**weights, "fc.weight": weights["fc.weight"].half()}, package / WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda package: (package / NETWORK_FILE).unlink(), r"is no model folder: it needs a readable network\.json"),
        (lambda package: (package / NETWORK_FILE).write_text("{"), "is no model folder"),
        (rewrite(lambda d: d["spec"].update(backbone="x3d")), "backbone is 'x3d', but this version knows slowfast, r2"),
        (rewrite(lambda d: d["spec"].update(schema=99)), "schema is 99, but this version reads 1"),
        (rewrite(lambda d: d.pop("clips")), r"network\.json describes no network .* neither clips nor reid"),
        (rewrite(lambda d: d["spec"].update(width=1.0)), "weights don't fit a r2plus1d of this spec"),
        (lambda package: (package / WEIGHTS_FILE).unlink(), r"model\.safetensors is missing: copy it beside"),
        (lambda package: (package / WEIGHTS_FILE).write_bytes(b"GIF89a"), r"is no safetensors file.*Export it again"),
        (reshape, r"(?s)weights don't fit .* fc\.weight"),
        (retype, r"weights don't fit .*: fc\.weight is torch\.float16, but must be torch\.float32"),
    ],
)
def test_what_can_not_be_read_is_named(package: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(package)
    with pytest.raises(UserError, match=message):
        load_package(package)
