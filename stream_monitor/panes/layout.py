"""The layout: which slot of a pane's vector counts what.

=================  ============================================================================
slot 0             rows
then each column   its slots (see :mod:`stream_monitor.cells`), columns in the profile's order
then each block    the slots of one method that keeps more than cells, in the profile's order
=================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np

from stream_monitor.cells import Cells
from stream_monitor.schema import IntArray

ROWS = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the slots of each column and each block lie. ``size`` is a vector's length."""

    columns: Mapping[str, slice]
    blocks: Mapping[str, slice]
    size: int

    @classmethod
    def of(cls, cells: Mapping[str, Cells], blocks: Mapping[str, int]) -> Layout:
        """The layout of these columns and of blocks with so many slots."""
        end = 1
        columns, runs = {}, {}
        for name, column in cells.items():
            columns[name] = slice(end, end + column.slots)
            end += column.slots
        for name, size in blocks.items():
            runs[name] = slice(end, end + size)
            end += size
        return cls(columns, runs, end)


class Sketch(Protocol):
    """What a pane keeps of its rows that cannot be added: kept a pane, merged anew a window.

    Merging is associative and commutative, and rows may be merged in any parts.
    """

    def merged(self, other: Self) -> Self: ...

    def to_bytes(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Counted:
    """A vector of a layout, int64[size], read by name: what one window or the reference counted.

    ``sketches`` are those of a window's rows, by method; empty where there are none, as of the
    reference, of its chunks and of segments.
    """

    layout: Layout
    vector: IntArray
    sketches: Mapping[str, Sketch] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return int(self.vector[ROWS])

    def column(self, name: str) -> IntArray:
        """int64[slots], a view."""
        return self.vector[self.layout.columns[name]]

    def block(self, name: str) -> IntArray:
        """int64[block's size], a view."""
        return self.vector[self.layout.blocks[name]]

    def columns(self) -> dict[str, IntArray]:
        """Every column's slots, as copies that do not keep the vector alive."""
        return {name: np.array(self.column(name)) for name in self.layout.columns}
