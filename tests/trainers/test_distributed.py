"""One training in two processes against the same one in a single process."""

import dataclasses
import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from configs.schema import DistillationSettings
from tests.trainers import tiny
from trainers import loop
from trainers.checkpoint import tensors_of
from trainers.data.manifest import Manifest
from trainers.distributed import World, join_world
from trainers.evaluation import accuracy_of, video_probabilities
from trainers.files import read_json, write_json
from trainers.loop import Training
from trainers.package import WEIGHTS_FILE, load_package
from trainers.results import read_metrics
from trainers.site import Site
from trainers.trial import Trial

PROCESSES = 2
LABELS = torch.tensor([0, 1, 2, 0])
WRITERS = ("save_checkpoint", "write_metrics", "save_package", "write_result")


def gradients(world: World) -> dict[str, Tensor]:
    """Of the mean cross-entropy over a global batch, from this process' share of it.

    Batch norm uses stored statistics here: with those of the batch, as in training, each process normalises its own
    share, and no equality with a single process can be expected.
    """
    network = tiny.random_network(tiny.SPEC).eval()
    share = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
    model = world.wrap(network)  # lives until the gradients are averaged
    logits = model(tiny.random_clips(tiny.SPEC)[share])
    F.cross_entropy(logits, LABELS[share]).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def probabilities(world: World, manifest: Manifest) -> tuple[Tensor, Tensor]:
    return video_probabilities(tiny.random_network(tiny.SPEC), manifest, tiny.CLIPS, world=world)


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("only the main process writes files")


def work(rank: int, port: int, trial: Trial, diverging: Trial, site: Site, out: Path) -> None:
    """What each process does; what it finds is left in `out`."""
    place = {"RANK": rank, "WORLD_SIZE": PROCESSES, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    world = join_world()
    save_file(gradients(world), out / f"gradients-{rank}.safetensors")
    averages, labels = probabilities(world, Manifest.load(site.manifest_file(trial.data)))
    save_file({"probabilities": averages, "labels": labels}, out / f"evaluation-{rank}.safetensors")
    if not world.is_main:
        for writer in WRITERS:
            setattr(loop, writer, refuse)
    train(trial, site, out / f"trained-{rank}")
    if not world.is_main:
        inject_nan()
    train(diverging, site, out / f"diverged-{rank}")
    dist.destroy_process_group()


def train(trial: Trial, site: Site, out: Path) -> None:
    """Run a trial; leave its result and metrics, and what was learnt with it."""
    trainings: list[Training] = []

    class Kept(Training):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            trainings.append(self)

    setattr(loop, "Training", Kept)  # noqa: B010
    result = dataclasses.asdict(tiny.finish(trial, site))
    write_json(out.with_suffix(".json"), {**result, "history": trainings[0].progress.history})
    save_file(tensors_of(trainings[0].learnt), out.with_suffix(".safetensors"))


def inject_nan() -> None:
    """The last loss of every epoch is NaN in this process only; the others could see it in their next step at best."""
    step, steps = Training._step, iter(range(1, 100))
    setattr(Training, "_step", lambda *args: step(*args) * (math.nan if next(steps) % 3 == 0 else 1))  # noqa: B010


@dataclasses.dataclass
class Outcome:
    """What the processes left."""

    trial: Trial
    site: Site
    out: Path

    def tensors(self, name: str) -> list[dict[str, Tensor]]:
        return [load_file(self.out / f"{name}-{rank}.safetensors") for rank in range(PROCESSES)]

    def results(self, name: str) -> list[dict[str, Any]]:
        return [read_json(self.out / f"{name}-{rank}.json") for rank in range(PROCESSES)]


@pytest.fixture(scope="module")
def outcome(manifest: Manifest, teacher: str, shared_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    out = tmp_path_factory.mktemp("processes")
    trial = tiny.make_distilled(manifest, teacher, distillation=DistillationSettings(features="l2"), seed=11)
    diverging = dataclasses.replace(trial, seed=12)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(work, (port, trial, diverging, shared_site, out), PROCESSES)  # type: ignore[no-untyped-call]
    return Outcome(trial, shared_site, out)


@pytest.mark.integration
def test_gradients_are_those_of_the_whole_batch(outcome: Outcome) -> None:
    whole = gradients(World())
    for part in outcome.tensors("gradients"):
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.integration
def test_processes_share_the_evaluation(outcome: Outcome, manifest: Manifest) -> None:
    averages, labels = probabilities(World(), manifest)
    for part in outcome.tensors("evaluation"):
        torch.testing.assert_close(part["probabilities"], averages, rtol=1e-5, atol=1e-6)
        assert accuracy_of(part["probabilities"], part["labels"]) == accuracy_of(averages, labels)


@pytest.mark.integration
def test_all_processes_end_with_the_same_network_and_result(outcome: Outcome) -> None:
    """Batch norm's statistics and the connectors of feature maps included."""
    main, other = outcome.tensors("trained")
    torch.testing.assert_close(main, other, rtol=0, atol=0)
    assert any(name.startswith("distiller.connectors.") for name in main)
    results = outcome.results("trained")
    assert [result["status"] for result in results] == ["finished"] * PROCESSES
    assert len({result["top1"] for result in results}) == 1


@pytest.mark.integration
def test_metrics_are_those_of_all_processes_clips(outcome: Outcome) -> None:
    """Both report the same means, and training accuracies are a multiple of 1/18: 3 steps of 3 clips each in both."""
    main, other = (
        [{key: value for key, value in row.items() if key not in tiny.TIMES} for row in result["history"]]
        for result in outcome.results("trained")
    )
    assert main == other
    assert all(row["train_top1"] * 18 == pytest.approx(round(row["train_top1"] * 18)) for row in main)


@pytest.mark.integration
def test_the_accuracy_is_that_of_the_saved_network(outcome: Outcome, manifest: Manifest) -> None:
    folder = outcome.site.trial_folder(outcome.trial.digest)
    network, _ = load_package(folder)
    saved = load_file(folder / WEIGHTS_FILE)
    trained = outcome.tensors("trained")[0]
    torch.testing.assert_close(saved, {name: trained[f"student.{name}"] for name in saved}, rtol=0, atol=0)
    assert outcome.trial.clips is not None
    accuracy = accuracy_of(*video_probabilities(network, manifest, outcome.trial.clips))
    assert accuracy.top1 == outcome.results("trained")[0]["top1"]
    assert [row["epoch"] for row in read_metrics(folder)] == [1, 2, 3]


@pytest.mark.integration
def test_a_loss_that_is_no_number_in_one_process_stops_all(outcome: Outcome) -> None:
    reasons = {(result["status"], result["reason"]) for result in outcome.results("diverged")}
    [(status, reason)] = reasons
    assert status == "diverged"
    assert "the loss was nan in epoch 1, step 3" in reason


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join_world()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    network = tiny.random_network(tiny.SPEC)
    assert world.wrap(network) is network
