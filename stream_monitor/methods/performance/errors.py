"""Sampling errors: what a metric's standard deviation in n rows is, times √n.

The error of a smooth function of shares is that of its linear part (delta method): each row adds
its *influence*, the metric's derivatives by the row's share, and the deviation of the metric is the
standard deviation of the influences over √n. For ROC AUC this is DeLong, DeLong and Clarke-Pearson
(1988).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from stream_monitor.methods.performance.metrics import (
    Sums,
    average_precision_slopes,
    ranking_slopes,
)
from stream_monitor.methods.performance.problem import POSITIVE
from stream_monitor.schema import FloatArray, IntArray

_MULTICLASS_AUC = 1.2  # NannyML's factor


def shares(sums: Sums) -> Sums:
    """The same in shares of the rows; NaN without rows."""
    pairs, ranked = sums.pairs or np.nan, sums.ranked or np.nan
    return Sums(
        sums.matrix / pairs,
        sums.pairs,
        tuple(p / ranked for p in sums.positives),
        tuple(n / ranked for n in sums.totals),
        sums.ranked,
    )


def linear_deviation(slopes: FloatArray, matrix: FloatArray) -> FloatArray:
    """Standard deviation of slopes[true, predicted] over rows.

    Parameters
    ----------
    slopes : float64[m, K, K]
    matrix : float64[K, K], shares of the rows

    Returns
    -------
    float64[m]
    """
    mean = np.einsum("mij,ij->m", slopes, matrix)
    square = np.einsum("mij,ij->m", slopes**2, matrix)
    found: FloatArray = np.sqrt(np.maximum(square - mean**2, 0.0))
    return found


def estimated_deviation(slopes: FloatArray, second: FloatArray) -> FloatArray:
    """The same of an estimate, whose rows add Σ probability[class] · slopes[class, predicted].

    Parameters
    ----------
    slopes : float64[m, K, K]
    second : float64[K, K, K]
        [j, k, l] is the mean over rows of the product of the probabilities of k and l where j is
        predicted, 0 elsewhere.
    """
    mean = np.einsum("mkj,jkl->m", slopes, second)  # probabilities sum to 1
    square = np.einsum("mkj,jkl,mlj->m", slopes, second, slopes, optimize=True)
    found: FloatArray = np.sqrt(np.maximum(square - mean**2, 0.0))
    return found


def ranking_deviation(sums: Sums, *, estimated: bool) -> FloatArray:
    """Deviations of ROC AUC and average precision as if columns moved together, float64[2].

    Estimated: of the sums of probabilities, taken to be alike within a cell.

    Parameters
    ----------
    sums : shares
    """
    found = np.zeros(2)
    columns = zip(ranking_slopes(sums), sums.positives, sums.totals, strict=True)
    for (positive, negative), p, n in columns:
        if estimated:
            rate = np.divide(p, n, out=np.zeros(len(n)), where=n > 0)
            square = (rate * positive + (1 - rate) * negative) ** 2 @ n
        else:
            square = positive**2 @ p + negative**2 @ np.maximum(n - p, 0.0)
        found += np.sqrt(square)
    return found


def together(sums: Sums, labels: FloatArray, codes: IntArray, starts: IntArray) -> FloatArray:
    """The deviations of ROC AUC and average precision in these rows, float64[2].

    What :func:`ranking_deviation` cannot know: how the columns depend on each other.

    Parameters
    ----------
    sums : shares, of the rows
    labels : float64[S, n]
        1 or the probability where a row is of a column's class.
    codes : int64[S, n]
        Cells, as :class:`~stream_monitor.methods.performance.scores.ScoreCells` numbers them.
    starts : int64[S + 1]
    """
    influence = np.zeros((2, labels.shape[1]))
    for i, (positive, negative) in enumerate(ranking_slopes(sums)):
        at = codes[i] - starts[i]
        influence += labels[i] * positive[:, at] + (1 - labels[i]) * negative[:, at]
    found: FloatArray = np.sqrt((influence**2).mean(axis=1))
    return found


@dataclass(frozen=True, slots=True)
class NannyML:
    """Sampling errors as NannyML 0.13.1 has them, from counts of the reference.

    - F1 of one class: as if TP were drawn among TP + FP + FN, in multiclass problems not scaled;
    - ROC AUC: the spread, over the rarer class, of the share of the others below it, with tied
      rows in random order; the mean of classes as if they were independent, times 1.2;
    - average precision: by the delta method, where NannyML takes 50 resamples without a seed; the
      mean of classes as if they were one and the same;
    - other rates: as by the delta method, but the mean of classes as if they were independent.
    """

    binary: bool

    def rates(self, matrix: FloatArray) -> FloatArray:
        """float64[5], in the order of ``metrics.RATES``; ``matrix`` in shares."""
        right = matrix.diagonal()
        true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
        relevant = true + predicted - right
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = 2 * relevant / (true + predicted) if self.binary else 1.0
            each = np.stack(
                [
                    scale**2 * _binomial(right / relevant) / relevant,
                    _binomial(right / predicted) / predicted,
                    _binomial(right / true) / true,
                    _binomial((predicted - right) / (1 - true)) / (1 - true),
                ]
            )
        squares = each[:, POSITIVE] if self.binary else each.sum(axis=1) / len(matrix) ** 2
        found: FloatArray = np.sqrt(np.append(squares, _binomial(right.sum())))
        return found

    def ranking(self, sums: Sums) -> FloatArray:
        """float64[2], of counts; NaN without rows or scores."""
        columns = len(sums.totals)
        if not columns or not sums.ranked:
            return np.full(2, np.nan)
        auc, average = 0.0, 0.0
        for p, n in zip(sums.positives, sums.totals, strict=True):
            auc += _auc_variance(p, n - p)
            by_positive, by_negative = average_precision_slopes(p / n.sum(), (n - p) / n.sum())
            average += float(by_positive**2 @ p + by_negative**2 @ (n - p)) / n.sum()
        factor = 1.0 if self.binary else _MULTICLASS_AUC / columns
        return np.array([factor * sqrt(auc), sqrt(average / columns)])


def _binomial(share: FloatArray) -> FloatArray:
    return share * (1 - share)


def _auc_variance(positives: FloatArray, negatives: FloatArray) -> float:
    p, n = float(positives.sum()), float(negatives.sum())
    if not p or not n:
        return np.nan
    if p > n:
        p, n, positives, negatives = n, p, negatives[::-1], positives[::-1]
    below = np.cumsum(negatives) - negatives / 2
    # a row among m tied ones of the other class has 0 … m of them below, each as likely
    within = negatives * (negatives + 2) / 12
    variance = positives @ ((below - positives @ below / p) ** 2 + within) / p
    return float(variance) / n**2 * (p + n) / p
