"""From scores to probabilities: what confidence-based estimation learns from a reference."""

from __future__ import annotations

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.methods.base import Arrays, Study
from stream_monitor.methods.performance.calibration import (
    NO_CALIBRATION,
    Calibrator,
    fitted,
    needs_calibration,
)
from stream_monitor.methods.performance.errors import NannyML
from stream_monitor.methods.performance.learned import options, ranking_factors, ranking_sums
from stream_monitor.methods.performance.problem import Problem
from stream_monitor.methods.performance.scores import ScoreCells
from stream_monitor.methods.performance.uncertainty import RANGES, bootstrapped
from stream_monitor.schema import FloatArray, IntArray


def calibrated(calibrators: tuple[Calibrator, ...], scores: FloatArray) -> FloatArray:
    """The probability that each score gives its class against the rest, float64[S, n]."""
    found = np.empty(scores.shape)
    for i, calibrator in enumerate(calibrators):
        found[i] = calibrator(scores[i])
    return found


def normalised(chances: FloatArray, *, binary: bool) -> FloatArray:
    """The same, of several classes divided by their sum in a row; where that is 0, 1/K."""
    if binary:
        return chances
    total = np.zeros(chances.shape[1])
    for row in chances:  # one by one: NumPy's order in a sum depends on the shape
        total += row
    found: FloatArray = chances / np.where(total > 0, total, 1.0)
    found[:, total == 0] = 1 / len(found)
    return found


class Learner:
    def __init__(self, study: Study, problem: Problem) -> None:
        self._study = study
        self._problem = problem

    def update(self, batch: ColumnBatch) -> None:
        """Everything is learned from the rows that are chosen at the end."""

    def finish(self, sample: ColumnBatch) -> Arrays:
        """Cells and calibrators of the scores, and what errors are made of.

        knots_x, knots_y : float64[…]; knot_counts : int64[S], 0 for a score that is not calibrated
        ranges : int64[cells], see :mod:`.uncertainty`
        second : float64[K, K, K], see :func:`~.errors.estimated_deviation`
        estimate_factors : float64[2], see :func:`~.learned.ranking_factors`

        Where there are labels, too:

        factors : float64[2]
        ranking : float64[2], NannyML's deviations of the ranking metrics
        confusion : int64[K, K], true by predicted class
        draws : float64[B, S, RANGES], only without compat
        """
        problem, compat = self._problem, self._study.compat
        rows = problem.usable(sample)
        scores = problem.scores_of(sample, rows)
        cells = ScoreCells.learned(scores, compat=self._study.compat)
        codes = cells.codes(scores)
        none = np.full(len(rows), -1, dtype=np.int64)
        label = none if problem.target is None else problem.target.of(sample)[rows]
        predicted = none if problem.prediction is None else problem.prediction.of(sample)[rows]
        known = np.flatnonzero(label >= 0)
        truth = label[known] == np.array(problem.scored)[:, None]
        calibrators = []
        for own, of_class in zip(scores[:, known], truth, strict=True):
            # what is no probability has to become one
            wild = not compat and len(own) and (own.min() < 0 or own.max() > 1)
            wanted = wild or needs_calibration(own, of_class)
            calibrators.append(
                fitted(own, of_class.astype(np.float64)) if wanted else NO_CALIBRATION
            )
        used = calibrated(tuple(calibrators), scores)
        chances = normalised(used, binary=problem.binary)
        sums = ranking_sums(chances, codes, cells)
        place = cells.ranges(list(sums.totals), RANGES)
        found = {
            **options(self._study),
            "knots_x": np.concatenate([c.x for c in calibrators]),
            "knots_y": np.concatenate([c.y for c in calibrators]),
            "knot_counts": np.array([len(c.x) for c in calibrators], dtype=np.int64),
            "ranges": place,
            "second": _second(problem, chances, predicted),
            "estimate_factors": ranking_factors(sums, chances, codes, cells, estimated=True),
            **cells.arrays(),
        }
        if not len(known):
            return found
        labels, codes = truth.astype(np.float64), codes[:, known]
        sums = ranking_sums(labels, codes, cells)
        pairs = label * problem.size + predicted
        size = problem.size**2
        found |= {
            "factors": ranking_factors(sums, labels, codes, cells, estimated=False),
            "ranking": NannyML(problem.binary).ranking(sums),
            "confusion": np.bincount(
                pairs[(label >= 0) & (predicted >= 0)], minlength=size
            ).reshape(problem.size, -1),
        }
        if not compat:
            found["draws"] = bootstrapped(labels, codes, used[:, known], cells, place)
        return found


def _second(problem: Problem, chances: FloatArray, predicted: IntArray) -> FloatArray:
    """Mean products of two classes' probabilities where a class is predicted."""
    every = np.stack([1 - chances[0], chances[0]]) if problem.binary else chances
    found = np.zeros((problem.size,) * 3)
    for j in range(problem.size):
        own = every[:, predicted == j]
        found[j] = own @ own.T
    found /= max(int(np.count_nonzero(predicted >= 0)), 1)
    return found
