"""The chi-squared statistic of categorical columns, as in SciPy and NannyML 0.13.1."""

from __future__ import annotations

from math import inf

import numpy as np

from stream_monitor.cells import Cells, Summary
from stream_monitor.methods.base import Chunks, Definition, register_drift
from stream_monitor.methods.binning import Counts, Pooled, counted
from stream_monitor.schema import FloatArray, Kind
from stream_monitor.values import DRIFT


class ChiSquared:
    """Pearson's statistic of homogeneity of the counts of reference and window, at least 0.

    Equal to ``scipy.stats.chi2_contingency`` of the table whose rows are reference and window and
    whose columns are the categories that either has, all unseen ones as one (each by itself with
    `compat: nannyml`, as NannyML has them); with two categories left it has Yates' correction, with
    one left it is 0. It grows with the number of rows: compare windows of equal size only. NaN
    where either side is empty.
    """

    definition = Definition(
        "chi2",
        DRIFT,
        0.0,
        inf,
        "Pearson's statistic of homogeneity; grows with the number of rows.",
        Chunks.CHI2,
    )
    kinds = frozenset({Kind.CATEGORICAL, Kind.BOOLEAN})
    tail_power = 1
    fine = False
    singly = True

    def edges(self, summary: Summary, *, compat: bool = False) -> FloatArray:  # noqa: ARG002
        return np.empty(0)

    def bind(self, cells: Cells) -> Pooled:
        return Pooled.of(cells, counted, _statistic)


def _statistic(reference: Counts, window: Counts) -> FloatArray:
    n = reference.sum(axis=-1, keepdims=True, dtype=np.float64)
    m = window.sum(axis=-1, keepdims=True, dtype=np.float64)
    both = reference + window
    # |observed − expected|, in both cells of a category; from products that are exact
    gap = np.abs(reference * m - window * n) / np.maximum(n + m, 1)
    yates = np.count_nonzero(both, axis=-1, keepdims=True) == 2
    gap = np.where(yates, np.maximum(gap - 0.5, 0.0), gap)
    terms = gap**2 / np.maximum(both, 1)
    scale = (n + m) ** 2 / np.where((n > 0) & (m > 0), n * m, np.nan)
    statistic: FloatArray = terms.sum(axis=-1) * scale[..., 0]
    return statistic


register_drift(ChiSquared())
