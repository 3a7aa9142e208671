"""Cells of scores, in which ranking metrics are exact or nearly so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_monitor.methods.base import Arrays
from stream_monitor.schema import BoolArray, FloatArray, IntArray

_DISTINCT = 1_000  # up to so many distinct scores have a cell each
_QUANTILES = 1_000
_COMPAT_QUANTILES = 5_000  # so that drifted windows of continuous scores, too, come within 1e-4
_TOTAL = 4  # times as many quantile cells have all score columns together, about
_LEAST = 100  # of one column


@dataclass(frozen=True, slots=True)
class ScoreCells:
    """Cells of each score column, in rising order.

    Cell i of a column holds edges[i − 1] ≤ score < edges[i]. Where the reference has at most 1,000
    distinct scores, each has a cell of its own that reaches half way to its neighbours
    (``tied``): metrics then are exact for its scores. Else cells have equal reference mass, 1,000
    (with ``compat`` 5,000) for up to four columns and fewer for more, but at least 100.

    Attributes
    ----------
    edges : float64[cells − 1] for each of S columns
    tied : bool[S]
    starts : int64[S + 1]
        Where each column's cells begin in a row of all cells.
    """

    edges: tuple[FloatArray, ...]
    tied: BoolArray
    starts: IntArray

    @classmethod
    def of(cls, edges: list[FloatArray], tied: list[bool]) -> ScoreCells:
        starts = np.cumsum([0, *(len(own) + 1 for own in edges)])
        return cls(tuple(edges), np.array(tied, dtype=np.bool_), starts)

    @classmethod
    def learned(cls, scores: FloatArray, *, compat: bool) -> ScoreCells:
        """The cells of a reference's finite scores, float64[S, n]."""
        most = _COMPAT_QUANTILES if compat else _QUANTILES
        number = min(most, max(_TOTAL * most // max(len(scores), 1), _LEAST))
        edges, tied = [], []
        for own in scores:
            values = np.unique(own)
            tied.append(len(values) <= _DISTINCT)
            if tied[-1]:
                middles = values[:-1] / 2 + values[1:] / 2
                edges.append(np.maximum(middles, np.nextafter(values[:-1], np.inf)))
            else:
                ordered = np.sort(own)
                edges.append(np.unique(ordered[np.arange(1, number) * len(ordered) // number]))
        return cls.of(edges, tied)

    @classmethod
    def loaded(cls, arrays: Arrays) -> ScoreCells:
        """The inverse of :meth:`arrays`."""
        ends = np.cumsum(arrays["edge_counts"])[:-1]
        edges = np.split(arrays["edges"], ends) if len(arrays["edge_counts"]) else []
        return cls.of(edges, arrays["tied"].astype(np.bool_).tolist())

    def arrays(
        self,
    ) -> dict[str, FloatArray | IntArray | np.ndarray[tuple[int], np.dtype[np.uint8]]]:
        """edges : float64[…]; edge_counts : int64[S]; tied : uint8[S]."""
        return {
            "edges": np.concatenate([np.empty(0), *self.edges]),
            "edge_counts": np.array([len(own) for own in self.edges], dtype=np.int64),
            "tied": self.tied.astype(np.uint8),
        }

    @property
    def size(self) -> int:
        """The cells of all columns."""
        return int(self.starts[-1])

    def codes(self, scores: FloatArray) -> IntArray:
        """The place of each score in a row of all cells, int64[S, n]; scores are finite."""
        found = np.empty(scores.shape, dtype=np.int64)
        for i, own in enumerate(self.edges):
            found[i] = np.searchsorted(own, scores[i], side="right")
        found += self.starts[:-1, None]
        return found

    def sums(self, codes: IntArray, values: FloatArray) -> FloatArray:
        """Sums of values float64[S, n] in each cell, a row of all cells."""
        return np.bincount(codes.ravel(), values.ravel(), self.size).astype(np.float64)

    def split(self, values: FloatArray) -> list[FloatArray]:
        """A row of all cells, a column each."""
        return np.split(values, self.starts[1:-1]) if len(self.edges) else []

    def ranges(self, counts: list[FloatArray], number: int) -> IntArray:
        """int64[cells of all columns] in 0 … number − 1: ranges of about equal mass, rising."""
        found = [np.empty(0, dtype=np.int64)]
        for own in counts:
            middle = (np.cumsum(own) - own / 2) / max(own.sum(), 1)
            found.append(np.minimum((middle * number).astype(np.int64), number - 1))
        return np.concatenate(found)
