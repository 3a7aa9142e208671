"""Realized performance of a regression: its losses where true values came with the events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.methods import moments
from stream_monitor.methods.base import Arrays, Definition, Measured, Study, register_block
from stream_monitor.methods.regression.losses import (
    ABSOLUTE,
    EPSILON,
    LOGARITHMIC,
    LOSSES,
    METRICS,
    RELATIVE,
    LossSums,
    Pairs,
    mean_and_std,
    regression,
)
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import TARGET, FloatArray, IntArray, Schema
from stream_monitor.values import REALIZED

NAME = "realized_losses"

# Losses of rows whose target is 0 to within EPSILON: their relative loss is of another order, and
# is known from their absolute one. It is a fifth sum, and those rows add nothing to the second.
_AT_ZERO = len(LOSSES)
_SUMS = _AT_ZERO + 1
_FLAGS = 3  # rows with a loss; of these, with a negative number; with a clipped loss
_REACH = 2.0**18  # a loss of so many times the reference's mean is clipped
_GREATEST = 2.0**900

_DEFINITIONS = tuple(metric.definition(REALIZED) for metric in METRICS)
_NEGATIVE = Definition(
    "negative_rows",
    REALIZED,
    0.0,
    inf,
    "Labelled rows with a negative target or prediction, for which msle and rmsle do not exist.",
)
_EXTREME = Definition(
    "extreme_losses",
    REALIZED,
    0.0,
    inf,
    "Labelled rows with a loss so far beyond the reference's that it is taken at its limit.",
)


def _summed(target: FloatArray, found: FloatArray) -> FloatArray:
    """The losses as they are summed, float64[5, n]."""
    zero = np.abs(target) < EPSILON
    values = np.empty((_SUMS, len(target)))
    values[:_AT_ZERO] = found
    values[RELATIVE, zero] = 0.0
    values[LOGARITHMIC, np.isnan(found[LOGARITHMIC])] = 0.0
    values[_AT_ZERO] = np.where(zero, found[ABSOLUTE], 0.0)
    return values


class _Learner:
    """Finds the mean and the greatest losses."""

    def __init__(self, study: Study) -> None:
        self._pairs = Pairs.of(study.schema)
        self._n = 0
        self._sums = np.zeros(_SUMS)
        self._greatest = np.zeros(_SUMS)
        summary = study.cells[TARGET].summary
        # where every prediction is right, errors are taken to be a thousandth of the targets
        size = max(abs(summary.minimum), abs(summary.maximum)) if summary is not None else 0.0
        size = (size or 1.0) / 1024
        self._instead = np.array([size, 1 / 1024, size * size, 1 / 1024, size])

    def update(self, batch: ColumnBatch) -> None:
        rows = self._pairs.finite(batch)
        target = batch.numbers[self._pairs.target, rows]
        values = _summed(target, self._pairs.losses(batch, rows))
        self._n += len(rows)
        self._sums += np.minimum(values, _GREATEST).sum(axis=1)
        self._greatest = np.maximum(self._greatest, values.max(axis=1, initial=0.0))

    def finish(self, sample: ColumnBatch) -> Arrays:  # noqa: ARG002 - every row was seen
        """units : float64[5], of the sums; powers of two."""
        mean = self._sums / max(self._n, 1)
        limit = np.maximum(_REACH * np.where(mean > 0, mean, self._instead), self._greatest)
        limit[_AT_ZERO] = limit[ABSOLUTE]
        units = np.minimum(limit, _GREATEST) / moments.LIMIT
        return {"units": np.array([moments.power_above(unit) for unit in units.tolist()])}


class LossesBlock:
    def __init__(self, schema: Schema, arrays: Arrays) -> None:
        self._pairs = Pairs.of(schema)
        self.units = arrays["units"]

    @property
    def size(self) -> int:
        return LossSums.size(_FLAGS, _SUMS)

    def addends(self, batch: ColumnBatch) -> LossSums:
        rows = self._pairs.finite(batch)
        found = self._pairs.losses(batch, rows)
        values = _summed(batch.numbers[self._pairs.target, rows], found)
        values /= self.units[:, None]
        flags = np.ones((_FLAGS, len(rows)), dtype=np.bool_)
        flags[1] = np.isnan(found[LOGARITHMIC])
        np.any(values > moments.LIMIT, axis=0, out=flags[2])
        np.minimum(values, moments.LIMIT, out=values)
        return LossSums(rows, flags, values)

    def bind(self, reference: Counted) -> _Measure:
        return _Measure(self.units.tolist(), reference)


@dataclass(frozen=True, slots=True)
class _Found:
    """Of ``n`` labelled rows: mean and population standard deviation of each loss."""

    n: int
    negative: int
    extreme: int
    losses: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, slots: IntArray, units: list[float]) -> _Found:
        n, negative, extreme = slots[:_FLAGS].tolist()
        sums = slots[_FLAGS:].reshape(_SUMS, moments.SLOTS)
        each = [mean_and_std(s, n, unit) for s, unit in zip(sums, units, strict=True)]
        (mean, std), (more, spread) = each[RELATIVE], each.pop()
        more, spread = more / EPSILON, spread / EPSILON
        # no row adds to both, so that their covariance is −mean · more
        variance = std**2 + spread**2 - 2 * mean * more
        each[RELATIVE] = mean + more, sqrt(max(variance, 0.0))
        if negative:
            each[LOGARITHMIC] = nan, nan
        return cls(n, negative, extreme, tuple(each))


class _Measure:
    def __init__(self, units: list[float], reference: Counted) -> None:
        self._units = units
        self._reference = _Found.of(reference.block(NAME), units)

    def measure(self, window: Counted) -> Iterator[Measured]:
        w, r = _Found.of(window.block(NAME), self._units), self._reference
        both = 1 / (1 / w.n + 1 / r.n) if w.n and r.n else 0.0
        for metric, definition in zip(METRICS, _DEFINITIONS, strict=True):
            mean, std = r.losses[metric.loss]
            yield Measured(
                definition,
                metric.name,
                "",
                "",
                metric.value(w.losses[metric.loss][0]),
                w.n,
                metric.error(mean, std, w.n),
                expected=metric.value(mean),
                spread=metric.error(mean, std, both),
            )
        for definition, count in ((_NEGATIVE, w.negative), (_EXTREME, w.extreme)):
            yield Measured(definition, definition.metric, "", "", count if w.n else nan, w.n)


class RealizedLosses:
    """MAE, MAPE, MSE, RMSE, MSLE and RMSLE of the rows with a finite target and prediction.

    Definitions: NannyML 0.13.1 and scikit-learn's ``mean_absolute_error``,
    ``mean_absolute_percentage_error``, ``mean_squared_error``, ``root_mean_squared_error``,
    ``mean_squared_log_error``, ``root_mean_squared_log_error``; see
    :func:`~stream_monitor.methods.regression.losses.losses`. NaN without such a row. A negative
    target or prediction in the window makes MSLE and RMSLE NaN (NannyML raises an error) and is
    counted under ``negative_rows``.

    Sampling errors are those of :meth:`~stream_monitor.methods.regression.losses.Metric.error` with
    mean and standard deviation (divisor N) of the reference's losses. NannyML's for MAPE divides by
    the target itself, not by its magnitude, and so is another one where targets are 0 or negative.

    A loss beyond a limit is taken to lie there and its row is counted under ``extreme_losses``. The
    limits are powers of two, at least 2¹⁸ times the reference's mean loss and at least its greatest
    one; the relative loss where the target is 0 is limited as the absolute one, so that MAPE, huge
    as it then is, stays exact. Sums are exact for losses rounded to 2⁻⁵¹ of their limit, and their
    squares for losses rounded to 2⁻³⁴ of it: the same whatever the batches, their order and their
    grouping. Against NannyML's table (car price, chunks of 5,000) values and thresholds differ by
    less than 1e-11 of them, sampling errors by less than 1e-7.
    """

    name = NAME
    definitions = (*_DEFINITIONS, _NEGATIVE, _EXTREME)

    def learner(self, study: Study) -> _Learner | None:
        """None but for a regression with labels in the reference."""
        return _Learner(study) if regression(study) else None

    def load(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> LossesBlock:  # noqa: ARG002
        return LossesBlock(schema, arrays)


register_block(RealizedLosses())
