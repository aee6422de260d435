"""Quantising in a trial: ranges, freezing, resuming, packages in integers."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from compression.quantisation.layers import QuantisationError
from compression.quantisation.torch_ao import default_engine, layer_noise, use_engine
from compression.spec import NetworkSpec, Quantisation
from configs.errors import UserError
from configs.schema import DistillationSettings, QuantiseRecipe
from tests.trainers import tiny
from trainers.backbones import IntegerNetwork, SimulatedNetwork, build
from trainers.checkpoint import OPTIMISER
from trainers.data.manifest import Manifest
from trainers.distributed import World
from trainers.files import sha256_of
from trainers.loop import Training
from trainers.package import WEIGHTS_FILE, load_package
from trainers.quantisation import NOISE_INPUTS, Quantiser, calibrate, quantise_after_training, read_layers
from trainers.results import read_result
from trainers.site import Site
from trainers.tasks import calibration_inputs
from trainers.tasks.calibration import spread
from trainers.trial import Trial

RULE = Quantisation(engine=default_engine())
RECIPE = QuantiseRecipe(calibration=6, freeze_norms_after=1, freeze_ranges_after=2)


def make_quantised(manifest: Manifest, start: str, *, learning: bool = True, rule: Quantisation = RULE) -> Trial:
    """A quantisation of the network of `start`; with training, distilled from it."""
    trained = {"teacher": start, "distillation": DistillationSettings()} if learning else {"train": None}
    network = tiny.SPEC.replace(quantisation=rule)
    return tiny.make_trial(manifest, network=network, start=start, quantise=RECIPE, **trained)


@pytest.mark.parametrize("learning", [False, True], ids=["ptq", "qat"])
def test_a_trial_leaves_a_package_in_integers(
    manifest: Manifest, teacher: str, shared_site: Site, learning: bool
) -> None:
    """It is loaded bit for bit, by whoever has the folder, and scores as the trial did."""
    trial = make_quantised(manifest, teacher, learning=learning)
    result = tiny.finish(trial, shared_site)
    assert (result.status, result.epochs) == ("finished", tiny.TRAIN.epochs if learning else 0)
    folder = shared_site.trial_folder(trial.digest)
    network, description = load_package(folder)
    assert isinstance(network, IntegerNetwork)
    assert description.spec == trial.network
    again, _ = load_package(folder)
    clips = tiny.random_clips(tiny.SPEC)
    assert torch.equal(network(clips), again(clips))
    small, large = (size(shared_site.trial_folder(digest)) for digest in (trial.digest, teacher))
    assert small < large


def size(folder: Path) -> int:
    return (folder / WEIGHTS_FILE).stat().st_size


def test_layers_are_listed_with_their_noise(manifest: Manifest, teacher: str, shared_site: Site) -> None:
    rule = dataclasses.replace(RULE, float_layers=("stem.0",))
    trial = make_quantised(manifest, teacher, learning=False, rule=rule)
    tiny.finish(trial, shared_site)
    layers = read_layers(shared_site.trial_folder(trial.digest))
    by_name = {layer["name"]: layer for layer in layers}
    assert by_name["stem.0"]["precision"] == "float"
    assert by_name["stem.0"]["reason"]
    others = [layer for layer in layers if layer["kind"] in ("conv3d", "linear") and layer["name"] != "stem.0"]
    assert {layer["precision"] for layer in others} == {"int8"}
    assert all(layer["noise_db"] > 0 for layer in others)


@pytest.mark.parametrize("stops", [[1], [2], [1, 1, 1]])
def test_a_resumed_quantisation_is_the_undisturbed_one(
    manifest: Manifest, teacher: str, shared_site: Site, site: Site, stops: list[int]
) -> None:
    """Ranges, frozen or not, are part of the checkpoint."""
    trial = make_quantised(manifest, teacher)
    tiny.finish(trial, shared_site)
    for epochs in stops:
        tiny.train(trial, site, epochs=epochs)
    tiny.finish(trial, site)
    some, other = (place.trial_folder(trial.digest) for place in (site, shared_site))
    assert sha256_of(some / WEIGHTS_FILE) == sha256_of(other / WEIGHTS_FILE)
    assert tiny.timeless(some) == tiny.timeless(other)
    states = (torch.load(folder / "checkpoints/epoch-0003" / OPTIMISER, weights_only=True) for folder in (some, other))
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_training_starts_from_the_network_it_simulates(manifest: Manifest, teacher: str, site: Site) -> None:
    """Before the first step the student's outputs are the teacher's, up to rounding."""
    training = Training(make_quantised(manifest, teacher), site, World())
    network, description = load_package(site.trial_folder(teacher))
    (clips,) = calibration_inputs(description, manifest, RECIPE.calibration)
    with torch.no_grad():
        wanted = network(clips)
        found = training.student.eval()(clips)
    assert 0 < (found - wanted).abs().max() < 0.1 * wanted.abs().max()


@pytest.fixture
def simulated() -> SimulatedNetwork:
    network = tiny.random_network(tiny.SPEC).eval()
    quantiser = Quantiser(network, RULE, RECIPE, learning=True)
    calibrate(quantiser.simulated, [tiny.random_clips(tiny.SPEC)])
    return quantiser.simulated


def moved(network: SimulatedNetwork, *, train: bool) -> set[str]:
    """Kinds of buffers that a forward pass on other, larger inputs changes."""
    before = {name: value.clone() for name, value in network.named_buffers()}
    with torch.no_grad():
        network.train(train)(3 * tiny.random_clips(tiny.SPEC, seed=1))
    changed = {name for name, value in network.named_buffers() if not torch.equal(before[name], value)}
    kinds = {"running_mean": "norms", "running_var": "norms", "min_val": "ranges", "max_val": "ranges"}
    return {kinds[last] for name in changed if (last := name.rpartition(".")[2]) in kinds}


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, {"norms", "ranges"}), (1, {"ranges"}), (2, set())], ids=["free", "norms", "all"]
)
def test_freezing_follows_the_recipe(epoch: int, expected: set[str]) -> None:
    """Norms from epoch 1 on, ranges from epoch 2 on, counted from 0."""
    quantiser = Quantiser(tiny.random_network(tiny.SPEC).eval(), RULE, RECIPE, learning=True)
    calibrate(quantiser.simulated, [tiny.random_clips(tiny.SPEC)])
    quantiser.before_epoch(epoch)
    assert moved(quantiser.simulated, train=True) == expected


def test_evaluation_moves_nothing(simulated: SimulatedNetwork) -> None:
    """What is validated on must not decide ranges."""
    assert moved(simulated, train=False) == set()


def test_converting_leaves_the_simulation_alone(simulated: SimulatedNetwork) -> None:
    clips = tiny.random_clips(tiny.SPEC)
    before = simulated.eval()(clips)
    integers = simulated.converted()
    assert torch.equal(simulated(clips), before)
    assert integers.spec == simulated.spec
    assert (integers(clips) - before).abs().max() < 0.1 * before.abs().max()


@pytest.mark.parametrize("name", tiny.ALL_SPECS)
def test_without_training_integers_are_close(name: str) -> None:
    spec: NetworkSpec = tiny.ALL_SPECS[name]
    network = tiny.random_network(spec).eval()
    inputs = tiny.random_clips(spec, number=8)
    integers = quantise_after_training(network, RULE, [inputs])
    with torch.no_grad():
        similarity = torch.nn.functional.cosine_similarity(integers(inputs), network(inputs))
    assert similarity.min() > 0.97  # the e2tad spec asks 0.99 of trained networks
    rebuilt = build(integers.spec)
    rebuilt.load_state_dict(integers.state_dict())
    assert torch.equal(rebuilt(inputs), integers(inputs))


def test_state_of_another_network_is_refused(simulated: SimulatedNetwork) -> None:
    other = build(tiny.SPECS["slowfast"].replace(quantisation=RULE))
    with pytest.raises(RuntimeError, match="is missing"):
        other.load_state_dict(simulated.converted().state_dict())


def test_integers_offer_no_maps(simulated: SimulatedNetwork) -> None:
    with pytest.raises(NotImplementedError, match="floating point"):
        simulated.converted().features(tiny.random_clips(tiny.SPEC))


def test_nothing_to_calibrate_on_is_an_error(simulated: SimulatedNetwork) -> None:
    with pytest.raises(UserError, match="no training example"):
        calibrate(simulated, [])


def test_calibration_takes_training_videos_as_in_evaluation(
    manifest: Manifest, teacher: str, shared_site: Site
) -> None:
    """9 training videos; more clips than videos are taken from each, the same ones every time."""
    _, description = load_package(shared_site.trial_folder(teacher))
    few, many = (calibration_inputs(description, manifest, examples) for examples in (4, NOISE_INPUTS))
    assert sum(map(len, few)) == 4
    assert sum(map(len, many)) == 2 * len(manifest.train)
    again = calibration_inputs(description, manifest, 4)
    assert all(torch.equal(*pair) for pair in zip(few, again, strict=True))


def test_spread_is_even() -> None:
    assert spread(range(10), 5) == (0, 2, 4, 6, 8)
    assert spread("abc", 7) == ("a", "b", "c")


def test_the_digest_follows_rule_and_recipe(manifest: Manifest) -> None:
    trial = make_quantised(manifest, "0123456789abcdef")
    other_rule = make_quantised(manifest, "0123456789abcdef", rule=Quantisation(engine="x86"))
    other_recipe = dataclasses.replace(trial, quantise=QuantiseRecipe())
    assert len({trial.digest, other_rule.digest, other_recipe.digest}) == 3
    assert Trial.from_dict(trial.to_dict()) == trial


@pytest.mark.parametrize("missing", ["quantise", "network", "start"])
def test_half_a_quantisation_is_refused(manifest: Manifest, missing: str) -> None:
    instead: dict[str, Any] = {"quantise": None, "network": tiny.SPEC, "start": None}
    with pytest.raises(ValueError, match="quantises"):
        dataclasses.replace(make_quantised(manifest, "0123456789abcdef"), **{missing: instead[missing]})


def test_results_name_the_package(manifest: Manifest, teacher: str, shared_site: Site) -> None:
    """A damaged package is no result: the trial is done again."""
    trial = make_quantised(manifest, teacher, learning=False)
    tiny.finish(trial, shared_site)
    folder = shared_site.trial_folder(trial.digest)
    assert read_result(folder) is not None
    (folder / WEIGHTS_FILE).write_bytes(b"damaged")
    assert read_result(folder) is None
    assert not tiny.finish(trial, shared_site).cached


def test_the_order_of_calibration_makes_no_difference() -> None:
    network = tiny.random_network(tiny.SPEC).eval()
    batches = [size * tiny.random_clips(tiny.SPEC, seed=seed) for seed, size in enumerate((1.0, 1.0, 4.0))]
    ends = []
    for order in (batches, batches[::-1]):
        simulated = SimulatedNetwork(network, RULE, learning=True)
        calibrate(simulated, order)
        ends.append({name: value for name, value in simulated.named_buffers() if name.endswith(("min_val", "max_val"))})
    assert ends[0]
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_noise_is_that_of_the_network_that_was_learnt() -> None:
    """Not that of the network that training started from, nor with ranges of its own."""
    network, clips = tiny.random_network(tiny.SPEC).eval(), tiny.random_clips(tiny.SPEC)
    quantiser = Quantiser(network, RULE, RECIPE, learning=True)
    calibrate(quantiser.simulated, [clips])
    before = noise_by_name(quantiser, clips)
    layer: Any = quantiser.simulated.graph.get_submodule("fc")
    with torch.no_grad():
        layer.weight.add_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0)))
    quantiser.simulated.eval()
    after = noise_by_name(quantiser, clips)
    assert after == pytest.approx(layer_noise(quantiser.simulated.graph, [clips]))
    assert abs(after["fc"] - before["fc"]) > 0.1
    assert not quantiser.simulated.training


def noise_by_name(quantiser: Quantiser, clips: torch.Tensor) -> dict[str, float]:
    layers = quantiser.layers(quantiser.simulated.converted(), [clips])
    return {layer["name"]: layer["noise_db"] for layer in layers if layer["noise_db"] is not None}


def test_a_network_that_gives_nan_is_the_users_error() -> None:
    network = tiny.random_network(tiny.SPEC).eval()
    with torch.no_grad():
        network.get_parameter("fc.weight")[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"^quantise: .*not finite"):
        quantise_after_training(network, RULE, [tiny.random_clips(tiny.SPEC)])


@pytest.mark.parametrize("other", ["x86", "qnnpack"])
def test_the_engine_of_another_network_makes_no_difference(other: str) -> None:
    """Weights are packed for whichever engine is in use then; one network may run between the steps of another."""
    if other not in torch.backends.quantized.supported_engines:
        pytest.skip(f"this build has no {other}")
    network, images = tiny.random_network(tiny.REID_SPEC).eval(), tiny.random_clips(tiny.REID_SPEC, number=2)
    expected = quantise_after_training(network, RULE, [images])
    simulated = SimulatedNetwork(network, RULE, learning=False)
    calibrate(simulated, [images])
    rebuilt = build(expected.spec)
    try:
        use_engine(other)
        assert torch.equal(simulated.converted()(images), expected(images))
        use_engine(other)
        rebuilt.load_state_dict(expected.state_dict())
        assert torch.equal(rebuilt(images), expected(images))
    finally:
        use_engine(RULE.engine)


def test_ranges_of_weights_are_renewed_until_ranges_are_frozen() -> None:
    network, clips = tiny.random_network(tiny.SPEC).eval(), tiny.random_clips(tiny.SPEC)
    quantiser = Quantiser(network, RULE, RECIPE, learning=True)
    calibrate(quantiser.simulated, [clips])
    before = quantiser.simulated.converted().state_dict()["fc.weight_scales"]
    layer: Any = quantiser.simulated.graph.get_submodule("fc")
    with torch.no_grad():
        layer.weight.mul_(2)
    for epoch, factor in ((RECIPE.freeze_ranges_after - 1, 2), (RECIPE.freeze_ranges_after, 1)):
        quantiser.before_epoch(epoch)
        scales = quantiser.simulated.converted().state_dict()["fc.weight_scales"]
        torch.testing.assert_close(scales, factor * before)
    twin = SimulatedNetwork(network, RULE, learning=True)
    twin.load_state_dict(quantiser.simulated.state_dict())
    assert bool(twin.ranges_frozen)


def test_a_layer_that_is_named_twice_is_named_once() -> None:
    assert Quantisation(engine="onednn", float_layers=("b", "a", "b")).float_layers == ("a", "b")


def test_building_integers_draws_no_random_numbers() -> None:
    """Loading a model must not change a training beside it."""
    before = torch.random.get_rng_state()
    build(tiny.SPEC.replace(quantisation=RULE))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_network_than_that_of_the_start_is_refused_before_training(
    manifest: Manifest, teacher: str, site: Site
) -> None:
    network = tiny.SPEC.replace(width=1 / 16, quantisation=RULE)
    with pytest.raises(UserError, match="is of another"):
        Training(dataclasses.replace(make_quantised(manifest, teacher), network=network), site, World())


def test_values_that_are_not_finite_end_as_a_diverged_trial(
    manifest: Manifest, teacher: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as an error that would be tried again."""

    def fail(_: SimulatedNetwork) -> IntegerNetwork:
        raise QuantisationError("fc has a range that is not finite")

    monkeypatch.setattr(SimulatedNetwork, "converted", fail)
    result = tiny.finish(make_quantised(manifest, teacher, learning=False), site)
    assert result.status == "diverged"
    assert "range that is not finite" in (result.reason or "")
