"""How badly a row fits the reference's principal components, after NannyML 0.13.1.

The rows of the features are imputed, encoded, standardised and projected on the first principal
components of the reference; what the projection loses of a row is its reconstruction error. It
grows where features stop being related as they were, even if each alone keeps its distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, inf, isnan, log2, nan, sqrt

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.methods import moments
from stream_monitor.methods.base import (
    Arrays,
    Chunks,
    Definition,
    Measured,
    Study,
    register_block,
)
from stream_monitor.methods.principal import Inputs, Learner, usable
from stream_monitor.panes import exact
from stream_monitor.panes.exact import LIMBS, grouped, joined, limbs
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray, IntArray, Schema
from stream_monitor.values import MULTIVARIATE

NAME = "reconstruction_error"

_BAND = 3.0  # standard errors on each side of the value
_LIMIT = 2.0**15  # a standardised value's greatest magnitude
_FINE = 26  # binary places of the projection
_ROWS = 2_048  # taken at once, which bounds memory

_ERROR = Definition(
    NAME,
    MULTIVARIATE,
    0.0,
    inf,
    "Mean distance of the standardised rows from the reference's principal subspace.",
    Chunks.BETWEEN,
)
_CONTRIBUTION = Definition(
    "reconstruction_contribution",
    MULTIVARIATE,
    0.0,
    1.0,
    "A feature's share of the mean squared reconstruction error.",
)
_CLIPPED = Definition(
    "reconstruction_clipped",
    MULTIVARIATE,
    0.0,
    inf,
    "Rows with a value beyond 32,768 reference standard deviations, which is taken to lie there.",
)


@dataclass(frozen=True, slots=True)
class _Addends:
    """Whole numbers, float64[size, n]."""

    values: FloatArray

    def counts(self, group: IntArray, groups: int) -> IntArray:
        return grouped(self.values, group, groups)


class _Block:
    """Slots: the error's moments, two limbs of each feature's squared residual, clipped rows.

    The projection has to give the same bits whatever rows stand beside a row, which a matrix
    product of floats does not promise. So it is made of whole numbers that float64 multiplies and
    adds exactly: the matrix I − V Vᵀ in units of 2⁻²⁶ (V the components), and each standardised
    value as two limbs of b bits, with b such that F products of 26 + b bits sum to 53 bits.
    """

    def __init__(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> None:
        self._inputs = inputs = Inputs.of(schema, cells, arrays["columns"].tolist())
        self._center = arrays["center"][:, None]
        self._scale = arrays["scale"][:, None]
        self._encoding = arrays["encoding"]
        components = arrays["components"]
        features = len(inputs.names)
        residual = np.eye(features) - components @ components.T
        self._residual = np.rint(np.ldexp(residual, _FINE))
        bits = 53 - _FINE - ceil(log2(features))
        self._high = 2.0 ** (bits - log2(_LIMIT))
        self._low = 2.0 ** (bits + 1)
        # the norm of a row is at most sqrt(F) times its greatest value
        norm = moments.power_above(sqrt(features)) * _LIMIT
        self._unit = norm / moments.LIMIT
        self._square = norm**2 / exact.LIMIT

    @property
    def names(self) -> tuple[str, ...]:
        """The features, in the order of their slots."""
        return self._inputs.names

    def found(self, counted: Counted) -> tuple[float, float, FloatArray]:
        """Mean and standard deviation of the rows' errors; each feature's squared residuals."""
        slots, n = counted.block(NAME), counted.rows
        error = slots[: moments.SLOTS]
        squares = joined(slots[moments.SLOTS : -1]) * self._square
        return self._unit * moments.mean(error, n), self._unit * moments.std(error, n), squares

    @property
    def size(self) -> int:
        return moments.SLOTS + LIMBS * len(self._inputs.names) + 1

    def addends(self, batch: ColumnBatch) -> _Addends:
        found = np.empty((self.size, len(batch)))
        for start in range(0, len(batch), _ROWS):
            part = slice(start, start + _ROWS)
            self._add(batch, part, found[:, part])
        return _Addends(found)

    def bind(self, reference: Counted) -> _Measure:
        return _Measure(self, reference)

    def _add(self, batch: ColumnBatch, part: slice, found: FloatArray) -> None:
        values = self._standardised(batch, part)
        found[-1] = (np.abs(values) > _LIMIT).any(axis=0)
        np.clip(values, -_LIMIT, _LIMIT, out=values)
        squares = self._residuals(values)
        squares *= squares
        total = np.zeros(values.shape[1])
        for row in squares:  # one by one: NumPy's order in a sum depends on the shape
            total += row
        errors = np.minimum(np.sqrt(total) / self._unit, moments.LIMIT)
        moments.addends(errors[np.newaxis], found[np.newaxis, : moments.SLOTS])
        found[moments.SLOTS : -1] = limbs(squares / self._square)

    def _standardised(self, batch: ColumnBatch, part: slice) -> FloatArray:
        """float64[F, n], without NaN; what is missing or not finite is the mean or the mode."""
        numbers = batch.numbers[self._inputs.numbers, part]
        values = np.empty((len(self._inputs.names), numbers.shape[1]))
        own = values[: len(numbers)]
        known = np.isfinite(numbers)
        # beyond float64 is beyond the limit; Arrow can bring signalling NaN
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(numbers, self._center, out=own)
            own /= self._scale
        np.copyto(own, 0.0, where=~known)
        codes = batch.codes[self._inputs.codes, part] + self._inputs.starts
        values[len(numbers) :] = self._encoding[codes]
        return values

    def _residuals(self, values: FloatArray) -> FloatArray:
        """What the projection loses of each value, float64[F, n]."""
        features, n = values.shape
        parts = np.empty((features, 2, n))
        high, low = parts[:, 0], parts[:, 1]
        values = values * self._high
        np.rint(values, out=high)
        values -= high
        values *= self._low
        np.rint(values, out=low)
        products = (self._residual @ parts.reshape(features, -1)).reshape(features, 2, n)
        found: FloatArray = products[:, 1] / self._low
        found += products[:, 0]
        found /= self._high * 2.0**_FINE
        return found


class _Measure:
    def __init__(self, block: _Block, reference: Counted) -> None:
        self._block = block
        self._n = reference.rows
        self._mean, self._std, _ = block.found(reference)

    def measure(self, window: Counted) -> Iterator[Measured]:
        n = window.rows
        value, std, squares = self._block.found(window)
        error = std / sqrt(n) if n else nan
        yield Measured(
            _ERROR,
            NAME,
            "",
            "",
            value,
            n,
            error,
            nan if isnan(error) else max(value - _BAND * error, 0.0),
            value + _BAND * error,
            self._mean,
            self._std * sqrt(1 / n + 1 / self._n) if n and self._n else nan,
        )
        total = float(squares.sum())
        for name, square in zip(self._block.names, squares.tolist(), strict=True):
            share = square / total if total else nan
            yield Measured(_CONTRIBUTION, _CONTRIBUTION.metric, name, name, share, n)
        clipped = float(window.block(NAME)[-1]) if n else nan
        yield Measured(_CLIPPED, _CLIPPED.metric, "", "", clipped, n)


class ReconstructionError:
    """PCA reconstruction error: the mean over rows of ‖z − V Vᵀ z‖₂, at least 0.

    Only features enter, as in NannyML 0.13.1:

    - a missing number (also of a wrong type, and ±inf) is the mean, a missing category the most
      frequent one; text and booleans are categorical, integers are numbers;
    - a category is replaced by its frequency in the reference, an unseen one by 0;
    - each feature is standardised by the reference's mean and standard deviation (divisor N), a
      constant one by the standard deviation 1;
    - V are the first principal components of the reference, as few as explain more than 65 % of
      its variance.

    Everything is learned from all rows of the reference. The sampling error is the standard
    deviation (divisor n − 1) of the rows' errors over √n, the band three of them to each side but
    not below 0. ``reconstruction_contribution`` of a feature is its part in the sum of the rows'
    squared errors; NaN where that is 0.

    A standardised value beyond ± 32,768 is taken to lie there, and its row is counted under
    ``reconstruction_clipped``. NaN for a window without rows. Does not apply to fewer than two
    usable features: a constant is usable, a column without any value, or whose moments leave
    float64, is not. A row of the reference with a category that was too rare to be listed is
    learned with the frequency 0.

    Against NannyML's tables (four data sets, chunks of 5,000) values and thresholds differ by less
    than 1e-8 of them, sampling errors by less than 5e-7.
    """

    name = NAME
    definitions = (_ERROR, _CONTRIBUTION, _CLIPPED)

    def learner(self, study: Study) -> Learner | None:
        columns = [i for i, c in enumerate(study.schema.columns) if usable(c, study.cells[c.name])]
        return Learner(study, columns) if len(columns) > 1 else None

    def load(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> _Block:
        return _Block(schema, cells, arrays)


register_block(ReconstructionError())
