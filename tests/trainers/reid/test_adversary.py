"""The adversary of cameras: gradients, bounds, edges, and a toy in which it must blind the vectors."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.reid.adversary import (
    CameraClassifier,
    camera_loss,
    camera_weights,
    cameras_follow_identities,
    confusion,
    reversal_weight,
    reverse_gradient,
    train_against,
)

CAMERAS = torch.tensor([0, 1, 2, 0, 1, 2])


def vectors(seed: int = 0, images: int = 6, channels: int = 8) -> Tensor:
    return torch.randn(images, channels, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def classifier(seed: int = 0, channels: int = 8, cameras: int = 3) -> CameraClassifier:
    torch.manual_seed(seed)
    return CameraClassifier(channels, cameras)


def camera_gradient(weight: float | None) -> tuple[Tensor, list[Tensor]]:
    """Of the vectors and of the classifier's parameters, with the reversal or without."""
    x, model = vectors(), classifier()
    loss = camera_loss(model(x if weight is None else reverse_gradient(x, weight)), CAMERAS)
    of_x, *of_model = torch.autograd.grad(loss, [x, *model.parameters()])
    return of_x, of_model


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0, 2.5])
def test_the_reversed_gradient_is_minus_lambda_times_the_plain_one(weight: float) -> None:
    plain, plain_classifier = camera_gradient(None)
    reversed_, its_classifier = camera_gradient(weight)
    torch.testing.assert_close(reversed_, -weight * plain, rtol=0, atol=1e-6)
    assert plain.abs().sum() > 0
    for one, other in zip(plain_classifier, its_classifier, strict=True):
        assert torch.equal(one, other)


def test_forward_it_is_the_identity() -> None:
    x = vectors()
    assert torch.equal(reverse_gradient(x, 0.7), x)


def test_with_lambda_zero_the_network_learns_as_without_an_adversary() -> None:
    """Bit for bit, with momentum and weight decay."""

    def trained(*, adversary: bool) -> Tensor:
        torch.manual_seed(0)
        network, head, model = nn.Linear(5, 8), nn.Linear(8, 4), classifier()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for step in range(3):
            x = network(vectors(step, channels=5).detach())
            loss = F.cross_entropy(head(x), torch.tensor([0, 1, 2, 3, 0, 1]))
            if adversary:
                loss = loss + camera_loss(model(reverse_gradient(x, 0.0)), CAMERAS)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return network.weight.detach()

    assert torch.equal(trained(adversary=True), trained(adversary=False))


def test_one_step_makes_the_classifier_better_and_the_network_harder_to_read() -> None:
    network, model = nn.Linear(8, 8), classifier()
    images = vectors().detach()

    def loss() -> Tensor:
        return camera_loss(model(network(images)), CAMERAS)

    before = loss().item()
    camera_loss(model(reverse_gradient(network(images), 1.0)), CAMERAS).backward()  # type: ignore[no-untyped-call]
    for module, higher in ((network, True), (model, False)):
        kept = copy.deepcopy(module.state_dict())
        torch.optim.SGD(module.parameters(), lr=0.05).step()
        assert (loss().item() > before) == higher
        module.load_state_dict(kept)


def test_lambda_rises_to_its_largest_value() -> None:
    """λ(p) = λ_max tanh(5 p): 0, then 0.1 · tanh(0.5) at a tenth, nearly all of it at the end."""
    assert reversal_weight(0.0, 0.1) == 0
    assert reversal_weight(0.1, 0.1) == pytest.approx(0.1 * math.tanh(0.5))
    assert reversal_weight(1.0, 0.1) == pytest.approx(0.1 * 0.9999092)
    assert reversal_weight(0.5, 0.0) == 0


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_lambda_must_not_be_negative(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight is .* must be a finite number >= 0"):
        reverse_gradient(vectors(), weight)
    with pytest.raises(ValueError, match=r"largest is .* must be a finite number >= 0"):
        reversal_weight(0.5, weight)


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_progress_is_a_share(progress: float) -> None:
    with pytest.raises(ValueError, match=r"progress is .* in \[0, 1\]"):
        reversal_weight(progress, 0.1)


def test_the_classifier_has_128_hidden_numbers() -> None:
    assert sum(p.numel() for p in CameraClassifier(64, 6).parameters()) == (64 + 1) * 128 + (128 + 1) * 6


@pytest.mark.parametrize("cameras", [0, 1])
def test_a_single_camera_can_not_be_told_apart(cameras: int) -> None:
    with pytest.raises(ValueError, match=f"there is {cameras} camera, but .* leave the adversary out"):
        CameraClassifier(8, cameras)


def test_whoever_knows_nothing_pays_ln_v() -> None:
    """Also with weights, of which only the ratios count."""
    logits = torch.full((6, 3), 0.7)
    assert camera_loss(logits, CAMERAS).item() == pytest.approx(math.log(3))
    assert camera_loss(logits, CAMERAS, weights=torch.tensor([0.1, 5.0, 2.0])).item() == pytest.approx(math.log(3))
    assert confusion(logits).item() == pytest.approx(math.log(3))


def test_confusion_by_hand() -> None:
    """Answers 3/4, 1/4: −½ (ln 3/4 + ln 1/4); the surer the classifier, the more."""
    assert confusion(torch.tensor([[math.log(3), 0.0]])).item() == pytest.approx(-0.5 * math.log(3 / 16))
    assert confusion(torch.tensor([[20.0, 0.0]])).item() == pytest.approx(10, abs=1e-4)


def test_images_of_unknown_cameras_say_nothing() -> None:
    model = classifier()
    x = vectors()
    some = torch.tensor([0, -1, 2, -1, -1, 1])
    expected = camera_loss(model(x[some >= 0]), some[some >= 0])
    torch.testing.assert_close(camera_loss(model(x), some), expected)
    nothing = camera_loss(model(x), torch.full((6,), -1))
    assert nothing.item() == 0
    assert not torch.autograd.grad(nothing, x)[0].any()


def test_weights_are_the_cross_entropy_s() -> None:
    model, weights = classifier(), torch.tensor([0.5, 2.0, 1.0])
    logits = model(vectors())
    expected = F.cross_entropy(logits, torch.tensor([0, 0, 0, 1, 1, 2]), weight=weights)
    torch.testing.assert_close(camera_loss(logits, torch.tensor([0, 0, 0, 1, 1, 2]), weights=weights), expected)


def test_balanced_cameras_count_the_same() -> None:
    """Three images of camera 0, one of camera 2, none of camera 1: 4 / (3 · 3), 0, 4 / (3 · 1)."""
    torch.testing.assert_close(camera_weights([0, 2, 0, -1, 0], 3), torch.tensor([4 / 9, 0.0, 4 / 3]))
    assert camera_weights([0, 1, 1, 0], 2).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("identities", "cameras", "follow"),
    [
        ([1, 1, 2, 2], [0, 0, 1, 1], True),
        ([1, 1, 2, 3], [0, 0, 1, 1], True),
        ([1, 1, 2, 2], [0, 0, 1, 0], False),
        ([1, 1, 2, 2], [0, -1, 1, 1], True),
        ([1, 2, 3], [4, 4, 4], False),
        ([], [], False),
    ],
    ids=["one each", "shared camera", "one seen twice", "unknown", "single camera", "nothing"],
)
def test_cameras_that_follow_identities_are_found(identities: list[int], cameras: list[int], follow: bool) -> None:
    assert cameras_follow_identities(identities, cameras) is follow


def test_a_turn_trains_the_classifier_as_plain_gradient_descent_would() -> None:
    model, reference, x = classifier(), classifier(), vectors()
    train_against(model, x, CAMERAS, steps=3, lr=0.2)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.2)
    for _ in range(3):
        optimizer.zero_grad()
        camera_loss(reference(x.detach()), CAMERAS).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(model.hidden.weight, classifier().hidden.weight)


def test_a_turn_s_term_is_the_trained_classifier_s_confusion_and_moves_the_network_only() -> None:
    model, x = classifier(), vectors()
    term = train_against(model, x, CAMERAS, steps=2, lr=0.2)
    torch.testing.assert_close(term, confusion(model(x)))
    term.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.any()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert confusion(model(x - 0.1 * x.grad)) < term


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_step_of_a_turn_has_a_gradient_of_its_own_under_autocast(dtype: torch.dtype) -> None:
    """Autocast keeps copies of parameters until it is left: all steps would then be taken with the first gradient."""
    model, reference, stale, x = classifier(), classifier(), classifier(), vectors().detach().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        term = train_against(model, x, CAMERAS, steps=5, lr=0.5)
    assert term.dtype == torch.float32
    assert torch.equal(term, train_against(reference, x.float(), CAMERAS, steps=5, lr=0.5))
    train_against(stale, x.float(), CAMERAS, steps=1, lr=5 * 0.5)
    for one, other, wrong in zip(model.parameters(), reference.parameters(), stale.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not torch.allclose(one, wrong, rtol=0, atol=1e-2)


@pytest.mark.parametrize(("steps", "lr"), [(0, 0.1), (1, 0.0), (1, math.nan)])
def test_a_turn_needs_steps(steps: int, lr: float) -> None:
    with pytest.raises(ValueError, match=f"steps is {steps} and lr is {lr}, but both must be > 0"):
        train_against(classifier(), vectors(), CAMERAS, steps=steps, lr=lr)


IDENTITIES, VIEWS = 8, 4


def toy(seed: int, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images that are an identity's code and a camera's side by side, with noise; who, and which camera."""
    generator = torch.Generator().manual_seed(seed)
    who = torch.randint(IDENTITIES, (images,), generator=generator)
    view = torch.randint(VIEWS, (images,), generator=generator)
    codes = torch.cat([F.one_hot(who, IDENTITIES), F.one_hot(view, VIEWS)], 1)
    return codes + 0.25 * torch.randn(codes.shape, generator=generator), who, view


def probed(network: nn.Module, label: int) -> float:
    """Accuracy, on new images, of a fresh linear classifier of the network's vectors."""
    seen, new = toy(0, 512), toy(1, 1000)
    with torch.no_grad():
        inputs, tested = network(seen[0]), network(new[0])
    torch.manual_seed(1)
    probe = nn.Linear(inputs.shape[1], IDENTITIES)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=60)

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(probe(inputs), seen[label]) + 1e-4 * probe.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        result: float = value.item()
        return result

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float((probe(tested).argmax(1) == new[label]).float().mean())


def toy_network(adversary: str, *, steps: int = 200) -> nn.Module:
    """Twelve numbers to twelve, trained to tell identities apart."""
    torch.manual_seed(0)
    network, head, model = nn.Linear(12, 12), nn.Linear(12, IDENTITIES), CameraClassifier(12, VIEWS)
    lr = 0.1 if adversary == "alternating" else 0.3
    groups = [{"params": [*network.parameters(), *head.parameters()]}]
    if adversary == "reversal":
        groups.append({"params": [*model.parameters()], "lr": 10 * lr})  # type: ignore[dict-item]
    optimizer = torch.optim.SGD(groups, lr=lr, weight_decay=0.02)
    images, who, view = toy(0, 512)
    for step in range(steps):
        x = network(images)
        loss = F.cross_entropy(head(x), who)
        if adversary == "reversal":
            loss = loss + camera_loss(model(reverse_gradient(x, reversal_weight(step / steps, 1.0))), view)
        if adversary == "alternating":
            loss = loss + 3 * train_against(model, x, view, steps=3, lr=1.0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network


@pytest.mark.parametrize(
    ("adversary", "least", "most"), [("none", 0.9, 1.0), ("reversal", 0.0, 1 / VIEWS + 0.1), ("alternating", 0.0, 0.6)]
)
def test_cameras_are_unlearnt_and_identities_are_not(adversary: str, least: float, most: float) -> None:
    """Reversal leaves a fresh probe about guessing (1/4). Alternating circles around that point: over four seeds and
    sixteen settings the probe was right between 0.38 and 0.97, and 0.39 to 0.48 with these."""
    network = toy_network(adversary)
    assert least <= probed(network, 2) <= most
    assert probed(network, 1) >= 0.95
