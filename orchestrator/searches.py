"""The searches there are, by the name of their algorithm."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.chain.driver import ChainDriver
from orchestrator.driver import Driver, TrainDriver, Workshop
from orchestrator.pas_driver import PasDriver
from orchestrator.quantise.driver import QuantiseDriver
from orchestrator.sweep.driver import SensitivityDriver, SweepDriver
from orchestrator.transfer.driver import TransferDriver

SEARCHES: dict[str, Callable[[Workshop], Driver]] = {
    "train": TrainDriver,
    "pas": PasDriver,
    "sweep-prune": SweepDriver,
    "sweep-sensitivity": SensitivityDriver,
    "sweep-qat": QuantiseDriver,
    "chain": ChainDriver,
    "transfer": TransferDriver,
}
