"""What the univariate methods share: cuts made from a reference, and cells pooled into bins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, isfinite, log2, sqrt

import numpy as np

from stream_monitor.cells import Cells, Summary
from stream_monitor.errors import ProfileError
from stream_monitor.schema import FloatArray, IntArray

# The fine grid, chosen by measuring Kolmogorov–Smirnov and Wasserstein against SciPy on raw data.
_QUANTILES = 320
_EQUAL = 48
# Finer, so that also drifted windows of unusual data come within 1e-3 of exact values.
_TAIL = 18  # edges on each side of the range
_COMPAT_QUANTILES = 2_000
_COMPAT_EQUAL = 500
_COMPAT_TAIL = 400

Counts = IntArray | FloatArray
View = Callable[[Counts, FloatArray], Counts]
Formula = Callable[[Counts, Counts], FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """A drift method for one column: pool the cells into bins, look at each side, compare them.

    Bins of weight 0 may follow the column's own: what is counted in them is 0, and they must make
    no difference, for so columns are laid side by side (:mod:`.stacked`).

    Attributes
    ----------
    bins : int64[K]
        The bin of each value cell.
    weights : float64[B]
        What the view needs to know of each bin, by default that there is one: 1.
    view
        Makes of counts [..., B] and the weights what ``between`` takes of reference and window.
    between
        The distances, by sums along the last axis.
    matrix : float64[K, B]
        Of zeros and ones, so that pooling thousands of resampled windows is one matrix product,
        exact below 2⁵³; None where every cell is a bin of its own.
    """

    bins: IntArray
    weights: FloatArray
    view: View
    between: Formula
    matrix: FloatArray | None

    @classmethod
    def of(
        cls,
        cells: Cells,
        view: View,
        between: Formula,
        *,
        bins: IntArray | None = None,
        weights: FloatArray | None = None,
    ) -> Pooled:
        """By default every cell is a bin."""
        matrix = None if bins is None else np.eye(int(bins.max()) + 1)[bins]
        bins = np.arange(cells.size) if bins is None else bins
        weights = np.ones(int(bins.max()) + 1) if weights is None else weights
        return cls(bins, weights, view, between, matrix)

    def side(self, counts: Counts) -> Counts:
        """What is compared of counts in the cells, [..., K]."""
        return self.view(counts if self.matrix is None else counts @ self.matrix, self.weights)

    def distance(self, reference: Counts, window: Counts) -> FloatArray:
        """Distances between counts in the cells.

        Parameters
        ----------
        reference, window : int64[..., K]
            Leading axes broadcast, so that thousands of resampled windows are compared at once.

        Returns
        -------
        float64[...]; NaN where either side has no values.
        """
        return self.between(self.side(reference), self.side(window))


def counted(counts: Counts, weights: FloatArray) -> Counts:  # noqa: ARG001
    """The view of methods that compare counts as they are."""
    return counts


def shares(counts: Counts, weights: FloatArray) -> FloatArray:  # noqa: ARG001
    """Counts [..., B] over their sum; NaN where the sum is 0."""
    total = counts.sum(axis=-1, keepdims=True)
    found: FloatArray = counts / np.where(total > 0, total, np.nan)
    return found


def cumulative(counts: Counts, weights: FloatArray) -> FloatArray:  # noqa: ARG001
    """The distribution function at each cell's upper edge, [..., K]; NaN without values."""
    sums = counts.cumsum(axis=-1)
    total = sums[..., -1:]
    found: FloatArray = sums / np.where(total > 0, total, np.nan)
    return found


def bins_of(cells: Cells, bounds: FloatArray) -> IntArray:
    """The bin of each value cell of a continuous column.

    Parameters
    ----------
    bounds : float64[m]
        Sorted; each is an edge of the cells, or +inf.

    Returns
    -------
    int64[K] in 0 … m: 0 is below ``bounds[0]``, m from ``bounds[m - 1]`` on.

    Raises
    ------
    ProfileError
        Where a bound is no edge of the cells, so that a cell would lie in two bins.
    """
    lacking = bounds[~np.isin(bounds, cells.edges) & (bounds < inf)]
    if len(lacking):
        raise ProfileError(
            f"column {cells.column.name!r}: its cells have no edge at {float(lacking[0])!r}, which "
            "a drift method needs; the reference was built by another version, build it anew with "
            "`stream-monitor reference build`"
        )
    lower = np.concatenate([[-inf], cells.edges])
    return np.searchsorted(bounds, lower, side="right").astype(np.int64)


def doane_bins(cells: Cells) -> IntArray | None:
    """The bins of Jensen–Shannon and Hellinger, as in NannyML 0.13.1.

    Continuous: :func:`doane_edges`, with everything outside of them in one more bin (number 0).
    Categorical: None, for each cell is a bin (categories, then all unseen ones together).
    """
    if cells.summary is None:
        return None
    bounds = doane_edges(cells.summary)
    bins = bins_of(cells, bounds)
    bins[bins == len(bounds)] = 0
    return bins


def doane_edges(summary: Summary) -> FloatArray:
    """``numpy.histogram_bin_edges(reference, "doane")``, bit for bit, from moments alone.

    The number of bins is that of Doane (1976), "Aesthetic frequency classifications", from n and
    the skewness, over the range of the values; constant data have one bin of width 1 about them.
    NumPy's last bin is closed, so its edge is stored as the next larger float.

    Returns
    -------
    float64[bins + 1]; empty for a reference without values. The last may be +inf. Values so far
    apart that NumPy would refuse them (range or third moment beyond float64) are taken to have no
    skewness.
    """
    n, low, high = summary.n, summary.minimum, summary.maximum
    if not n:
        return np.empty(0)
    bins = 1
    if n > 2 and summary.std > 0:
        error = sqrt(6.0 * (n - 2) / ((n + 1.0) * (n + 3)))
        skewness = abs(summary.skewness) if isfinite(summary.skewness) else 0.0
        number = 1.0 + log2(n) + log2(1.0 + skewness / error)
        # by way of the bins' width as in NumPy, whose rounding decides whole numbers
        width = (high - low) / number
        bins = ceil((high - low) / width) if width and isfinite(width) else ceil(number)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = _even(low, high, bins)
    edges[-1:] = above(edges[-1:])
    return edges


def quantile_edges(summary: Summary, parts: int) -> FloatArray:
    """The reference's quantiles at 1/parts … (parts − 1)/parts, as values that occur in it.

    A value that is several of them in a row is followed by the next larger float: it holds more
    than a part of the reference, so it gets a bin of its own.
    """
    if not summary.n:
        return np.empty(0)
    levels = np.arange(1, parts) / parts
    values = sorted_quantiles(summary.sample, levels)
    repeated = values[1:][values[1:] == values[:-1]]
    return np.union1d(values, above(repeated))


def sorted_quantiles(values: FloatArray, levels: FloatArray) -> FloatArray:
    """``numpy.quantile(…, method="inverted_cdf")`` of sorted values, at least one: float64[k].

    The least value that at least the share ``level`` of them does not exceed (Hyndman & Fan 1996,
    type 1). NumPy would sort them once more.
    """
    place = np.ceil(len(values) * levels - 1).astype(np.intp)
    found: FloatArray = values[np.clip(place, 0, len(values) - 1)]
    return found


def fine_edges(summary: Summary, *, compat: bool = False) -> FloatArray:
    """The fine grid on which Kolmogorov–Smirnov and Wasserstein are computed.

    - Each distinct value on its own where the summary lists them, else 320 quantiles (2,000 with
      ``compat``);
    - 48 cells (500) of equal width over the range, for long tails and for gaps between values;
    - on each side beyond the range 18 edges (400) at a constant ratio, from 1/16 of the
      interquartile range to 16 times the range, then two a decade up to 1.6 million times it, for
      what a changed sign or unit, or a sentinel such as -9999, brings. Of a constant, "range" is
      its absolute value, or 1 where that is 0; without an interquartile range they begin at 1/64
      of the range;
    - the minimum, and the float next to the maximum.

    Returns
    -------
    float64[m], sorted, finite; empty for a reference without values.
    """
    if not summary.n:
        return np.empty(0)
    low, high = summary.minimum, summary.maximum
    if len(summary.distinct):
        body = np.concatenate([summary.distinct, above(summary.distinct)])
    else:
        body = quantile_edges(summary, _COMPAT_QUANTILES if compat else _QUANTILES)
    with np.errstate(over="ignore"):
        steps = _steps(summary, _COMPAT_TAIL if compat else _TAIL)
        tails = np.concatenate([low - steps, high + steps])
    even = _even(low, high, _COMPAT_EQUAL if compat else _EQUAL)
    ends = [[low], above(np.array([high]))]
    edges: FloatArray = np.unique(np.concatenate([body, even, tails, *ends]))
    return edges[np.isfinite(edges)]


def _steps(summary: Summary, number: int) -> FloatArray:
    """How far beyond the range the edges of the tails lie, so many of them up to 16 times it."""
    scale = (summary.maximum - summary.minimum) or abs(summary.minimum) or 1.0
    scale = min(max(scale, 1e-300), 1e300)  # so that float64 has the steps
    lower, upper = sorted_quantiles(summary.sample, np.array([0.25, 0.75]))
    near = min((upper - lower) / 16, scale / 16) or scale / 64
    far = np.geomspace(10**0.5, 1e5, 10)
    return np.concatenate([np.geomspace(near, 16 * scale, number), 16 * scale * far])


def above(values: FloatArray) -> FloatArray:
    """The next larger floats, so that a cell that ends there still holds the values."""
    with np.errstate(over="ignore"):
        return np.nextafter(values, inf)


def _even(low: float, high: float, bins: int) -> FloatArray:
    """The edges of ``bins`` equal bins; made smaller meanwhile where float64 ends."""
    scale = 1.0 if isfinite(2 * (high - low)) else 0.25
    edges: FloatArray = np.linspace(low * scale, high * scale, bins + 1) / scale
    return edges
