"""The integer kernels that a build of torch has, and the choice among them."""

from __future__ import annotations

import functools
import platform
import warnings

import torch

from compression.quantisation.layers import QuantisationError

ENGINES = {"x86": ("onednn", "x86", "fbgemm"), "arm": ("qnnpack", "onednn")}
"""Integer kernels by processor, best first; `x86` has 7 bits per activation, `onednn` 8."""


def supported_engines() -> list[str]:
    """The integer kernels that this build of torch has."""
    return [name for name in torch.backends.quantized.supported_engines if name != "none"]


def default_engine() -> str:
    """The integer kernels that suit this machine's processor best.

    Raises:
        QuantisationError: this build of torch has none.
    """
    family = "arm" if platform.machine().lower().startswith(("arm", "aarch")) else "x86"
    for engine in ENGINES[family]:
        if engine in supported_engines():
            return engine
    raise missing_engine(" or ".join(ENGINES[family]))


def use_engine(engine: str) -> None:
    """Compute with these integer kernels from now on.

    Raises:
        QuantisationError: this build of torch lacks them.
    """
    if engine not in supported_engines():
        raise missing_engine(engine)
    if torch.backends.quantized.engine != engine:
        torch.backends.quantized.engine = engine
    hear_announcement()


@functools.cache
def hear_announcement() -> None:
    """Let torch announce, as it does once per process, that integer tensors are deprecated, where nobody listens."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor.* are deprecated")
        torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)


def missing_engine(engine: str) -> QuantisationError:
    """What is said of kernels that aren't there."""
    return QuantisationError(
        f"this build of torch has no integer kernels called {engine}, but {', '.join(supported_engines()) or 'none'}; "
        "use one of those, or another build"
    )
