"""ONNX graphs: layers by their names, the stems found, and spared where that is faster."""

from typing import Any

import pytest
import torch

from compression.quantisation.torch_ao import quantisable_layers
from tests.trainers import tiny
from tests.trainers.artefacts import sample_exports as sample
from trainers.artefacts import onnx_int8
from trainers.artefacts.base import folded, probes
from trainers.artefacts.onnx_graph import (
    from_float,
    from_integers,
    input_layers,
    layer_nodes,
    without_integer_inputs,
)
from trainers.artefacts.onnx_session import integer_operators, runner, session

STEMS = {"r2plus1d": ["stem.0"], "slowfast": ["stem.fast.conv", "stem.slow.conv"], "reid": ["conv1"]}


@pytest.fixture(scope="module", params=STEMS)
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def quantised(backbone: str) -> Any:
    network = sample.make(backbone)
    model = from_float(folded(network), probes(network.spec)[-1])
    return onnx_int8.quantised(model, sample.calibration(network.spec))


@pytest.fixture(scope="module")
def converted(backbone: str) -> Any:
    network = sample.make(backbone, "integers")
    return from_integers(network.graph, probes(network.spec)[-1])  # type: ignore[arg-type]


def test_layers_go_by_their_modules_names(backbone: str, quantised: Any, converted: Any) -> None:
    names = sorted(quantisable_layers(sample.make(backbone)))
    assert sorted(node.name for node in layer_nodes(quantised)) == names
    assert sorted(node.name for node in layer_nodes(converted)) == names


def test_names_of_integers_are_those_of_their_weights(backbone: str, converted: Any) -> None:
    """A layer's shape of weights is compared with that of the module of its name."""
    from onnx import numpy_helper

    values = {node.output[0]: node.attribute[0].t for node in converted.graph.node if node.op_type == "Constant"}
    values |= {tensor.name: tensor for tensor in converted.graph.initializer}
    producers = {node.output[0]: node for node in converted.graph.node}
    modules = dict(sample.make(backbone).named_modules())
    for node in layer_nodes(converted):
        stored = numpy_helper.to_array(values[producers[node.input[1]].input[0]])
        assert tuple(stored.shape) == tuple(modules[node.name].weight.shape), node.name


def test_the_stems_are_found_behind_roundings_and_slices(backbone: str, quantised: Any, converted: Any) -> None:
    assert sorted(input_layers(quantised)) == STEMS[backbone]
    assert sorted(input_layers(converted)) == STEMS[backbone]


def test_rounding_is_small(backbone: str, quantised: Any) -> None:
    """8 bits leave a relative noise of some 1e-3 in all; an error in the graph gives one of about 1."""
    network = sample.make(backbone)
    clips = tiny.random_clips(network.spec, 3, seed=1)
    found = runner(session(quantised.SerializeToString(), 1))(clips)
    assert 0 < sample.noise(found, network(clips).detach()) < 0.02


@pytest.mark.parametrize("origin", ["quantised", "converted"])
def test_only_the_stems_are_spared(backbone: str, origin: str, request: pytest.FixtureRequest) -> None:
    """Given their input unrounded, they and they alone compute in floating point, and nothing else changes."""
    model = request.getfixturevalue(origin)
    before = model.SerializeToString()
    spared = without_integer_inputs(model, STEMS[backbone])
    assert model.SerializeToString() == before
    every = integer_operators(before)
    assert every == set(quantisable_layers(sample.make(backbone)))
    assert integer_operators(spared.SerializeToString()) == every - set(STEMS[backbone])
    clips = tiny.random_clips(tiny.ALL_SPECS[backbone], 3, seed=1)
    whole, part = (runner(session(content, 1))(clips) for content in (before, spared.SerializeToString()))
    assert not torch.equal(whole, part)
    assert sample.noise(part, whole) < 0.02


@pytest.mark.parametrize(("spared", "chosen"), [(0.5, True), (0.98, False), (2.0, False)])
def test_stems_are_spared_where_that_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, spared: float, chosen: bool
) -> None:
    """The clock is scripted: 1 ms for all in integers, `spared` ms otherwise."""
    network = sample.make("reid", "integers")
    model = from_integers(network.graph, probes(network.spec)[-1])  # type: ignore[arg-type]
    monkeypatch.setattr(onnx_int8, "time_in_turns", lambda runs, example: [1.0, spared])
    content, (note,) = onnx_int8.faster(model, probes(network.spec)[0])
    assert ("conv1" not in integer_operators(content)) == chosen
    assert note.startswith(f"conv1 stays in {'floating point' if chosen else 'integers'}: {spared:.2f} ms in floating")


def test_what_is_timed_takes_turns() -> None:
    calls: list[str] = []
    runs = [lambda _, name=name: calls.append(name) for name in "ab"]
    times = onnx_int8.time_in_turns(runs, torch.zeros(1))  # type: ignore[arg-type]
    assert calls == ["a", "b"] * (onnx_int8.WARM_UP + onnx_int8.RUNS)
    assert all(time >= 0 for time in times)
