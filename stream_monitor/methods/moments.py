"""Mean and variance from sums of integers: exact, free of order, subtractable.

A number u in [-2¹⁹, 2¹⁹] is rounded to q 2⁻³², and q written as a 2³⁶ + b 2¹⁸ + c with whole a, b
and c; d is the rest of u in units of 2⁻⁵⁰. Summed are a, b, c, d for the mean, and the parts of
q² = a² 2⁷² + 2 ab 2⁵⁴ + (2 ac + b²) 2³⁶ + 2 bc 2¹⁸ + c² for the variance, which thus is that of the
rounded numbers without any error of its own: it is 0 where all of them are equal. No addend is
above 2³⁵, so that float64 adds a quarter of a million rows and int64 two hundred million of them,
should every one lie at the limit.
"""

from __future__ import annotations

from math import frexp, isfinite, ldexp, nan, sqrt

import numpy as np

from stream_monitor.cells import Summary
from stream_monitor.schema import FloatArray, IntArray

LIMIT = 2.0**19  # the greatest magnitude
SLOTS = 9  # a number's: a, b, c, d, a², ab, 2 ac + b², bc, c²
_PARTS = 4
_UNIT, _REST, _LIMB = 32, 18, 18


def usable(summary: Summary) -> bool:
    """Whether a column has numbers, and float64 holds their moments and range."""
    spread = summary.maximum - summary.minimum
    return summary.n > 0 and isfinite(spread) and isfinite(summary.mean + summary.std)


def power_above(number: float) -> float:
    """The least power of two above a positive finite number, within 2^±1000."""
    return ldexp(1.0, min(max(frexp(number)[1], -1000), 1000))


def addends(values: FloatArray, out: FloatArray) -> None:
    """What the numbers add to their slots.

    Parameters
    ----------
    values : float64[k, n], finite, within ±LIMIT
    out : float64[k, SLOTS, n]
        Filled with whole numbers.
    """
    _cut(values, out)
    a, b, c = out[:, 0], out[:, 1], out[:, 2]
    np.multiply(a, a, out=out[:, 4])
    np.multiply(a, b, out=out[:, 5])
    np.multiply(2 * a, c, out=out[:, 6])
    out[:, 6] += b * b
    np.multiply(b, c, out=out[:, 7])
    np.multiply(c, c, out=out[:, 8])


def sums(values: FloatArray) -> IntArray:
    """What all the numbers add together, without what each of them does: int64[k, SLOTS].

    ``values`` as for :func:`addends`, n below 2¹⁹: float64 holds every sum of whole numbers.
    """
    parts = np.empty((len(values), _PARTS, values.shape[1]))
    _cut(values, parts)
    a, b, c = parts[:, 0], parts[:, 1], parts[:, 2]
    found = np.empty((len(values), SLOTS), dtype=np.int64)
    found[:, :_PARTS] = parts.sum(axis=2)
    aa, ab, ac, bb, bc, cc = (
        np.einsum("kn,kn->k", x, y) for x, y in ((a, a), (a, b), (a, c), (b, b), (b, c), (c, c))
    )
    found[:, _PARTS:] = np.stack([aa, ab, 2 * ac + bb, bc, cc], axis=1)
    return found


def _cut(values: FloatArray, out: FloatArray) -> None:
    """The numbers in whole parts a, b, c, d: the first of float64[k, _PARTS or more, n]."""
    scaled = values * 2.0**_UNIT
    whole = np.rint(scaled)
    np.rint((scaled - whole) * 2.0**_REST, out=out[:, 3])
    a, b, c = out[:, 0], out[:, 1], out[:, 2]
    np.rint(whole * 2.0 ** (-2 * _LIMB), out=a)
    whole -= a * 2.0 ** (2 * _LIMB)
    np.rint(whole * 2.0**-_LIMB, out=b)
    np.subtract(whole, b * 2.0**_LIMB, out=c)


def mean(slots: IntArray, n: int) -> float:
    """The mean of n numbers from their int64[SLOTS] sums, correctly rounded; NaN without any."""
    if not n:
        return nan
    rest = int(slots[3])
    quotient: float = ((_total(slots) << _REST) + rest) / (n << (_UNIT + _REST))
    return quotient


def std(slots: IntArray, n: int) -> float:
    """The standard deviation with divisor n − 1; NaN below two numbers."""
    if n < 2:
        return nan
    squares = 0
    for part, factor in zip(slots[4:].tolist(), (1, 2, 1, 2, 1), strict=True):
        squares = (squares << _LIMB) + factor * part
    # integers as long as it takes: the difference is exact and never below 0
    return sqrt((n * squares - _total(slots) ** 2) / (n * (n - 1))) / 2.0**_UNIT


def _total(slots: IntArray) -> int:
    a, b, c = slots[:3].tolist()
    total: int = (((a << _LIMB) + b) << _LIMB) + c
    return total
