"""The cells of a column: how its values become counts, and what the reference counted.

Cells are fixed once, when the reference is built. From then on a column is a vector of int64
counts, one a *slot*, in this order:

==========================  ==============================================================
continuous, ``K`` cells     ``K`` value cells, missing, wrong type, not finite
categorical, ``C`` values   ``C`` categories, unseen (``K = C + 1``), missing, wrong type
==========================  ==============================================================

Value cell ``i`` of a continuous column holds ``edges[i-1] <= x < edges[i]``; the first is open
below and the last above. An edge that must belong to the cell on its left (the last edge of a
histogram, a single value) is stored as the next larger float, so that one rule serves all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan

import numpy as np

from stream_monitor.schema import Column, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Summary:
    """Moments and quantiles of a continuous reference column's finite values.

    ``std`` and ``skewness`` are the population's (divisor n). ``sample`` is sorted: all values, or
    a uniform sample of them chosen by hash, for quantiles. ``distinct`` holds the sorted distinct
    values where there are at most 512, else it is empty. ``minimum_count`` and ``maximum_count``
    say how often the two extremes occur. With ``n == 0`` all floats are NaN and arrays empty.
    """

    n: int
    minimum: float
    maximum: float
    mean: float
    std: float
    skewness: float
    minimum_count: int
    maximum_count: int
    sample: FloatArray
    distinct: FloatArray


@dataclass(frozen=True, slots=True)
class Cells:
    """A column's cells with the reference's counts.

    Attributes
    ----------
    edges : float64[K - 1]
        Continuous columns only, else empty.
    points : float64[K]
        A value that stands for each cell: the mean of the reference's values in it, the middle of
        the cell where there are none. Continuous columns only, else empty.
    categories
        Categorical columns only, in sorted order.
    counts : int64[K + 3] or int64[K + 2]
        The reference's count a slot.
    summary
        Continuous columns only.
    """

    column: Column
    edges: FloatArray
    points: FloatArray
    categories: tuple[str, ...]
    counts: IntArray
    summary: Summary | None

    @property
    def size(self) -> int:
        """``K``, the number of value cells."""
        return len(self.edges) + 1 if self.column.continuous else len(self.categories) + 1

    @property
    def slots(self) -> int:
        """Value cells and the slots for what is no value."""
        return self.size + (3 if self.column.continuous else 2)

    @property
    def missing(self) -> int:
        return self.size

    @property
    def wrong_type(self) -> int:
        return self.size + 1

    @property
    def not_finite(self) -> int:
        """Slot of ±inf; continuous columns only."""
        return self.size + 2

    @property
    def unseen(self) -> int:
        """Slot of categories that the reference does not have; categorical columns only."""
        return self.size - 1

    @property
    def values(self) -> IntArray:
        """The reference's counts of the value cells, int64[K]."""
        return self.counts[: self.size]


def codes_of(edges: FloatArray, numbers: FloatArray) -> IntArray:
    """The slot of each number.

    Parameters
    ----------
    edges : float64[K - 1]
    numbers : float64[n]
        NaN is missing, ±inf is not finite.

    Returns
    -------
    int64[n] in ``0 … K + 2``; never K + 1, which a wrong type takes.
    """
    codes = np.searchsorted(edges, numbers, side="right")
    finite = np.isfinite(numbers)
    if not finite.all():
        k = len(edges) + 1
        codes[~finite] = k + 2
        codes[np.isnan(numbers)] = k
    return codes


def moments(cells: Cells) -> tuple[float, float, float]:
    """Mean, variance and third central moment of the reference's values, each at its cell's point.

    The divisor is their number; NaN without any.
    """
    counts, points = cells.values, cells.points
    total = int(counts.sum())
    if not total:
        return nan, nan, nan
    mean = float(counts @ points) / total
    variance = float(counts @ (points - mean) ** 2) / total
    return mean, variance, float(counts @ (points - mean) ** 3) / total


def coarsened(cells: Cells, edges: FloatArray) -> tuple[Cells, IntArray]:
    """The same column in fewer cells, and where each slot goes.

    Parameters
    ----------
    edges : float64[k - 1]
        Some of the edges of a continuous column's cells, sorted.

    Returns
    -------
    The coarse cells with the sums of the counts, and int64[slots]: the new slot of each slot.
    """
    lower = np.concatenate([[-np.inf], cells.edges])
    place = np.searchsorted(edges, lower, side="right")
    size = len(edges) + 1
    slots = np.concatenate([place, np.arange(size, size + cells.slots - cells.size)])
    counts = np.bincount(slots, cells.counts).astype(np.int64)
    mass = np.bincount(place, cells.values, size)
    weight = np.where(mass[place] > 0, cells.values, 1.0)  # empty cells count alike
    points = np.bincount(place, weight * cells.points, size) / np.bincount(place, weight, size)
    return replace(cells, edges=edges, points=points, counts=counts), slots
