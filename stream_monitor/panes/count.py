"""From columns to counts: the only place where events become integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells, codes_of
from stream_monitor.methods.base import Addends, Block, RowScorer
from stream_monitor.panes.exact import grouped, limbs, tallied
from stream_monitor.panes.grid import Grid
from stream_monitor.panes.layout import ROWS, Layout
from stream_monitor.schema import FloatArray, IntArray, Schema

# One bincount serves this many panes at once; more are taken in turns, which bounds memory when
# a batch is spread over many panes.
_PANES_AT_ONCE = 32


class Slots:
    """A batch's slot numbers: what remains to be counted once it is known who belongs where.

    Attributes
    ----------
    slots : int64[columns, n]
        The slot of the layout that each column's value falls into.
    blocks
        What each block adds, by its name.
    derived
        Values of the derived columns, float64[n] each.
    """

    def __init__(
        self,
        layout: Layout,
        slots: IntArray,
        blocks: Mapping[str, Addends],
        derived: Mapping[str, FloatArray],
    ) -> None:
        self._layout = layout
        self.slots = slots
        self.blocks = blocks
        self.derived = derived

    def coarse(self, layout: Layout, places: IntArray) -> Slots:
        """The same for a layout with fewer slots a column: ``places`` says where each one goes."""
        return Slots(layout, places[self.slots], self.blocks, self.derived)

    def count(self, pane: IntArray) -> Iterator[tuple[int, IntArray]]:
        """Counts a pane.

        Parameters
        ----------
        pane : int64[n]
            The pane that each event belongs to; negative: none.

        Yields
        ------
        (pane, int64[layout.size]), each pane once, in rising order.
        """
        panes, member = np.unique(pane, return_inverse=True)
        skipped = int(np.searchsorted(panes, 0))
        for first in range(skipped, len(panes), _PANES_AT_ONCE):
            some = panes[first : first + _PANES_AT_ONCE]
            number = len(some)
            if number == len(panes):
                vectors = self._vectors(member, number)
            else:
                # events of other panes are counted in one that is thrown away
                own = (member >= first) & (member < first + number)
                vectors = self._vectors(np.where(own, member - first, number), number + 1)
            yield from zip(some.tolist(), vectors, strict=False)

    def _vectors(self, group: IntArray, groups: int) -> IntArray:
        vectors = tallied(self.slots, group, groups, self._layout.size)
        vectors[:, ROWS] = np.bincount(group, minlength=groups)
        for name, addends in self.blocks.items():
            vectors[:, self._layout.blocks[name]] = addends.counts(group, groups)
        return vectors


class _Sum:
    """The sum of a derived column."""

    def __init__(self, values: FloatArray) -> None:
        self._limbs = limbs(values[np.newaxis])

    def counts(self, group: IntArray, groups: int) -> IntArray:
        return grouped(self._limbs, group, groups)


class Counter:
    """Turns batches of one model into slots."""

    def __init__(
        self,
        schema: Schema,
        cells: Mapping[str, Cells],
        layout: Layout,
        scorers: Mapping[str, RowScorer],
        blocks: Mapping[str, Block],
    ) -> None:
        self._layout = layout
        start = {name: place.start for name, place in layout.columns.items()}
        self._continuous = [(cells[c.name], start[c.name]) for c in schema.continuous]
        self._grid = Grid(self._continuous)
        self._categorical = [start[c.name] for c in schema.categorical]
        self._scorers = [(name, start[name], scorer) for name, scorer in scorers.items()]
        self._blocks = blocks

    def slots(self, batch: ColumnBatch) -> Slots:
        """The slots of each event's values; derived columns are scored here."""
        n = len(batch)
        slots = np.empty(
            (len(self._continuous) + len(self._categorical) + len(self._scorers), n), np.int64
        )
        row = len(self._continuous)
        self._grid.find(batch.numbers, slots[:row])
        wrong_column, wrong_event = batch.wrong_number
        for k, event in zip(wrong_column.tolist(), wrong_event.tolist(), strict=True):
            column, offset = self._continuous[k]
            slots[k, event] = offset + column.wrong_type
        for offset, codes in zip(self._categorical, batch.codes, strict=True):
            np.add(codes, offset, out=slots[row])
            row += 1
        blocks: dict[str, Addends] = {}
        derived = {}
        for name, offset, scorer in self._scorers:
            values = derived[name] = scorer.score(batch)
            np.add(codes_of(scorer.edges, values), offset, out=slots[row])
            blocks[name] = _Sum(values)
            row += 1
        for name, block in self._blocks.items():
            blocks[name] = block.addends(batch)
        return Slots(self._layout, slots, blocks, derived)
