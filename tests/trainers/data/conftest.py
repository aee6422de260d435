"""Tiny videos made on the spot."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

WriteVideo = Callable[..., Path]


@pytest.fixture
def write_video() -> WriteVideo:
    """Writes an H.264 video of noise that changes from frame to frame."""

    def write(path: Path, frames: int = 20, *, height: int = 24, width: int = 32, gop: int = 250) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(frames)
        with av.open(str(path), "w") as container:
            options = {"threads": "1", "g": str(gop), "sc_threshold": "0", "bf": "2", "preset": "veryfast", "crf": "10"}
            stream = container.add_stream("libx264", rate=30, options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for _ in range(frames):
                picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def csv_folder(tmp_path: Path, write_video: WriteVideo) -> Path:
    """Six training and three validation videos of two classes, 20 frames each."""
    for split, count in (("train", 6), ("val", 3)):
        for i in range(count):
            write_video(tmp_path / f"{split}{i}.mp4")
        lines = [f"{split}{i}.mp4 {i % 2}\n" for i in range(count)]
        (tmp_path / f"{split}.csv").write_text("".join(lines))
    return tmp_path


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Folder of real action clips that lies beside the repository on the team's machines."""
    folder = Path(__file__).parents[4] / "shared" / "videos"
    if not folder.is_dir():
        pytest.skip("needs the real clips in ../shared/videos")
    return folder
