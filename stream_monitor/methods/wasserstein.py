"""The first Wasserstein distance."""

from __future__ import annotations

from math import inf

import numpy as np

from stream_monitor.cells import Cells, Summary
from stream_monitor.methods.base import Chunks, Definition, register_drift
from stream_monitor.methods.binning import Counts, Pooled, cumulative, fine_edges
from stream_monitor.schema import FloatArray, Kind
from stream_monitor.values import DRIFT


class Wasserstein:
    """∫ |F(x) − G(x)| dx of reference and window: the earth mover's distance.

    In the feature's own unit, at least 0, not divided by a standard deviation (Evidently does).
    Every value stands at its cell's point, the mean of the reference there. Where
    there is drift and the window stays within the reference's range, this is within 0.3 % of
    ``scipy.stats.wasserstein_distance`` of the raw values (5,000 rows, real data). A value beyond
    the range may stand a quarter of its distance from the range too far in or out, beyond 16 times
    the range twice as far or half as far, and never beyond 1.6 million times it; where the bulk of
    a column has a scale far below its range (Cauchy), that a bulk moved within the range is told
    to about 1/100 of the range only. NaN where either side is empty.
    """

    definition = Definition(
        "wasserstein",
        DRIFT,
        0.0,
        inf,
        "Earth mover's distance, in the feature's unit.",
        Chunks.UPPER,
    )
    kinds = frozenset({Kind.CONTINUOUS})
    tail_power = 2
    fine = True
    singly = False

    def edges(self, summary: Summary, *, compat: bool = False) -> FloatArray:
        return fine_edges(summary, compat=compat)

    def bind(self, cells: Cells) -> Pooled:
        # from each cell's point to the next; none from the last
        return Pooled.of(cells, _areas, _distance, weights=np.append(np.diff(cells.points), 0.0))


def _areas(counts: Counts, weights: FloatArray) -> FloatArray:
    """Below the distribution function, from each cell's point to the next."""
    return cumulative(counts, weights) * weights


def _distance(reference: Counts, window: Counts) -> FloatArray:
    distance: FloatArray = np.abs(reference - window).sum(axis=-1)
    return distance


register_drift(Wasserstein())
