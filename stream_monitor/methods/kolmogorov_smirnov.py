"""The two-sample Kolmogorov–Smirnov statistic."""

from __future__ import annotations

import numpy as np

from stream_monitor.cells import Cells, Summary
from stream_monitor.methods.base import Chunks, Definition, register_drift
from stream_monitor.methods.binning import Counts, Pooled, cumulative, fine_edges
from stream_monitor.schema import FloatArray, Kind
from stream_monitor.values import DRIFT


class KolmogorovSmirnov:
    """max |F − G| of the distribution functions of reference and window, in [0, 1].

    The maximum is over the cells' edges. It is therefore never above ``scipy.stats.ks_2samp`` of
    the raw values, and below it by at most the largest share that either side has in one cell; it
    equals it where the reference has at most 512 distinct values. With windows of 5,000 rows of
    real data the difference was below 8e-4 in 99 of 100 and at most 1.04e-3.
    NaN where either side is empty.
    """

    definition = Definition(
        "kolmogorov_smirnov",
        DRIFT,
        0.0,
        1.0,
        "Greatest difference of the distribution functions.",
        Chunks.WITHIN,
    )
    kinds = frozenset({Kind.CONTINUOUS})
    tail_power = 2
    fine = True
    singly = False

    def edges(self, summary: Summary, *, compat: bool = False) -> FloatArray:
        return fine_edges(summary, compat=compat)

    def bind(self, cells: Cells) -> Pooled:
        return Pooled.of(cells, cumulative, _distance)


def _distance(reference: Counts, window: Counts) -> FloatArray:
    distance: FloatArray = np.abs(reference - window).max(axis=-1)
    return distance


register_drift(KolmogorovSmirnov())
