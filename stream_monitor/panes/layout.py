"""The layout: which slot of a pane's vector counts what.

=================  ============================================================================
slot 0             rows
then each column   its slots (see :mod:`stream_monitor.cells`), columns in the profile's order
then each derived  the sum of its values in units of 2⁻³² (an integer, so that order never matters)
=================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stream_monitor.cells import Cells
from stream_monitor.schema import IntArray, Role

ROWS = 0
FIXED_POINT = 2.0**32


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each column's slots lie.

    ``offsets`` maps a column's name to its first slot, ``sums`` a derived column's name to the
    slot of its sum. ``size`` is the length of a pane's vector.
    """

    offsets: Mapping[str, int]
    widths: Mapping[str, int]
    sums: Mapping[str, int]
    size: int

    @classmethod
    def of(cls, cells: Mapping[str, Cells]) -> Layout:
        offsets, widths = {}, {}
        end = 1
        for name, column in cells.items():
            offsets[name], widths[name] = end, column.slots
            end += column.slots
        sums = {}
        for name, column in cells.items():
            if column.column.role is Role.DERIVED:
                sums[name] = end
                end += 1
        return cls(offsets, widths, sums, end)

    def counts(self, vector: IntArray, column: str) -> IntArray:
        """The column's slots in a vector of this layout: int64[..., slots], a view."""
        start = self.offsets[column]
        return vector[..., start : start + self.widths[column]]

    def rows(self, vector: IntArray) -> int:
        return int(vector[ROWS])

    def mean(self, vector: IntArray, derived: str) -> float:
        """Mean of a derived column; NaN without rows."""
        rows = self.rows(vector)
        return int(vector[self.sums[derived]]) / FIXED_POINT / rows if rows else float("nan")

    def split(self, vector: IntArray) -> dict[str, IntArray]:
        """Every column's slots, as copies that do not keep the vector alive."""
        return {name: np.array(self.counts(vector, name)) for name in self.offsets}
