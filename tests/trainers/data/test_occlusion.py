import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainers.data.occlusion import erase_rectangle, occlude_with_ball, occlude_with_person, within

GREY = torch.full((3, 40, 20), 100, dtype=torch.uint8)
WHITE = torch.full((3, 40, 20), 255, dtype=torch.uint8)


def noise(seed: int, height: int = 40, width: int = 20) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def box(top: int, bottom: int, left: int, right: int, height: int = 40, width: int = 20) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_ball_covers_its_disc_and_nothing_else() -> None:
    image = noise(0)
    before = image.clone()
    covered = occlude_with_ball(image, (12.5, 7.0), 4.0, (1, 2, 3))
    rows, columns = np.mgrid[:40, :20]
    disc = torch.from_numpy((rows - 12.5) ** 2 + (columns - 7.0) ** 2 <= 16)
    assert torch.equal(covered[:, ~disc], image[:, ~disc])
    assert torch.equal(covered[:, disc], torch.tensor([[1], [2], [3]], dtype=torch.uint8).expand(3, int(disc.sum())))
    assert torch.equal(image, before)


@pytest.mark.parametrize("radius", [3.0, 4.5, 6.0])
def test_the_area_of_a_ball_is_that_of_a_disc(radius: float) -> None:
    """π r² / (H W), the mean over centres between pixels; a disc on a grid is off by its edge."""
    centres = np.random.default_rng(0).uniform(8, 12, (200, 2))
    areas = [
        (occlude_with_ball(GREY, (float(y) + 10, float(x)), radius, (0, 0, 0)) == 0).float().mean().item()
        for y, x in centres
    ]
    assert np.mean(areas) == pytest.approx(math.pi * radius**2 / 800, rel=0.02)


def test_a_ball_may_be_larger_than_the_image_or_beside_it() -> None:
    assert (occlude_with_ball(GREY, (20.0, 10.0), 100.0, (0, 0, 0)) == 0).all()
    assert torch.equal(occlude_with_ball(GREY, (-20.0, 10.0), 5.0, (0, 0, 0)), GREY)


def test_a_person_covers_its_mask_and_nothing_else() -> None:
    """Same size, moved by a quarter to the right and a tenth down: 5 columns, 4 rows."""
    image, donor = noise(0), noise(1)
    target, cut = box(5, 35, 2, 12), box(0, 30, 5, 12)
    covered, visible = occlude_with_person(image, target, donor, cut, scale=1.0, shift=(0.1, 0.25))
    moved = box(4, 34, 10, 17)
    assert torch.equal(covered[:, ~moved], image[:, ~moved])
    assert torch.equal(covered[:, moved], donor[:, cut])
    assert visible == 1 - (34 - 5) * (12 - 10) / (30 * 10)


def test_what_leaves_the_image_is_cut_off() -> None:
    covered, visible = occlude_with_person(
        GREY, box(0, 40, 0, 20), WHITE, box(0, 40, 0, 20), scale=1.0, shift=(-0.25, -0.5)
    )
    assert torch.equal(covered == 255, box(0, 30, 0, 10).expand(3, -1, -1))
    assert visible == 1 - 300 / 800


@pytest.mark.parametrize("shift", [(0.0, 1.5), (0.0, -1.5), (2.0, 0.0), (-2.0, 0.0)])
def test_beside_the_image_it_hides_nothing(shift: tuple[float, float]) -> None:
    everything = box(0, 40, 0, 20)
    covered, visible = occlude_with_person(GREY, everything, WHITE, everything, scale=1.0, shift=shift)
    assert torch.equal(covered, GREY)
    assert visible == 1.0


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_it_is_scaled_about_its_middle(scale: float) -> None:
    covered, _ = occlude_with_person(
        GREY, box(0, 40, 0, 20), WHITE, box(16, 24, 8, 12), scale=scale, shift=(0.0, 0.0), least_visible=0.0
    )
    rows, columns = (covered[0] == 255).nonzero(as_tuple=True)
    assert len(rows) == pytest.approx(8 * 4 * scale**2, rel=0.35)
    assert rows.double().mean().item() == pytest.approx(19.5, abs=0.5)
    assert columns.double().mean().item() == pytest.approx(9.5, abs=0.5)


def test_a_donor_of_another_size_is_brought_to_the_image_s() -> None:
    donor = torch.full((3, 80, 40), 255, dtype=torch.uint8)
    covered, _ = occlude_with_person(
        GREY, box(0, 40, 0, 20), donor, box(20, 60, 10, 30, 80, 40), scale=1.0, shift=(0.0, 0.0)
    )
    assert torch.equal(covered == 255, box(10, 30, 5, 15).expand(3, -1, -1))


def test_somebody_almost_hidden_is_left_visible() -> None:
    """A share of 0.4 may just stay, 0.35 may not."""
    target = box(0, 40, 0, 20)
    for columns, accepted in ((12, True), (13, False)):
        covered, visible = occlude_with_person(GREY, target, WHITE, box(0, 40, 0, columns), scale=1.0, shift=(0.0, 0.0))
        assert visible == 1 - columns / 20
        assert torch.equal(covered, GREY) is not accepted


def test_empty_masks_change_nothing() -> None:
    nobody, somebody = box(0, 0, 0, 0), box(0, 40, 0, 20)
    for target, donor, expected in ((nobody, somebody, 0.0), (somebody, nobody, 1.0)):
        covered, visible = occlude_with_person(GREY, target, WHITE, donor, scale=1.0, shift=(0.0, 0.0))
        assert torch.equal(covered, GREY)
        assert visible == expected


@pytest.mark.parametrize(
    ("area", "aspect", "rows", "columns"),
    [(0.25, 2.0, 20, 10), (0.25, 0.5, 10, 20), (0.02, 1.0, 4, 4), (0.4, 3.3, 32, 10), (0.4, 0.3, 10, 20)],
)
def test_a_rectangle_has_its_area_and_aspect(area: float, aspect: float, rows: int, columns: int) -> None:
    """sqrt(area · 800 · aspect) rows; the last one's 33 columns are cut to the image's."""
    image = torch.zeros(3, 40, 20, dtype=torch.uint8)
    erased = erase_rectangle(image, area=area, aspect=aspect, place=(0.0, 0.0), noise=np.random.default_rng(0))
    changed = (erased > 0).any(0).nonzero()
    assert tuple((changed.max(0).values + 1).tolist()) == (rows, columns)
    assert erased[:, :rows, :columns].float().mean().item() == pytest.approx(127.5, abs=12)


def test_a_rectangle_is_placed_between_the_edges() -> None:
    noise_ = np.random.default_rng(0)
    erased = erase_rectangle(GREY, area=0.02, aspect=1.0, place=(0.999, 0.5), noise=noise_)
    rows, columns = (erased != GREY).any(0).nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (36, 39)
    assert (int(columns.min()), int(columns.max())) == (8, 11)


def test_ranges_are_half_open() -> None:
    assert within((2.0, 4.0), 0.0) == 2.0
    assert within((2.0, 4.0), 0.25) == 2.5
