"""Bounds of shares, means and other values without drift, for the window's number of rows."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

from stream_monitor.alerts.limits import NO_LIMIT, Limit
from stream_monitor.cells import Cells, moments
from stream_monitor.methods.base import Measured, ShareMethod
from stream_monitor.schema import FloatArray

_SUMMED = 4_096  # counts up to which probabilities are summed one by one
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(128)
_SPAN = 9.0  # standard deviations on each side that an integral covers
_NORMAL = 1.6e-5  # a skewness below which rounding harms the gamma more than it is off


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
    upper = greatest_count(n, a, b, side) / n
    p = count_above(count - 1, n, a, b)
    if not share.two_sided:
        return Limit(math.nan, upper, p)
    # the rows that are not counted have the same distribution with a and b exchanged
    lower = (n - greatest_count(n, b, a, side)) / n
    below = count_above(n - count - 1, n, b, a)
    return Limit(lower, upper, min(1.0, 2 * min(p, below)))


@lru_cache(maxsize=8_192)
def greatest_count(n: int, a: float, b: float, level: float) -> int:
    """The least k with P(K > k) ≤ level, K beta-binomial(n, a, b); in 0 … n."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        if count_above(middle, n, a, b) <= level:
            high = middle
        else:
            low = middle
    return high


def count_above(k: int, n: int, a: float, b: float) -> float:
    """P(K > k), K beta-binomial(n, a, b): n rows, a share of them drawn from Beta(a, b).

    Small counts are summed. Else, with X ~ Beta(k + 1, n − k), P(Binomial(n, t) > k) = P(X < t),
    so that the probability is P(X < T) for T ~ Beta(a, b): integrated over the narrower of the two
    by Gauss–Legendre with 128 nodes. The relative error is below 1e-6. (SciPy's ``betabinom`` adds
    up n terms: a quantile takes it a second for ten million rows, and rounding adds up, too.)
    """
    if k < 0:
        return 1.0
    if k >= n:
        return 0.0
    if k < _SUMMED:
        above = 1.0 - float(_probabilities(0, k, n, a, b).sum())
        if above > 1e-3:
            return above
        # what is left of 1 is rounding, the tail itself is exact and ends soon
        return float(_probabilities(k + 1, min(n, 8 * k + 4_096), n, a, b).sum())
    if n - k <= _SUMMED:
        return float(_probabilities(0, n - k - 1, n, b, a).sum())
    narrow, wide = (k + 1.0, float(n - k)), (a, b)
    if _spread(*wide) < _spread(*narrow):
        narrow, wide = wide, narrow
    middle, spread = narrow[0] / sum(narrow), _spread(*narrow)
    low, high = max(middle - _SPAN * spread, 0.0), min(middle + _SPAN * spread, 1.0)
    at = low + (high - low) * (_NODES + 1) / 2
    height = (narrow[0] - 1) * np.log(at) + (narrow[1] - 1) * np.log1p(-at)
    density = _NODE_WEIGHTS * np.exp(height - height.max())
    beyond = special.betaincc(*wide, at) if wide == (a, b) else special.betainc(*wide, at)
    return float(density @ beyond / density.sum())


def _probabilities(first: int, last: int, n: int, a: float, b: float) -> FloatArray:
    """P(K = first) … P(K = last): the first from beta functions, the rest from ratios."""
    start = (
        special.betaln(first + a, n - first + b)
        - special.betaln(a, b)
        - math.log(n + 1)
        - special.betaln(n - first + 1, first + 1)
    )
    k = np.arange(first, last, dtype=np.float64)
    steps = np.log((n - k) * (k + a) / ((k + 1) * (n - k - 1 + b)))
    return np.asarray(np.exp(start + np.concatenate([[0.0], np.cumsum(steps)])))


def _spread(a: float, b: float) -> float:
    return math.sqrt(a * b / (a + b + 1)) / (a + b)


def mean_limit(cells: Cells, m: Measured, level: float) -> Limit:
    """Upper bound of a derived column's mean in a window, and its p-value.

    The difference of two samples' means has the variance σ² (1/n + 1/N) and the third central
    moment κ (1/n² − 1/N²), with σ² and κ those of the reference's cells, N its rows and n the
    window's. It is taken for a shifted gamma variable with these (Pearson's type III, the normal
    where κ is 0): outlier scores are skew, and a normal quantile far out would be passed several
    times too often by windows of 100 rows. NaN for an empty reference or one without spread.
    """
    total = int(cells.values.sum())
    if not total:
        return NO_LIMIT
    mean, variance, third = moments(cells)
    spread = math.sqrt(variance * (1 / m.rows + 1 / total))
    if not spread:
        return NO_LIMIT
    skewness = third * (1 / m.rows**2 - 1 / total**2) / spread**3
    upper, p = pearson3(level, (m.value - mean) / spread, skewness)
    return Limit(math.nan, mean + upper * spread, p)


def pearson3(level: float, z: float, skewness: float) -> tuple[float, float]:
    """What is passed with the chance ``level``, and the chance of passing ``z``.

    Of Pearson's type III with mean 0 and variance 1: ``scipy.stats.pearson3``, without importing
    ``scipy.stats``, which takes longer than all else that starts.
    """
    if abs(skewness) < _NORMAL:
        return float(special.ndtri(1 - level)), float(special.ndtr(-z))
    beta = 2 / skewness
    alpha = beta * beta
    start = -alpha / beta
    within = 1 - level if beta > 0 else 1 - (1 - level)  # as SciPy rounds it
    tail = special.gammaincc if beta > 0 else special.gammainc
    upper = float(special.gammaincinv(alpha, within)) / beta + start
    return upper, float(tail(alpha, max(beta * (z - start), 0.0)))


def spread_limit(m: Measured, level: float) -> Limit:
    """Bounds and p-value of a value that states its mean and standard deviation.

    The wider, on each side, of two distributions with that mean and standard deviation: the normal
    one, and the beta of a value in [0, 1] or the gamma of one in [0, ∞), which are skew near an end
    of the range as a share or a count of few rows is (twice as skew, so that what is between is
    covered). Each side has half of the level, or the upper one all of it where only that is of
    interest. A bound at or beyond the range's end is none. The p-value is twice the smaller tail,
    or the upper one, of the distribution that gives more.
    """
    sides = 1 if m.definition.upper_only else 2
    half, value = level / sides, m.value
    z = float(special.ndtri(half)) * m.spread
    lower, upper = m.expected + z, m.expected - z
    away = (value - m.expected) / m.spread
    tails = np.array([special.ndtr(away), special.ndtr(-away)])
    low, high = m.definition.low, m.definition.high
    variance = m.spread**2
    if low == 0 and m.expected > 0 and math.isinf(high):
        shape, scale = m.expected**2 / variance, variance / m.expected
        lower = min(lower, special.gammaincinv(shape, half) * scale)
        upper = max(upper, special.gammainccinv(shape, half) * scale)
        at = max(value, 0.0) / scale
        tails = np.maximum(tails, [special.gammainc(shape, at), special.gammaincc(shape, at)])
    elif (low, high) == (0, 1) and variance < m.expected * (1 - m.expected):
        weight = m.expected * (1 - m.expected) / variance - 1
        a, b = m.expected * weight, (1 - m.expected) * weight
        lower = min(lower, special.betaincinv(a, b, half))
        upper = max(upper, special.betainccinv(a, b, half))
        tails = np.maximum(tails, [special.betainc(a, b, value), special.betaincc(a, b, value)])
    p = sides * float(tails[1] if sides == 1 else np.min(tails))
    return Limit(
        float(lower) if lower > low and sides == 2 else math.nan,
        float(upper) if upper < high else math.nan,
        math.nan if math.isnan(value) else min(p, 1.0),
    )
