"""The simulated cluster against arithmetic done by hand."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.simulation.cluster import Cluster, ClusterPlan, Job


def cluster(**plan: float) -> Cluster:
    """Eight GPUs on two nodes, unless the plan says otherwise; losses are drawn with seed 0."""
    return Cluster(ClusterPlan(**{"gpus": 8, "gpus_per_node": 4, **plan}), random.Random(0))  # type: ignore[arg-type]


def job(gpus: int = 4, epochs: int = 10, **more: float) -> Job:
    """Ten epochs of 100 s on 4 GPUs."""
    return Job(name="job", gpus=gpus, epochs=epochs, **{"epoch_seconds": 100.0, **more})  # type: ignore[arg-type]


class Losses(random.Random):
    """Nodes are lost after these times, always the first that is there."""

    def __init__(self, *after: float) -> None:
        super().__init__(0)
        self.after = [*after, 1e12]

    def expovariate(self, lambd: float = 1.0) -> float:
        """Time to the next loss."""
        return self.after.pop(0)

    def choice(self, seq: Any) -> Any:
        """The node."""
        return seq[0]


def test_jobs_that_fit_run_side_by_side_and_the_third_waits() -> None:
    simulated = cluster()
    simulated.run([job(), job(), job()])
    assert simulated.now == 2000
    assert simulated.tally.gpu_seconds == 3 * 4 * 1000
    assert simulated.tally.redone_gpu_seconds == 0


def test_at_once_bounds_what_would_fit() -> None:
    simulated = cluster()
    simulated.run([job(), job()], at_once=1)
    assert simulated.now == 2000


def test_nobody_overtakes_a_large_job() -> None:
    simulated = cluster()
    simulated.run([job(4), job(8), job(4)])
    assert simulated.now == 3000


def test_starts_and_checkpoints_take_their_time() -> None:
    simulated = cluster()
    simulated.run([job(start_seconds=30, checkpoint_every=4, checkpoint_seconds=5)])
    assert simulated.now == 30 + 1000 + 3 * 5  # after 4, 8 and 10 epochs


def test_a_lost_node_costs_what_no_checkpoint_had() -> None:
    plan = ClusterPlan(gpus=8, gpus_per_node=4, seconds_between_losses=1.0, detect_seconds=13, repair_seconds=600)
    simulated = Cluster(plan, Losses(450.0))
    simulated.run([job(checkpoint_every=2, start_seconds=10)])
    # lost at 450 s with 4 epochs saved at 410 s; noticed at 463 s; 10 s of start and 6 epochs on the other node
    assert simulated.now == 463 + 10 + 600
    assert simulated.tally.redone_gpu_seconds == pytest.approx(4 * (450 - 400))
    assert simulated.tally.gpu_seconds == 4 * (450 + 610)
    assert (simulated.tally.losses, simulated.tally.restarts) == (1, 1)


def test_a_job_that_needs_every_node_waits_for_the_repair() -> None:
    plan = ClusterPlan(gpus=8, gpus_per_node=4, seconds_between_losses=1.0, detect_seconds=13, repair_seconds=600)
    simulated = Cluster(plan, Losses(450.0))
    simulated.run([job(8)])
    assert simulated.now == 450 + 600 + 600  # 4 epochs were saved at 400 s, 6 are left


def test_a_job_whose_node_is_lost_waits_for_the_one_beside_it() -> None:
    plan = ClusterPlan(gpus=8, gpus_per_node=4, seconds_between_losses=1.0, detect_seconds=13, repair_seconds=1e6)
    simulated = Cluster(plan, Losses(50.0))
    simulated.run([job(4), job(4, epochs=1)])
    assert simulated.now == 100 + 1000  # the other is undisturbed on its node until 100 s, which is then free
    assert simulated.tally.restarts == 1


def test_idle_time_has_losses_too() -> None:
    plan = ClusterPlan(gpus=8, gpus_per_node=4, seconds_between_losses=1.0, repair_seconds=500)
    simulated = Cluster(plan, Losses(100.0))
    simulated.wait(200)
    assert simulated.now == 200
    simulated.run([job(8, epochs=1)])
    assert simulated.now == 600 + 100  # the node is back at 600 s


def test_more_gpus_than_there_are_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="job needs 16 GPUs, but the cluster has 8"):
        cluster().run([job(16)])


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"gpus": 0}, "at least 1 GPU"),
        ({"gpus_per_node": 9}, "a node can't have more than all"),
        ({"seconds_between_losses": 0.0}, "must be > 0"),
        ({"repair_seconds": -1.0}, "repair_seconds is -1.0"),
        ({"detect_seconds": float("nan")}, "detect_seconds is nan"),
    ],
)
def test_plans_that_mean_nothing_are_refused(plan: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cluster(**plan)


def test_the_last_node_may_be_smaller() -> None:
    assert ClusterPlan(gpus=10, gpus_per_node=4).node_gpus == (4, 4, 2)


@given(seed=st.integers(0, 10_000), every=st.integers(1, 12), mean=st.floats(50, 5000))
def test_work_is_conserved_whatever_is_lost(seed: int, every: int, mean: float) -> None:
    """What is held is the work itself and what was redone, and no job ends before it could."""
    plan = ClusterPlan(gpus=8, gpus_per_node=4, seconds_between_losses=mean, repair_seconds=60)
    simulated = Cluster(plan, random.Random(seed))
    jobs = [job(epochs=12 // every, checkpoint_every=every) for _ in range(3)]
    simulated.run(jobs)
    useful = sum(job.gpus * job.epochs * job.epoch_seconds for job in jobs)
    assert simulated.tally.gpu_seconds == pytest.approx(useful + simulated.tally.redone_gpu_seconds)
    assert simulated.now >= useful / plan.gpus - 1e-6


def test_equal_seeds_give_equal_histories_and_losses_only_delay() -> None:
    ends = []
    for mean in (None, 2000.0, 2000.0, 500.0):
        plan = ClusterPlan(gpus=8, gpus_per_node=4, seconds_between_losses=mean, repair_seconds=60)
        simulated = Cluster(plan, random.Random(1))
        simulated.run([job() for _ in range(20)])
        ends.append(simulated.now)
    assert ends[1] == ends[2]
    assert all(earlier <= later for earlier, later in pairwise(ends))
