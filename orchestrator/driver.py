"""What joins a search to a session.

A search itself is a pure state machine (`propose`, `tell`; `pas.py`, `sweep.py`). Its driver knows how it starts once
there is a teacher, how its proposals become trials, and what it adds to the run's state; a row of `SEARCHES`
(`searches.py`) names the driver of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from compression.cost import Cost
from compression.spec import NetworkSpec
from configs.schema import RunSettings
from orchestrator.planning import Planner, read_data, teacher_network
from orchestrator.store import RunFolder, Store
from trainers.backbones import Network
from trainers.tasks import DataManifest, Metric
from trainers.trial import Trial, TrialResult


class Search(Protocol):
    """A pure state machine: what is tried next, given what came of the rest."""

    stop_reason: str | None

    def propose(self) -> Sequence[Any]:
        """What is to be tried now; nothing when the search is over."""
        ...

    def tell(self, results: Sequence[TrialResult]) -> None:
        """Take the results of the last proposal, in its order."""
        ...


class Workshop(Protocol):
    """What a driver is given: a session, as far as drivers look at it."""

    settings: RunSettings
    network: NetworkSpec
    metric: Metric
    planner: Planner
    teacher: Trial
    store: Store
    run: RunFolder
    results: dict[str, TrialResult]

    @property
    def teacher_result(self) -> TrialResult:
        """What came of the teacher, once it is trained."""
        ...

    def cost(self, network: NetworkSpec) -> Cost:
        """C(·), measured once per network."""
        ...

    def untrained(self) -> Network:
        """The teacher's architecture with random weights."""
        ...


class Driver(Protocol):
    """A search under way in a session. Made before the teacher is trained; `start` is called after."""

    search: Search | None
    independent: bool
    """Whether what the search finds stands although a trial is missing."""
    needs_teacher: bool
    """Whether a teacher is trained before the search, or given; else the session's is a trial of the search itself."""

    def begin(self) -> tuple[NetworkSpec, DataManifest]:
        """The network of the session's teacher, whose classes are not yet those of the data, and the data."""
        ...

    def teacher_trial(self) -> Trial:
        """The session's teacher, now that the data is known."""
        ...

    def check(self) -> None:
        """Refuse settings that this search can't use, before anything is trained."""
        ...

    def start(self) -> Search | None:
        """The search, now that there is a teacher; none where the teacher was all that is wanted."""
        ...

    def trial(self, proposal: Any) -> Trial:
        """The trial of something that the search proposed."""
        ...

    def stage_name(self, proposed: Sequence[Any]) -> str:
        """What the trials proposed together are called."""
        ...

    def verdict(self, proposed: Sequence[Any]) -> str:
        """One line about what came of them."""
        ...

    def conclude(self) -> None:
        """What is left to be done here once all is trained and nothing else runs."""
        ...

    def measured(self, network: NetworkSpec) -> dict[str, Any]:
        """What the state says of a network beside what its trial did."""
        ...

    def found(self) -> dict[str, Any]:
        """What the search adds to the run's state."""
        ...


class TrainDriver:
    """`orchestrate train`: the teacher alone."""

    independent = False
    needs_teacher = True

    def __init__(self, session: Workshop) -> None:
        self.session = session
        self.search: Search | None = None

    def begin(self) -> tuple[NetworkSpec, DataManifest]:
        """See `Driver`."""
        session = self.session
        network = teacher_network(session.settings)
        return network, read_data(session.settings, network, session.store.data_folder)

    def teacher_trial(self) -> Trial:
        """See `Driver`."""
        return self.session.planner.teacher

    def check(self) -> None:
        """See `Driver`."""

    def start(self) -> Search | None:
        """See `Driver`."""
        return None

    def trial(self, proposal: Any) -> Trial:
        """See `Driver`."""
        raise NotImplementedError

    def stage_name(self, proposed: Sequence[Any]) -> str:
        """See `Driver`."""
        raise NotImplementedError

    def verdict(self, proposed: Sequence[Any]) -> str:
        """See `Driver`."""
        raise NotImplementedError

    def conclude(self) -> None:
        """See `Driver`."""

    def measured(self, network: NetworkSpec) -> dict[str, Any]:
        """See `Driver`."""
        return {}

    def found(self) -> dict[str, Any]:
        """See `Driver`."""
        return {"iterations": [], "family": []}
