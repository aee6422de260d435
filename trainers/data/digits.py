"""The embedded data set: handwritten digits that move, and the motion is the label.

Real 8×8 digits are enlarged and moved over a drifting texture. Which digit it is, where, how fast, how bright and in
what noise says nothing about the label. Each axis of reduction takes something away: fine detail is needed to find the
digit in texture and noise (s), a long clip to see a shuttle turn back (t), a high rate to see which way a circle is
run (f). Pictures are periodic: what leaves on one side comes back on the other, so that every window of a video shows
its motion.

Sources:
    [1] scikit-learn's `load_digits`: test set of the UCI "Optical Recognition of Handwritten Digits", 1797 images.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, UInt8
from sklearn.datasets import load_digits

from trainers.data.embedded import made_once

VERSION = 1
"""Raise it when the same settings would give other videos."""

Path2D = Float[np.ndarray, "frame 2"]
"""Offsets of the digit from its start: rows, columns, in pixels."""

DIRECTIONS = {"left": (0.0, -1.0), "right": (0.0, 1.0), "up": (-1.0, 0.0), "down": (1.0, 0.0)}
TURNS = {"clockwise": 1.0, "counter-clockwise": -1.0}
SHUTTLES = {"horizontal-shuttle": (0.0, 1.0), "vertical-shuttle": (1.0, 0.0)}
MOTIONS = (*DIRECTIONS, *TURNS, *SHUTTLES)
"""Names of the classes, by label."""


@dataclass(frozen=True)
class DigitsSettings:
    """How hard the task is, and how much of it there is. Pairs are ranges, drawn from uniformly."""

    seed: int = 0
    """Seed of everything random."""
    train_per_class: int = 120
    """Training videos per motion."""
    val_per_class: int = 40
    """Validation videos per motion."""
    frames: int = 24
    """Frames per video."""
    fps: int = 30
    """Frames per second; only the container knows it."""
    side: int = 40
    """Side of the frame, in pixels; even, for the codec."""
    digit_side: tuple[int, int] = (9, 11)
    """Side of the enlarged digit, in pixels."""
    speed: tuple[float, float] = (1.0, 1.5)
    """Speed of straight motions and shuttles, in pixels per frame."""
    circle_period: tuple[float, float] = (8.0, 10.0)
    """Frames per round."""
    circle_radius: tuple[float, float] = (4.0, 6.0)
    """Radius, in pixels."""
    shuttle_period: tuple[float, float] = (8.0, 10.0)
    """Frames for there and back."""
    contrast: tuple[float, float] = (0.6, 1.0)
    """Brightness of the digit over its background; 1 is the whole range from black to white."""
    texture: tuple[float, float] = (0.02, 0.05)
    """Standard deviation of the background, in the same unit."""
    texture_blur: float = 1.0
    """Standard deviation of the Gaussian that smooths the background, in pixels."""
    texture_drift: float = 0.3
    """Largest speed of the background along each side, in pixels per frame."""
    noise: tuple[float, float] = (0.02, 0.05)
    """Standard deviation of the white noise on every pixel of every frame, in the same unit as the contrast."""
    crf: int = 18
    """Constant rate factor of H.264: lower is better."""

    @property
    def digest(self) -> str:
        """Names these settings in the cache folder."""
        text = json.dumps({"version": VERSION, **dataclasses.asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_moving_digits(
    folder: Path | None = None,
    settings: DigitsSettings = DigitsSettings(),
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the data set once, in the layout `csv`; a folder that has it already is left as it is.

    Args:
        folder: where; none: the user's cache folder, under a name made from the settings.
        settings: what is made.
        on_progress: called with videos written and videos in all.

    Returns:
        The folder.

    Raises:
        UserError: it holds something else.
    """
    return made_once(
        folder,
        f"moving-digits-{settings.digest}",
        what="moving digits",
        is_complete=_is_complete,
        write=lambda made: _write(made, settings, on_progress or (lambda done, total: None)),
    )


def draw_video(
    motion: str, digit: Float[np.ndarray, "8 8"], settings: DigitsSettings, rng: np.random.Generator
) -> UInt8[np.ndarray, "frame side side"]:
    """One grey video of a digit in motion.

    Args:
        motion: one of `MOTIONS`.
        digit: the glyph, 0 to 1.
        settings: ranges of what varies.
        rng: what it is drawn from.
    """
    frames, side = settings.frames, settings.side
    sprite = np.zeros((side, side))
    size = int(rng.integers(settings.digit_side[0], settings.digit_side[1] + 1))
    glyph = F.interpolate(torch.from_numpy(digit)[None, None], size=(size, size), mode="bilinear")
    sprite[:size, :size] = glyph.numpy()[0, 0]
    start = rng.uniform(0, side, size=2)
    moved = _shifted(np.fft.fft2(sprite), start + motion_path(motion, settings, rng))

    texture = np.fft.fft2(rng.standard_normal((side, side))) * _gaussian(side, settings.texture_blur)
    drift = rng.uniform(-settings.texture_drift, settings.texture_drift, size=2)
    background = _shifted(texture, np.arange(frames)[:, None] * drift)
    background *= rng.uniform(*settings.texture) / background.std()

    noise = rng.standard_normal((frames, side, side)) * rng.uniform(*settings.noise)
    contrast = rng.uniform(*settings.contrast)
    level = rng.uniform(0.15, 0.85 - contrast / 2)
    grey = level + contrast * moved + background + noise
    return np.asarray(np.rint(grey.clip(0, 1) * 255), dtype=np.uint8)


def motion_path(motion: str, settings: DigitsSettings, rng: np.random.Generator) -> Path2D:
    """Where the digit is, frame by frame, relative to where it starts.

    Straight motions have constant speed; circles and shuttles start anywhere in their period.
    """
    time = np.arange(settings.frames)
    if motion in DIRECTIONS:
        return np.outer(time * rng.uniform(*settings.speed), DIRECTIONS[motion])
    if motion in TURNS:
        angle = 2 * np.pi * (rng.uniform() + time / rng.uniform(*settings.circle_period))
        rows, columns = TURNS[motion] * np.sin(angle), np.cos(angle)  # rows count downwards
        return rng.uniform(*settings.circle_radius) * np.stack([rows, columns], axis=1)
    period = rng.uniform(*settings.shuttle_period)
    phase = (rng.uniform() + time / period) % 1
    distance = rng.uniform(*settings.speed) * period * np.minimum(phase, 1 - phase)
    return np.outer(distance, SHUTTLES[motion])


def _shifted(spectrum: Complex[np.ndarray, "side side"], offsets: Path2D) -> Float[np.ndarray, "frame side side"]:
    """A periodic picture moved by fractions of pixels: by Fourier's shift theorem, without losing sharpness."""
    side = len(spectrum)
    rows = np.exp(-2j * np.pi * np.outer(offsets[:, 0], np.fft.fftfreq(side)))
    columns = np.exp(-2j * np.pi * np.outer(offsets[:, 1], np.fft.fftfreq(side)))
    return np.fft.ifft2(spectrum * rows[:, :, None] * columns[:, None, :]).real


def _gaussian(side: int, blur: float) -> Float[np.ndarray, "side side"]:
    """Transfer function of a Gaussian blur."""
    frequency = np.fft.fftfreq(side)
    response: np.ndarray = np.exp(-2 * (np.pi * blur) ** 2 * (frequency[:, None] ** 2 + frequency[None, :] ** 2))
    return response


def _write(folder: Path, settings: DigitsSettings, on_progress: Callable[[int, int], None]) -> None:
    glyphs = load_digits().images / 16
    middle = len(glyphs) * 3 // 4  # no glyph is in both splits
    splits = {"train": (settings.train_per_class, glyphs[:middle]), "val": (settings.val_per_class, glyphs[middle:])}
    total = len(MOTIONS) * (settings.train_per_class + settings.val_per_class)
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    (folder / "videos").mkdir(parents=True)
    done = 0
    for split, (per_class, digits) in splits.items():
        rows = []
        for label, motion in enumerate(MOTIONS):
            for number in range(per_class):
                path = f"videos/{split}-{motion}-{number:03d}.mp4"
                frames = draw_video(motion, digits[rng.integers(len(digits))], settings, rng)
                _encode(folder / path, frames, settings)
                rows.append(f"{path} {label}\n")
                done += 1
                on_progress(done, total)
        (folder / f"{split}.csv").write_text("".join(rows))
    (folder / "classes.txt").write_text("".join(f"{motion}\n" for motion in MOTIONS))


def _encode(path: Path, frames: UInt8[np.ndarray, "frame side side"], settings: DigitsSettings) -> None:
    """H.264, so that the same frames give the same bytes: in one thread, and without macroblock-tree rate control.

    With it, 1 in 50 to 1 in 4 encodings of one video came out differently (libx264 165, frames of 36 × 36).
    """
    with av.open(str(path), "w") as container:
        options = {"crf": str(settings.crf), "preset": "veryfast", "threads": "1", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=settings.fps, options=options)
        stream.height = stream.width = settings.side
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def _is_complete(folder: Path) -> bool:
    names = folder / "classes.txt"  # written last, before the folder is moved into place
    return names.is_file() and tuple(names.read_text().split()) == MOTIONS
