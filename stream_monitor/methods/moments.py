"""Mean and variance from sums of integers: exact, free of order, subtractable.

A number u in [-2⁷, 2⁷] is written as a 2⁻¹⁰ + b 2⁻²⁷ + c 2⁻⁴⁴ with whole a, b, c, each the rounded
rest of what stands before it. Summed are a, b, c for the mean and a², ab, b² for the variance,
which thus is that of the numbers rounded to multiples of 2⁻²⁷, without any error of its own: it is
0 where all of them are equal. No addend is above 2³⁴, so that float64 adds half a million rows and
int64 five hundred million of them, should every one lie at the limit.
"""

from __future__ import annotations

from math import frexp, isfinite, ldexp, nan, sqrt

import numpy as np

from stream_monitor.cells import Summary
from stream_monitor.schema import FloatArray, IntArray

LIMIT = 2.0**7  # the greatest magnitude
SLOTS = 6  # a number's: a, b, c, a², ab, b²
_FIRST, _LIMB = 10, 17


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
    rest = values * 2.0**_FIRST
    for slot in range(3):
        if slot:
            rest *= 2.0**_LIMB
        np.rint(rest, out=out[:, slot])
        rest -= out[:, slot]
    a, b = out[:, 0], out[:, 1]
    np.multiply(a, a, out=out[:, 3])
    np.multiply(a, b, out=out[:, 4])
    np.multiply(b, b, out=out[:, 5])


def mean(slots: IntArray, n: int) -> float:
    """The mean of n numbers from their int64[SLOTS] sums, correctly rounded; NaN without any."""
    if not n:
        return nan
    a, b, c = slots[:3].tolist()
    total = (((a << _LIMB) + b) << _LIMB) + c
    quotient: float = total / (n << (_FIRST + 2 * _LIMB))
    return quotient


def std(slots: IntArray, n: int) -> float:
    """The standard deviation with divisor n − 1; NaN below two numbers."""
    if n < 2:
        return nan
    a, b, _, aa, ab, bb = slots.tolist()
    total = (a << _LIMB) + b
    squares = (aa << 2 * _LIMB) + (ab << (_LIMB + 1)) + bb
    # integers as long as it takes: the difference is exact and never below 0
    return sqrt((n * squares - total**2) / (n * (n - 1))) / 2.0 ** (_FIRST + _LIMB)
