"""Weights from a local file: our own, torchvision's R(2+1)D-18 or ResNet-18, or PyTorchVideo's SlowFast-4×16-R50.

Files are read without running code from them: safetensors, or pickles restricted to tensors.

Sources:
    [1] torchvision, r2plus1d_18 and resnet18: a state dict.
    [2] PyTorchVideo, model zoo, SLOWFAST_4x16_R50: a state dict under `model_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from compression.spec import NetworkSpec
from configs.errors import UserError
from trainers.backbones import backbone, build

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pyth", ".pt")
CLASSIFIER = ("fc.weight", "fc.bias")
"""Our names of the last layer's entries."""
SHOWN = 3
"""Differences that an error message names."""


def load_weights(path: Path, spec: NetworkSpec) -> dict[str, Tensor]:
    """State dict for `build(spec)` from a file, whose entries have our names or the published ones.

    Args:
        path: a .safetensors, .pth, .pyth or .pt file.
        spec: the network that the weights are meant for; every entry must fit it.

    Returns:
        Tensors on the CPU under our names.

    Raises:
        UserError: no such file, not a weights file, weights of another network, or of another number of classes.
    """
    weights = read_tensors(path)
    with torch.device("meta"):
        expected = build(spec).state_dict()
    naming = closest_naming(expected, weights, (str, backbone(spec).published_key))
    published = {naming(name): tensor for name, tensor in expected.items()}
    weights = adapted(weights, expected, naming)
    check_fit(path, spec, published, weights, [naming(name) for name in CLASSIFIER])
    return {name: weights[naming(name)] for name in expected}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a weights file by name.

    Raises:
        UserError: no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of a .safetensors or .pth file")
    if path.suffix not in (SAFETENSORS, *PICKLES):
        raise UserError(f"{path} ends in {path.suffix!r}, but weights end in {SAFETENSORS}, {', '.join(PICKLES)}")
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything (documentation of `pickle.UnpicklingError`)
        raise UserError(
            f"{path} can't be read as weights ({type(error).__name__}): it is damaged or holds more than tensors; "
            "download it again, or save the network's state dict alone"
        ) from error
    state = content.get("model_state", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict (names and tensors); save `network.state_dict()` and give that")
    return state


def closest_naming(
    expected: Iterable[str], weights: dict[str, Tensor], namings: Iterable[Callable[[str], str]]
) -> Callable[[str], str]:
    """The naming under which most of the expected entries are in the file; the first of equals."""
    return max(namings, key=lambda naming: sum(naming(name) in weights for name in expected))


def adapted(weights: dict[str, Tensor], expected: Iterable[str], naming: Callable[[str], str]) -> dict[str, Tensor]:
    """A file's entries, less a classifier that the network has no use for (it embeds), plus the batch norms' counters.

    Files older than the counters (PyTorch 0.4.1) lack them; they matter to norms without a momentum only.
    """
    counters = {naming(name): torch.tensor(0) for name in expected if name.endswith(".num_batches_tracked")}
    surplus = {naming(name) for name in CLASSIFIER if name not in expected}
    return {**counters, **{name: tensor for name, tensor in weights.items() if name not in surplus}}


def check_fit(
    path: Path, spec: NetworkSpec, expected: dict[str, Tensor], weights: dict[str, Tensor], classifier: list[str]
) -> None:
    """Compare names and shapes; `classifier` names the last layer's weight and bias.

    Raises:
        UserError: they differ; the first few differences of each kind are named.
    """
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    misshaped = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    if misshaped == classifier and not missing and not unexpected:
        raise UserError(
            f"{path} tells {len(weights[classifier[0]])} classes apart, but the data has {spec.classes}; "
            "use the data set that the weights were trained on"
        )
    if missing or unexpected or misshaped:
        shapes = [f"{name} {[*weights[name].shape]}, not {[*expected[name].shape]}" for name in misshaped]
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        raise UserError(
            f"{path} holds the weights of another network than this {spec.backbone}: "
            f"{'; '.join(first_few(kind, names) for kind, names in kinds.items() if names)}. "
            "Check network.backbone, network.preset and network.width"
        )


def first_few(kind: str, names: list[str]) -> str:
    """Number and first examples of the names that differ in one way."""
    examples = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return f"{len(names)} {kind} ({examples})"
