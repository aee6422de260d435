"""A file that grows row by row is the array of its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.handoff.arrays import GrowingArray


class TestGrowingArray:
    def test_it_is_the_array_of_its_parts(self, tmp_path: Path) -> None:
        parts = [np.arange(6.0).reshape(2, 3), np.ones((9, 3)), np.zeros((1, 3))]
        with GrowingArray(tmp_path / "a.npy") as array:
            for part in parts:
                array.append(part)
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.concatenate(parts))
        assert array.shape == (12, 3)

    def test_rows_of_another_shape_or_type_are_refused(self, tmp_path: Path) -> None:
        with GrowingArray(tmp_path / "a.npy") as array:
            array.append(np.zeros((2, 3)))
            for rows in (np.zeros((2, 4)), np.zeros((2, 3), np.float32)):
                with pytest.raises(ValueError, match="but those before"):
                    array.append(rows)
