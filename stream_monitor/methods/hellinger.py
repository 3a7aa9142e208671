"""Hellinger distance, as in NannyML 0.13.1."""

from __future__ import annotations

import numpy as np

from stream_monitor.cells import Cells, Summary
from stream_monitor.methods.base import Chunks, Definition, register_drift
from stream_monitor.methods.binning import Counts, Pooled, doane_bins, doane_edges, shares
from stream_monitor.schema import FloatArray, Kind
from stream_monitor.values import DRIFT


class Hellinger:
    """sqrt(Σ (√p − √q)²) / √2 of the shares of reference and window, in [0, 1].

    Bins: :func:`~stream_monitor.methods.binning.doane_bins`. NaN where either side is empty.
    """

    definition = Definition(
        "hellinger",
        DRIFT,
        0.0,
        1.0,
        "Distance of the shares of bins.",
        Chunks.UPPER,
    )
    kinds = frozenset(Kind)
    tail_power = 2
    fine = False
    singly = False

    def edges(self, summary: Summary, *, compat: bool = False) -> FloatArray:  # noqa: ARG002
        return doane_edges(summary)

    def bind(self, cells: Cells) -> Pooled:
        return Pooled.of(cells, _roots, _distance, bins=doane_bins(cells))


def _roots(counts: Counts, weights: FloatArray) -> FloatArray:
    return np.sqrt(shares(counts, weights))


def _distance(reference: Counts, window: Counts) -> FloatArray:
    distance: FloatArray = np.sqrt(((reference - window) ** 2).sum(axis=-1) / 2)
    return distance


register_drift(Hellinger())
