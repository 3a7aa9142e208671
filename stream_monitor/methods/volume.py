"""How many rows a window should have, by the windows before it."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, pi, sqrt
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from stream_monitor.schema import FloatArray

LEAST = 5  # windows that must have been seen

_NORMAL = 2.2219  # makes the scale that of a normal sample (1 / (sqrt 2 Φ⁻¹(5/8)))
_SMALL = (0.399, 0.994, 0.512, 0.844, 0.611, 0.857, 0.669, 0.872)  # for 2 … 9 values
_EFFICIENCY = 0.82  # of the scale, against the standard deviation of a normal sample


def scale(values: FloatArray) -> float:
    """Rousseeuw & Croux's Q_n, a standard deviation that half of the values cannot carry away.

    2.2219 times the h(h − 1)/2-th smallest distance of two values, h = ⌊n/2⌋ + 1, with the
    factors for few values of Croux & Rousseeuw (1992), "Time-efficient algorithms for two highly
    robust estimators of scale". At least two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} values have no spread; give at least two")
    h = n // 2 + 1
    first, second = np.triu_indices(n, 1)
    distance = np.sort(np.abs(values[first] - values[second]))[h * (h - 1) // 2 - 1]
    few = _SMALL[n - 2] if n <= len(_SMALL) + 1 else n / (n + (1.4 if n % 2 else 3.8))
    return _NORMAL * few * float(distance)


@dataclass(frozen=True, slots=True)
class Volume:
    """What earlier windows of the same length say about the rows of the next one.

    Counts are compared on the scale 2 sqrt(x + 3/8), on which a Poisson count has the standard
    deviation 1 whatever its mean (Anscombe 1948, "The transformation of Poisson, binomial and
    negative-binomial data"); traffic whose rate itself varies has a greater one, so the scale of
    the history counts where it is more than 1. Centre is the median, so that neither it nor the
    scale follows some windows of an outage or a burst.

    Attributes
    ----------
    centre, spread
        Of the next window's count on that scale, the centre's own noise included. NaN for fewer
        than five windows.
    freedom
        Degrees of freedom that the spread is worth.
    """

    centre: float
    spread: float
    freedom: float

    @classmethod
    def of(cls, history: ArrayLike) -> Self:
        """From the row counts of earlier windows, at least 0, in any order.

        Where traffic has a rhythm give windows of the same hour: days or weeks before.
        """
        counts = np.asarray(history, dtype=np.float64)
        if counts.ndim != 1 or (counts < 0).any() or not np.isfinite(counts).all():
            raise ValueError(f"row counts of windows are a list of numbers from 0 on, not {counts}")
        n = len(counts)
        if n < LEAST:
            return cls(nan, nan, nan)
        values = _even(counts)
        spread = max(scale(values), 1.0) * sqrt(1 + pi / 2 / n)
        return cls(float(np.median(values)), spread, _EFFICIENCY * (n - 1))

    def limit(self, level: float) -> tuple[float, float]:
        """The least and the greatest count that is not out of the ordinary.

        Student's t distribution, half of ``level`` on each side. NaN where nothing is known; 0 is
        no lower limit, for no count is below it.
        """
        away = -self.spread * float(special.stdtrit(self.freedom, level / 2))
        low, high = self.centre - away, self.centre + away
        return _count(max(low, 0.0)), _count(high)

    def p_value(self, count: float) -> float:
        """The chance of a count as far from the centre, on either side; NaN if nothing is known."""
        away = abs(float(_even(np.array(count, dtype=np.float64))) - self.centre) / self.spread
        return 2 * float(special.stdtr(self.freedom, -away))


def _even(counts: FloatArray) -> FloatArray:
    found: FloatArray = 2 * np.sqrt(counts + 0.375)
    return found


def _count(value: float) -> float:
    return max((value / 2) ** 2 - 0.375, 0.0)
