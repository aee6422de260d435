"""How busy a GPU is and how much of its memory a process takes, by NVML, which `nvidia-smi` reads too.

Units: utilisation in percent of the time in which at least one kernel ran; memory in MB, 1e6 bytes.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch

SECONDS_BETWEEN_SAMPLES = 0.1
"""NVML's own utilisation is a mean over 1/6 to 1 second."""


class GpuError(RuntimeError):
    """NVML does not tell of the GPU that PyTorch uses, and why."""


@contextmanager
def gpu_handle(device: torch.device) -> Iterator[tuple[Any, Any]]:
    """The module `pynvml` and its name for PyTorch's GPU, which is found by its UUID: the two count differently.

    Raises:
        GpuError: no driver, or no such GPU.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise GpuError(f"NVML does not start: {error}") from error
    try:
        identifier = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(identifier)
        except pynvml.NVMLError as error:
            raise GpuError(f"NVML knows no {identifier}: {error}") from error
        yield pynvml, handle
    finally:
        pynvml.nvmlShutdown()


class GpuSampler:
    """Looks at a GPU ten times a second in a thread of its own, while the `with` block runs.

    Args:
        nvml: the module `pynvml`, initialised.
        handle: its name for the GPU.
        seconds_between_samples: how often.
    """

    def __init__(self, nvml: Any, handle: Any, seconds_between_samples: float = SECONDS_BETWEEN_SAMPLES) -> None:
        self._nvml, self._handle, self._pause = nvml, handle, seconds_between_samples
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="gpu-sampler", daemon=True)
        self._busy: list[float] = []
        self._used: list[float] = []
        self._failure: str | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def percent(self) -> float:
        """Mean utilisation of the samples.

        Raises:
            GpuError: there is no sample, and why.
        """
        return statistics.fmean(self._require(self._busy))

    def used_mb(self) -> float:
        """The most memory in use at a time, by whatever process.

        Raises:
            GpuError: there is no sample, and why.
        """
        return max(self._require(self._used))

    def _require(self, samples: list[float]) -> list[float]:
        if not samples:
            raise GpuError(self._failure or "NVML was not asked in time")
        return samples

    def _sample(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                busy = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu
                used = self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used
            except self._nvml.NVMLError as error:
                self._failure = f"NVML does not tell of this GPU: {error}"
                return
            self._busy.append(float(busy))
            self._used.append(used / 1e6)
