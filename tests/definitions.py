"""Estimated and realised performance straight from the definitions, on all rows at once.

Written for the tests, with scikit-learn's calibrator, splits and metrics, and none of the code that
it is compared with. Definitions: NannyML 0.13.1, confidence-based performance estimation (CBPE),
and its realised performance. A class is a column of ``scores``: float64[n, K]; ``labels`` and
``predicted`` are int64[n] in 0 … K − 1. Two classes are one column, the score of class 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn import metrics
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import StratifiedShuffleSplit

from stream_monitor.schema import BoolArray, FloatArray, IntArray

Calibrator = Callable[[FloatArray], FloatArray]

_BINS = 10


def calibrators(scores: FloatArray, labels: IntArray) -> list[Calibrator]:
    """One for each column of scores, fitted on the reference where that helps."""
    return [
        _fitted(column, hit) if needs_calibration(column, hit) else np.asarray
        for column, hit in zip(scores.T, _hits(scores, labels), strict=True)
    ]


def calibrated(scores: FloatArray, fitted: Sequence[Calibrator]) -> FloatArray:
    """Probabilities float64[n, K], which sum to one where there are several columns."""
    found = np.stack([f(column) for f, column in zip(fitted, scores.T, strict=True)], axis=1)
    if found.shape[1] == 1:
        return found
    total = found.sum(axis=1, keepdims=True)
    return np.asarray(
        np.where(total > 0, found / np.where(total > 0, total, 1), 1 / found.shape[1])
    )


def needs_calibration(score: FloatArray, hit: BoolArray) -> bool:
    """Whether isotonic regression lowers the calibration error on the pooled test splits."""
    if hit.all() or not hit.any() or metrics.roc_auc_score(hit, score) > 0.999:
        return False
    splits = StratifiedShuffleSplit(n_splits=10, test_size=0.1, random_state=42)
    before, after, seen = [], [], []
    for train, test in splits.split(score, hit):
        before.append(score[test])
        after.append(_fitted(score[train], hit[train])(score[test]))
        seen.append(hit[test])
    hits = np.concatenate(seen)
    return _error(np.concatenate(before), hits) > _error(np.concatenate(after), hits)


def _fitted(score: FloatArray, hit: BoolArray) -> Calibrator:
    model = IsotonicRegression(out_of_bounds="clip", increasing=True).fit(score, hit)
    return lambda x: np.asarray(model.predict(x))


def _error(score: FloatArray, hit: BoolArray) -> float:
    """Expected calibration error over ten bins of equally many rows; the last takes the rest."""
    order = np.argsort(score, kind="stable")
    width = len(score) // _BINS
    cuts = np.arange(1, _BINS) * width
    pieces = zip(np.split(score[order], cuts), np.split(hit[order], cuts), strict=True)
    return float(sum(abs(p.mean() - h.mean()) * len(p) for p, h in pieces)) / len(score)


def _hits(scores: FloatArray, labels: IntArray) -> list[BoolArray]:
    return [labels == k for k in _classes(scores)]


def _classes(scores: FloatArray) -> range:
    """The class of each column."""
    return range(1, 2) if scores.shape[1] == 1 else range(scores.shape[1])


def estimated(
    scores: FloatArray, predicted: IntArray, fitted: Sequence[Calibrator], names: Sequence[str]
) -> dict[str, float]:
    """CBPE of a window: the expectation of each metric's parts under the calibrated scores."""
    chance = calibrated(scores, fitted)
    if chance.shape[1] == 1:
        chance = np.concatenate([1 - chance, chance], axis=1)
    matrix = np.stack([chance[predicted == k].sum(axis=0) for k in range(chance.shape[1])], axis=1)
    ranked = [
        _ranking(score, chance[:, k]) for k, score in zip(_classes(scores), scores.T, strict=True)
    ]
    area, precision = np.mean(ranked, axis=0)
    return _counted(matrix, names) | {"roc_auc": area, "average_precision": precision}


def realized(
    scores: FloatArray, predicted: IntArray, labels: IntArray, names: Sequence[str]
) -> dict[str, float]:
    """The same metrics against the true labels, by scikit-learn."""
    matrix = metrics.confusion_matrix(labels, predicted, labels=range(len(names)))
    pairs = list(zip(_hits(scores, labels), scores.T, strict=True))
    return _counted(matrix, names) | {
        "roc_auc": np.mean([metrics.roc_auc_score(hit, score) for hit, score in pairs]),
        "average_precision": np.mean(
            [metrics.average_precision_score(hit, score) for hit, score in pairs]
        ),
    }


def _counted(matrix: FloatArray, names: Sequence[str]) -> dict[str, float]:
    """Metrics of a confusion matrix, true class × predicted class; macro means of all classes."""
    total, hit = matrix.sum(), np.diag(matrix)
    missed, false = matrix.sum(axis=1) - hit, matrix.sum(axis=0) - hit
    rest = total - hit - missed - false
    each = {
        "precision": hit / (hit + false),
        "recall": hit / (hit + missed),
        "specificity": rest / (rest + false),
        "f1": 2 * hit / (2 * hit + false + missed),
    }
    found = {"accuracy": hit.sum() / total}
    if len(hit) == 2:
        (tn, fp), (fn, tp) = matrix
        cells = {
            "true_positive": tp,
            "true_negative": tn,
            "false_positive": fp,
            "false_negative": fn,
        }
        return found | cells | {name: values[1] for name, values in each.items()}
    cells = {
        f"true_{a}_pred_{b}": matrix[i, j] for i, a in enumerate(names) for j, b in enumerate(names)
    }
    return found | cells | {name: values.mean() for name, values in each.items()}


def _ranking(score: FloatArray, chance: FloatArray) -> tuple[float, float]:
    """Expected ROC AUC and average precision; rows of equal score count as the mean of them."""
    _, at = np.unique(-score, return_inverse=True)
    chance = (np.bincount(at, chance) / np.bincount(at))[np.sort(at)]
    hits = np.cumsum(chance)
    ranks = np.arange(1, len(hits) + 1)
    recall = np.concatenate([[0], hits / hits[-1]])
    misses = np.concatenate([[0], (ranks - hits) / (ranks - hits)[-1]])
    area = np.trapezoid(recall, misses)
    return float(area), float(np.diff(recall) @ (hits / ranks))
