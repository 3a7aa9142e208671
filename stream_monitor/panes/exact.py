"""Sums of numbers as integers: exact, free of order, subtractable.

A number in [-2¹⁵, 2¹⁵] is rounded to a multiple of 2⁻⁴⁰ and kept as two *limbs*, the multiples of
2⁻¹⁶ in it and the rest in units of 2⁻⁴⁰. Both are so small that float64 adds millions of them
without rounding and int64 the sums of billions. What does not fit is scaled or clipped before.
"""

from __future__ import annotations

import numpy as np

from stream_monitor.schema import FloatArray, IntArray

LIMIT = 2.0**15  # the greatest magnitude
LIMBS = 2
_HIGH, _LOW = 2.0**16, 2.0**24


def limbs(values: FloatArray) -> FloatArray:
    """Whole numbers that stand for the values.

    Parameters
    ----------
    values : float64[k, n], finite, within ±LIMIT

    Returns
    -------
    float64[2 k, n]: rows 2 i and 2 i + 1 are the limbs of row i.
    """
    scaled = values * _HIGH
    high = np.rint(scaled)
    found = np.empty((LIMBS * len(values), values.shape[1]))
    found[0::2] = high
    np.rint((scaled - high) * _LOW, out=found[1::2])
    return found


def joined(sums: IntArray) -> FloatArray:
    """The inverse of :func:`limbs` for sums: int64[..., 2 k] → float64[..., k]."""
    found: FloatArray = sums[..., 0::2] / _HIGH + sums[..., 1::2] / (_HIGH * _LOW)
    return found


def runs(group: IntArray) -> IntArray | None:
    """Where the rows of each group begin, as where events come in the order of their windows.

    None where there is no row, or groups do not rise.
    """
    change = np.diff(group)
    if not len(group) or (change < 0).any():
        return None
    return np.append(0, np.flatnonzero(change) + 1)


def grouped(values: FloatArray, group: IntArray, groups: int) -> IntArray:
    """Sums of whole numbers a group.

    Parameters
    ----------
    values : float64[s, n], whole numbers below 2⁵³ / n
    group : int64[n] in 0 … groups − 1

    Returns
    -------
    int64[groups, s]
    """
    if groups == 1:
        total: IntArray = values.sum(axis=1)[np.newaxis].astype(np.int64)
        return total
    if (starts := runs(group)) is not None:
        found = np.zeros((groups, len(values)), dtype=np.int64)
        found[group[starts]] = np.add.reduceat(values, starts, axis=1).T
        return found
    found = np.empty((groups, len(values)), dtype=np.int64)
    for column, row in enumerate(values):
        found[:, column] = np.bincount(group, row, groups)
    return found


def tallied(slots: IntArray, group: IntArray, groups: int, size: int) -> IntArray:
    """How often each slot occurs in each group.

    Parameters
    ----------
    slots : int64[r, n] in 0 … size − 1
    group : int64[n] in 0 … groups − 1

    Returns
    -------
    int64[groups, size]
    """
    flat = slots if groups == 1 else slots + group * size
    counts: IntArray = np.bincount(flat.ravel(), minlength=groups * size)
    return counts.reshape(groups, size)
