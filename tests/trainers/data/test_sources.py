from pathlib import Path

import pytest

from configs.errors import UserError
from configs.schema import DataSettings
from trainers.data.sources import SOURCES, Labelled, Listing


def listing(source: str, root: Path, **fields: object) -> Listing:
    return SOURCES[source](DataSettings.model_validate({"source": source, "path": root, **fields}))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_csv_with_numbers(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "b.mp4"
    root = write(tmp_path / "set", {"train.csv": f"a b.mp4 0\n\n{elsewhere} 1\n", "val.csv": "c.mp4,1\n"})
    found = listing("csv", root)
    assert found.classes == ("0", "1")
    assert found.train == (Labelled("a b.mp4", 0), Labelled("../elsewhere/b.mp4", 1))
    assert found.val == (Labelled("c.mp4", 1),)


def test_csv_with_names(tmp_path: Path) -> None:
    root = write(tmp_path, {"train.csv": "x.mp4,jumping rope\ny.mp4,archery\n", "val.csv": "z.mp4,archery\n"})
    found = listing("csv", root)
    assert found.classes == ("archery", "jumping rope")
    assert found.train == (Labelled("x.mp4", 1), Labelled("y.mp4", 0))


def test_csv_with_a_list_of_classes(tmp_path: Path) -> None:
    """classes.txt fixes the order, may name classes without videos, and serves names and numbers alike."""
    root = write(tmp_path, {"classes.txt": "b\na\nc\n", "train.csv": "x a\ny 0\n", "val.csv": "z b\n"})
    found = listing("csv", root)
    assert found.classes == ("b", "a", "c")
    assert found.train == (Labelled("x", 1), Labelled("y", 0))
    assert found.val == (Labelled("z", 0),)


ONE_FILE = "path,label,split\na b.mp4,wave,train\nsub/c.mp4,clap,val\n\nd.mp4, clap ,train\n"


@pytest.mark.parametrize(
    "text",
    [
        ONE_FILE,
        ONE_FILE.partition("\n")[2],
        ONE_FILE.replace(",", " "),
        ONE_FILE.replace("path,label,split", "Path, Label, Split").replace("\n", "\r\n"),
        "\ufeff" + ONE_FILE.partition("\n")[2],
    ],
)
def test_csv_in_one_file(tmp_path: Path, text: str) -> None:
    """With and without a heading, with commas or spaces, and as spreadsheets write it."""
    root = write(tmp_path / "set", {"mine.csv": text})
    found = listing("csv", root / "mine.csv")
    assert found.root == root
    assert found.classes == ("clap", "wave")
    assert found.train == (Labelled("a b.mp4", 1), Labelled("d.mp4", 0))
    assert found.val == (Labelled("sub/c.mp4", 0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0 train\nb.mp4 0\n", r"mine\.csv:2: is 'b\.mp4 0', but must have three parts"),
        ("a.mp4 0 train\n\nb.mp4 0 test\n", r"mine\.csv:3: ends in 'test', but its split must be train or val"),
        ("a.mp4,0,train\npath,label,split\n", r"mine\.csv:2: ends in 'split'"),
        ("a.mp4 0 train\nb.mp4 1 val\n", r"mine\.csv:2: label is '1'"),
        ("a.mp4 0 train\n", "lists no validation video"),
    ],
)
def test_faults_of_one_file_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, {"mine.csv": text})
    with pytest.raises(UserError, match=message):
        listing("csv", tmp_path / "mine.csv")


UCF101 = {
    "ucfTrainTestlist/classInd.txt": "1 Archery\n2 Biking\n",
    "ucfTrainTestlist/trainlist02.txt": "Archery/v_a.avi 1\nBiking/v_b.avi 2\n",
    "ucfTrainTestlist/testlist02.txt": "Biking/v_c.avi\n",
}


@pytest.mark.parametrize(("lists", "videos"), [("ucfTrainTestlist/", "UCF-101/"), ("", "")])
def test_ucf101(tmp_path: Path, lists: str, videos: str) -> None:
    write(tmp_path, {name.replace("ucfTrainTestlist/", lists): text for name, text in UCF101.items()})
    (tmp_path / videos).mkdir(exist_ok=True)
    found = listing("ucf101", tmp_path, split=2)
    assert found.classes == ("Archery", "Biking")
    assert found.train == (Labelled(f"{videos}Archery/v_a.avi", 0), Labelled(f"{videos}Biking/v_b.avi", 1))
    assert found.val == (Labelled(f"{videos}Biking/v_c.avi", 1),)


def test_hmdb51(tmp_path: Path) -> None:
    files = {"wave_test_split1.txt": "#w_1.avi 1\nw_2.avi 2\n", "clap_test_split1.txt": "c_1.avi 1\nc_2.avi 0\n"}
    found = listing("hmdb51", write(tmp_path, files))
    assert found.classes == ("clap", "wave")
    assert found.train == (Labelled("clap/c_1.avi", 0), Labelled("wave/#w_1.avi", 1))
    assert found.val == (Labelled("wave/w_2.avi", 1),)


def test_folders(tmp_path: Path) -> None:
    names = ("train/b/2.mp4", "train/b/1.mp4", "train/a/3.avi", "train/a/.hidden", "val/a/4.mp4")
    found = listing("folders", write(tmp_path, dict.fromkeys(names, "")))
    assert found.classes == ("a", "b")
    assert found.train == (Labelled("train/a/3.avi", 0), Labelled("train/b/1.mp4", 1), Labelled("train/b/2.mp4", 1))
    assert found.val == (Labelled("val/a/4.mp4", 0),)


@pytest.mark.parametrize(
    ("source", "files", "message"),
    [
        ("csv", {"train.csv": "a 0"}, r"val\.csv can't be read \(No such file"),
        ("csv", {"train.csv": "\n", "val.csv": "b 0"}, "lists no training video"),
        ("csv", {"train.csv": "a 0", "val.csv": ""}, "lists no validation video"),
        ("csv", {"train.csv": "a 0\nb", "val.csv": "c 0"}, r"train\.csv:2: is 'b', but must have two parts"),
        ("csv", {"train.csv": "a 0\nb 2", "val.csv": "c 0"}, r"train\.csv:2: label is '2', .* number from 0 to 1"),
        ("csv", {"train.csv": "a 0", "val.csv": "b 0\n\nc -1"}, r"val\.csv:3: label is '-1'"),
        (
            "csv",
            {"classes.txt": "u\nv", "train.csv": "a u", "val.csv": "b v"},
            r"val\.csv:1: class 'v' has no training",
        ),
        ("ucf101", {**UCF101, "ucfTrainTestlist/testlist02.txt": "Diving/v.avi"}, r"testlist02\.txt:1: label is 'Div"),
        ("hmdb51", {}, r"no \*_test_split2\.txt"),
        ("hmdb51", {"wave_test_split2.txt": "v.avi 1\nw.avi 3"}, r"wave_test_split2\.txt:2: ends in '3'"),
        ("folders", {"train/a/v.mp4": ""}, "no folder val/"),
        ("folders", {"train/a/v.mp4": "", "val/b/v.mp4": ""}, r"val/b: label is 'b'"),
    ],
)
def test_faults_are_named_with_their_place(tmp_path: Path, source: str, files: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        listing(source, write(tmp_path, files), split=2)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path is .*nowhere, but there is no such folder"):
        listing("csv", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data\.path is not set"):
        SOURCES["csv"](DataSettings(source="csv"))


def test_lists_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"train\.csv is no UTF-8 text"):
        listing("csv", tmp_path)
