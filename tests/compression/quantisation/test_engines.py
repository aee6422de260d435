"""Which integer kernels are taken, and what is said where they may overflow."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch

from compression.quantisation import engines
from compression.quantisation.engines import default_engine, has_vnni, processor, use_engine, vnni_of_processor
from compression.quantisation.layers import QuantisationError
from compression.quantisation.torch_ao import convert, prepare
from compression.spec import Quantisation
from tests.compression.quantisation.networks import ENGINE, Joined, Plain, measured, random_inputs, seeded

on_x86 = pytest.mark.skipif(processor() == "arm", reason="needs an x86 processor")
NEW, LAPTOP, OLD = {"avx512_vnni", "avx_vnni"}, {"avx_vnni"}, set[str]()


@pytest.mark.parametrize(
    ("has", "allowed", "expected"),
    [
        (NEW, None, True),
        (LAPTOP, None, True),
        (OLD, None, False),
        (NEW, "AVX2", False),
        (NEW, "avx512_core", False),
        (NEW, "SSE41", False),
        (NEW, "AVX512_CORE_VNNI", True),
        (NEW, "avx512_core_amx", True),
        ({"avx512_vnni"}, "AVX2_VNNI", False),
        (LAPTOP, "AVX2_VNNI", True),
        (NEW, "DEFAULT", True),
        (OLD, "AVX512_CORE_VNNI", False),
    ],
)
def test_vnni_needs_a_processor_that_has_it_and_nobody_who_forbids_it(
    has: set[str], allowed: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "vnni_of_processor", lambda: frozenset(has))
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if allowed is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert has_vnni() is expected


@pytest.mark.parametrize(("capabilities", "expected"), [({"avx2": True}, OLD), ({"avx_vnni": True}, LAPTOP)])
def test_torch_knows_the_processor(
    capabilities: Mapping[str, bool], expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert vnni_of_processor() == expected


@pytest.mark.parametrize(("vnni", "engine"), [(True, "onednn"), (False, "x86")])
def test_without_vnni_activations_get_7_bits(vnni: bool, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.quantisation.engines.platform.machine", lambda: "x86_64")
    monkeypatch.setattr(engines, "supported_engines", lambda: ["fbgemm", "onednn", "x86"])
    monkeypatch.setattr(engines, "has_vnni", lambda: vnni)
    assert default_engine() == engine


@on_x86
def test_a_machine_told_to_be_old_warns_once() -> None:
    """In a process of its own: oneDNN reads the variable once."""
    program = (
        "from compression.quantisation.engines import default_engine, use_engine\n"
        "print(default_engine())\n"
        "for engine in ('onednn', 'x86', 'onednn'): use_engine(engine)\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "x86\n"
    assert run.stderr.count("--set quantise.engine=x86") == 1


@on_x86
@pytest.mark.parametrize("engine", ["onednn", "x86", "fbgemm"])
def test_beyond_the_measured_range_integers_still_are_the_simulation(engine: str) -> None:
    """Inputs 1.5 times as large; with 7 bits, the simulation once clamped at 127 what integers clamp at 255."""
    network, inputs = seeded(Joined()), random_inputs(8, 3, 8, 8)
    simulated = measured(network, inputs, Quantisation(engine=engine), training=True)
    with torch.no_grad():
        given, expected = convert(simulated)(1.5 * inputs), simulated(1.5 * inputs)
    assert (given - expected).norm() < 0.02 * expected.norm()


def test_engines() -> None:
    assert default_engine() in torch.backends.quantized.supported_engines
    use_engine(ENGINE)
    assert torch.backends.quantized.engine == ENGINE
    with pytest.raises(QuantisationError, match=rf"kernels called abacus, but .*{ENGINE}.*; use one of those"):
        use_engine("abacus")
    with pytest.raises(QuantisationError, match="abacus"):
        prepare(Plain(), random_inputs(1, 3, 4, 8, 8), Quantisation(engine="abacus"), training=False)


@pytest.mark.parametrize(
    ("machine", "supported", "engine"),
    [
        ("x86_64", ["qnnpack", "none", "onednn", "x86", "fbgemm"], "onednn"),
        ("AMD64", ["none", "fbgemm"], "fbgemm"),
        ("aarch64", ["qnnpack", "none", "onednn"], "qnnpack"),
        ("arm64", ["none", "onednn"], "onednn"),
    ],
)
def test_default_engine_by_processor(
    machine: str, supported: list[str], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compression.quantisation.engines.platform.machine", lambda: machine)
    monkeypatch.setattr("compression.quantisation.engines.supported_engines", lambda: supported)
    monkeypatch.setattr("compression.quantisation.engines.has_vnni", lambda: True)
    assert default_engine() == engine


def test_no_engine_for_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.quantisation.engines.supported_engines", lambda: [])
    with pytest.raises(QuantisationError, match=r"no integer kernels called .*, but none"):
        default_engine()
