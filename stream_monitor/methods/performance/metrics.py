"""The metrics as functions of sums: a confusion matrix, and positives and rows in cells of scores.

Labels may be probabilities (estimated performance): then the sums are sums of probabilities.
Cells are in rising order of the score throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma

from stream_monitor.methods.performance.problem import POSITIVE
from stream_monitor.schema import FloatArray

RATES = ("f1", "precision", "recall", "specificity", "accuracy")
RANKING = ("roc_auc", "average_precision")


@dataclass(frozen=True, slots=True)
class Sums:
    """What the metrics are made of.

    Attributes
    ----------
    matrix : float64[K, K]
        Rows by true class (first axis) and predicted class.
    pairs
        The number of rows in it.
    positives, totals : float64[cells] for each score column
        Rows of the column's class, and all rows.
    ranked
        The number of rows in each column's totals.
    """

    matrix: FloatArray
    pairs: int
    positives: tuple[FloatArray, ...]
    totals: tuple[FloatArray, ...]
    ranked: int


def rates(matrix: FloatArray, *, binary: bool, empty: float) -> FloatArray:
    """F1, precision, recall, specificity and accuracy, float64[5], each in [0, 1].

    Of one class against the rest, with TP, FP, FN and TN: 2 TP / (2 TP + FP + FN), TP / (TP + FP),
    TP / (TP + FN), TN / (TN + FP). Binary: of the positive class; else the unweighted mean over
    classes. Accuracy is the share of the diagonal. ``empty`` is the value of 0/0, also for one
    class among others; without rows all are NaN.

    Parameters
    ----------
    matrix : float64[K, K], true by predicted class
    """
    total = matrix.sum()
    if not total > 0:
        return np.full(len(RATES), np.nan)
    right = matrix.diagonal()
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    # differences of sums of probabilities may be a hair below 0
    negative = np.maximum(total - true, 0.0)
    rejected = np.maximum(negative - (predicted - right), 0.0)
    above = np.stack([2 * right, right, right, rejected])
    below = np.stack([true + predicted, predicted, true, negative])
    each = np.full(above.shape, empty)
    np.divide(above, below, out=each, where=below > 0)
    mean = each[:, POSITIVE] if binary else each.mean(axis=1)
    return np.append(mean, right.sum() / total)


def rate_slopes(matrix: FloatArray, *, binary: bool) -> FloatArray:
    """The derivatives of :func:`rates` by the matrix, float64[5, K, K]; NaN where a rate is 0/0."""
    size = len(matrix)
    total, right = matrix.sum(), matrix.diagonal()
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    found = np.zeros((len(RATES), size, size))
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = 2 * right / (true + predicted)
        false = (predicted - right) / (total - true)
        for k in (POSITIVE,) if binary else range(size):
            row, column = np.zeros((2, size, size))
            row[k] = column[:, k] = 1.0
            hit, both = row * column, true[k] + predicted[k]
            found[0] += (2 * hit - f1[k] * (row + column)) / both
            found[1] += (hit - right[k] / predicted[k] * column) / predicted[k]
            found[2] += (hit - right[k] / true[k] * row) / true[k]
            found[3] += (false[k] - column) * (1 - row) / (total - true[k])
        found[:4] /= 1 if binary else size
        found[4] = (np.eye(size) - right.sum() / total) / total
    return found


def roc_auc(positives: FloatArray, negatives: FloatArray) -> float:
    """P(a positive's score is above a negative's), a tie counting one half; in [0, 1].

    Ranks within a cell count as ties, which is the straight line of the trapezoidal rule. NaN
    without a positive or without a negative.
    """
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / pairs) if pairs > 0 else np.nan


def roc_auc_slopes(positives: FloatArray, negatives: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The derivatives of :func:`roc_auc` by positives and negatives, float64[cells] each."""
    p, n = positives.sum(), negatives.sum()
    auc = roc_auc(positives, negatives)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = (np.cumsum(negatives) - negatives / 2) / n
        above = 1 - (np.cumsum(positives) - positives / 2) / p
        return (below - auc) / p, (above - auc) / n


def average_precision(positives: FloatArray, totals: FloatArray, *, tied: bool) -> float:
    """Σ (recallᵢ − recallᵢ₋₁) precisionᵢ over thresholds from the highest score on, in [0, 1].

    Tied: each cell is one threshold, scikit-learn's ``average_precision_score`` of equal scores.
    Else each row is one, and the expectation is given for rows in a cell in random order: the
    t-th of n rows with p positives, after R rows with T positives, has, if positive, the precision
    (T + 1 + (t − 1)(p − 1)/(n − 1)) / (R + t). NaN without a positive.
    """
    return _averaged(positives, totals, "tied" if tied else "shuffled")


def estimated_average_precision(probabilities: FloatArray, totals: FloatArray) -> float:
    """As NannyML 0.13.1 estimates it: each row is a threshold and adds its probability.

    With the mean probability q of a cell its t-th row, after R rows with the sum T, adds
    q (T + t q) / (R + t). NaN where the sum of probabilities is 0.
    """
    return _averaged(probabilities, totals, "fractional")


def _averaged(positives: FloatArray, totals: FloatArray, rule: str) -> float:
    some = totals[::-1] > 0
    p, n = positives[::-1][some], totals[::-1][some]
    found, rows = np.cumsum(p), np.cumsum(n)
    if not len(p) or found[-1] <= 0:
        return np.nan
    if rule == "tied":
        added = p * found / rows
    else:
        # Σ (a + t q) / (R + t) = n q + (a − R q) Σ 1 / (R + t)
        harmonic = digamma(rows + 1) - digamma(rows - n + 1)
        if rule == "fractional":
            q, first = p / n, found - p
        else:
            q = np.where(n > 1, (p - 1) / np.maximum(n - 1, 1), 0.0)
            first = found - p + 1 - q
        added = p / n * (n * q + (first - (rows - n) * q) * harmonic)
    # rounding must not leave the range
    return float(min(added.sum() / found[-1], 1.0))


def average_precision_slopes(
    positives: FloatArray, negatives: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The derivatives of the tied :func:`average_precision` by positives and negatives."""
    p, n = positives[::-1], positives[::-1] + negatives[::-1]
    found, rows = np.cumsum(p), np.cumsum(n)
    total = found[-1]
    if total <= 0:
        return np.full(len(p), np.nan), np.full(len(p), np.nan)
    precision = np.divide(found, rows, out=np.zeros(len(p)), where=rows > 0)
    # what a row more at or above the later thresholds does to their precision
    weight = np.divide(p, rows, out=np.zeros(len(p)), where=rows > 0)
    later = np.cumsum((weight * precision)[::-1])[::-1]
    gained = np.cumsum(weight[::-1])[::-1]
    average = float(p @ precision) / total
    by_positive = (precision - average + gained - later) / total
    return by_positive[::-1], -later[::-1] / total


def ranking(sums: Sums, tied: tuple[bool, ...] | None) -> FloatArray:
    """ROC AUC and average precision, the means over the score columns' classes; float64[2].

    ``tied`` of each column, None for sums of probabilities.
    """
    found = []
    for i, (p, n) in enumerate(zip(sums.positives, sums.totals, strict=True)):
        if tied is None:
            average = estimated_average_precision(p, n)
        else:
            average = average_precision(p, n, tied=tied[i])
        found.append([roc_auc(p, np.maximum(n - p, 0.0)), average])
    mean: FloatArray = np.mean(found, axis=0)
    return mean


def ranking_slopes(sums: Sums) -> list[tuple[FloatArray, FloatArray]]:
    """For each score column the derivatives of :func:`ranking` by its positives and negatives.

    float64[2, cells] each, for sums that are shares of the rows; the means over columns included.
    """
    found = []
    for p, n in zip(sums.positives, sums.totals, strict=True):
        negatives = np.maximum(n - p, 0.0)
        auc, average = roc_auc_slopes(p, negatives), average_precision_slopes(p, negatives)
        columns = len(sums.totals)
        found.append(
            (np.stack([auc[0], average[0]]) / columns, np.stack([auc[1], average[1]]) / columns)
        )
    return found
