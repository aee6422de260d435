"""Layers that go back to floating point while too much accuracy is lost.

Quantising is made up, with losses and harm as they are told, but in the last test.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from compression.quantisation.torch_ao import quantisable_layers
from compression.spec import NetworkSpec, Quantisation
from orchestrator.export import fallback
from orchestrator.export.fallback import Quantised, quantise_within
from trainers.backbones import Network, build

SPEC = NetworkSpec(backbone="r2plus1d", classes=3, clip_frames=4, side=16, blocks=(1, 1, 1, 1), width=1 / 32)
NOISE = {"stem.0": 20.0, "layer1.0": 12.5, "layer2.0": 40.0, "fc": float("inf")}
"""Signal-to-noise ratio of the output when a layer alone is rounded, in dB."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The float layers of every network that is quantised, one after the other."""
    rules: list[tuple[str, ...]] = []

    def quantise(network: Network, rule: Quantisation, inputs: Sequence[Tensor]) -> Any:
        assert network.spec.quantisation is None
        rules.append(rule.float_layers)
        return SimpleNamespace(spec=network.spec.replace(quantisation=rule))

    monkeypatch.setattr(fallback, "quantise_after_training", quantise)
    monkeypatch.setattr(fallback, "noise_of_layers", lambda network, rule, inputs: NOISE)
    return rules


def quantised(*losses: float, most: int = 3) -> Quantised:
    """With a measurement that finds these losses one after the other, in points; 1 is allowed."""
    found = iter(losses)
    network: Any = SimpleNamespace(spec=SPEC)
    made = quantise_within(network, [], lambda _: next(found), max_drop_points=1.0, max_fallbacks=most)
    assert next(found, None) is None, "not all were measured"
    return made


def float_layers(made: Quantised) -> tuple[str, ...]:
    assert made.network.spec.quantisation is not None
    return made.network.spec.quantisation.float_layers


def test_within_the_limit_everything_is_integers(seen: list[tuple[str, ...]]) -> None:
    made = quantised(1.0)
    assert (float_layers(made), made.returned, made.drop_points) == ((), (), 1.0)
    assert seen == [()]


def test_the_most_harmful_layers_go_back_one_by_one(seen: list[tuple[str, ...]]) -> None:
    made = quantised(5.0, 3.0, 0.5)
    assert seen == [(), ("layer1.0",), ("layer1.0", "stem.0")]
    assert float_layers(made) == ("layer1.0", "stem.0")
    assert [(one.layer, one.noise_db, one.drop_points) for one in made.returned] == [
        ("layer1.0", 12.5, 5.0),
        ("stem.0", 20.0, 3.0),
    ]
    assert made.drop_points == 0.5


def test_every_layer_that_went_back_says_why(seen: list[tuple[str, ...]]) -> None:
    said = [one.reason for one in quantised(5.0, 3.0, 2.0, 1.5, 1.0, most=9).returned]
    assert said[0] == "for accuracy: 5.0 points were lost, and of the layers in INT8 it did most harm, 12.5 dB"
    assert said[3] == "for accuracy: 1.5 points were lost, and of the layers in INT8 it did most harm"


@pytest.mark.parametrize(
    ("losses", "best"), [((5.0, 2.0, 4.0), 1), ((5.0, 6.0, 7.0), 0), ((5.0, 4.0, 3.0), 2)], ids=str
)
def test_so_many_layers_go_back_and_no_more(losses: tuple[float, ...], best: int, seen: list[tuple[str, ...]]) -> None:
    """None is within the limit: the one that loses least is taken, whichever came last."""
    made = quantised(*losses, most=2)
    assert (len(made.returned), len(float_layers(made)), made.drop_points) == (best, best, losses[best])


def test_none_need_go_back(seen: list[tuple[str, ...]]) -> None:
    assert quantised(5.0, most=0).returned == ()


def test_it_ends_when_every_layer_is_back(seen: list[tuple[str, ...]]) -> None:
    quantised(*[5.0] * (len(NOISE) + 1), most=1000)
    assert seen[-1] == tuple(sorted(NOISE))


def test_without_a_measurement_nothing_goes_back(seen: list[tuple[str, ...]]) -> None:
    network: Any = SimpleNamespace(spec=SPEC)
    made = quantise_within(network, [], None, max_drop_points=0.0, max_fallbacks=3)
    assert (float_layers(made), made.returned, made.drop_points) == ((), (), None)


def test_a_real_network() -> None:
    """Once with everything in integers, once with one layer back, which is the noisiest and says why."""
    torch.manual_seed(0)
    network, inputs = build(SPEC).eval(), [torch.randn(2, *SPEC.input_shape)]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    losses = iter([5.0, 0.5])
    made = quantise_within(network, inputs, lambda _: next(losses), max_drop_points=1.0, max_fallbacks=3)
    rows = {row["name"]: row for row in made.layers(network)}
    assert set(rows) >= set(quantisable_layers(network))
    (back,) = [row for row in rows.values() if row["precision"] == "float"]
    assert back["reason"].startswith("for accuracy: 5.0 points were lost")
    assert back["reason"].endswith(f"{back['noise_db']:.1f} dB")
    assert all(row["reason"] is None and row["noise_db"] is None for row in rows.values() if row is not back)
    assert made.network(inputs[0]).shape == (2, 3)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
