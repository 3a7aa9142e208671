"""Losses of single predictions, the six metrics made of them, and their sums."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.methods import moments
from stream_monitor.methods.base import Chunks, Definition, Study
from stream_monitor.panes.exact import grouped
from stream_monitor.schema import PREDICTION, TARGET, FloatArray, IntArray, Role, Schema
from stream_monitor.values import REALIZED

LOSSES = ("absolute", "relative", "squared", "logarithmic")
ABSOLUTE, RELATIVE, SQUARED, LOGARITHMIC = range(len(LOSSES))
EPSILON = float(np.finfo(np.float64).eps)  # the least target that a relative error is divided by

_ROWS = 4_096  # taken at once, which bounds memory


def losses(target: FloatArray, prediction: FloatArray) -> FloatArray:
    """The losses of finite targets y and predictions p, float64[4, n], in the order of LOSSES.

    |y − p|; |y − p| / max(|y|, 2⁻⁵²); (y − p)²; (log(1 + y) − log(1 + p))². The last is NaN where y
    or p is negative; beyond float64 they are inf.
    """
    found = np.empty((len(LOSSES), len(target)))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        np.abs(target - prediction, out=found[ABSOLUTE])
        np.divide(found[ABSOLUTE], np.maximum(np.abs(target), EPSILON), out=found[RELATIVE])
        np.square(found[ABSOLUTE], out=found[SQUARED])
        np.square(np.log1p(target) - np.log1p(prediction), out=found[LOGARITHMIC])
    found[LOGARITHMIC, (target < 0) | (prediction < 0)] = nan
    return found


@dataclass(frozen=True, slots=True)
class Metric:
    """The mean of a loss, or its root."""

    name: str
    loss: int
    root: bool
    meaning: str

    def definition(self, family: str) -> Definition:
        meaning = f"{self.meaning}, at least 0."
        return Definition(self.name, family, 0.0, inf, meaning, Chunks.BOTH, REALIZED)

    def value(self, mean: float) -> float:
        return sqrt(mean) if self.root else mean

    def error(self, mean: float, std: float, n: float) -> float:
        """Standard error in n rows, where the loss has this mean and standard deviation.

        std / √n, of a root std / (2 √(n mean)): NannyML 0.13.1. NaN without rows, and for the root
        of losses that are all 0.
        """
        weight = 4 * n * mean if self.root else n
        return std / sqrt(weight) if weight > 0 else nan


METRICS = (
    Metric("mae", ABSOLUTE, False, "Mean absolute error, in the target's unit"),
    Metric("mape", RELATIVE, False, "Mean absolute error over the target's magnitude, a ratio"),
    Metric("mse", SQUARED, False, "Mean squared error, in the target's unit squared"),
    Metric("rmse", SQUARED, True, "Root of the mean squared error, in the target's unit"),
    Metric("msle", LOGARITHMIC, False, "Mean squared difference of log(1 + x), no unit"),
    Metric("rmsle", LOGARITHMIC, True, "Root of the mean squared difference of log(1 + x)"),
)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Where a regression's targets and predictions are among a batch's numbers."""

    target: int
    prediction: int

    @classmethod
    def of(cls, schema: Schema) -> Pairs:
        names = [c.name for c in schema.continuous]
        return cls(names.index(TARGET), names.index(PREDICTION))

    def finite(self, batch: ColumnBatch) -> IntArray:
        """The rows with both."""
        both = batch.numbers[[self.target, self.prediction]]
        return np.flatnonzero(np.isfinite(both).all(axis=0))

    def losses(self, batch: ColumnBatch, rows: IntArray) -> FloatArray:
        """float64[4, len(rows)]."""
        return losses(batch.numbers[self.target, rows], batch.numbers[self.prediction, rows])


def regression(study: Study) -> bool:
    """Whether there are numbers as predictions and as targets, and no scores."""
    columns = {c.role: study.cells[c.name] for c in study.schema.columns}
    if Role.SCORE in columns:
        return False
    ends = (columns[role] for role in (Role.PREDICTION, Role.TARGET) if role in columns)
    return [c.summary is not None and c.summary.n > 0 for c in ends] == [True, True]


@dataclass(frozen=True, slots=True)
class LossSums:
    """What some rows add: flags as they are, losses in units as :mod:`moments` takes them.

    Attributes
    ----------
    rows : int64[m]
        Which of the batch's rows these are.
    flags : bool[f, m]
    values : float64[k, m], within ±moments.LIMIT
    """

    rows: IntArray
    flags: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
    values: FloatArray

    @staticmethod
    def size(flags: int, values: int) -> int:
        return flags + moments.SLOTS * values

    def counts(self, group: IntArray, groups: int) -> IntArray:
        flags, values = len(self.flags), len(self.values)
        found = np.zeros((groups, self.size(flags, values)), dtype=np.int64)
        for start in range(0, len(self.rows), _ROWS):
            part = slice(start, start + _ROWS)
            rows = self.rows[part]
            out = np.empty((found.shape[1], len(rows)))
            out[:flags] = self.flags[:, part]
            sums = out[flags:].reshape(values, moments.SLOTS, -1)
            moments.addends(self.values[:, part], sums)
            found += grouped(out, group[rows], groups)
        return found


def mean_and_std(slots: IntArray, n: int, unit: float) -> tuple[float, float]:
    """Mean and population standard deviation of a loss; NaN without rows."""
    mean = unit * moments.mean(slots, n)
    if n < 2:
        return mean, 0.0 * mean
    return mean, unit * moments.std(slots, n) * sqrt((n - 1) / n)
