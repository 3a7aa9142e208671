"""Several columns side by side, so that a window takes a few NumPy calls and not some a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stream_monitor.cells import Cells
from stream_monitor.methods.binning import Counts, Formula, Pooled, View
from stream_monitor.schema import FloatArray, IntArray


class Running:
    """A window's vector and its running sum, for sums over runs of slots."""

    def __init__(self, vector: IntArray) -> None:
        # one slot more, for bins that a column does not have
        self.padded = np.append(vector, 0)
        self.sums = np.zeros(len(vector) + 1, dtype=np.int64)
        vector.cumsum(out=self.sums[1:])


class Sums:
    """Sums over sets of slots; sets may overlap, and are best few runs of slots."""

    def __init__(self, slots: Sequence[IntArray]) -> None:
        runs = [_runs(one) for one in slots]
        none = np.empty(0, dtype=np.int64)
        self._starts = np.concatenate([none, *(start for start, _ in runs)])
        self._stops = np.concatenate([none, *(stop for _, stop in runs)])
        lengths = [len(start) for start, _ in runs]
        self._places = np.repeat(np.arange(len(runs)), lengths)
        self._single = all(length == 1 for length in lengths)
        self._size = len(runs)

    def __call__(self, slots: Running) -> IntArray:
        """int64[sets]."""
        sums: IntArray = slots.sums[self._stops] - slots.sums[self._starts]
        if not self._single:
            runs, sums = sums, np.zeros(self._size, dtype=np.int64)
            np.add.at(sums, self._places, runs)
        return sums


def _runs(slots: IntArray) -> tuple[IntArray, IntArray]:
    """Where runs of neighbours begin and end, of slots in their order."""
    if not len(slots):
        return slots, slots
    breaks = np.flatnonzero(np.diff(slots) != 1)
    return slots[np.append(0, breaks + 1)], slots[np.append(breaks, -1)] + 1


class _Pool:
    """The counts of some columns in their bins, int64[C, B]: 0 in those that a column lacks."""

    def __init__(self, starts: Sequence[int], bounds: Sequence[Pooled], wide: int) -> None:
        self._shape = len(bounds), wide
        self._sums = None
        if any(bound.matrix is not None for bound in bounds):
            sets = [
                start + np.flatnonzero(bound.bins == i)
                for start, bound in zip(starts, bounds, strict=True)
                for i in range(wide)
            ]
            self._sums = Sums(sets)
        else:
            self._slots = np.full(self._shape, -1)
            for row, start, bound in zip(self._slots, starts, bounds, strict=True):
                row[: len(bound.bins)] = start + bound.bins

    def __call__(self, slots: Running) -> IntArray:
        if self._sums is not None:
            return self._sums(slots).reshape(self._shape)
        counts: IntArray = slots.padded[self._slots]
        return counts


class _Stack(NamedTuple):
    """One method for the columns of a pool; ``places`` are those of its distances."""

    pool: _Pool
    view: View
    between: Formula
    weights: FloatArray
    reference: Counts
    places: IntArray


class Stacked:
    """The distances of all columns by all methods.

    Columns of like numbers of bins are laid side by side, filled up to a power of two with bins of
    weight 0, so that a sum's rounding does not depend on the columns beside it. Whoever has the
    same bins for the same columns shares their counts. ``starts`` are the columns' first slots.
    """

    def __init__(
        self,
        drift: Mapping[tuple[str, str], Pooled],
        cells: Mapping[str, Cells],
        starts: Mapping[str, int],
    ) -> None:
        groups: dict[tuple[str, int], list[tuple[int, str, Pooled]]] = {}
        for place, ((name, metric), bound) in enumerate(drift.items()):
            size = (len(bound.weights) - 1).bit_length()
            groups.setdefault((metric, size), []).append((place, name, bound))
        known = np.zeros(max((starts[n] + cells[n].slots for n, _ in drift), default=0), np.int64)
        for name, _ in drift:
            known[starts[name] :][: cells[name].slots] = cells[name].counts
        reference = Running(known)
        pools: dict[tuple[tuple[str, ...], bytes], _Pool] = {}
        self._size = len(drift)
        self._stacks = []
        for (_, size), group in groups.items():
            places, names, bounds = zip(*group, strict=True)
            key = names, np.concatenate([bound.bins for bound in bounds]).tobytes()
            if key not in pools:
                pools[key] = _Pool([starts[name] for name in names], bounds, 1 << size)
            weights = np.zeros((len(bounds), 1 << size))
            for row, bound in zip(weights, bounds, strict=True):
                row[: len(bound.weights)] = bound.weights
            view, between = bounds[0].view, bounds[0].between
            side = view(pools[key](reference), weights)
            self._stacks.append(_Stack(pools[key], view, between, weights, side, np.array(places)))

    def distances(self, slots: Running) -> FloatArray:
        """In the order of the methods; NaN where either side is empty."""
        found = np.empty(self._size)
        counted: dict[_Pool, IntArray] = {}
        for stack in self._stacks:
            if (counts := counted.get(stack.pool)) is None:
                counts = counted[stack.pool] = stack.pool(slots)
            side = stack.view(counts, stack.weights)
            found[stack.places] = stack.between(stack.reference, side)
        return found
