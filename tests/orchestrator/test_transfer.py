"""What is fine-tuned on other videos, and what its results amount to."""

from __future__ import annotations

from pathlib import Path

import pytest

from compression.spec import Factors
from configs.errors import ConfigError, RunError
from configs.loader import load_settings
from configs.schema import ClipSettings
from orchestrator.transfer.search import FineTuning, Source, Transfer, fine_tunings
from orchestrator.transfer.sources import fitting, too_short, with_clips
from orchestrator.transfer.table import (
    Summary,
    data_title,
    distance,
    over,
    scatter,
    sources_title,
    summarise,
    transfer_headline,
    written,
)
from tests.orchestrator.sample_transfer import (
    broken_transfer,
    single_transfer,
    starting_transfer,
    transfer_state,
    uneven_transfer,
)
from tests.trainers.tiny import CLIPS, SPEC
from trainers.data.manifest import Manifest, Video
from trainers.trial import Status, TrialResult


def source(name: str, clips: ClipSettings = CLIPS) -> Source:
    return Source(name=name, digest=f"{name}-trial", network=SPEC, clips=clips, top1=0.9, data="moving-digits")


def result(tuning: FineTuning, top1: float | None) -> TrialResult:
    status: Status = "diverged" if top1 is None else "finished"
    return TrialResult(trial=tuning.name, name=tuning.name, status=status, top1=top1, reason="why")


TUNINGS = fine_tunings([source("teacher"), source("PAS-1")], "ucf101", (1, 3), (0, 7), run_seed=0)


# What is tried


def test_every_network_on_every_split_with_every_seed() -> None:
    assert [tuning.name for tuning in TUNINGS] == [
        "r2plus1d-teacher-ucf101-split1",
        "r2plus1d-teacher-ucf101-split1-seed7",
        "r2plus1d-teacher-ucf101-split3",
        "r2plus1d-teacher-ucf101-split3-seed7",
        "r2plus1d-PAS-1-ucf101-split1",
        "r2plus1d-PAS-1-ucf101-split1-seed7",
        "r2plus1d-PAS-1-ucf101-split3",
        "r2plus1d-PAS-1-ucf101-split3-seed7",
    ]
    assert [(tuning.source.name, tuning.split, tuning.seed) for tuning in TUNINGS[2:5]] == [
        ("teacher", 3, 0),
        ("teacher", 3, 7),
        ("PAS-1", 1, 0),
    ]


def test_data_that_is_split_in_one_way_shows_no_split() -> None:
    (tuning,) = fine_tunings([source("teacher")], "csv", (None,), (0,), run_seed=0)
    assert (tuning.name, tuning.split) == ("r2plus1d-teacher-csv", None)


def test_all_is_proposed_at_once_and_then_nothing() -> None:
    search = Transfer(TUNINGS)
    assert search.propose() == TUNINGS
    search.tell([result(tuning, None if tuning.split == 3 else 0.5) for tuning in TUNINGS])
    assert search.propose() == []
    assert search.stop_reason == "4 of 8 fine-tunings done"


def test_nothing_usable_is_an_error_that_lists_what_happened() -> None:
    with pytest.raises(RunError, match=r"no fine-tuning(.*\n)+.*r2plus1d-PAS-1-ucf101-split3-seed7 diverged  why"):
        Transfer(TUNINGS).tell([result(tuning, None) for tuning in TUNINGS])
    with pytest.raises(ValueError, match="1 results for 8"):
        Transfer(TUNINGS).tell([result(TUNINGS[0], 0.5)])


# Where it starts


def test_what_settings_change_is_changed_for_all_and_the_rest_stays_each_s_own() -> None:
    first, second = source("a", ClipSettings(test=2, resize=20)), source("b", ClipSettings(test=3, resize=30))
    wanted = ClipSettings(test=2, resize=20, flip=True)
    changed = [one.clips for one in with_clips([first, second], wanted)]
    assert changed == [wanted, ClipSettings(test=3, resize=30, flip=True)]
    assert with_clips([first, second], first.clips) == [first, second]


def videos(*frames: int, quarantined: int = 0) -> Manifest:
    """Videos of these lengths, the first one for validation."""
    val, *train = (Video(f"{number}.mp4", 0, length, 25.0) for number, length in enumerate(frames))
    gone = tuple((f"gone-{number}.mp4", "is empty") for number in range(quarantined))
    return Manifest(Path("videos"), "csv", ("a", "b"), tuple(train), (val,), gone, "f")


SETTINGS = load_settings("embedded", ["data.max_quarantined=0.25"])


def test_a_network_is_taken_as_it_is_where_enough_videos_are_long_enough() -> None:
    halved = SPEC.replace(factors=Factors(t=2.0))
    for network in (SPEC, halved):  # clips of 8 frames
        assert fitting(network, [videos(8, 8, 8, 7), videos(9, 9)], SETTINGS) == network


def test_shorter_videos_do_for_a_network_that_sees_only_the_first_frames() -> None:
    """Its clip is cut to what it sees; that another split would do with less does not matter."""
    halved = SPEC.replace(factors=Factors(s=1.4, t=2.0))
    lists = [videos(8, 8), videos(8, 8, 4, 4)]
    assert fitting(SPEC, lists, SETTINGS) is None
    found = fitting(halved, lists, SETTINGS)
    assert found == SPEC.replace(clip_frames=4, factors=Factors(s=1.4))
    assert found.frame_indices() == halved.frame_indices()
    assert fitting(halved, [videos(3, 8)], SETTINGS) is None


def test_unreadable_videos_count_like_short_ones() -> None:
    assert fitting(SPEC, [videos(8, 8, 8, quarantined=1)], SETTINGS) == SPEC
    assert fitting(SPEC, [videos(8, 8, 7, quarantined=1)], SETTINGS) is None


def test_why_a_network_does_not_fit() -> None:
    halved = SPEC.replace(factors=Factors(t=2.0))
    assert too_short(SPEC, [videos(8, 8), videos(7, 7, 7, 8)]) == (
        "75 % of the videos are shorter than its clip of 8 frames"
    )
    assert too_short(halved, [videos(3, 3, 8, 8)]) == "50 % of the videos are shorter than its clip of 4 frames"


# Settings


def test_there_are_three_splits() -> None:
    with pytest.raises(ConfigError, match=r"transfer\.splits\.1 is 4, but must be one of 1, 2, 3"):
        load_settings(None, ["transfer.splits=[1, 4]"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("splits=[1, 1]", r"transfer\.splits is \[1, 1\], but must name at least one, and each once"),
        ("seeds=[]", r"transfer\.seeds is \[\]"),
        ("models={a/b: tag}", r"transfer\.models has the name 'a/b', but it must do as a folder's"),
        ("lr_divisor=0", r"transfer\.lr_divisor is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(None, [f"transfer.{override}"])


# The table


def named(state: dict[str, object]) -> dict[str, Summary]:
    return {row.name: row for row in summarise(state)}


def test_the_mean_is_over_the_splits_and_its_deviation_that_of_a_sample() -> None:
    """0.95, 0.94, 0.96: mean 0.95, deviation 0.01."""
    row = named(transfer_state())["teacher"]
    assert row.by_split == {1: 0.95, 2: 0.94, 3: 0.96}
    assert row.mean == pytest.approx(0.95)
    assert row.deviation == pytest.approx(0.01)
    assert (row.before, row.data, row.complete, row.status) == (0.969, "moving-digits", True, "finished")
    assert written(row) == "95.0 ± 1.0"


def test_seeds_are_averaged_within_their_split_first() -> None:
    """Split 1 has 0.95 and 0.97: its mean of 0.96 counts once, like the other splits' 0.94 and 0.96."""
    row = named(uneven_transfer())["teacher"]
    assert row.by_split[1] == pytest.approx(0.96)
    assert row.mean == pytest.approx((0.96 + 0.94 + 0.96) / 3)


def test_one_split_has_the_deviation_of_its_seeds() -> None:
    state = single_transfer()
    assert [(row.deviation, written(row)) for row in summarise(state)] == [(None, "95.3")]
    state["transfers"].append({**state["transfers"][0], "seed": 1, "top1": 0.973})
    (row,) = summarise(state)
    assert row.mean == pytest.approx(0.963)
    assert row.deviation == pytest.approx(0.02 / 2**0.5)
    assert "over the seeds" in scatter(state, [row])


def test_what_is_missing_is_said() -> None:
    rows = named(uneven_transfer())
    assert written(rows["PAS-2"]) == "90.0 (1/3)"
    assert (written(rows["big"]), rows["big"].gmacs, rows["big"].complete) == ("left out", None, False)
    assert [written(row) for row in summarise(starting_transfer())] == ["–"] * 3
    assert [written(row) for row in summarise(broken_transfer())] == ["diverged"] * 3
    assert "In brackets" in scatter(uneven_transfer(), list(rows.values()))
    assert "In brackets" not in scatter(transfer_state(), summarise(transfer_state()))


def test_networks_are_compared_over_the_splits_that_both_have() -> None:
    """PAS-2 has split 1 alone: 90.0 there, where the teacher's two seeds have 96.0 in the mean."""
    rows = named(transfer_state())
    assert distance(rows["PAS-1"], rows["teacher"]) == "+0.3"
    rows = named(uneven_transfer())
    assert distance(rows["PAS-2"], rows["teacher"]) == "−6.0"
    assert distance(rows["big"], rows["teacher"]) == "–"


def test_titles() -> None:
    assert (data_title(transfer_state()), data_title(single_transfer())) == ("UCF101", "csv")
    assert sources_title(summarise(transfer_state())) == "moving-digits"
    assert sources_title(summarise(uneven_transfer())) == "before"
    assert (over(transfer_state()), over(single_transfer())) == ("the mean of 3 splits", "")
    assert over(uneven_transfer()) == "the mean of 3 splits and 2 seeds"


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            transfer_state(),
            "PAS-2 reaches 90.5 % top-1 on UCF101 (the mean of 3 splits), 4.5 points below teacher, with 31 % of its "
            "multiply-adds.",
        ),
        (single_transfer(), "PAS-1 reaches 95.3 % top-1 on csv."),
        (
            uneven_transfer(),
            "PAS-2 reaches 90.0 % top-1 on UCF101 (the mean of 3 splits and 2 seeds), 6.0 points below teacher, with "
            "31 % of its multiply-adds.",
        ),
        (starting_transfer(), "Nothing can be compared yet: 0 of 9 fine-tunings are done."),
        (
            broken_transfer(),
            "The transfer failed before any network was fine-tuned: no fine-tuning came out usable.",
        ),
    ],
)
def test_the_headline(state: dict[str, object], sentence: str) -> None:
    assert transfer_headline(state) == sentence
