"""From columns to counts: the only place where events become integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells, codes_of
from stream_monitor.methods.base import RowScorer
from stream_monitor.panes.layout import FIXED_POINT, Layout
from stream_monitor.schema import IntArray, Schema

# One bincount serves this many panes at once; more are taken in turns, which bounds memory when
# a batch is spread over many panes.
_PANES_AT_ONCE = 32


class Slots:
    """A batch's slot numbers: what remains to be counted once it is known who belongs where.

    Attributes
    ----------
    slots : int64[columns, n]
        The slot of the layout that each column's value falls into.
    sums : int64[derived, n]
        Values of derived columns in units of 2⁻³².
    """

    def __init__(self, layout: Layout, slots: IntArray, sums: IntArray) -> None:
        self._layout = layout
        self.slots = slots
        self.sums = sums

    def count(self, pane: IntArray) -> Iterator[tuple[int, IntArray]]:
        """Counts a pane.

        Parameters
        ----------
        pane : int64[n]
            The pane that each event belongs to.

        Yields
        ------
        (pane, int64[layout.size]), each pane once, in rising order.
        """
        size = self._layout.size
        panes, member = np.unique(pane, return_inverse=True)
        for first in range(0, len(panes), _PANES_AT_ONCE):
            some = panes[first : first + _PANES_AT_ONCE]
            if len(some) == len(panes):
                slots, sums, group = self.slots, self.sums, member
            else:
                chosen = (member >= first) & (member < first + len(some))
                slots, sums = self.slots[:, chosen], self.sums[:, chosen]
                group = member[chosen] - first
            flat = slots if len(some) == 1 else slots + group * size
            counted = np.bincount(flat.ravel(), minlength=len(some) * size)
            vectors = counted.reshape(len(some), size)
            vectors[:, 0] = np.bincount(group, minlength=len(some))
            for slot, values in zip(self._layout.sums.values(), sums, strict=True):
                np.add.at(vectors[:, slot], group, values)
            yield from zip(some.tolist(), vectors, strict=True)


class Counter:
    """Turns batches of one model into slots."""

    def __init__(
        self,
        schema: Schema,
        cells: Mapping[str, Cells],
        layout: Layout,
        scorers: Mapping[str, RowScorer],
    ) -> None:
        self._layout = layout
        self._continuous = [(cells[c.name], layout.offsets[c.name]) for c in schema.continuous]
        self._categorical = [layout.offsets[c.name] for c in schema.categorical]
        self._derived = [
            (cells[name], layout.offsets[name], scorer) for name, scorer in scorers.items()
        ]

    def slots(self, batch: ColumnBatch) -> Slots:
        """The slots of each event's values; derived columns are scored here."""
        n = len(batch)
        slots = np.empty(
            (len(self._continuous) + len(self._categorical) + len(self._derived), n), np.int64
        )
        row = 0
        for (column, offset), numbers in zip(self._continuous, batch.numbers, strict=True):
            slots[row] = codes_of(column.edges, numbers)
            slots[row] += offset
            row += 1
        wrong_column, wrong_event = batch.wrong_number
        for k, event in zip(wrong_column.tolist(), wrong_event.tolist(), strict=True):
            column, offset = self._continuous[k]
            slots[k, event] = offset + column.wrong_type
        for offset, codes in zip(self._categorical, batch.codes, strict=True):
            np.add(codes, offset, out=slots[row])
            row += 1
        sums = np.empty((len(self._derived), n), np.int64)
        for i, (column, offset, scorer) in enumerate(self._derived):
            values = scorer.score(batch)
            slots[row] = codes_of(column.edges, values)
            slots[row] += offset
            sums[i] = np.rint(values * FIXED_POINT)
            row += 1
        return Slots(self._layout, slots, sums)
