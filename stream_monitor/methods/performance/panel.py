"""The metrics of one problem: their names, values, deviations, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

import numpy as np

from stream_monitor.methods.base import Chunks, Definition, Measured
from stream_monitor.methods.performance.errors import (
    NannyML,
    estimated_deviation,
    linear_deviation,
    ranking_deviation,
)
from stream_monitor.methods.performance.metrics import (
    RANKING,
    RATES,
    Sums,
    ranking,
    rate_slopes,
    rates,
)
from stream_monitor.methods.performance.problem import NEGATIVE, POSITIVE, Problem
from stream_monitor.methods.performance.worth import Worth
from stream_monitor.schema import BoolArray, FloatArray
from stream_monitor.values import REALIZED

_BAND = 3.0  # standard errors on each side of an estimate
_COUNTS = {
    (POSITIVE, POSITIVE): "true_positive",
    (NEGATIVE, NEGATIVE): "true_negative",
    (NEGATIVE, POSITIVE): "false_positive",
    (POSITIVE, NEGATIVE): "false_negative",
}
_HELP = {
    "roc_auc": "Area under the ROC curve, one class against the rest, mean over classes.",
    "average_precision": "Mean precision over recall, one class against the rest, mean of classes.",
    "f1": "Harmonic mean of precision and recall, mean over classes.",
    "precision": "Share of the rows predicted to be of a class that are, mean over classes.",
    "recall": "Share of a class's rows that are predicted to be, mean over classes.",
    "specificity": "Share of the rows not of a class that are predicted so, mean over classes.",
    "accuracy": "Share of the rows whose predicted class is the true one.",
}


def definitions(family: str) -> tuple[Definition, ...]:
    """What is measured, in the order of a panel's metrics."""
    chosen = *RANKING, *RATES
    return (
        *(Definition(m, family, 0.0, 1.0, _HELP[m], Chunks.BOTH, REALIZED) for m in chosen),
        Definition(
            "confusion_matrix",
            family,
            0.0,
            inf,
            "Rows of a true and a predicted class, one value each.",
            Chunks.BOTH,
            REALIZED,
        ),
        Definition(
            "business_value",
            family,
            -inf,
            inf,
            "Sum over rows of what a row of its true and predicted class is worth.",
            Chunks.BOTH,
            REALIZED,
        ),
    )


class Panel:
    """Metrics as vectors: ROC AUC and average precision where there are scores; F1, precision,
    recall, specificity, accuracy, the confusion matrix and the business value where there are
    predicted classes.

    Attributes
    ----------
    binary
        As the problem.
    ranking, paired
        Whether there are scores, and predicted classes.
    scaled : bool[M]
        Which grow with the rows.
    ranked : bool[M]
        Which are of ``Sums.ranked`` rows; the others are of its ``pairs``.
    """

    def __init__(
        self, problem: Problem, family: str, worth: Worth | None, *, estimated: bool, compat: bool
    ) -> None:
        self.binary = problem.binary
        self._worth = worth
        self._estimated = estimated
        self._compat = compat
        *simple, matrix, value = definitions(family)
        self.ranking = len(problem.scores) > 0
        self.paired = problem.prediction is not None
        found = [(d.metric, d) for d in simple[: len(RANKING)] if self.ranking]
        ranked = len(found)
        if self.paired:
            found += [(d.metric, d) for d in simple[len(RANKING) :]]
            found += [(name, matrix) for name in _cells(problem)]
            if worth is not None:
                found.append((value.metric, value))
        self._metrics = found
        self.scaled: BoolArray = np.array(
            [
                d is matrix or (worth is not None and d is value and not worth.per_prediction)
                for _, d in found
            ],
            dtype=np.bool_,
        )
        self.ranked: BoolArray = np.arange(len(found)) < ranked
        self._low = np.array([d.low for _, d in found])
        self._high = np.array([d.high for _, d in found])

    @property
    def names(self) -> list[str]:
        """The metrics, in the order of every vector."""
        return [name for name, _ in self._metrics]

    def values(self, sums: Sums, tied: tuple[bool, ...] | None) -> FloatArray:
        """float64[M]; ``tied`` is that of :func:`~.metrics.ranking`."""
        found = [ranking(sums, tied)] if self.ranking else []
        if self.paired:
            found.append(self._paired(sums))
        return np.concatenate([np.empty(0), *found])

    def _paired(self, sums: Sums) -> FloatArray:
        matrix = sums.matrix
        zero = self._compat and (self._estimated or not self.binary)
        found = rates(matrix, binary=self.binary, empty=0.0 if zero else np.nan)
        cells = matrix.ravel() if sums.pairs else np.full(matrix.size, np.nan)
        if self._compat and not self._estimated:
            true, predicted = matrix.sum(axis=1) > 0, matrix.sum(axis=0) > 0
            if true.sum() < 2 or predicted.sum() < 2:
                # NannyML tells nothing where either has one class
                found[: 3 if self.binary else 4] = np.nan
                if not self.binary:
                    cells = np.full(matrix.size, np.nan)
            if (true | predicted).sum() < 2:
                found[:4] = np.nan
        worth = []
        if self._worth is not None:
            worth = [self._worth.value(matrix) if sums.pairs else np.nan]
        return np.concatenate([found, cells, worth])

    def slopes(self, matrix: FloatArray) -> FloatArray:
        """Of the rates and the business value, float64[5 or 6, K, K]; ``matrix`` in shares."""
        found = rate_slopes(matrix, binary=self.binary)
        if self._worth is None:
            return found
        return np.concatenate([found, self._worth.slopes(matrix)[None]])

    def linear(self, matrix: FloatArray) -> FloatArray:
        """Deviations of all but the ranking metrics where rows are of these shares."""
        return self._ordered(
            linear_deviation(self.slopes(matrix), matrix),
            np.sqrt(np.maximum(matrix * (1 - matrix), 0.0)),
        )

    def smoothed(self, second: FloatArray) -> FloatArray:
        """Deviations of estimates of the same; see :func:`~.errors.estimated_deviation`."""
        matrix = second.sum(axis=2).T
        square = np.einsum("jkk->kj", second)
        cells = np.sqrt(np.maximum(square - matrix**2, 0.0))
        return self._ordered(estimated_deviation(self.slopes(matrix), second), cells)

    def moved(self, matrix: FloatArray, draws: FloatArray) -> FloatArray:
        """Root mean squares over draws of the differences that differences of the matrix make.

        Parameters
        ----------
        matrix : float64[K, K], shares
        draws : float64[B, K, K]
        """
        differences = np.einsum("mkj,bkj->mb", self.slopes(matrix), draws)
        return self._ordered(
            np.sqrt((differences**2).mean(axis=1)), np.sqrt((draws**2).mean(axis=0))
        )

    def deviations(self, sums: Sums, factors: FloatArray) -> FloatArray:
        """float64[M] of sums in shares: over √n, the realized metrics' standard deviations.

        ``factors`` float64[2] is what the sums cannot tell of the ranking metrics.
        """
        return self._all(
            ranking_deviation(sums, estimated=False) * factors, lambda: self.linear(sums.matrix)
        )

    def estimated_deviations(
        self, sums: Sums, factors: FloatArray, second: FloatArray
    ) -> FloatArray:
        """The same of estimates.

        How far these are below the realized ones is known of the rows that gave ``second`` (see
        :meth:`smoothed`), and taken to be alike in others.
        """

        def paired() -> FloatArray:
            alike = self.linear(second.sum(axis=2).T)
            none = np.zeros(len(alike))
            ratios = np.divide(self.smoothed(second), alike, out=none, where=alike > 0)
            return self.linear(sums.matrix) * ratios

        return self._all(ranking_deviation(sums, estimated=True) * factors, paired)

    def nannyml_errors(self, matrix: FloatArray, ranked: FloatArray) -> FloatArray:
        """float64[M], NannyML's deviations; ``matrix`` in shares, ``ranked`` float64[2]."""

        def paired() -> FloatArray:
            found = self.linear(matrix)
            found[: len(RATES)] = NannyML(self.binary).rates(matrix)
            return found

        return self._all(ranked, paired)

    def _all(self, ranked: FloatArray, paired: Callable[[], FloatArray]) -> FloatArray:
        found = [ranked] if self.ranking else []
        if self.paired:
            found.append(paired())
        return np.concatenate([np.empty(0), *found])

    @staticmethod
    def _ordered(other: FloatArray, cells: FloatArray) -> FloatArray:
        return np.concatenate([other[: len(RATES)], cells.ravel(), other[len(RATES) :]])

    def rows(self, sums: Sums) -> FloatArray:
        """float64[M]."""
        return np.where(self.ranked, sums.ranked, sums.pairs).astype(np.float64)

    def measured(
        self,
        values: FloatArray,
        rows: FloatArray,
        *,
        errors: FloatArray,
        band: FloatArray,
        expected: FloatArray,
        spread: FloatArray,
    ) -> Iterator[Measured]:
        """The values as they are shown, all float64[M].

        ``errors`` and ``spread`` are those of values for one row and of ratios to rows where
        ``scaled``; ``band`` is the standard error that the band is made of, NaN for none.
        """
        scale = np.where(self.scaled, rows, 1.0)
        reach = _BAND * band * scale
        columns = (
            values,
            errors * scale,
            np.maximum(values - reach, self._low),
            np.minimum(values + reach, self._high),
            expected * scale,
            spread * scale,
        )
        for (name, definition), n, *own in zip(
            self._metrics, rows.tolist(), *(c.tolist() for c in columns), strict=True
        ):
            value, error, low, high, mean, std = own
            yield Measured(definition, name, "", "", value, int(n), error, low, high, mean, std)


def _cells(problem: Problem) -> list[str]:
    """The names of the confusion matrix's cells, true class by predicted class."""
    if problem.binary:
        return [_COUNTS[i, j] for i in range(2) for j in range(2)]
    return [f"true_{i}_pred_{j}" for i in problem.classes for j in problem.classes]
