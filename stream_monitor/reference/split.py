"""Counting segments: the same slots, for some of the rows, in a layout with fewer cells."""

from __future__ import annotations

from collections.abc import Iterator

from stream_monitor.batch import ColumnBatch
from stream_monitor.panes.count import Slots
from stream_monitor.panes.layout import Layout
from stream_monitor.reference.profile import Profile
from stream_monitor.reference.segments import Members
from stream_monitor.schema import IntArray


class SegmentCounter:
    """Counts of a profile's segments. ``layout`` is that of each segment's vectors."""

    def __init__(self, profile: Profile) -> None:
        self._members = Members(profile.segments, profile.schema, profile.cells)
        cells, self._places = profile.coarse_cells()
        self.layout = Layout.of(cells, profile.blocks)

    def count(
        self, batch: ColumnBatch, slots: Slots, pane: IntArray
    ) -> Iterator[tuple[int, int, IntArray]]:
        """(segment, pane, int64[layout.size]) wherever there are rows; ``pane`` is int64[n]."""
        if not self._members.number:
            return
        coarse = slots.coarse(self.layout, self._places)
        for segment in self._members.of(batch):
            both = pane * self._members.number + segment
            both[segment < 0] = -1
            for place, vector in coarse.count(both):
                index, number = divmod(place, self._members.number)
                yield number, index, vector
