"""Population stability index."""

from __future__ import annotations

from math import inf

import numpy as np
from scipy.special import rel_entr

from stream_monitor.cells import Cells, Summary
from stream_monitor.methods.base import Chunks, Definition, register_drift
from stream_monitor.methods.binning import Counts, Pooled, bins_of, quantile_edges
from stream_monitor.schema import FloatArray, Kind
from stream_monitor.values import DRIFT

_BINS = 10


class PopulationStabilityIndex:
    """Σ (p − q) ln(p / q) over bins of reference (p) and window (q), at least 0.

    This is the symmetrised Kullback–Leibler divergence (Jeffreys 1946; Siddiqi 2006 for credit
    scoring), in natural units. Bins of a continuous column are the reference's deciles, the outer
    ones open; a value that makes up several deciles is a bin of its own. Categorical columns have
    a bin a category and one for all unseen ones.

    A share is (count + 1/2) / (n + B/2) with B bins, so that an empty bin is no infinity and a
    small window no false alarm of its own making. Others smooth otherwise (for an empty bin
    Evidently puts a share of 10⁻⁴, Scouter 10⁻¹⁰, Frouros the smallest float), so their values
    differ from this one where a bin is empty on one side. NaN where either side is empty.
    """

    definition = Definition(
        "psi",
        DRIFT,
        0.0,
        inf,
        "Population stability index over deciles or categories, in natural units.",
        Chunks.UPPER,
    )
    kinds = frozenset(Kind)
    tail_power = 1
    fine = False
    singly = False

    def edges(self, summary: Summary, *, compat: bool = False) -> FloatArray:  # noqa: ARG002
        return quantile_edges(summary, _BINS)

    def bind(self, cells: Cells) -> Pooled:
        bins = None if cells.summary is None else bins_of(cells, self.edges(cells.summary))
        return Pooled.of(cells, _smoothed, _index, bins=bins)


def _smoothed(counts: Counts, weights: FloatArray) -> FloatArray:
    total = counts.sum(axis=-1, keepdims=True)
    total = np.where(total > 0, total, np.nan)
    bins = weights.sum(axis=-1, keepdims=True)
    found: FloatArray = (counts + weights / 2) / (total + bins / 2)
    return found


def _index(p: Counts, q: Counts) -> FloatArray:
    index: FloatArray = (rel_entr(p, q) + rel_entr(q, p)).sum(axis=-1)
    return index


register_drift(PopulationStabilityIndex())
