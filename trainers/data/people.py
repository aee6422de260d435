"""The embedded data set for re-identification: drawn people, seen by cameras that disagree about colours.

Who somebody is shows in the colours of top and bottom, in stripes, hat, bag and build. Colours are shared by families
of people who differ in one or two of the other marks only, and each camera tints, tilts and lights what it sees in its
own way before its own background: neither the mean colour nor the background tells who it is, and fine marks are
needed. Pose, place, noise and, among the images searched, occluders (balls, poles, other people) vary from image to
image.

The layout on disk is Market-1501's, with the masks of the people (`trainers/data/market1501.py`).

Units: `Figure` and what is drawn of it are in picture heights, rows downwards; a picture is half as wide as high.
"""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageChops, ImageDraw

from trainers.data.embedded import made_once

VERSION = 1
"""Raise it when the same settings would give other images."""

T = TypeVar("T")

RGB = tuple[int, int, int]
Point = tuple[float, float]
"""x and y."""
Places = Callable[[Sequence[Point]], list[Point]]
"""From the figure's coordinates to pixels."""

COLOURS: tuple[RGB, ...] = (
    (196, 58, 52), (58, 92, 178), (66, 140, 78), (222, 184, 74), (128, 74, 148), (206, 206, 200), (62, 62, 70),
    (226, 128, 58),
)  # fmt: skip
"""Of clothes: red, blue, green, yellow, violet, white, black, orange."""
SKIN: tuple[RGB, ...] = ((232, 196, 168), (198, 150, 112), (128, 88, 62))
HAIR: tuple[RGB, ...] = ((40, 30, 26), (104, 66, 36), (190, 156, 96))
STRIPES = (("none", 0.0), ("across", 0.06), ("across", 0.13), ("along", 0.05), ("along", 0.1))
"""Direction on the top, and period in picture heights."""
BAGS = ("none", "satchel", "backpack")
MARKS = ("stripes", "bag", "hat", "sleeves", "shorts")
"""Fields of a figure in which people of one family differ."""
OCCLUDERS = ("ball", "pole", "person")
SUPERSAMPLING = 4
"""Pixels are drawn this many times finer and averaged."""


@dataclass(frozen=True)
class PeopleSettings:
    """How hard the task is, and how much of it there is. Pairs are ranges, drawn from uniformly."""

    seed: int = 0
    """Seed of everything random."""
    train_identities: int = 80
    """People seen in training."""
    test_identities: int = 30
    """Other people, who are looked for."""
    family: int = 3
    """People who share all colours and differ in marks only."""
    marks: int = 2
    """Marks in which any two of them differ, at least."""
    cameras: int = 4
    """Cameras; each sees everybody."""
    train_images: int = 3
    """Images per person and camera."""
    test_images: int = 4
    """Likewise in evaluation; the first is the query."""
    distractors: int = 90
    """Images of yet other people in the gallery."""
    junk: int = 30
    """Images of half a person in the gallery."""
    height: int = 80
    """Height of the images, in pixels; even, since the width is half of it."""
    tint: float = 0.12
    """Largest deviation of a camera's gain per colour from 1."""
    tilt: float = 0.06
    """Largest shear of a camera, and half the largest change of width over the height."""
    brightness: tuple[float, float] = (0.8, 1.15)
    """Of an image."""
    noise: tuple[float, float] = (2.0, 6.0)
    """Standard deviation of the noise on every pixel, in levels of 0 to 255."""
    scale: tuple[float, float] = (0.9, 1.06)
    """Size of a person in the picture."""
    shift: float = 0.03
    """Largest shift of a person from the middle, in picture heights."""
    occluded: float = 0.15
    """Share of query and gallery images with something in front of the person."""

    @property
    def digest(self) -> str:
        """Names these settings in the cache folder."""
        text = json.dumps({"version": VERSION, **dataclasses.asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Figure:
    """What makes a person recognisable."""

    top: RGB
    bottom: RGB
    stripe: RGB
    skin: RGB
    hair: RGB
    stripes: tuple[str, float] = STRIPES[0]
    """One of `STRIPES`."""
    bag: str = BAGS[0]
    """One of `BAGS`."""
    hat: bool = False
    sleeves: bool = True
    """Whether they are long."""
    shorts: bool = False
    build: float = 1.0
    """Width, relative to the slimmest."""


@dataclass(frozen=True)
class Camera:
    """What a camera does to everything it sees."""

    gain: Float[np.ndarray, "3"]
    bias: Float[np.ndarray, "3"]
    shear: float
    widening: float
    """Change of width from the middle to the feet, as seen from above or below."""
    light: float
    """Where the light comes from: −1 left to 1 right."""
    ground: Float[np.ndarray, "2 3"]
    """Colours of wall and floor."""
    horizon: float
    period: tuple[float, float]
    """Of the background's pattern, along x and y, in pixels of a picture of height 80."""


@dataclass(frozen=True)
class Picture:
    """A drawn person."""

    pixels: UInt8[np.ndarray, "height width 3"]
    mask: Bool[np.ndarray, "height width"]
    """Where the person is to be seen, occluders taken away."""


@dataclass(frozen=True)
class _Job:
    """An image to be drawn and its name."""

    folder: str
    identity: int
    camera: int
    number: int
    figure: Figure
    occluders: tuple[Figure, ...] = ()
    """Who may stand in front; none: nothing does."""
    cut: bool = False
    """Show half of it only."""

    @property
    def name(self) -> str:
        """As Market-1501 names it, without a suffix; the frame is the image's number."""
        identity = "-1" if self.identity < 0 else f"{self.identity:04d}"
        return f"{identity}_c{self.camera + 1}s1_{self.number:06d}_01"


def make_synthetic_people(
    folder: Path | None = None,
    settings: PeopleSettings = PeopleSettings(),
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the data set once, in Market-1501's layout; a folder that has it already is left as it is.

    Args:
        folder: where; none: the user's cache folder, under a name made from the settings.
        settings: what is made.
        on_progress: called with images written and images in all.

    Returns:
        The folder.

    Raises:
        UserError: it holds something else.
    """
    return made_once(
        folder,
        f"synthetic-people-{settings.digest}",
        what="synthetic people",
        is_complete=_is_complete,
        write=lambda made: _write(made, settings, on_progress or (lambda done, total: None)),
    )


def draw_figures(settings: PeopleSettings, number: int, rng: np.random.Generator) -> list[Figure]:
    """People in families of one set of colours; no two are the same.

    Raises:
        ValueError: more families than there are pairs of colours for top and bottom.
    """
    pairs = [(top, bottom) for top in COLOURS for bottom in COLOURS if top != bottom]
    families = math.ceil(number / settings.family)
    if families > len(pairs):
        raise ValueError(
            f"{number} people in families of {settings.family} need {families} pairs of colours, but "
            f"there are {len(pairs)}; take larger families or fewer people"
        )
    figures: list[Figure] = []
    for pair in rng.permutation(len(pairs))[:families]:
        top, bottom = pairs[pair]
        others = [colour for colour in COLOURS if colour not in (top, bottom)]
        first = Figure(top, bottom, _one(rng, others), _one(rng, SKIN), _one(rng, HAIR))
        first = dataclasses.replace(first, build=float(rng.uniform(1.0, 1.2)))
        family = [_marked(first, rng)]
        while len(family) < settings.family:
            other = _marked(first, rng)
            if all(_differences(other, member) >= settings.marks for member in family):
                family.append(other)
        figures += family
    return figures[:number]


def draw_cameras(settings: PeopleSettings, rng: np.random.Generator) -> list[Camera]:
    """Cameras that disagree."""
    return [
        Camera(
            gain=rng.uniform(1 - settings.tint, 1 + settings.tint, 3),
            bias=rng.uniform(-16, 16, 3),
            shear=float(rng.uniform(-settings.tilt, settings.tilt)),
            widening=float(rng.uniform(-settings.tilt, settings.tilt) / 2),
            light=float(rng.uniform(-1, 1)),
            ground=rng.uniform(70, 190, (2, 1)) + rng.uniform(-28, 28, (2, 3)),
            horizon=float(rng.uniform(0.3, 0.7)),
            period=(float(rng.uniform(5, 16)), float(rng.uniform(4, 12))),
        )
        for _ in range(settings.cameras)
    ]


def draw_person(
    figure: Figure,
    camera: Camera,
    settings: PeopleSettings,
    rng: np.random.Generator,
    *,
    occluders: Sequence[Figure] = (),
) -> Picture:
    """One image of a person.

    Args:
        figure: who.
        camera: through which camera.
        settings: ranges of what varies.
        rng: what it is drawn from.
        occluders: who may stand in front; with any, something does.
    """
    height, width = settings.height, settings.height // 2
    size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    canvas = _enlarged(_background(camera, height, rng), size)
    places = _places(camera, settings, rng)
    mask = _draw_figure(canvas, figure, places, rng)
    if occluders:
        kind = _one(rng, OCCLUDERS)
        if kind == "person":
            aside = float(rng.choice([-1, 1]) * rng.uniform(0.14, 0.26))
            hidden = _draw_figure(canvas, _one(rng, occluders), _places(camera, settings, rng, aside), rng)
        else:
            hidden = _draw_thing(canvas, kind, rng)
        mask = ImageChops.subtract(mask, hidden)
    pixels = np.asarray(canvas.resize((width, height), Image.Resampling.BOX), dtype=float)
    seen = np.asarray(mask.resize((width, height), Image.Resampling.BOX)) > 127
    pixels = pixels * (1 + 0.25 * _shading(seen, camera.light)[..., None])
    pixels = pixels * camera.gain * rng.uniform(*settings.brightness) + camera.bias
    pixels += rng.standard_normal(pixels.shape) * rng.uniform(*settings.noise)
    return Picture(np.asarray(np.rint(pixels.clip(0, 255)), dtype=np.uint8), seen)


def _marked(figure: Figure, rng: np.random.Generator) -> Figure:
    """With marks by lot."""
    return dataclasses.replace(
        figure,
        stripes=_one(rng, STRIPES),
        bag=_one(rng, BAGS),
        hat=bool(rng.random() < 0.4),
        sleeves=bool(rng.random() < 0.5),
        shorts=bool(rng.random() < 0.4),
    )


def _differences(one: Figure, other: Figure) -> int:
    """Number of marks in which two people differ."""
    return sum(getattr(one, mark) != getattr(other, mark) for mark in MARKS)


def _places(camera: Camera, settings: PeopleSettings, rng: np.random.Generator, aside: float = 0.0) -> Places:
    """Where a figure's points are in the enlarged picture; the figure stands at x = 0, from y = 0 to 1."""
    scale = rng.uniform(*settings.scale)
    shift_x, shift_y = rng.uniform(-settings.shift, settings.shift, 2)
    middle = 0.25 + aside + shift_x
    pixels = settings.height * SUPERSAMPLING

    def places(points: Sequence[Point]) -> list[Point]:
        placed = []
        for x, y in points:
            seen = x * (1 + camera.widening * (2 * y - 1)) + camera.shear * (0.5 - y)
            placed.append((pixels * (middle + scale * seen), pixels * (0.5 + shift_y + scale * (y - 0.5))))
        return placed

    return places


def _draw_figure(canvas: Image.Image, figure: Figure, places: Places, rng: np.random.Generator) -> Image.Image:
    """Draw a figure in some pose on a canvas; returns its mask."""
    mask = Image.new("L", canvas.size)
    brushes = ImageDraw.Draw(canvas), ImageDraw.Draw(mask)
    wide = figure.build
    stride, swing = rng.uniform(0.0, 0.1), rng.uniform(0.02, 0.09)
    side = float(rng.choice([-1, 1]))

    def paint(points: Sequence[Point], colour: RGB) -> None:
        brushes[0].polygon(places(points), fill=colour)
        brushes[1].polygon(places(points), fill=255)

    brushes[0].polygon(places(_oval(0.0, 0.965, 0.13, 0.022)), fill=(44, 44, 44))
    if figure.bag == "backpack":
        paint(_box(0.0, 0.18, 0.44, 0.12 * wide, 0.135 * wide), _dark(figure.stripe))
    for foot in (stride, -stride):
        hip, knee = (foot / 3, 0.5), (foot * 0.6, 0.69)
        paint(_limb(hip, (foot, 0.93), 0.044 * wide, 0.03 * wide), figure.skin if figure.shorts else figure.bottom)
        paint(_limb(hip, knee, 0.048 * wide, 0.042 * wide), figure.bottom)
        paint(_oval(foot + 0.012 * side, 0.945, 0.04, 0.018), (50, 42, 40))
    hands = [(sign * 0.07 * wide, 0.195, sign * (0.085 * wide + swing), 0.5) for sign in (-1, 1)]
    for x, y, hand_x, hand_y in hands:
        cuff = 1.0 if figure.sleeves else 0.42
        paint(_limb((x, y), (hand_x, hand_y), 0.024 * wide, 0.018 * wide), figure.skin)
        elbow = (x + cuff * (hand_x - x), y + cuff * (hand_y - y))
        paint(_limb((x, y), elbow, 0.026 * wide, 0.022 * wide), _dark(figure.top, 0.88))
    chest, waist = 0.088 * wide, 0.07 * wide
    torso = [(-0.045, 0.165), (0.045, 0.165), (chest, 0.205), (waist, 0.53), (-waist, 0.53), (-chest, 0.205)]
    paint(torso, figure.top)
    _stripe(canvas, torso, figure, places)
    paint(_box(0.0, 0.505, 0.56, 0.07 * wide, 0.074 * wide), figure.bottom)
    paint(_limb((0.0, 0.13), (0.0, 0.19), 0.022, 0.03), figure.skin)
    paint(_oval(0.0, 0.088, 0.043, 0.056), figure.hair)
    paint(_oval(0.008 * side, 0.1, 0.036, 0.044), figure.skin)
    if figure.hat:
        paint(_box(0.0, -0.005, 0.07, 0.044, 0.05), _dark(figure.stripe, 0.9))
        paint(_box(0.0, 0.058, 0.082, 0.074, 0.078), _dark(figure.stripe, 0.7))
    if figure.bag == "satchel":
        paint(_limb((-0.07 * wide * side, 0.18), (0.08 * wide * side, 0.46), 0.018, 0.018), _dark(figure.stripe))
        paint(_box(0.09 * wide * side, 0.42, 0.55, 0.06, 0.06), _dark(figure.stripe))
    return mask


def _stripe(canvas: Image.Image, torso: list[Point], figure: Figure, places: Places) -> None:
    direction, period = figure.stripes
    if direction == "none":
        return
    inside = Image.new("L", canvas.size)
    ImageDraw.Draw(inside).polygon(places(torso), fill=255)
    lines = Image.new("L", canvas.size)
    brush = ImageDraw.Draw(lines)
    for start in np.arange(-0.5, 0.7, period):
        if direction == "across":
            brush.polygon(places(_box(0.0, start, start + period / 2, 0.2, 0.2)), fill=255)
        else:
            brush.polygon(places(_box(start + period / 4, 0.1, 0.6, period / 4, period / 4)), fill=255)
    canvas.paste(figure.stripe, mask=ImageChops.multiply(inside, lines))


def _draw_thing(canvas: Image.Image, kind: str, rng: np.random.Generator) -> Image.Image:
    """Draw a ball or a pole on a canvas; returns its mask."""
    width, height = canvas.size
    mask = Image.new("L", canvas.size)
    brushes = ImageDraw.Draw(canvas), ImageDraw.Draw(mask)
    colour = _one(rng, COLOURS)
    if kind == "ball":
        x, y, radius = (
            rng.uniform(0.25, 0.75) * width,
            rng.uniform(0.2, 0.85) * height,
            rng.uniform(0.06, 0.13) * height,
        )
        brushes[0].ellipse((x - radius, y - radius, x + radius, y + radius), fill=_dark(colour, 0.75))
        brushes[1].ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        lit, inner = (x - radius / 4, y - radius / 4), 0.7 * radius
        brushes[0].ellipse((lit[0] - inner, lit[1] - inner, lit[0] + inner, lit[1] + inner), fill=colour)
    else:
        x, half = rng.uniform(0.3, 0.7) * width, rng.uniform(0.03, 0.07) * width
        brushes[0].rectangle((x - half, 0, x + half, height), fill=(120, 118, 112))
        brushes[1].rectangle((x - half, 0, x + half, height), fill=255)
        brushes[0].rectangle((x - half, 0, x - half / 3, height), fill=(158, 156, 150))
    return mask


def _background(camera: Camera, height: int, rng: np.random.Generator) -> Float[np.ndarray, "height width 3"]:
    """Wall above, floor below, both with the camera's pattern at some place."""
    width = height // 2
    y, x = np.mgrid[:height, :width] * (80 / height)
    offset = rng.uniform(0, 40, 2)
    floor = (y / 80 > camera.horizon).astype(int)
    lines = ((x + offset[0]) % camera.period[0] < 1) | ((y + offset[1]) % camera.period[1] < 1)
    cloud = Image.fromarray(rng.uniform(-1, 1, (8, 4)).astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pattern = -18.0 * lines + 22.0 * np.asarray(cloud)
    return np.asarray(camera.ground[floor] + pattern[..., None] * (1 - 0.4 * floor[..., None]), dtype=float)


def _enlarged(pixels: Float[np.ndarray, "height width 3"], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def _shading(mask: Bool[np.ndarray, "height width"], light: float) -> Float[np.ndarray, "height width"]:
    """Roundness: brighter towards the light, darker at the other edge, row by row; 0 beside the person."""
    columns = np.arange(mask.shape[1])
    count = np.maximum(mask.sum(1), 1)
    middle = (mask * columns).sum(1) / count
    across = (columns[None] - middle[:, None]) / np.maximum(count[:, None] / 2, 1)
    return np.asarray(np.where(mask, 0.5 - np.clip(across - light / 2, -1.2, 1.2) ** 2, 0.0))


def _box(x: float, top: float, bottom: float, half_top: float, half_bottom: float) -> list[Point]:
    return [(x - half_top, top), (x + half_top, top), (x + half_bottom, bottom), (x - half_bottom, bottom)]


def _limb(start: Point, end: Point, half_start: float, half_end: float) -> list[Point]:
    return [
        (start[0] - half_start, start[1]),
        (start[0] + half_start, start[1]),
        (end[0] + half_end, end[1]),
        (end[0] - half_end, end[1]),
    ]


def _oval(x: float, y: float, half_width: float, half_height: float) -> list[Point]:
    angles = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    return [(x + half_width * math.cos(angle), y + half_height * math.sin(angle)) for angle in angles]


def _dark(colour: RGB, share: float = 0.6) -> RGB:
    red, green, blue = (round(share * level) for level in colour)
    return red, green, blue


def _one(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _jobs(settings: PeopleSettings, figures: Sequence[Figure], rng: np.random.Generator) -> Iterator[_Job]:
    train, test = settings.train_identities, settings.test_identities
    strangers = tuple(figures[train + test :])
    for identity, figure in enumerate(figures[:train], start=1):
        for camera, number in itertools.product(range(settings.cameras), range(settings.train_images)):
            yield _Job("bounding_box_train", identity, camera, number, figure)
    for identity, figure in enumerate(figures[train : train + test], start=train + 1):
        for camera, number in itertools.product(range(settings.cameras), range(settings.test_images)):
            folder = "bounding_box_test" if number else "query"
            occluders = strangers if rng.random() < settings.occluded else ()
            yield _Job(folder, identity, camera, number, figure, occluders)
    for kind, count in ((0, settings.distractors), (-1, settings.junk)):
        for number in range(count):
            figure = _one(rng, strangers if kind == 0 else figures[train : train + test])
            camera = int(rng.integers(settings.cameras))
            yield _Job("bounding_box_test", kind, camera, number, figure, cut=kind < 0)


def _write(folder: Path, settings: PeopleSettings, on_progress: Callable[[int, int], None]) -> None:
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    strangers = max(4, settings.distractors // 5)
    figures = draw_figures(settings, settings.train_identities + settings.test_identities + strangers, rng)
    cameras = draw_cameras(settings, rng)
    jobs = list(_jobs(settings, figures, rng))
    for name in ("bounding_box_train", "query", "bounding_box_test"):
        (folder / name).mkdir(parents=True)
        (folder / "masks" / name).mkdir(parents=True)
    for done, job in enumerate(jobs, start=1):
        picture = draw_person(job.figure, cameras[job.camera], settings, rng, occluders=job.occluders)
        if job.cut:
            rows = settings.height // 2
            picture = Picture(picture.pixels[:rows], picture.mask[:rows])
        Image.fromarray(picture.pixels).save(folder / job.folder / f"{job.name}.jpg", quality=95)
        mask = Image.fromarray(picture.mask.astype(np.uint8) * 255)
        mask.save(folder / "masks" / job.folder / f"{job.name}.png", optimize=False)
        on_progress(done, len(jobs))
    (folder / "settings.json").write_text(json.dumps(dataclasses.asdict(settings), indent=1) + "\n")


def _is_complete(folder: Path) -> bool:
    return (folder / "settings.json").is_file()  # written last, before the folder is moved into place
