"""Summary statistics of the numbers in a window: mean, sum, standard deviation, quantiles.

Mean, sum and standard deviation come from exact sums about the reference mean (see
:mod:`stream_monitor.methods.moments`), quantiles from the column's cells. Missing values, values of
a wrong type and ±inf are left out; a number far from the reference counts as if it lay at the limit
and is counted under ``extreme``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import inf, nan
from typing import NamedTuple

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells, Summary
from stream_monitor.methods import moments
from stream_monitor.methods.base import (
    Arrays,
    Chunks,
    Definition,
    Measured,
    Study,
    register_block,
)
from stream_monitor.methods.quantiles import Ranked, Widths, density, quantile_spreads
from stream_monitor.panes.exact import grouped, runs
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import BoolArray, FloatArray, IntArray, Role, Schema
from stream_monitor.values import STATISTICS

NAME = "statistics"

_SLOTS = moments.SLOTS + 1  # the last counts extremes
_ROWS = 2_048  # taken at once, which bounds memory
_FEW = 128  # rows of a group for which sums of their own are worth while
_ROLES = (Role.FEATURE, Role.PREDICTION, Role.SCORE)
_BAND = 3.0  # standard errors on each side of a value, as in NannyML


def _definition(metric: str, low: float, text: str, chunks: Chunks = Chunks.BETWEEN) -> Definition:
    return Definition(metric, STATISTICS, low, inf, text, chunks)


_MEAN = _definition("mean", -inf, "Mean of the numbers, in the column's unit.")
_SUM = _definition("sum", -inf, "Sum of the numbers, in the column's unit.")
_STD = _definition("std", 0.0, "Standard deviation (divisor n − 1), in the column's unit.")
_EXTREME = _definition(
    "extreme",
    0.0,
    "Numbers so far from the reference that mean, sum and std take them at their limit.",
    Chunks.NONE,
)
_QUANTILES = {
    0.05: _definition("quantile_05", -inf, "5 % quantile, in the column's unit."),
    0.25: _definition("quantile_25", -inf, "First quartile, in the column's unit."),
    0.5: _definition("median", -inf, "Median, in the column's unit."),
    0.75: _definition("quantile_75", -inf, "Third quartile, in the column's unit."),
    0.95: _definition("quantile_95", -inf, "95 % quantile, in the column's unit."),
}
_LEVELS = np.array(list(_QUANTILES))
_JUDGED = (_MEAN, _SUM, _STD, *_QUANTILES.values())


class _Learner:
    """Adds up the fourth central moments; all else is known of the summaries."""

    def __init__(self, study: Study, columns: list[int], summaries: list[Summary]) -> None:
        position = {c.name: i for i, c in enumerate(study.schema.continuous)}
        self._rows = [position[study.schema.columns[i].name] for i in columns]
        self._summaries = summaries
        self._sums = np.zeros(len(columns))
        self._columns = np.array(columns, dtype=np.int64)
        self._compat = study.compat

    def update(self, batch: ColumnBatch) -> None:
        for i, (row, summary) in enumerate(zip(self._rows, self._summaries, strict=True)):
            numbers = batch.numbers[row]
            offset = numbers[np.isfinite(numbers)] - summary.mean
            # in standard deviations, so that no power leaves float64
            self._sums[i] += ((offset / (summary.std or 1.0)) ** 4).sum()

    def finish(self, sample: ColumnBatch) -> Arrays:  # noqa: ARG002 - every row was seen
        return {
            "columns": self._columns,
            "center": np.array([_center(s) for s in self._summaries]),
            "scale": np.array([_scale(s) for s in self._summaries]),
            "n": np.array([s.n for s in self._summaries]),
            "kurtosis": self._sums / [s.n for s in self._summaries],
            "compat": np.array([self._compat], dtype=np.uint8),
        }


def _scale(summary: Summary) -> float:
    """The unit of the sums: 2¹⁹ of it are beyond the reference's range and 2¹⁸ deviations."""
    reach = max(summary.maximum - summary.mean, summary.mean - summary.minimum)
    unit = max(summary.std, reach / (moments.LIMIT - 1))
    return moments.power_above(unit or abs(summary.mean) or 1.0)


def _center(summary: Summary) -> float:
    """What the sums are about: the mean, rounded so that whole numbers lie on the sums' grid."""
    if not summary.std:
        return summary.mean
    step = _scale(summary) / 1_024
    return round(summary.mean / step) * step


@dataclass(frozen=True, slots=True)
class _Addends:
    """Numbers in units of their columns' sums, float64[k, n], and which were cut, bool[k, n]."""

    values: FloatArray
    extreme: BoolArray

    def counts(self, group: IntArray, groups: int) -> IntArray:
        columns, n = self.values.shape
        found = np.zeros((groups, columns * _SLOTS), dtype=np.int64)
        starts = runs(group) if groups == 1 or groups * _FEW < n else None
        if starts is not None:
            # a run of rows for each group: their sums need not what each of the rows adds
            for first, last in pairwise([*starts.tolist(), n]):
                sums = found[group[first]].reshape(columns, _SLOTS)
                for start in range(first, last, _ROWS):
                    part = slice(start, min(start + _ROWS, last))
                    sums[:, :-1] += moments.sums(self.values[:, part])
                    sums[:, -1] += np.count_nonzero(self.extreme[:, part], axis=1)
            return found
        for start in range(0, n, _ROWS):
            part = slice(start, start + _ROWS)
            values = self.values[:, part]
            out = np.empty((columns, _SLOTS, values.shape[1]))
            moments.addends(values, out[:, :-1])
            out[:, -1] = self.extreme[:, part]
            found += grouped(out.reshape(columns * _SLOTS, -1), group[part], groups)
        return found


class _Block:
    def __init__(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> None:
        position = {c.name: i for i, c in enumerate(schema.continuous)}
        chosen = [schema.columns[i].name for i in arrays["columns"].tolist()]
        self._cells = [cells[name] for name in chosen]
        self._rows = np.array([position[name] for name in chosen])
        self._arrays = arrays
        self._center = arrays["center"][:, None]
        self._scale = arrays["scale"][:, None]

    @property
    def size(self) -> int:
        return len(self._cells) * _SLOTS

    def addends(self, batch: ColumnBatch) -> _Addends:
        values = batch.numbers[self._rows]
        left_out = ~np.isfinite(values)
        # beyond float64 is beyond the limit; Arrow can bring signalling NaN
        with np.errstate(over="ignore", invalid="ignore"):
            values -= self._center
            values /= self._scale
        np.copyto(values, 0.0, where=left_out)
        extreme = np.abs(values) > moments.LIMIT
        np.clip(values, -moments.LIMIT, moments.LIMIT, out=values)
        return _Addends(values, extreme)

    def bind(self, reference: Counted) -> _Measure:
        return _Measure(self._cells, self._arrays, reference)


class _Found(NamedTuple):
    """Statistics of k columns in a window of ``rows`` rows."""

    rows: int
    n: IntArray
    mean: FloatArray
    std: FloatArray
    quantiles: FloatArray  # [k, levels]
    ranked: Ranked
    extreme: IntArray


class _Measure:
    """The columns' statistics side by side, and what the reference says about their noise."""

    def __init__(self, cells: list[Cells], arrays: Arrays, reference: Counted) -> None:
        self._cells = cells
        self._names = [column.column.name for column in cells]
        starts = [reference.layout.columns[name].start for name in self._names]
        self._slots = np.concatenate(
            [start + np.arange(c.size) for start, c in zip(starts, cells, strict=True)]
        )
        self._center, self._scale = arrays["center"], arrays["scale"]
        self._compat = bool(arrays["compat"][0])
        self._widths = Widths.of(cells)
        self._reference = known = self._found(reference)
        self._density = np.empty_like(known.quantiles)
        # the fourth central moment over the fourth power of the std with divisor n − 1
        self._kurtosis = arrays["kurtosis"] * (1 - 1 / np.maximum(known.n, 1)) ** 2
        for i, column in enumerate(cells):
            counts = np.array(reference.column(self._names[i])[: column.size])
            n, mean, std = int(known.n[i]), float(known.mean[i]), float(known.std[i])
            self._density[i] = density(column, counts, known.quantiles[i], std=std)
            if n != arrays["n"][i] and std > 0:
                # a segment, of which the cells alone tell the fourth moment, though not exactly
                squares = ((column.points - mean) / std) ** 2
                self._kurtosis[i] = n * float(counts @ squares**2) / float(counts @ squares) ** 2

    def _found(self, window: Counted) -> _Found:
        slots = window.block(NAME).reshape(len(self._names), _SLOTS)
        ranked = Ranked.of(self._widths, window.vector[self._slots])
        numbers = list(zip(slots[:, :-1], ranked.n.tolist(), strict=True))
        return _Found(
            window.rows,
            ranked.n,
            self._center + self._scale * [moments.mean(own, n) for own, n in numbers],
            self._scale * [moments.std(own, n) for own, n in numbers],
            ranked.at(_LEVELS),
            ranked,
            slots[:, -1],
        )

    def measure(self, window: Counted) -> Iterator[Measured]:
        w, r = self._found(window), self._reference
        some = w.n > 0
        # NannyML counts the rows without a number among those that a value rests on
        n = np.where(some, w.rows if self._compat else w.n, nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            both = np.where(some & (r.n > 0), 1 / w.n + 1 / r.n, nan)
            values = [w.mean, w.mean * w.n, w.std, *w.quantiles.T]
            noise = np.sqrt(_LEVELS * (1 - _LEVELS) / n[:, None]) / self._density
            errors = [r.std / np.sqrt(n), r.std * np.sqrt(n), self._std_error(n), *noise.T]
            total, total_spread = self._sum_like(w.rows)
            expected = [r.mean, total, r.std, *r.quantiles.T]
            excess = np.sqrt(np.maximum(self._kurtosis - 1, 0.0) * both)
            spreads = quantile_spreads(r.ranked, _LEVELS, both)
            spread = [r.std * np.sqrt(both), total_spread, r.std / 2 * excess, *spreads.T]
        value, error = np.stack(values, axis=1), np.stack(errors, axis=1)
        band = value - _BAND * error, value + _BAND * error
        sides = (value, error, *band, np.stack(expected, axis=1), np.stack(spread, axis=1))
        columns = np.stack(sides, axis=2).tolist()
        extremes = np.where(some, w.extreme, nan).tolist()
        for name, column, rows, extreme in zip(
            self._names, columns, w.n.tolist(), extremes, strict=True
        ):
            for definition, (first, *others) in zip(_JUDGED, column, strict=True):
                yield Measured(definition, definition.metric, name, name, first, rows, *others)
            yield Measured(_EXTREME, _EXTREME.metric, name, name, extreme, rows)

    def _sum_like(self, rows: int) -> tuple[FloatArray, FloatArray]:
        """Expectation and standard deviation of the sum over so many rows like the reference.

        With f the share of rows with a number, a row adds f μ with the variance
        f σ² + f (1 − f) μ².
        """
        r = self._reference
        share = np.where((r.n > 0) & (rows > 0), r.n / max(r.rows, 1), nan)
        variance = share * r.std**2 + share * (1 - share) * r.mean**2
        noise = np.sqrt(variance * (1 / max(rows, 1) + 1 / max(r.rows, 1)))
        return rows * share * r.mean, rows * noise

    def _std_error(self, n: FloatArray) -> FloatArray:
        """Of the standard deviation: sqrt((μ₄ − σ⁴ (n − 3)/(n − 1)) / n) / (2 σ), Rao (1973)."""
        excess = self._kurtosis - (n - 3) / (n - 1)
        error: FloatArray = self._reference.std / 2 * np.sqrt(excess / n)
        return np.where((n > 1) & (excess >= 0), error, nan)


class Statistics:
    """Mean, sum, std, five quantiles and the number of extremes of each continuous column.

    Features, predictions and scores whose moments and range float64 can hold. As in NannyML
    0.13.1: ``mean`` (its ``stats_avg``), ``sum``, ``std`` (divisor n − 1), ``median``. NaN without
    numbers, ``std`` also for one. Quantiles are those of the cells, see
    :func:`~stream_monitor.methods.quantiles.quantiles`.

    Sampling errors, with n numbers in the window and all else of the reference: σ / √n of the mean,
    σ √n of the sum, :meth:`_Measure._std_error` of the std, √(q (1 − q) / n) / f of the quantile at
    level q, where f is the :func:`~stream_monitor.methods.quantiles.density` there. With ``compat``
    n counts rows without a number as well. The bands are three of them to each side.

    A number more than ``scale`` · 2¹⁹ from ``center`` (the reference mean but for rounding) is
    taken to lie there and is counted as extreme; ``scale`` is a power of two such that this is at
    least 2¹⁸ standard deviations and beyond the reference's range. Sums are exact for numbers
    rounded to ``scale`` · 2⁻⁵⁰ (mean and sum) and ``scale`` · 2⁻³² (std): the same whatever the
    batches, their order and their grouping.
    """

    name = NAME
    definitions = (*_JUDGED, _EXTREME)

    def learner(self, study: Study) -> _Learner | None:
        """None without a continuous column of a role and with moments as above."""
        columns, summaries = [], []
        for i, column in enumerate(study.schema.columns):
            summary = study.cells[column.name].summary
            if column.role in _ROLES and summary is not None and moments.usable(summary):
                columns.append(i)
                summaries.append(summary)
        return _Learner(study, columns, summaries) if columns else None

    def load(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> _Block:
        return _Block(schema, cells, arrays)


register_block(Statistics())
