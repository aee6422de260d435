"""The integer kernels that a build of torch has, and the choice among them."""

from __future__ import annotations

import functools
import logging
import os
import platform
import warnings

import torch

from compression.quantisation.layers import QuantisationError

log = logging.getLogger(__name__)

ENGINES = {
    "x86": ("onednn", "x86", "fbgemm"),
    "x86 without VNNI": ("x86", "fbgemm", "onednn"),
    "arm": ("qnnpack", "onednn"),
}
"""Integer kernels by processor, best first; `x86` and `fbgemm` have 7 bits per activation, `onednn` 8.

Without VNNI, pairs of products of 8 bits are added up in 16 bits. Only with 7 bits per activation do they always fit.
"""
VNNI = frozenset({"avx_vnni", "avx512_vnni"})
"""What torch calls the instructions that add products of 8 bits up in 32 bits."""
LEFT_OF_VNNI = {
    **dict.fromkeys(("sse41", "avx", "avx2", "avx512_mic", "avx512_mic_4ops", "avx512_core"), frozenset[str]()),
    **dict.fromkeys(("avx2_vnni", "avx2_vnni_2"), frozenset({"avx_vnni"})),
    **dict.fromkeys(("avx512_core_vnni", "avx512_core_bf16"), frozenset({"avx512_vnni"})),
}
"""What oneDNN still uses of them where it is told to use no more than this; all of them where it isn't listed."""


def supported_engines() -> list[str]:
    """The integer kernels that this build of torch has."""
    return [name for name in torch.backends.quantized.supported_engines if name != "none"]


def default_engine() -> str:
    """The integer kernels that suit this machine's processor best.

    Raises:
        QuantisationError: this build of torch has none.
    """
    candidates = ENGINES[processor()]
    for engine in candidates:
        if engine in supported_engines():
            return engine
    raise missing_engine(" or ".join(candidates))


def processor() -> str:
    """Key of `ENGINES` of this machine."""
    if platform.machine().lower().startswith(("arm", "aarch")):
        return "arm"
    return "x86" if has_vnni() else "x86 without VNNI"


def has_vnni() -> bool:
    """Whether oneDNN can add up products of 8 bits without overflow: the processor can, and nobody forbade it.

    oneDNN itself reads the same variables, so a machine can be told to compute as an older one does.
    """
    forbidding = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    allowed = LEFT_OF_VNNI.get(forbidding.lower(), VNNI)
    return not allowed.isdisjoint(vnni_of_processor())


def vnni_of_processor() -> frozenset[str]:
    """Those of `VNNI` that the processor has."""
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch
        return frozenset({"avx512_vnni"}) if torch.cpu._is_vnni_supported() else frozenset()
    capabilities = torch.cpu.get_capabilities()
    return frozenset(name for name in VNNI if capabilities.get(name))


def use_engine(engine: str) -> None:
    """Compute with these integer kernels from now on; says so, once, if sums may overflow in them here.

    Raises:
        QuantisationError: this build of torch lacks them.
    """
    if engine not in supported_engines():
        raise missing_engine(engine)
    if torch.backends.quantized.engine != engine:
        torch.backends.quantized.engine = engine
    if engine == "onednn" and processor() == "x86 without VNNI":
        warn_of_overflow()
    hear_announcement()


@functools.cache
def warn_of_overflow() -> None:
    """Say once per process that this machine may compute wrongly."""
    log.warning(
        "onednn is given 8 bits per activation, but this processor has no VNNI instructions (or ONEDNN_MAX_CPU_ISA "
        "forbids them): sums may overflow, and results may be wrong; quantise again here with "
        "--set quantise.engine=x86"
    )


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
