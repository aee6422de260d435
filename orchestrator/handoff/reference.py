"""What a package's network makes of a stored input: shows that another machine computes the same.

The input is a picture of noise, small on disk and the same for ever, and what evaluation's own preprocessing made of
it. So a check covers the reader's preprocessing, which starts from the picture, and the network, which starts from the
stored input; both are told apart.

Units: differences of inputs are levels of 255, those of outputs and maps are relative to max(1, |value|).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from configs.errors import RunError, UserError
from orchestrator.handoff.contract import require_agreement, require_measurements
from orchestrator.handoff.manifest import ClipInput, Handoff, ImageInput
from orchestrator.handoff.preprocessing import preprocess
from orchestrator.measure.turns import thread_count
from trainers.backbones import Network, fast_order, in_fast_order
from trainers.checkpoint import load_weights_file
from trainers.files import write_atomically
from trainers.package import Description, load_package

REFERENCE_FILE = "reference.safetensors"
STAGE = "stage."
"""Before the name of a feature map."""
FLOAT_TOLERANCE = 1e-4
"""Of the reference inputs of 32 trained tiny networks and three full ones of random weights, on one processor: two
threads in place of one change 4e-6 at most, the other order in memory 3e-6, AVX2 in place of AVX-512 4e-6, SSE 4.1
9e-6. The limit is ten times that."""
INTEGER_TOLERANCE = 0.5
"""Sums of integers are exact: of 12 trained tiny networks, threads, orders, VNNI and AMX gave the same bits. Rounding
between layers may fall otherwise elsewhere; inputs moved by up to 1e-4 made it do so, and changed 0.22 at most. The
limit is twice that. It does not find every processor without VNNI, where oneDNN's sums overflow: that changed 0.03 to
1.0, more than 0.5 in 2 of the 12, and the rest can't be told from rounding. Loading such a network warns of it."""
PIXEL_TOLERANCE = 1.01
"""Whether PyTorch resizes 8-bit values as integers depends on the processor: a level more or less."""
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far what is computed here is from what was stored; 0: the same bits."""

    input_levels: float
    """Largest difference of the preprocessed input."""
    difference: float
    """Largest difference of output and feature maps."""
    tolerance: float
    """Allowed of the latter."""

    @property
    def bit_equal(self) -> bool:
        """Whether the network computes the very same."""
        return self.difference == 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "bit_equal": self.bit_equal,
            "difference": self.difference,
            "tolerance": self.tolerance,
            "preprocessing_bit_equal": self.input_levels == 0,
            "preprocessing_levels": self.input_levels,
        }


def tolerance_of(precision: str) -> float:
    """What may differ on another machine, of networks of a precision."""
    return FLOAT_TOLERANCE if precision == "fp32" else INTEGER_TOLERANCE


def write_reference(folder: Path, network: Network, description: Description, contract: ClipInput | ImageInput) -> None:
    """Write `reference.safetensors`: picture, input, output and feature maps.

    Args:
        folder: the package.
        network: in evaluation mode, on the CPU.
        description: how evaluation makes its input.
        contract: how the reader does.
    """
    picture = noise_picture(contract)
    inputs = evaluation_input(pictures_of(picture, contract), description, contract)
    tensors = {"picture": picture, "input": inputs, **computed(network, inputs)}
    plain = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(folder / REFERENCE_FILE, lambda path: save_file(plain, path))


def compare_reference(folder: Path, handoff: Handoff) -> Comparison:
    """What the reader's preprocessing and the package's network make of the stored picture and input, here.

    Raises:
        UserError: the weights don't fit, or the stored tensors are others than the contract says.
        RunError: the results differ by more than the contract allows.
    """
    network, description = load_package(folder)
    require_agreement(folder, description, handoff)
    require_measurements(folder, description.spec, handoff)
    stored = read_reference(folder, handoff)
    prepared = preprocess(pictures_of(stored["picture"], handoff.input), handoff.input)
    std = torch.tensor(handoff.input.std).view(3, *[1] * (prepared.dim() - 2))
    levels = _largest((prepared - stored["input"]) * 255 * std)
    made = computed(network, stored["input"])
    differences = {name: _relative(tensor, stored[name]) for name, tensor in made.items()}
    worst = max(differences, key=lambda name: differences[name])
    if levels > PIXEL_TOLERANCE:
        raise RunError(
            f"{folder} is whole, but its preprocessing makes an input here that differs by {levels:.3g} levels of 255 "
            "from the stored one; use the PyTorch version of `provenance`"
        )
    if not differences[worst] <= handoff.reference.tolerance:
        raise RunError(_said_of(folder, handoff, worst, differences[worst]))
    return Comparison(input_levels=levels, difference=differences[worst], tolerance=handoff.reference.tolerance)


def read_reference(folder: Path, handoff: Handoff) -> dict[str, Tensor]:
    """The stored tensors.

    Raises:
        UserError: they are not those of which the contract speaks.
    """
    path = folder / handoff.reference.file
    try:
        stored = load_weights_file(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}; copy the package again") from error
    expected: dict[str, tuple[int, ...]] = {
        "input": (1, *_input_shape(handoff.input)),
        "output": (1, handoff.output.dimension),
        **{STAGE + stage.name: (1, *stage.shape) for stage in handoff.stages},
    }
    found = {name: tuple(tensor.shape) for name, tensor in stored.items() if name != "picture"}
    kinds = {name: tensor.dtype for name, tensor in stored.items()}
    if found != expected or kinds != {"picture": torch.uint8, **dict.fromkeys(expected, torch.float32)}:
        raise UserError(
            f"{path} does not hold picture, {', '.join(expected)} as the contract says; copy the package again"
        )
    if stored["picture"].dim() != 3:
        raise UserError(f"{path}: picture has {stored['picture'].dim()} axes, but must have 3; copy the package again")
    return stored


def noise_picture(contract: ClipInput | ImageInput) -> Tensor:
    """uint8 [height, width, 3], larger than what it is resized to, and of another shape."""
    if contract.resize.size is not None:
        height, width = contract.resize.size
    else:
        assert contract.resize.short_side is not None  # the contract has one of the two
        height = width = contract.resize.short_side
    size = (height * 5 // 4 + 1, width * 3 // 2 + 1, 3)
    return torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(SEED))


def pictures_of(picture: Tensor, contract: ClipInput | ImageInput) -> Tensor:
    """What the noise stands for: the frames of a clip's span, uint8 [frame, height, width, 3]; itself, as an image."""
    if isinstance(contract, ImageInput):
        return picture
    return torch.stack([picture.roll(frame, dims=1) for frame in range(contract.span)])


def evaluation_input(pictures: Tensor, description: Description, contract: ClipInput | ImageInput) -> Tensor:
    """[1, *network.input_shape], made as evaluation makes it, without a look at the contract's rules."""
    from trainers.data.crops import resized
    from trainers.data.transforms import centre_window, cut_views
    from trainers.framing import normalise, normalise_images

    spec = description.spec
    if description.clips is None:
        height, width = spec.input_shape[1:]
        image = resized(pictures.permute(2, 0, 1).contiguous(), (height, width))
        return normalise_images(image[None], contract.mean, contract.std)
    frames = pictures.permute(0, 3, 1, 2).contiguous()
    height, width = frames.shape[-2:]
    window = centre_window((height, width), description.clips, spec)
    (clip,) = cut_views(frames, [(spec.frame_indices(), window)])
    return normalise(clip[None], contract.mean, contract.std)


def computed(network: Network, inputs: Tensor) -> dict[str, Tensor]:
    """Output and feature maps of an input, by the names that they are stored under; on one thread.

    Weights and images are put into the order in memory that they have in evaluation; clips stay as they are there.
    """
    fast_order(network)
    ordered = in_fast_order(inputs) if inputs.dim() == 4 else inputs.contiguous()
    with thread_count(1), torch.inference_mode():
        maps = network.features(ordered) if network.stages else {}
        return {"output": network(ordered), **{STAGE + name: tensor for name, tensor in maps.items()}}


def _input_shape(contract: ClipInput | ImageInput) -> tuple[int, ...]:
    if isinstance(contract, ImageInput):
        return 3, contract.height, contract.width
    return 3, contract.frames, contract.side, contract.side


def _relative(found: Tensor, stored: Tensor) -> float:
    return _largest((found - stored) / stored.abs().clamp(min=1))


def _largest(differences: Tensor) -> float:
    """The largest absolute value; what is no number counts as infinite."""
    return float(differences.abs().nan_to_num(nan=torch.inf).max())


def _said_of(folder: Path, handoff: Handoff, what: str, difference: float) -> str:
    name = "output" if what == "output" else f"feature map {what.removeprefix(STAGE)}"
    hint = "; sums of integers overflow on processors without VNNI" if handoff.precision == "int8" else ""
    return (
        f"{folder} is whole, but its {name} differs here from the stored one by {difference:.2g} relative to "
        f"max(1, |value|), and {handoff.reference.tolerance:g} is allowed{hint}; use another machine, or the PyTorch "
        "version of `provenance`"
    )
