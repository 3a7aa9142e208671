"""Jensen–Shannon distance, as in NannyML 0.13.1."""

from __future__ import annotations

from math import log

import numpy as np
from scipy.special import rel_entr

from stream_monitor.cells import Cells, Summary
from stream_monitor.methods.base import Chunks, Definition, register_drift
from stream_monitor.methods.binning import Counts, Pooled, doane_bins, doane_edges, shares
from stream_monitor.schema import FloatArray, Kind
from stream_monitor.values import DRIFT


class JensenShannon:
    """The square root of the Jensen–Shannon divergence to base 2, in [0, 1].

    With the shares p of the reference and q of the window, and m = (p + q) / 2:
    sqrt((Σ p log₂(p/m) + Σ q log₂(q/m)) / 2), ``scipy.spatial.distance.jensenshannon(p, q, 2)``.
    Bins: :func:`~stream_monitor.methods.binning.doane_bins`. NaN where either side is empty.
    """

    definition = Definition(
        "jensen_shannon",
        DRIFT,
        0.0,
        1.0,
        "Distance (square root of the divergence, base 2) of the shares of bins.",
        Chunks.UPPER,
    )
    kinds = frozenset(Kind)
    tail_power = 2
    fine = False
    singly = False

    def edges(self, summary: Summary, *, compat: bool = False) -> FloatArray:  # noqa: ARG002
        return doane_edges(summary)

    def bind(self, cells: Cells) -> Pooled:
        return Pooled.of(cells, shares, _distance, bins=doane_bins(cells))


def _distance(p: Counts, q: Counts) -> FloatArray:
    m = (p + q) / 2
    divergence = (rel_entr(p, m) + rel_entr(q, m)).sum(axis=-1) / (2 * log(2))
    # rounding can leave the divergence of nearly equal shares a hair below 0
    distance: FloatArray = np.sqrt(np.maximum(divergence, 0.0))
    return distance


register_drift(JensenShannon())
