"""Networks, videos and trials so small that a training takes a fraction of a second."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import nn

from compression.spec import NetworkSpec
from configs.schema import ClipSettings, DataSettings, DistillationSettings, TrainSettings
from trainers.backbones import BACKBONES, VideoNetwork, build
from trainers.data.manifest import Manifest, build_manifest
from trainers.incidents import Incident
from trainers.loop import EpochMetrics, run_trial
from trainers.results import read_metrics
from trainers.site import Site, manifest_file
from trainers.trial import Trial, TrialResult

CLASSES = ("right", "left", "still")
VIDEOS = {"train": 3, "val": 2}
"""Videos per class."""
VIDEO_FRAMES, CLIP_FRAMES, SIDE = 12, 8, 16

SPECS = {
    name: row.presets["tiny"].replace(
        classes=len(CLASSES), clip_frames=CLIP_FRAMES, side=SIDE, width=1 / 32, blocks=(1, 1, 1, 1)
    )
    for name, row in BACKBONES.items()
    if row.task == "classification"
}
"""Networks for clips: a few channels, a block per stage."""
SPEC = SPECS["r2plus1d"]
DEEP = {name: spec.replace(blocks=(2, 2, 2, 2)) for name, spec in SPECS.items()}
"""Likewise, but with a layer to spare for axis l."""
REID_SPEC = (
    BACKBONES["reid"].presets["tiny"].replace(classes=len(CLASSES), side=SIDE, width=1 / 16, blocks=(1, 1, 1, 1))
)
"""A network for images, likewise."""
ALL_SPECS = {**SPECS, "reid": REID_SPEC}
"""One per backbone."""

CLIPS = ClipSettings(per_video=2, test=2)
TRAIN = TrainSettings(epochs=3, batch=6, lr=0.05, warmup_epochs=1, precision="fp32")
TIMES = ("seconds", "clips_per_second", "data_wait")
"""What differs between two runs of a trial."""


def write_videos(folder: Path) -> None:
    """A bright square that moves right, left or not at all, in the layout `csv`."""
    rng = np.random.default_rng(0)
    for split, count in VIDEOS.items():
        lines = []
        for label, name in enumerate(CLASSES):
            for number in range(count):
                path = folder / f"{split}-{name}-{number}.mp4"
                write_video(path, step=(1, -1, 0)[label], row=int(rng.integers(2, 12)))
                lines.append(f"{path.name} {label}\n")
        (folder / f"{split}.csv").write_text("".join(lines))


def write_video(path: Path, *, step: int, row: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = SIDE + 2, SIDE + 4, "yuv420p"
        for time in range(VIDEO_FRAMES):
            picture = np.full((SIDE + 2, SIDE + 4, 3), 40, np.uint8)
            left = (6 + step * time) % (SIDE - 2)
            picture[row : row + 6, left : left + 6] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def make_store(store: Path, videos: Path) -> Manifest:
    """A store that knows the videos."""
    manifest = build_manifest(DataSettings(source="csv", path=videos), min_frames=CLIP_FRAMES)
    manifest.save(manifest_file(store, manifest.fingerprint))
    return manifest


def make_trial(manifest: Manifest, **changes: Any) -> Trial:
    """A plain training, with some fields changed."""
    fields = {"name": "trial", "network": SPEC, "clips": CLIPS, "train": TRAIN, "seed": 0, **changes}
    return Trial(data=manifest.fingerprint, **fields)


def make_distilled(manifest: Manifest, teacher: str, **changes: Any) -> Trial:
    """A training with a teacher and dropout."""
    fields = {"network": SPEC.replace(dropout=0.5), "distillation": DistillationSettings(), "seed": 1, **changes}
    return make_trial(manifest, teacher=teacher, **fields)


def epochs_of(trial: Trial, site: Site) -> Iterator[EpochMetrics]:
    """Run an undisturbed trial, and give each epoch as it is done."""
    for report in run_trial(trial, site):
        assert not isinstance(report, Incident), report
        yield report


def train(trial: Trial, site: Site, *, epochs: int | None = None) -> TrialResult | None:
    """Run a trial to its end and return its result, or abandon it once some epochs were reported."""
    run = run_trial(trial, site)
    reported = 0
    while reported != epochs:
        try:
            next(run)
        except StopIteration as stop:
            result: TrialResult = stop.value
            return result
        reported += 1
    run.close()
    return None


def finish(trial: Trial, site: Site) -> TrialResult:
    """Run a trial to its end."""
    result = train(trial, site)
    assert result is not None
    return result


def timeless(folder: Path) -> list[dict[str, Any]]:
    """A trial's metrics without what a clock says."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in read_metrics(folder)]


def random_network(spec: NetworkSpec, seed: int = 0) -> Any:
    """A network as after a training: fresh ones have statistics and scales of 0 and 1, which hide much.

    A `VideoNetwork` or, of a spec for images, a `ReidNetwork`.
    """
    torch.manual_seed(seed)
    network = build(spec)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            statistics = module.state_dict(keep_vars=True)
            nn.init.normal_(statistics["running_mean"], std=0.1)
            nn.init.uniform_(statistics["running_var"], 0.5, 1.5)
    if isinstance(network, VideoNetwork):
        nn.init.normal_(network.fc.weight)
    return network


def random_clips(spec: NetworkSpec, number: int = 4, seed: int = 0) -> torch.Tensor:
    """Normalised clips, or images, as a network is given them, of noise."""
    return torch.randn(number, *spec.input_shape, generator=torch.Generator().manual_seed(seed))
