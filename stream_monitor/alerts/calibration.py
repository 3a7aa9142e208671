"""Thresholds of drift methods with a stated rate of false alarms.

What a distance is without drift depends on the reference, on the column and, above all, on the
number of rows in the window. So windows without drift are resampled from the reference's cells
(:mod:`.null`) at numbers of rows on a grid, all of a column's methods are evaluated on the same
windows, and between grid points quantiles are interpolated. Grid points are computed when first
asked for, from a seed that depends on the column's name and the rows only: replicas agree.

The rate is stated for a *family*, all columns and methods of a window together:

- columns share it by Šidák (1967), exact where columns are independent and less than stated where
  they depend on each other as features do;
- a column's methods look at the same values and largely agree. Their joint rate is measured on the
  resampled windows, as an effective number of tests m: P(some p ≤ u) = 1 − (1 − u)^m.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from stream_monitor.alerts.null import Sampler, generalised_pareto, samplers
from stream_monitor.cells import Cells
from stream_monitor.methods.binning import Pooled
from stream_monitor.schema import FloatArray

# Survival probabilities at which null distributions are tabled: eight a decade, to 1e-12.
LEVELS: FloatArray = 10.0 ** (-np.arange(97) / 8)
_TAIL = 0.05  # share of the replicates that the tail is fitted to
_EMPIRICAL = 0.01  # down to this level a quantile is not below the replicates' own
_MODERATE = (0.05, 0.02, 0.01)  # levels at which the effective number of tests is measured
_STEPS = 4  # grid points a decade of rows
_MODEL = 2  # raise it when resampling changes, so that saved thresholds are computed anew
_BATCH = 50_000  # cells of windows at once: some ten milliseconds, in the processor's cache


@dataclass(frozen=True, slots=True)
class Null:
    """The distribution of one statistic on windows without drift.

    ``quantiles`` is float64[97], not falling: at ``quantiles[i]`` the probability of a greater
    value is at most ``LEVELS[i]``. ``power`` is the method's ``tail_power``: between levels
    statistic**power is linear in the logarithm of the level.
    """

    quantiles: FloatArray
    power: int

    def upper(self, level: float) -> float:
        """The value that is exceeded with at most this probability; level in [1e-12, 1]."""
        scaled = np.interp(-math.log10(level), -np.log10(LEVELS), self.quantiles**self.power)
        return float(scaled ** (1 / self.power))

    def p_value(self, value: float) -> float:
        """P(statistic ≥ value) without drift, in [1e-12, 1]; NaN of NaN.

        It is above a level exactly where the value is not above :meth:`upper` of that level.
        """
        if math.isnan(value) or math.isnan(self.quantiles[0]):
            return math.nan
        scaled = self.quantiles**self.power
        wanted = value**self.power
        i = int(np.searchsorted(scaled, wanted, side="left"))
        if i == 0:
            return 1.0
        if i == len(LEVELS):
            return float(LEVELS[-1])
        part = (wanted - scaled[i - 1]) / (scaled[i] - scaled[i - 1])
        return float(LEVELS[i - 1] * (LEVELS[i] / LEVELS[i - 1]) ** part)


_NOTHING = Null(np.full(len(LEVELS), np.nan), 1)


def null_quantiles(statistics: FloatArray, power: int) -> FloatArray:
    """Quantiles at ``LEVELS`` of the distribution that the statistics are a sample of.

    The sample's own quantiles, and beyond its upper twentieth u a generalised Pareto tail
    (Pickands 1975) of statistic**power, with a shape of at least 0: no statistic is taken to be
    bounded, for the price of a higher threshold.

    Parameters
    ----------
    statistics : float64[B]
    power
        See :class:`~stream_monitor.methods.base.DriftMethod`.

    Returns
    -------
    float64[97]; all NaN where a statistic is.
    """
    if np.isnan(statistics).any():
        return np.full(len(LEVELS), np.nan)
    scaled = np.sort(statistics) ** power
    number = len(scaled)
    # the least value that at most a share `level` of the sample exceeds
    allowed = np.floor(LEVELS * number + 1e-9).astype(np.int64)
    quantiles = scaled[np.maximum(number - 1 - allowed, 0)]
    start = scaled[number - 1 - int(_TAIL * number)]
    excesses = scaled[scaled > start] - start
    tail = LEVELS < _TAIL
    fitted = np.full(int(tail.sum()), start)
    if len(excesses):
        shape, scale = generalised_pareto(excesses, least=0.0)
        decades = np.log(len(excesses) / number / LEVELS[tail])
        growth = decades if shape == 0 else np.expm1(shape * decades) / shape
        fitted += scale * np.maximum(growth, 0.0)
    own = np.where(LEVELS[tail] >= _EMPIRICAL, quantiles[tail], 0.0)
    quantiles[tail] = np.maximum(fitted, own)
    return np.asarray(np.maximum.accumulate(quantiles) ** (1 / power))


def effective_tests(statistics: FloatArray) -> float:
    """How many independent tests the methods amount to.

    With u the level of each and P the share of windows in which some method's p-value is at most
    u: log(1 − P) / log(1 − u), the greatest over three moderate levels, in [1, M].

    Parameters
    ----------
    statistics : float64[M, B]
        M methods on the same B windows.
    """
    methods, number = statistics.shape
    ordered = np.sort(statistics, axis=1)
    least = np.ones(number)
    for row, values in zip(ordered, statistics, strict=True):
        least = np.minimum(least, (number - np.searchsorted(row, values, side="left")) / number)
    found = [math.log1p(-float((least <= u).mean())) / math.log1p(-u) for u in _MODERATE]
    return min(max(1.0, *found), float(methods))


def sidak(level: float, tests: float) -> float:
    """The level of each of ``tests`` independent tests whose joint level is ``level``."""
    return -math.expm1(math.log1p(-level) / tests)


@dataclass(frozen=True, slots=True)
class _Point:
    """A column at one number of rows: quantiles float64[M, 97] and the effective tests."""

    quantiles: FloatArray
    tests: float


class Calibration:
    """Null distributions and levels of one model's drift methods.

    Parameters
    ----------
    cells
        Of every column that has a drift method.
    drift
        The bound methods by (column, metric).
    powers
        ``tail_power`` by metric.
    false_alarms
        P(some value of some column lies above its threshold) in a window without drift.
    saved
        What :meth:`arrays` gave for the same reference; the rest is computed.
    replicates
        Resampled windows a column and grid point. A deep threshold's own error falls with their
        square root.
    """

    def __init__(
        self,
        cells: Mapping[str, Cells],
        drift: Mapping[tuple[str, str], Pooled],
        powers: Mapping[str, int],
        *,
        false_alarms: float,
        saved: Mapping[str, FloatArray] | None = None,
        replicates: int = 4_000,
    ) -> None:
        self._cells = cells
        self._powers = powers
        self._replicates = replicates
        self._methods: dict[str, dict[str, Pooled]] = {}
        for (column, metric), bound in drift.items():
            self._methods.setdefault(column, {})[metric] = bound
        self._column_level = sidak(false_alarms, max(len(self._methods), 1))
        self._arrays: dict[str, FloatArray] = dict(saved or {})
        self._begun: tuple[str, Iterator[None]] = ("", iter(()))  # a grid point, and the rest of it

    def nulls(self, column: str, rows: int) -> tuple[float, dict[str, Null]]:
        """The level of each of a column's methods, and their null distributions.

        ``rows`` is the number of values in the window, at least 1. All NaN for a reference
        without values.
        """
        reference = int(self._cells[column].values.sum())
        if not reference:
            return math.nan, dict.fromkeys(self._methods[column], _NOTHING)
        low, high, part = self._around(rows, reference)
        first = self._point(column, low)
        second = self._point(column, high) if high != low else first
        # the geometric mean; 0 where a statistic is 0 without drift (one distinct value)
        between = first.quantiles ** (1 - part) * second.quantiles**part
        level = sidak(self._column_level, max(first.tests, second.tests))
        nulls = {
            metric: Null(quantiles, self._powers[metric])
            for metric, quantiles in zip(self._methods[column], between, strict=True)
        }
        return level, nulls

    def prepare(self, column: str, rows: int) -> bool:
        """Do a step of what :meth:`nulls` would need; False where nothing is lacking."""
        reference = int(self._cells[column].values.sum())
        for point in dict.fromkeys(self._around(rows, reference)[:2]) if reference else ():
            if self._key(column, point) not in self._arrays:
                next(self._resampling(column, point), None)
                return True
        return False

    def arrays(self) -> dict[str, FloatArray]:
        """Everything computed so far, by a key that names column, rows and metrics."""
        return dict(self._arrays)

    def recall(self, saved: Mapping[str, FloatArray]) -> None:
        """Take what :meth:`arrays` gave for the same reference and methods."""
        self._arrays |= saved

    @staticmethod
    def _around(rows: int, reference: int) -> tuple[int, int, float]:
        """The grid points around a number of rows, and where between them it lies, in [0, 1].

        The grid is 10^(k/4), rounded: 100, 178, 316, 562, 1,000, … Statistics are about
        proportional to a power of 1 / rows + 1 / reference.
        """
        k = math.floor(_STEPS * math.log10(rows) + 1e-9)
        low, high = round(10 ** (k / _STEPS)), round(10 ** ((k + 1) / _STEPS))
        if rows <= low:
            return rows, rows, 0.0
        a, x, b = (math.log(1 / n + 1 / reference) for n in (low, rows, high))
        return low, high, (x - a) / (b - a)

    def _point(self, column: str, rows: int) -> _Point:
        key = self._key(column, rows)
        if key not in self._arrays:
            for _ in self._resampling(column, rows):
                pass
        found = self._arrays[key]
        return _Point(found[:-1], float(found[-1, 0]))

    def _key(self, column: str, rows: int) -> str:
        return f"{_MODEL}/{column}/{rows}/{'+'.join(self._methods[column])}"

    def _resampling(self, column: str, rows: int) -> Iterator[None]:
        """The steps to a grid point, or what is left of them."""
        key = self._key(column, rows)
        if self._begun[0] != key:
            self._begun = key, self._resample(column, rows)
        return self._begun[1]

    def _resample(self, column: str, rows: int) -> Iterator[None]:
        """Compute a grid point, step by step."""
        methods = self._methods[column]
        seed = blake2b(f"{column}\0{rows}".encode(), digest_size=16).digest()
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(seed)))
        found = np.full((len(methods) + 1, len(LEVELS)), np.nan)
        for sampler in samplers(self._cells[column], rows):
            parts = []
            for part in self._statistics(column, sampler, rng):
                parts.append(part)
                yield
            statistics = np.concatenate(parts, axis=1)
            quantiles = [
                null_quantiles(values, self._powers[metric])
                for metric, values in zip(methods, statistics, strict=True)
            ]
            tests = np.full(len(LEVELS), effective_tests(statistics))
            # the higher where there are two ways to resample
            found = np.fmax(found, np.vstack([*quantiles, tests]))
        # one array a grid point: the quantiles, and in one more row the effective tests
        self._arrays[self._key(column, rows)] = found

    def _statistics(
        self, column: str, sampler: Sampler, rng: np.random.Generator
    ) -> Iterator[FloatArray]:
        """float64[M, some], batch by batch: as many in all as there are replicates."""
        methods = self._methods[column].values()
        batch = max(_BATCH // self._cells[column].size, 1)
        for start in range(0, self._replicates, batch):
            reference, windows = sampler(min(batch, self._replicates - start), rng)
            yield np.stack([m.distance(reference, windows) for m in methods])
