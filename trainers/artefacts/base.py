"""What exported formats have in common: the record in `network.json`, the network that runs one, and its check.

An exported folder holds one model file and `network.json`, which describes the network as in a package and says,
under the key `artefact`, in which format the file is and what of it computes in integers.
"""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compression.quantisation.graph_cleaning import unchecked_annotations
from compression.spec import NetworkSpec
from configs.errors import RunError, UserError
from trainers.backbones import Network, fast_order, in_fast_order
from trainers.files import read_json, write_atomically, write_json
from trainers.package import NETWORK_FILE, Description

PROBE_BATCHES = (1, 2)
"""Sizes of the random batches on which an exported file is compared with its network."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What `network.json` says of an exported file."""

    format: str
    """Key of `trainers.artefacts.FORMATS`."""
    file: str
    """Name of the model file beside `network.json`."""
    integer_layers: int = 0
    """Convolutions and linear layers that compute in integers."""
    float_layers: tuple[str, ...] = ()
    """Of a file with integers: those that still compute in floating point, by name."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "float_layers": list(self.float_layers)}

    @classmethod
    def from_dict(cls, data: Any) -> Artefact:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: unknown, missing or unsuitable values.
        """
        if not isinstance(data, Mapping) or data.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"it is {data!r}, but needs exactly {', '.join(field.name for field in fields(cls))}")
        file, layers = data["file"], data["float_layers"]
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".."):
            raise ValueError(f"file is {file!r}, but must be the name of a file in this folder")
        if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
            raise ValueError(f"float_layers is {layers!r}, but must be a list of names")
        return cls(
            format=str(data["format"]),
            file=file,
            integer_layers=int(data["integer_layers"]),
            float_layers=tuple(layers),
        )


def write_artefact(folder: Path, description: Description, artefact: Artefact, content: bytes) -> None:
    """Write the model file, then `network.json`; each appears whole, and without the second there is no artefact."""
    write_atomically(folder / artefact.file, lambda path: _write(path, content))
    write_json(folder / NETWORK_FILE, {**description.to_dict(), "artefact": artefact.to_dict()})


def read_artefact(folder: Path) -> Artefact | None:
    """What a folder's `network.json` says of an exported file; none: it is a package, or no model at all.

    Raises:
        UserError: it says something that this version can't read.
    """
    data = read_json(folder / NETWORK_FILE)
    if not isinstance(data, Mapping) or "artefact" not in data:
        return None
    try:
        return Artefact.from_dict(data["artefact"])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{folder / NETWORK_FILE}: artefact describes no exported file that this version can read: {error}. "
            "Export it again"
        ) from error


class ArtefactNetwork(Network):
    """An exported file behind the interface of a network: scored and timed like any other, on the CPU.

    It has no parameters and no named maps; inputs may lie on any device, and outputs come back there.

    Args:
        spec: as recorded when it was exported.
        run: outputs of a batch of normalised inputs, both float32 on the CPU.
    """

    stages = ()

    def __init__(self, spec: NetworkSpec, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__(spec)
        self.run = run
        super().train(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of clips, or vectors of images, normalised as for the network that was exported."""
        return self.run(inputs.detach().to("cpu", torch.float32)).to(inputs.device)

    def train(self, mode: bool = True) -> ArtefactNetwork:
        """Nothing: what is exported is not trained."""
        return self

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """Refused: an exported file gives outputs only.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("an exported file offers no feature maps; take the package that it came from")

    def stage_ends(self) -> dict[str, nn.Module]:
        """None: see `features`."""
        return {}


def library(name: str, what: str) -> Any:
    """A library that only some formats need, imported when one is used.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(f"{what} needs {package}, which can't be imported here: pip install {package}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters from warning of their own future and from logging to the terminal while the block runs."""
    root, disabled, silence = logging.getLogger(), logging.root.manager.disable, logging.NullHandler()
    root.addHandler(silence)  # `logging.warning` of a library would otherwise install a handler for good
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(silence)


def require_float(network: Network, name: str) -> None:
    """Refuse a network that computes in integers.

    Raises:
        UserError: it does.
    """
    if network.spec.quantisation is not None:
        raise UserError(
            f"--format is {name}, but this {network.spec.backbone} is INT8; "
            "give the floating-point network it came from, or --format onnx-int8"
        )


def on_cpu(network: Network) -> Network:
    """A copy for inference on a CPU: what an exported file is compared with."""
    copied = copy.deepcopy(network).cpu().eval()
    fast_order(copied)
    return copied


def folded(network: Network) -> nn.Module:
    """A copy of a floating-point network for inference on a CPU, batch norms folded into their convolutions."""
    from torch.fx.experimental.optimization import fuse  # builds tables of patterns: not for every import of trainers

    with unchecked_annotations():
        return fast_order(fuse(on_cpu(network))).requires_grad_(False)


def probes(spec: NetworkSpec) -> list[Tensor]:
    """Random inputs, always the same, in batches of different sizes."""
    generator = torch.Generator().manual_seed(0)
    return [in_fast_order(torch.randn(batch, *spec.input_shape, generator=generator)) for batch in PROBE_BATCHES]


def require_agreement(network: nn.Module, run: Callable[[Tensor], Tensor], inputs: list[Tensor], limit: float) -> float:
    """The largest difference between outputs of a network and of its exported form, relative to max(1, |output|).

    Raises:
        RunError: it is above `limit`, or some outputs are not finite numbers.
    """
    worst = 0.0
    with torch.inference_mode():
        for batch in inputs:
            expected = network(batch)
            difference = (run(batch) - expected).abs() / expected.abs().clamp(min=1)
            worst = max(worst, float(difference.nan_to_num(nan=torch.inf).max()))
    if not worst <= limit:
        raise RunError(
            f"the exported file's outputs differ from the network's by {worst:.2g} relative to max(1, |output|), "
            f"more than {limit:.0e}; nothing was written"
        )
    return worst


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
