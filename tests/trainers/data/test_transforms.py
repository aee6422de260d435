import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compression.spec import Factors, NetworkSpec
from configs.errors import UserError
from configs.schema import ClipSettings
from trainers.data import transforms
from trainers.data.sampling import ClipSample
from trainers.data.transforms import Window, centre_window, check_clips, cut_views, normalise, random_window

CENTRE = ClipSample(start=0, scale=0.5, crop_y=0.5, crop_x=0.5, flip=0.9)
LAST = ClipSample(start=0, scale=0.999, crop_y=0.999, crop_x=0.999, flip=0.1)


def spec(side: int = 32, s: float = 1.0) -> NetworkSpec:
    return NetworkSpec(backbone="any", classes=2, clip_frames=8, side=side, blocks=(1,), factors=Factors(s=s))


def picture(frames: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("clips", "network", "frame", "window"),
    [
        (ClipSettings(), spec(32), (48, 64), Window((32, 43), 32, 0, 5)),
        (ClipSettings(resize=40), spec(32), (80, 60), Window((53, 40), 32, 10, 4)),
        (ClipSettings(resize=(128, 171)), spec(112), (240, 320), Window((128, 171), 112, 8, 29)),
        (ClipSettings(), spec(256, s=1.4), (256, 340), Window((183, 243), 183, 0, 30)),
        (ClipSettings(resize=(128, 171)), spec(112, s=1.4), (240, 320), Window((91, 122), 80, 5, 21)),
    ],
)
def test_centre_windows_by_hand(
    clips: ClipSettings, network: NetworkSpec, frame: tuple[int, int], window: Window
) -> None:
    assert centre_window(frame, clips, network) == window


@pytest.mark.parametrize(
    ("clips", "network", "sample", "window"),
    [
        (ClipSettings(resize=36), spec(32), LAST, Window((36, 48), 32, 4, 16)),
        (ClipSettings(resize=36, flip=True), spec(32), LAST, Window((36, 48), 32, 4, 16, flip=True)),
        (ClipSettings(resize=36, flip=True), spec(32), CENTRE, Window((36, 48), 32, 2, 8)),
        (ClipSettings(train_short_side=(256, 320), train_crop=224), spec(256), LAST, Window((320, 427), 224, 96, 203)),
        (ClipSettings(train_short_side=(256, 320), train_crop=224), spec(256), CENTRE, Window((288, 384), 224, 32, 80)),
        (ClipSettings(resize=36), spec(32, s=2.0), LAST, Window((18, 24), 16, 2, 8)),
    ],
)
def test_random_windows_by_hand(clips: ClipSettings, network: NetworkSpec, sample: ClipSample, window: Window) -> None:
    assert random_window((48, 64), clips, network, sample) == window


@pytest.mark.parametrize("s", [1.4, 1.96, 2.744])
def test_a_reduced_network_sees_the_same_part_of_the_picture(s: float) -> None:
    clips = ClipSettings(train_short_side=(256, 320), train_crop=224)
    full, small = (random_window((240, 320), clips, spec(256, s=factor), CENTRE) for factor in (1.0, s))
    for whole, part in ((full.size[0], small.size[0]), (full.side, small.side), (full.left, small.left)):
        assert part * s == pytest.approx(whole, abs=2 * s)


def test_views_of_one_size_share_one_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    resized = []

    def record(frames: Tensor, size: tuple[int, int]) -> Tensor:
        resized.append(len(frames))
        return honest(frames, size)

    honest = transforms._resize
    monkeypatch.setattr(transforms, "_resize", record)
    whole, half = Window((20, 24), 16, 1, 2), Window((10, 12), 8, 0, 1)
    cut_views(picture(4, 40, 48), [([0, 1, 2, 3], whole), ([0, 2], whole), ([0, 1], half)])
    assert resized == [4, 2]


def test_views_equal_resizing_then_slicing_each() -> None:
    frames = picture(4, 40, 48)
    cuts = [([1, 3], Window((20, 24), 16, 1, 2)), ([0, 1], Window((20, 24), 8, 3, 5, flip=True))]
    resized = F.interpolate(frames.float(), size=(20, 24), mode="bilinear", antialias=True).round().clamp(0, 255)
    first, second = cut_views(frames, cuts)
    assert first.dtype == torch.uint8
    assert (first.float() - resized[[1, 3], :, 1:17, 2:18].transpose(0, 1)).abs().max() <= 1  # torchvision's rounding
    assert (second.float() - resized[[0, 1], :, 3:11, 5:13].flip(-1).transpose(0, 1)).abs().max() <= 1


def test_frames_that_have_the_size_are_not_touched() -> None:
    frames = picture(2, 16, 20)
    (view,) = cut_views(frames, [([0, 1], Window((16, 20), 16, 0, 4))])
    assert torch.equal(view, frames[..., 4:].transpose(0, 1))


def test_normalise_by_hand() -> None:
    clips = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    expected = torch.tensor([-2.0, -0.5, 1.0]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(normalise(clips, mean=(0.5, 0.4, 0.0), std=(0.25, 0.4, 1.0)), expected)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (ClipSettings(resize=30), r"clips\.resize gives a short side of 30 pixels, but the network's crop has 32"),
        (ClipSettings(resize=(40, 31)), "short side of 31 pixels"),
        (ClipSettings(train_short_side=(40, 36)), r"is \[40, 36\], but the smaller number comes first"),
        (ClipSettings(train_short_side=(30, 40)), r"may be 30 pixels, but clips\.train_crop is 32"),
        (ClipSettings(train_crop=33), r"may be 32 pixels, but clips\.train_crop is 33"),
    ],
)
def test_crops_that_do_not_fit(clips: ClipSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_clips(clips, 32)
