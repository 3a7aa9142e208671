"""Isotonic calibration of scores, and whether they need it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
import scipy  # which imports its parts where they are first used

from stream_monitor.methods.performance.metrics import roc_auc
from stream_monitor.schema import BoolArray, FloatArray, IntArray

_SPLITS = 10
_TEST = 0.1
_SEED = 42
_BINS = 10
_PERFECT = 0.999


@dataclass(frozen=True, slots=True)
class Calibrator:
    """From a score to a probability: linear between knots, constant beyond them.

    Without knots the score itself, within [0, 1].
    """

    x: FloatArray
    y: FloatArray

    def __call__(self, scores: FloatArray) -> FloatArray:
        """float64[n] of finite scores, in [0, 1]."""
        if not len(self.x):
            return np.clip(scores, 0.0, 1.0)
        return np.interp(scores, self.x, self.y)


NO_CALIBRATION = Calibrator(np.empty(0), np.empty(0))


def fitted(scores: FloatArray, labels: FloatArray) -> Calibrator:
    """Isotonic regression of labels on scores, as scikit-learn's ``IsotonicRegression``.

    Labels of equal scores are averaged, then neighbours that violate the order are pooled
    (``scipy.optimize.isotonic_regression``). Points within a constant stretch are left out.

    Parameters
    ----------
    scores : float64[n], finite
    labels : float64[n], 0 or 1
    """
    x, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    y = pooled(np.bincount(place, labels).astype(np.float64), weights)
    kept = np.ones(len(x), dtype=np.bool_)
    kept[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    return Calibrator(x[kept], y[kept])


def pooled(positives: FloatArray, totals: FloatArray) -> FloatArray:
    """The rising shares that fit best; where there is nothing, what lies between its neighbours.

    Parameters
    ----------
    positives, totals : float64[k]
        In the order of the scores; some total is not 0.
    """
    some = np.flatnonzero(totals > 0)
    if not len(some):
        return np.full(len(totals), np.nan)
    weights = totals[some]
    found = scipy.optimize.isotonic_regression(positives[some] / weights, weights=weights).x
    between: FloatArray = np.interp(np.arange(len(totals)), some, np.clip(found, 0.0, 1.0))
    return between


def needs_calibration(scores: FloatArray, labels: BoolArray) -> bool:
    """Whether isotonic regression lowers the expected calibration error, by NannyML 0.13.1's rule.

    Not with one class, nor where the ROC AUC is above 0.999. Else ten times a tenth of the rows is
    put aside (:func:`splits`), the rest calibrates it, and over all rows put aside the error before
    is compared with the error after (:func:`calibration_error`). Fewer than two rows of a class, or
    fewer than four rows to test on: no.
    """
    positives = int(np.count_nonzero(labels))
    if min(positives, len(labels) - positives) < 2 or _SPLITS * ceil(_TEST * len(labels)) < 4:
        return False
    values, place = np.unique(scores, return_inverse=True)
    above = np.bincount(place[labels], minlength=len(values)).astype(np.float64)
    below = np.bincount(place[~labels], minlength=len(values)).astype(np.float64)
    if roc_auc(above, below) > _PERFECT:
        return False
    truth = labels.astype(np.float64)
    tested, before, after = [], [], []
    for train, test in splits(labels):
        tested.append(truth[test])
        before.append(scores[test])
        after.append(fitted(scores[train], truth[train])(scores[test]))
    label = np.concatenate(tested)
    raw = calibration_error(np.concatenate(before), label)
    return raw > calibration_error(np.concatenate(after), label)


def calibration_error(probabilities: FloatArray, labels: FloatArray) -> float:
    """Expected calibration error: Σ share · |mean probability − mean label| over bins, in [0, 1].

    Bins hold equally many rows, a tenth (the last the rest, too), in the order of the probability;
    of up to twenty rows, two.
    """
    n = len(labels)
    width = n // (_BINS if n > 2 * _BINS else n // 2)
    edges = np.arange(0, n + 1, width)[:-1]
    order = np.argsort(probabilities, kind="stable")
    difference = np.add.reduceat((probabilities - labels)[order], edges)
    return float(np.abs(difference).sum() / n)


def splits(labels: BoolArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Rows to learn from and rows to test on, ten times, with the classes' shares in both.

    The same rows in the same order as scikit-learn's ``StratifiedShuffleSplit(10, test_size=0.1,
    random_state=42)``, on which NannyML's decision rests; so the draws follow one another as there.
    """
    random = np.random.RandomState(_SEED)
    n = len(labels)
    test_rows = ceil(_TEST * n)
    classes = [np.flatnonzero(~labels), np.flatnonzero(labels)]
    sizes = np.array([len(rows) for rows in classes], dtype=np.int64)
    for _ in range(_SPLITS):
        train_sizes = _apportioned(sizes, n - test_rows, random)
        test_sizes = _apportioned(sizes - train_sizes, test_rows, random)
        train, test = [], []
        for rows, size, other in zip(classes, train_sizes, test_sizes, strict=True):
            shuffled = rows[random.permutation(len(rows))]
            train.append(shuffled[:size])
            test.append(shuffled[size : size + other])
        yield random.permutation(np.concatenate(train)), random.permutation(np.concatenate(test))


def _apportioned(sizes: IntArray, wanted: int, random: np.random.RandomState) -> IntArray:
    """So many rows shared out by size: whole parts first, then by the largest fractions."""
    exact = sizes / sizes.sum() * wanted
    found = np.floor(exact)
    missing = int(wanted - found.sum())
    fractions = exact - found
    for fraction in np.unique(fractions)[::-1]:
        if not missing:
            break
        alike = np.flatnonzero(fractions == fraction)
        chosen = random.choice(alike, size=min(len(alike), missing), replace=False)
        found[chosen] += 1
        missing -= len(chosen)
    whole: IntArray = found.astype(np.int64)
    return whole
