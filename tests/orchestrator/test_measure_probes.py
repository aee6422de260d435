"""What models need beside time: counters and systems are made up, but for memory and files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from compression.spec import Factors
from configs.errors import UserError
from configs.schema import ReidSettings
from orchestrator.measure.probes import alone, end_to_end, gpu
from orchestrator.measure.probes.alone import Needs, look, measure_alone, run_for
from orchestrator.measure.probes.end_to_end import ClipSource, ImageSource, source_of, time_end_to_end
from orchestrator.measure.probes.energy import NoCounter, NvmlCounter, RaplCounter, find_rapl
from orchestrator.measure.probes.gpu import GpuError, GpuSampler, gpu_handle
from orchestrator.measure.probes.memory import PeakMemory
from orchestrator.measure.turns import Conditions
from tests.trainers.tiny import CLASSES, CLIPS, REID_SPEC, SPEC, random_network, write_video
from trainers.backbones import BACKBONES
from trainers.data.clips import test_batches as evaluation_clips
from trainers.data.crops import evaluation_batches, normalise_images
from trainers.data.identities import Crop
from trainers.data.manifest import Manifest, Video
from trainers.data.transforms import normalise
from trainers.package import Description, save_package

# Memory


def test_memory_that_was_given_back_counts_too() -> None:
    memory = PeakMemory()
    held = np.ones(64_000_000, np.uint8)
    del held
    assert 60 < memory.growth_mb() < 100


def test_what_was_held_before_does_not_count() -> None:
    held = np.ones(64_000_000, np.uint8)
    assert PeakMemory().growth_mb() < 32
    assert held[-1] == 1


def status(folder: Path, **fields: int) -> None:
    (folder / "status").write_text("".join(f"{name}:\t  {value} kB\n" for name, value in fields.items()))


def test_the_mark_is_reset_and_read_in_megabytes(tmp_path: Path) -> None:
    status(tmp_path, VmHWM=9_000_000, VmRSS=1_000_000)
    memory = PeakMemory(tmp_path)
    assert (tmp_path / "clear_refs").read_text() == "5"
    status(tmp_path, VmHWM=1_500_000, VmRSS=1_200_000)
    assert memory.growth_mb() == pytest.approx(512.0)


def test_a_system_that_does_not_tell_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="status"):
        PeakMemory(tmp_path)
    status(tmp_path, VmSize=1)
    with pytest.raises(OSError, match="has no VmRSS"):
        PeakMemory(tmp_path)


# Energy


def set_zone(powercap: Path, zone: str, name: str, microjoules: int, most: int = 1_000_000_000) -> None:
    folder = powercap / zone
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in {"name": name, "energy_uj": microjoules, "max_energy_range_uj": most}.items():
        (folder / file).write_text(f"{value}\n")


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    set_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    set_zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    set_zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    set_zone(tmp_path, "intel-rapl:2", "psys", 0)
    counter = find_rapl(tmp_path)
    assert isinstance(counter, RaplCounter)
    assert counter.source == "RAPL package-0, package-1"
    set_zone(tmp_path, "intel-rapl:0", "package-0", 6_500_000)
    set_zone(tmp_path, "intel-rapl:0:0", "core", 900_000_000)
    set_zone(tmp_path, "intel-rapl:1", "package-1", 7_250_000)
    assert counter.joules() == pytest.approx(1.75)
    counter.start()
    assert counter.joules() == 0


def test_a_counter_that_started_again_from_zero_goes_on(tmp_path: Path) -> None:
    set_zone(tmp_path, "intel-rapl:0", "package-0", 262_000_000, most=262_143_328)
    counter = find_rapl(tmp_path)
    assert isinstance(counter, RaplCounter)
    set_zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000, most=262_143_328)
    assert counter.joules() == pytest.approx(1.143328)


def test_a_machine_without_a_counter_says_so(tmp_path: Path) -> None:
    assert find_rapl(tmp_path / "none") == NoCounter(f"there is no RAPL package in {tmp_path / 'none'}")


def test_a_counter_for_root_only_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refusing(path: Path, **options: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", refusing)
    path = tmp_path / "intel-rapl:0/energy_uj"
    assert find_rapl(tmp_path) == NoCounter(f"{path} may not be read by this user")


def test_a_counter_that_holds_no_number_says_so(tmp_path: Path) -> None:
    set_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (tmp_path / "intel-rapl:0/energy_uj").write_text("much")
    found = find_rapl(tmp_path)
    assert isinstance(found, NoCounter)
    assert found.reason.startswith("RAPL can't be read: ")


# GPU


class NvmlError(Exception):
    """What NVML raises."""


def make_nvml(**functions: Any) -> Any:
    def refuse(*_: Any) -> None:
        raise NvmlError("Not Supported")

    names = ("Init", "Shutdown", "DeviceGetHandleByUUID", "DeviceGetTotalEnergyConsumption",
             "DeviceGetUtilizationRates", "DeviceGetMemoryInfo")  # fmt: skip
    return SimpleNamespace(NVMLError=NvmlError, **{f"nvml{name}": functions.get(name, refuse) for name in names})


def test_nvml_counts_millijoules() -> None:
    counts = iter([1_000_000, 1_002_500])
    counter = NvmlCounter(make_nvml(DeviceGetTotalEnergyConsumption=lambda handle: next(counts)), "gpu")
    assert counter.source == "NVML"
    assert counter.joules() == 2.5


def test_a_gpu_that_does_not_count_energy_says_so() -> None:
    with pytest.raises(OSError, match="NVML counts no energy of this GPU: Not Supported"):
        NvmlCounter(make_nvml(), "gpu")


def test_samples_are_a_mean_of_work_and_a_peak_of_memory() -> None:
    samples = [(50, 1_000_000_000), (100, 3_000_000_000), (90, 2_000_000_000)]
    busy, used = iter(samples), iter(samples)

    def rates(handle: str) -> Any:
        assert handle == "gpu"
        if (sample := next(busy, None)) is None:
            raise NvmlError("that is all")
        return SimpleNamespace(gpu=sample[0])

    nvml = make_nvml(
        DeviceGetUtilizationRates=rates, DeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=next(used)[1])
    )
    with GpuSampler(nvml, "gpu", seconds_between_samples=0.001) as sampler:
        sampler._thread.join(timeout=5)
    assert sampler.percent() == 80.0
    assert sampler.used_mb() == 3000.0


def test_a_gpu_that_does_not_tell_says_why() -> None:
    with GpuSampler(make_nvml(), "gpu", seconds_between_samples=0.001) as sampler:
        sampler._thread.join(timeout=5)
    with pytest.raises(GpuError, match="NVML does not tell of this GPU: Not Supported"):
        sampler.percent()


def test_a_loop_shorter_than_a_sample_says_so() -> None:
    with GpuSampler(make_nvml(), "gpu", seconds_between_samples=60) as sampler:
        pass
    with pytest.raises(GpuError, match="NVML was not asked in time"):
        sampler.used_mb()


@pytest.fixture
def uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))


def test_the_gpu_is_found_by_its_uuid_and_nvml_is_closed(uuid: None, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    nvml = make_nvml(
        Init=lambda: log.append("init"),
        Shutdown=lambda: log.append("shutdown"),
        DeviceGetHandleByUUID=lambda identifier: f"handle of {identifier}",
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with gpu_handle(torch.device("cuda")) as (module, handle):
        assert (module, handle) == (nvml, "handle of GPU-12-34")
        assert log == ["init"]
    assert log == ["init", "shutdown"]


@pytest.mark.parametrize(
    ("functions", "problem"),
    [
        ({}, "NVML does not start: Not Supported"),
        ({"Init": lambda: None, "Shutdown": lambda: None}, "NVML knows no GPU-12-34: Not Supported"),
    ],
    ids=["no driver", "no such GPU"],
)
def test_a_gpu_that_nvml_does_not_know_says_why(
    functions: dict[str, Callable[..., Any]], problem: str, uuid: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", make_nvml(**functions))
    with pytest.raises(GpuError, match=problem), gpu_handle(torch.device("cuda")):
        pass


# From a file on

DESCRIPTION = Description(spec=SPEC.replace(clip_frames=4), classes=CLASSES, clips=CLIPS)
REID = Description(spec=REID_SPEC, classes=CLASSES, reid=ReidSettings())


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames of 20 × 18 pixels."""
    path = tmp_path_factory.mktemp("video") / "square.mp4"
    write_video(path, step=1, row=4)
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8)).save(path)
    return path


def test_a_clip_is_the_one_of_the_search_s_evaluation(video: Path) -> None:
    spec = DESCRIPTION.spec.replace(clip_frames=8, factors=Factors(t=1.4, f=1.5, s=1.2))
    description = Description(spec=spec, classes=CLASSES, clips=CLIPS)
    video_row = Video(path=video.name, label=0, frames=12, fps=30.0)
    manifest = Manifest(video.parent, "csv", CLASSES, train=(), val=(video_row,), quarantined=(), fingerprint="")
    (batch,) = evaluation_clips(manifest, CLIPS, spec, batch=1, clips_per_video=1)
    row = BACKBONES[spec.backbone]
    source = source_of(video, description)
    clip = source.cut(source.decode())
    assert clip.shape == (1, *spec.input_shape)
    torch.testing.assert_close(clip, normalise(batch.clips, row.mean, row.std), rtol=0, atol=0)


def test_an_image_is_the_one_of_evaluation(image: Path) -> None:
    crop = Crop(path=image.name, identity=0, camera=0)
    (batch,) = evaluation_batches(image.parent, [crop], REID_SPEC, batch=1)
    row = BACKBONES["reid"]
    source = source_of(image, REID)
    assert isinstance(source, ImageSource)
    picture = source.cut(source.decode())
    torch.testing.assert_close(picture, normalise_images(batch.images, row.mean, row.std), rtol=0, atol=0)


def test_files_that_a_network_is_not_fed_are_refused(video: Path, image: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--video .*square\.mp4 can't be read as an image, which a reid is fed"):
        source_of(video, REID)
    with pytest.raises(UserError, match="can't be read as a video"):
        source_of(tmp_path / "none.mp4", DESCRIPTION)
    long = Description(spec=SPEC.replace(clip_frames=13), classes=CLASSES, clips=CLIPS)
    with pytest.raises(UserError, match="a clip of 13 frames does not fit into a video of 12; give a longer one"):
        ClipSource(video, long)


class MadeUp:
    """A source whose parts take as long as the clock is told."""

    def __init__(self, clock: Iterator[float]) -> None:
        self.clock = clock
        self.log: list[str] = []

    def decode(self) -> Tensor:
        self.log.append("decode")
        return torch.zeros(1)

    def cut(self, decoded: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.log.append("cut")
        return torch.zeros(1, *SPEC.input_shape)


def test_parts_have_medians_of_their_own_and_so_has_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: rounds (1, 2, 30), (2, 20, 3), (10, 1, 4) after one that does not count."""
    laps = iter([9.0, 9.0, 9.0, 1.0, 2.0, 30.0, 2.0, 20.0, 3.0, 10.0, 1.0, 4.0])

    def clock(call: Callable[[], object]) -> float:
        call()
        return next(laps)

    monkeypatch.setattr(end_to_end, "wall_clock", clock)
    source = MadeUp(laps)
    (found,) = time_end_to_end([random_network(SPEC)], [source], Conditions(runs=3, warm_up=1))
    assert found == {"decode_ms": 2.0, "clip_ms": 2.0, "network_ms": 4.0, "total_ms": 25.0}
    assert source.log == ["decode", "cut"] * 4


def test_two_networks_go_from_a_real_video_to_outputs(video: Path) -> None:
    networks = [random_network(DESCRIPTION.spec) for _ in range(2)]
    sources = [source_of(video, DESCRIPTION)] * 2
    found = time_end_to_end(networks, sources, Conditions(runs=2, warm_up=1))
    assert len(found) == 2
    assert all(value > 0 for parts in found for value in parts.values())


# Alone in a process


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_package(tmp_path / "model", random_network(DESCRIPTION.spec), DESCRIPTION)
    return tmp_path / "model"


def answer(monkeypatch: pytest.MonkeyPatch, **done: Any) -> list[list[str]]:
    commands: list[list[str]] = []

    def started(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return SimpleNamespace(**{"returncode": 0, "stdout": "", "stderr": "", **done})

    monkeypatch.setattr(subprocess, "run", started)
    return commands


def test_the_process_is_told_the_conditions_and_its_last_line_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = Needs(peak_mb=3.5, energy_mj=1.0, energy_source="RAPL package-0", notes=("a", "b"))
    text = json.dumps({**needs.__dict__, "notes": list(needs.notes)})
    commands = answer(monkeypatch, stdout=f"a library talks\n{text}\n")
    assert measure_alone(Path("/m"), Conditions(batch=4, threads=2), "cuda") == needs
    ((_, *command),) = commands
    assert command == [
        *("-m", "orchestrator.measure.probes.alone", "/m", "--batch", "4", "--threads", "2", "--device", "cuda")
    ]


@pytest.mark.parametrize(
    ("done", "reason"),
    [
        ({"returncode": 1, "stderr": "Traceback\nMemoryError: too large\n"}, "exit code 1: MemoryError: too large"),
        ({"returncode": -9}, "exit code -9: it said nothing"),
        ({"stdout": ""}, "IndexError"),
        ({"stdout": "no JSON"}, "JSONDecodeError"),
        ({"stdout": '{"peak": 1}'}, "KeyError"),
    ],
)
def test_a_process_that_fails_costs_its_figures_only(
    done: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, **done)
    needs = measure_alone(Path("/m"), Conditions(), "cpu")
    assert needs == Needs(notes=needs.notes)
    assert needs.notes[0].startswith(
        "memory and energy were not measured, because the process for it failed (" + reason
    )


def test_a_process_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    assert "it took more than 900 s" in measure_alone(Path("/m"), Conditions(), "cpu").notes[0]


def test_energy_is_per_input(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 4 J in 10 passes of 2 clips are 200 mJ a clip."""
    counter = SimpleNamespace(source="RAPL package-0", start=lambda: None, joules=lambda: 4.0)
    monkeypatch.setattr(alone, "find_rapl", lambda: counter)
    monkeypatch.setattr(alone, "run_for", lambda seconds, run: run() or 10)
    needs = look(model, Conditions(batch=2), "cpu")
    assert (needs.energy_mj, needs.energy_source, needs.notes) == (200.0, "RAPL package-0", ())
    assert needs.peak_mb is not None
    assert 0 <= needs.peak_mb < 100


def test_without_a_counter_nothing_is_run_for_energy(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "find_rapl", lambda: NoCounter("there is none"))
    monkeypatch.setattr(alone, "run_for", lambda *_: pytest.fail("it ran"))
    needs = look(model, Conditions(), "cpu")
    assert (needs.energy_mj, needs.energy_source) == (None, "no counter")
    assert needs.notes == ("energy: there is none",)


def test_a_system_that_does_not_tell_of_memory_is_a_note(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(alone, "PeakMemory", refuse)
    needs = look(model, Conditions(), "cpu")
    assert needs.peak_mb is None
    assert "peak memory: this system does not tell (no /proc)" in needs.notes


def test_gpu_figures_come_from_the_samples_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = make_nvml(
        DeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=60),
        DeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=5_000_000),
    )
    monkeypatch.setattr(alone, "GpuSampler", lambda nvml, handle: GpuSampler(nvml, handle, 0.001))
    monkeypatch.setattr(alone, "LOOP_SECONDS", 0.05)
    notes: list[str] = []
    found = alone._run_on(lambda: time.sleep(0.005), 1, None, (nvml, "gpu"), notes)
    assert found == {"gpu_percent": 60.0, "gpu_mb": 5.0}
    assert notes == []


def test_a_gpu_without_nvml_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def missing(device: torch.device) -> Iterator[None]:
        raise GpuError("NVML does not start: no driver")
        yield

    monkeypatch.setattr(alone, "gpu_handle", missing)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    notes: list[str] = []
    with ExitStack() as stack:
        assert alone._nvml(stack, notes) is None
    assert notes == ["GPU: NVML does not start: no driver"]
    assert gpu.SECONDS_BETWEEN_SAMPLES < alone.LOOP_SECONDS / 5


@pytest.mark.parametrize(("seconds", "passes"), [(0.0, 1), (1.0, 4)])
def test_a_loop_ends_after_its_time_but_runs_once(seconds: float, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(alone, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def run() -> None:
        now[0] += 0.3

    assert run_for(seconds, run) == passes


@pytest.mark.integration
def test_a_real_process_tells_what_a_model_needs(model: Path) -> None:
    needs = measure_alone(model, Conditions(), "cpu")
    assert needs.peak_mb is not None, needs.notes
    assert 0 < needs.peak_mb < 60, "libraries' own memory does not count: 95 MB"
