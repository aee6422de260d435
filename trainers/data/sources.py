"""How data sets are laid out on disk: one function per layout, which lists videos without opening them.

`csv`: train.csv and val.csv, a line `path label` or `path,label` per video, Kinetics style; classes.txt may name them.
  Or one file of lines `path label split`, whose split is train or val.
`ucf101`: classInd.txt, trainlist0N.txt, testlist0N.txt (in ucfTrainTestlist/ or beside the classes' folders).
`hmdb51`: *_test_splitN.txt (in testTrainMulti_7030_splits/ or beside the classes' folders).
`folders`: train/<class>/<video> and val/<class>/<video>.
`moving-digits`: made on the spot, then read as csv.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.schema import DataSettings
from trainers.data.digits import make_moving_digits


@dataclass(frozen=True)
class Labelled:
    """One listed video."""

    path: str
    """Relative to the data set's folder, with forward slashes."""
    label: int
    """Index of its class."""


@dataclass(frozen=True)
class Listing:
    """What a data set says about itself."""

    root: Path
    """Folder that the paths start from."""
    classes: tuple[str, ...]
    """Names by label."""
    train: tuple[Labelled, ...]
    """Training videos."""
    val: tuple[Labelled, ...]
    """Validation videos."""


@dataclass(frozen=True)
class _Row:
    """A line of a list file, with its place for error messages."""

    place: str
    path: str
    label: str


Source = Callable[[DataSettings], Listing]


def list_csv(data: DataSettings) -> Listing:
    """Kinetics-style lists, or a single one that also says the split; labels are class numbers or names.

    Raises:
        UserError: as for every source: something is missing, empty, or labelled with an unknown class.
    """
    if data.path is not None and data.path.is_file():
        file = data.path.absolute()
        root, (train, val) = file.parent, _split_rows(file)
    else:
        root = _root(data)
        train, val = (list(_csv_rows(root / name)) for name in ("train.csv", "val.csv"))
    names = root / "classes.txt"
    if names.is_file():
        classes = tuple(line for _, line in _lines(names))
    elif all(row.label.isdecimal() for row in train):
        classes = tuple(str(label) for label in range(len({int(row.label) for row in train})))
    else:
        classes = tuple(sorted({row.label for row in train}))
    return _listing(root, classes, train, val)


def list_ucf101(data: DataSettings) -> Listing:
    """The official three splits of UCF101."""
    root = _root(data)
    lists = _first_folder(root, "ucfTrainTestlist")
    videos = _first_folder(root, "UCF-101")
    index = lists / "classInd.txt"
    classes = tuple(name for _, name in (_split(index, number, line) for number, line in _lines(index)))
    splits = []
    for kind in ("train", "test"):
        file = lists / f"{kind}list0{data.split}.txt"
        lines = ((number, line.split()[0]) for number, line in _lines(file))
        splits.append(
            [_Row(f"{file}:{n}", _relative(videos / path, root), path.partition("/")[0]) for n, path in lines]
        )
    return _listing(root, classes, *splits)


def list_hmdb51(data: DataSettings) -> Listing:
    """The official three splits of HMDB51, one file per class: 1 is training, 2 is test, 0 is neither."""
    root = _root(data)
    suffix = f"_test_split{data.split}.txt"
    files = sorted(_first_folder(root, "testTrainMulti_7030_splits").glob(f"*{suffix}"))
    if not files:
        raise UserError(f"data.path is {root}, but has no *{suffix}; unpack the official splits there")
    rows: dict[str, list[_Row]] = {"0": [], "1": [], "2": []}
    for file in files:
        name = file.name.removesuffix(suffix)
        for number, line in _lines(file):
            video, use = _split(file, number, line)
            if use not in rows:
                raise UserError(f"{file}:{number}: ends in {use!r}, but must end in 1 (train), 2 (test) or 0 (neither)")
            rows[use].append(_Row(f"{file}:{number}", f"{name}/{video}", name))
    classes = tuple(file.name.removesuffix(suffix) for file in files)
    return _listing(root, classes, rows["1"], rows["2"])


def list_folders(data: DataSettings) -> Listing:
    """A folder per class."""
    root = _root(data)
    train, val = (list(_folder_rows(root, split)) for split in ("train", "val"))
    return _listing(root, tuple(sorted({row.label for row in train})), train, val)


def list_moving_digits(data: DataSettings) -> Listing:
    """The embedded data set; made first where it is not there yet."""
    return list_csv(data.model_copy(update={"path": make_moving_digits(data.path)}))


SOURCES: dict[str, Source] = {
    "csv": list_csv,
    "ucf101": list_ucf101,
    "hmdb51": list_hmdb51,
    "folders": list_folders,
    "moving-digits": list_moving_digits,
}


def _root(data: DataSettings) -> Path:
    if data.path is None:
        raise UserError(f"data.path is not set, but data.source {data.source} needs the folder of the data set")
    if not data.path.is_dir():
        wanted = "folder or file" if data.source == "csv" else "folder"
        raise UserError(f"data.path is {data.path}, but there is no such {wanted}")
    return data.path.absolute()


def _first_folder(root: Path, name: str) -> Path:
    """The folder of this name, or the root where there is none."""
    return root / name if (root / name).is_dir() else root


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _lines(file: Path) -> list[tuple[int, str]]:
    """Numbered lines that are not blank."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets begin a file with a mark
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); see data.path and data.source") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text (byte {error.start}); convert it") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _split(file: Path, number: int, line: str) -> tuple[str, str]:
    """Both sides of the last comma, or of the last space where there is no comma."""
    parts = [part.strip() for part in line.rsplit("," if "," in line else None, maxsplit=1)]
    if len(parts) < 2 or not all(parts):
        raise UserError(f"{file}:{number}: is {line!r}, but must have two parts with a space or a comma between them")
    return parts[0], parts[1]


def _csv_rows(file: Path) -> Iterator[_Row]:
    for number, line in _lines(file):
        path, label = _split(file, number, line)
        yield _Row(f"{file}:{number}", _relative(file.parent / path, file.parent), label)


def _split_rows(file: Path) -> tuple[list[_Row], list[_Row]]:
    """Training and validation videos of a list that says the split of each; its first line may be a heading."""
    rows: dict[str, list[_Row]] = {"train": [], "val": []}
    lines = _lines(file)
    for place, (number, line) in enumerate(lines):
        parts = [part.strip() for part in line.rsplit("," if "," in line else None, maxsplit=2)]
        if len(parts) < 3 or not all(parts):
            raise UserError(
                f"{file}:{number}: is {line!r}, but must have three parts with spaces or commas between them: path, "
                "label and split"
            )
        path, label, split = parts
        if place == 0 and split.lower() == "split":
            continue
        if split not in rows:
            raise UserError(f"{file}:{number}: ends in {split!r}, but its split must be train or val")
        rows[split].append(_Row(f"{file}:{number}", _relative(file.parent / path, file.parent), label))
    return rows["train"], rows["val"]


def _folder_rows(root: Path, split: str) -> Iterator[_Row]:
    folder = root / split
    if not folder.is_dir():
        raise UserError(f"data.path is {root}, but has no folder {split}/ with a folder per class")
    for path in sorted(folder.glob("*/*")):
        if path.is_file() and not path.name.startswith("."):
            yield _Row(str(path.parent), _relative(path, root), path.parent.name)


def _listing(root: Path, classes: tuple[str, ...], train: list[_Row], val: list[_Row]) -> Listing:
    """Turn labels into numbers; see that both splits have videos, and validation no class that training lacks."""
    for split, rows in (("training", train), ("validation", val)):
        if not rows:
            raise UserError(f"{root} lists no {split} video")
    labels = {name: label for label, name in enumerate(classes)}
    labels.update({str(label): label for label in range(len(classes)) if str(label) not in labels})
    known = {_label(row, labels, classes) for row in train}
    for row in val:
        if _label(row, labels, classes) not in known:
            raise UserError(f"{row.place}: class {row.label!r} has no training video; add some or unlist it")
    lists = (tuple(Labelled(row.path, labels[row.label]) for row in rows) for rows in (train, val))
    return Listing(root, classes, *lists)


def _label(row: _Row, labels: dict[str, int], classes: tuple[str, ...]) -> int:
    if row.label not in labels:
        raise UserError(
            f"{row.place}: label is {row.label!r}, but must be a number from 0 to {len(classes) - 1} or a class's name "
            f"({', '.join(classes[:5])}{', …' if len(classes) > 5 else ''})"
        )
    return labels[row.label]
