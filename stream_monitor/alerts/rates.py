"""Bounds of shares and of a mean in windows without drift, for the window's number of rows."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from stream_monitor.alerts.limits import NO_LIMIT, Limit
from stream_monitor.cells import Cells
from stream_monitor.methods.base import ShareMethod
from stream_monitor.methods.evaluate import Measured


def share_limit(share: ShareMethod, cells: Cells, m: Measured, level: float) -> Limit:
    """Quantiles of the beta-binomial predictive distribution of the share.

    The reference says that the share in new data is Beta(a, b) (``share.expected``), so the count
    among n rows is beta-binomial: both samples' noise is in it. The upper bound is the least k / n
    with P(K > k) ≤ level, the lower one the greatest with P(K < k) ≤ level; a method that judges
    both gives each half of the level. The p-value is P(K ≥ k), twice the smaller side where both
    are judged.
    """
    a, b = share.expected(cells)
    n = m.rows
    count = round(m.value * n)
    side = level / 2 if share.two_sided else level
    upper = float(stats.betabinom.isf(side, n, a, b)) / n
    p = float(stats.betabinom.sf(count - 1, n, a, b))
    if not share.two_sided:
        return Limit(math.nan, upper, p)
    lower = float(stats.betabinom.ppf(side, n, a, b)) / n
    below = float(stats.betabinom.cdf(count, n, a, b))
    return Limit(lower, upper, min(1.0, 2 * min(p, below)))


def mean_limit(cells: Cells, m: Measured, level: float) -> Limit:
    """Upper bound of a derived column's mean: normal, two samples, σ from the reference's cells.

    mean + z σ √(1/n + 1/N), z the normal quantile of the level; NaN for an empty reference.
    """
    counts, points = cells.values, cells.points
    total = int(counts.sum())
    if not total:
        return NO_LIMIT
    mean = float(counts @ points) / total
    sigma = math.sqrt(float(counts @ np.square(points - mean)) / total)
    spread = sigma * math.sqrt(1 / m.rows + 1 / total)
    upper = mean + float(stats.norm.isf(level)) * spread
    p = float(stats.norm.sf((m.value - mean) / spread)) if spread else math.nan
    return Limit(math.nan, upper, p)
