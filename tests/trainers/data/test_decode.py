from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import InputContainer
from av.video.stream import VideoStream

from tests.trainers.data.conftest import WriteVideo
from trainers.data import decode
from trainers.data.decode import DecodeError, decode_frames, probe_video


def whole(path: Path) -> np.ndarray:
    """Reference: plain decoding from the start, as PyAV's manual shows it."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
@pytest.mark.parametrize("indices", [[0], [29], [7, 8, 9], [13, 3, 3, 22], range(30)])
def test_frames_equal_a_full_decode_in_every_container(
    tmp_path: Path, write_video: WriteVideo, suffix: str, indices: list[int]
) -> None:
    path = write_video(tmp_path / f"v.{suffix}", frames=30, gop=8)
    np.testing.assert_array_equal(decode_frames(path, indices), whole(path)[list(indices)])


@pytest.mark.parametrize(
    "name", ["arm_wrestling.mp4", "apply_eye_makeup.avi", "clean_pool.mp4", "clean_pool_short.mp4"]
)
def test_frames_of_real_clips_equal_a_full_decode(real_clips: Path, name: str) -> None:
    reference = whole(real_clips / name)
    last = len(reference) - 1
    for indices in ([0], [last], [last // 2, last // 2 + 1], list(range(last - 15, last + 1, 2))):
        np.testing.assert_array_equal(decode_frames(real_clips / name, indices), reference[indices])


@pytest.mark.parametrize(
    ("name", "frames", "fps", "height", "width"),
    [
        ("arm_wrestling.mp4", 280, 28, 256, 340),
        ("apply_eye_makeup.avi", 164, 25, 240, 320),
        ("clean_pool.mp4", 300, 30, 256, 340),
        ("clean_pool_short.mp4", 32, 30, 256, 340),
    ],
)
def test_probe_of_real_clips(real_clips: Path, name: str, frames: int, fps: float, height: int, width: int) -> None:
    info = probe_video(real_clips / name)
    assert (info.frames, info.height, info.width) == (frames, height, width)
    assert info.fps == pytest.approx(fps, rel=0.05)  # the mean over a cut clip


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_late_frames_are_reached_from_the_keyframe_before(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    decoded: list[int | None] = []

    def record(numbered: Iterator[tuple[int | None, av.VideoFrame]], wanted: set[int]) -> decode.Frames:
        pairs = list(numbered)
        decoded.extend(index for index, _ in pairs)
        return collect(iter(pairs), wanted)

    collect = decode._collect
    monkeypatch.setattr(decode, "_collect", record)
    decode_frames(write_video(tmp_path / f"v.{suffix}", frames=30, gop=8), [26, 28])
    assert decoded == [24, 25, 26, 27, 28, 29]


def test_a_seek_that_misses_is_made_good_from_the_start(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "v.mp4", frames=30, gop=8)
    honest = decode._packet_times

    def wrong_times(container: InputContainer, stream: VideoStream) -> list[tuple[int | None, bool]]:
        return [(pts and pts + 1, is_keyframe) for pts, is_keyframe in honest(container, stream)]

    monkeypatch.setattr(decode, "_packet_times", wrong_times)
    np.testing.assert_array_equal(decode_frames(path, [20]), whole(path)[[20]])


def test_frames_are_counted_where_the_header_is_wrong(tmp_path: Path, write_video: WriteVideo) -> None:
    """The AVI stream header's dwLength (32 bytes after its type 'vids') says 7 instead of 30."""
    path = write_video(tmp_path / "v.avi", frames=30)
    content = bytearray(path.read_bytes())
    length_at = content.index(b"vids") + 32
    assert int.from_bytes(content[length_at : length_at + 4], "little") == 30
    content[length_at : length_at + 4] = (7).to_bytes(4, "little")
    path.write_bytes(content)
    assert probe_video(path).frames == 30


@pytest.mark.parametrize("content", [b"", b"no video at all\n" * 100])
def test_files_that_are_no_videos(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    for read in (probe_video, lambda file: decode_frames(file, [0])):
        with pytest.raises(DecodeError, match=r"v\.mp4: Invalid data"):
            read(path)


def test_a_file_cut_off_before_its_index(tmp_path: Path, write_video: WriteVideo) -> None:
    """FFmpeg writes the index (moov) last, so that half an MP4 has none."""
    path = write_video(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DecodeError, match="Invalid data"):
        probe_video(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="No such file"):
        decode_frames(tmp_path / "v.mp4", [0])


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(DecodeError, match="no video stream"):
        probe_video(path)


def test_frames_past_the_end(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "v.mp4", frames=20)
    with pytest.raises(DecodeError, match="frame 20 was asked for"):
        decode_frames(path, [19, 20, 21])


def test_damage_in_the_middle_shows_when_it_is_decoded(tmp_path: Path, write_video: WriteVideo) -> None:
    """The index is whole, so that a probe finds nothing; the frames before the damage are still good."""
    path = write_video(tmp_path / "v.mp4", frames=30, gop=8)
    before = whole(path)[:4]
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 2000)
    content[middle] = bytes(2000)
    path.write_bytes(content)
    assert probe_video(path).frames == 30
    np.testing.assert_array_equal(decode_frames(path, range(4)), before)
    with pytest.raises(DecodeError, match="Invalid data"):
        decode_frames(path, range(30))
