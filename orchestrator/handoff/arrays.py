"""A `.npy` file that grows row by row, for arrays larger than memory whose length is known at the end only."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy


class GrowingArray:
    """Appends rows to a new file; when the block is left, the file's header says how many there are.

    NumPy leaves room in the header for the first axis to grow, so rewriting it moves no data.

    Args:
        path: the file; it is no valid array before the block is left.
    """

    def __init__(self, path: Path) -> None:
        self.shape: tuple[int, ...] = (0,)
        """Rows so far, and what each is."""
        self._dtype: np.dtype[Any] = np.dtype(np.float32)
        self._file = path.open("xb")

    def __enter__(self) -> Self:
        return self

    def append(self, rows: np.ndarray[Any, Any]) -> None:
        """Add rows [row, …], all of one shape and type."""
        if self._file.tell() == 0:
            self.shape, self._dtype = (0, *rows.shape[1:]), rows.dtype
            self._write_header()
        if rows.shape[1:] != self.shape[1:] or rows.dtype != self._dtype:
            raise ValueError(f"rows are {rows.shape[1:]} {rows.dtype}, but those before {self.shape[1:]} {self._dtype}")
        self._file.write(np.ascontiguousarray(rows).tobytes())
        self.shape = (self.shape[0] + len(rows), *self.shape[1:])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._write_header()
                self._file.flush()
                os.fsync(self._file.fileno())

    def _write_header(self) -> None:
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": self.shape}
        npy.write_array_header_1_0(self._file, header)
