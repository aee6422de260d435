"""Resizing has torchvision's bits, squares are cut in the middle, and pixels are normalised."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from trainers.framing import centre_corner, normalise, normalise_images, resize_pictures, short_side_size

SIZES = [(20, 24), (64, 86), (7, 5), (48, 100), (2, 3)]
"""Smaller, larger, much smaller, one side only, six pixels; of pictures of 48 × 64."""


def pictures(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", ["one", "many", "channels last", "decoded"])
def test_resizing_has_torchvisions_bits(
    size: tuple[int, int],
    interpolation: Literal["bilinear", "bicubic"],
    layout: str,
    capability: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On CPUs with kernels for 8 bits and on those without, for pictures that lie in memory one way or another."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    given = {
        "one": pictures(3, 48, 64),
        "many": pictures(4, 3, 48, 64),
        "channels last": pictures(4, 3, 48, 64).contiguous(memory_format=torch.channels_last),
        "decoded": pictures(1, 48, 64, 3).permute(0, 3, 1, 2),
    }[layout]
    expected = tv.resize(given, list(size), interpolation=tv.InterpolationMode(interpolation), antialias=True)
    assert torch.equal(resize_pictures(given, size, interpolation), expected)


def test_the_two_arithmetics_differ_by_a_step_of_grey_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    given = pictures(2, 3, 48, 64)
    for interpolation in ("bilinear", "bicubic"):
        integers = resize_pictures(given, (20, 24), interpolation)
        with monkeypatch.context() as patch:
            patch.setattr("trainers.framing.has_integer_kernels", lambda interpolation: False)
            floats = resize_pictures(given, (20, 24), interpolation)
        assert (integers.int() - floats.int()).abs().max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_what_is_flat_stays_as_it_is(interpolation: Literal["bilinear", "bicubic"]) -> None:
    flat = torch.tensor([0, 128, 255], dtype=torch.uint8)[:, None, None].expand(3, 9, 7)
    small = resize_pictures(flat, (4, 5), interpolation)
    assert torch.equal(small, flat[:, :4, :5])


def test_pictures_that_have_the_size_are_not_touched() -> None:
    given = pictures(2, 3, 16, 20)
    assert resize_pictures(given, (16, 20), "bilinear") is given


@pytest.mark.parametrize(
    ("frame", "short", "size"),
    [((48, 64), 32, (32, 43)), ((80, 60), 40, (53, 40)), ((50, 75), 25, (25, 38)), ((7, 7), 16, (16, 16))],
)
def test_short_sides_by_hand(frame: tuple[int, int], short: int, size: tuple[int, int]) -> None:
    """The third: 37.5 is rounded upwards."""
    assert short_side_size(frame, short) == size


@pytest.mark.parametrize(("size", "corner"), [((32, 43), (0, 5)), ((53, 40), (10, 4)), ((32, 32), (0, 0))])
def test_centres_by_hand(size: tuple[int, int], corner: tuple[int, int]) -> None:
    assert centre_corner(size, 32) == corner


def test_normalise_by_hand() -> None:
    values, expected = torch.tensor([0, 51, 255], dtype=torch.uint8), torch.tensor([-2.0, -0.5, 1.0])
    mean, std = (0.5, 0.4, 0.0), (0.25, 0.4, 1.0)
    torch.testing.assert_close(normalise(values.view(1, 3, 1, 1, 1), mean, std), expected.view(1, 3, 1, 1, 1))
    torch.testing.assert_close(normalise_images(values.view(1, 3, 1, 1), mean, std), expected.view(1, 3, 1, 1))
