"""Cells of many columns at once: what binary search finds, found by a table.

:func:`~stream_monitor.cells.codes_of` asks some nine questions of each number, whose answers no
processor can guess. Here the middle of a column's range, where nearly all of the reference lies, is
divided into steps of equal width, few of which hold more than two edges. A number's step follows
from a subtraction and a product, both of which keep order even rounded; so all edges of lower steps
are below it, all of higher ones above it, and it is compared only with those of its own. What lies
outside, and what is no number, takes the other way. The codes are the same, whatever the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream_monitor.cells import Cells, codes_of
from stream_monitor.schema import FloatArray, IntArray

_LEAST_STEPS, _MOST_STEPS = 2**10, 2**14  # of a column: two an edge, for they lie unevenly
_MOST = 3  # edges in a step; columns with more are searched
_TAIL = 0.005  # of the reference's values, at each end, may lie outside
_ROWS = 2048  # at once: what is in use stays in the second-level cache


class Grid:
    """Finds the slots of continuous columns.

    ``columns`` are their cells, each with the layout's number of its first slot.
    """

    def __init__(self, columns: Sequence[tuple[Cells, int]]) -> None:
        self._columns = list(columns)
        longest = max((len(cells.edges) for cells, _ in columns), default=0)
        steps = min(max(1 << (2 * longest).bit_length(), _LEAST_STEPS), _MOST_STEPS)
        self._last = steps - 1
        ranges = [_middle(cells, steps) for cells, _ in columns]
        self._rows = [i for i, found in enumerate(ranges) if found is not None]
        self._searched = [i for i, found in enumerate(ranges) if found is None]
        known = [found for found in ranges if found is not None]
        self._low = np.array([[low] for low, _ in known]).reshape(-1, 1)
        self._scale = np.array([[scale] for _, scale in known]).reshape(-1, 1)
        self._first = np.arange(len(known))[:, np.newaxis] * steps
        below = np.empty((len(known), steps), dtype=np.intp)
        edges, self._most, end = [np.empty(0)], 0, 0
        self._shift = np.empty((len(known), 1), dtype=np.intp)
        for place, i in enumerate(self._rows):
            cells, start = columns[i]
            inside = _inside(cells.edges, *known[place], steps)
            below[place] = np.cumsum(inside) - inside + end
            self._most = max(self._most, int(inside[1:-1].max()))
            self._shift[place] = start - end
            edges += [cells.edges, np.array([np.inf])]
            end += len(cells.edges) + 1
        self._below, self._edges = below.ravel(), np.concatenate(edges)
        chosen = [columns[i] for i in self._rows]
        lengths = np.array([len(cells.edges) for cells, _ in chosen], dtype=np.intp)
        self._starts = np.array([start for _, start in chosen], dtype=np.intp)
        self._sizes, self._before = lengths + 1, np.cumsum(lengths) - lengths
        flat = np.concatenate([np.empty(0), *(cells.edges for cells, _ in chosen)])
        self._keys = _keys(np.repeat(np.arange(len(chosen)), lengths), flat)

    def find(self, numbers: FloatArray, out: IntArray) -> None:
        """Slots of the layout.

        Parameters
        ----------
        numbers : float64[k, n]
            One row a column. NaN is missing, ±inf is not finite.
        out : int64[k, n]
        """
        for start in range(0, numbers.shape[1], _ROWS):
            part = slice(start, start + _ROWS)
            self._find(numbers[:, part], out[:, part])

    def _find(self, numbers: FloatArray, out: IntArray) -> None:
        for i in self._searched:
            cells, start = self._columns[i]
            np.add(codes_of(cells.edges, numbers[i]), start, out=out[i])
        if not self._rows:
            return
        values = numbers if not self._searched else numbers[self._rows]
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float64 is beyond the steps
            step = values - self._low
            step *= self._scale
        np.fmax(step, 0, out=step)  # NaN, too
        np.fmin(step, self._last, out=step)
        place = step.astype(np.intp)
        outside = (place == 0) | (place == self._last)
        place += self._first
        # indices are in range by construction; "clip" spares NumPy a buffered check
        code = self._below.take(place, mode="clip")
        for _ in range(self._most):
            code += values >= self._edges.take(code, mode="clip")
        code += self._shift
        rows, events = np.nonzero(outside)
        if len(rows):
            code[rows, events] = self._sought(rows, values[rows, events])
        if self._searched:
            out[self._rows] = code
        else:
            out[:] = code

    def _sought(self, rows: IntArray, values: FloatArray) -> IntArray:
        """Slots of some values, each of a row's column, by one binary search for all of them.

        What is done is :func:`~stream_monitor.cells.codes_of`.
        """
        code = np.searchsorted(self._keys, _keys(rows, values), side="right") - self._before[rows]
        finite = np.isfinite(values)
        if not finite.all():
            other = self._sizes[rows] + 2 * ~np.isnan(values)
            code = np.where(finite, code, other)
        slots: IntArray = code + self._starts[rows]
        return slots


def _keys(rows: IntArray, values: FloatArray) -> NDArray[np.complex128]:
    """Pairs that sort by row, then by value, as NumPy sorts complex numbers."""
    keys = np.empty(len(rows), dtype=np.complex128)
    keys.real, keys.imag = rows, values
    return keys


def _middle(cells: Cells, steps: int) -> tuple[float, float] | None:
    """Where the steps begin, and steps per unit; None where they would be of no use."""
    edges, counts = cells.edges, cells.values
    total = int(counts.sum())
    if not total or not len(edges):
        return None
    part = np.cumsum(counts) / total
    ends = np.searchsorted(part, (_TAIL, 1 - _TAIL)).clip(0, len(edges) - 1)
    low, high = edges[ends].tolist()
    with np.errstate(over="ignore", divide="ignore"):
        scale = float(steps / np.float64(high - low))
    if not (high > low and np.isfinite(scale)):
        return None
    return (low, scale) if _inside(edges, low, scale, steps)[1:-1].max() <= _MOST else None


def _inside(edges: FloatArray, low: float, scale: float, steps: int) -> IntArray:
    """How many edges lie in each step, int64[steps]; those outside are in the first and last."""
    with np.errstate(over="ignore"):
        step = np.fmin(np.fmax((edges - low) * scale, 0), steps - 1)
    return np.bincount(step.astype(np.intp), minlength=steps)
