"""Estimated performance of a classifier before labels exist: confidence-based (CBPE)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.methods.base import Arrays, Measured, Study, register_block
from stream_monitor.methods.performance.calibration import Calibrator
from stream_monitor.methods.performance.errors import shares
from stream_monitor.methods.performance.estimation import Learner, calibrated, normalised
from stream_monitor.methods.performance.learned import problem_of
from stream_monitor.methods.performance.metrics import Sums
from stream_monitor.methods.performance.panel import Panel, definitions
from stream_monitor.methods.performance.problem import Problem
from stream_monitor.methods.performance.scores import ScoreCells
from stream_monitor.methods.performance.uncertainty import RANGES, standard_errors
from stream_monitor.methods.performance.worth import Worth
from stream_monitor.panes.exact import joined, limbs, tallied
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray, IntArray, Role, Schema
from stream_monitor.values import ESTIMATED

NAME = "cbpe"


@dataclass(frozen=True, slots=True)
class _Addends:
    """What rows add; ``slots`` of the layout that :class:`CbpeBlock` describes.

    Attributes
    ----------
    rows : int64[n]
        Which of the batch's rows have scores.
    cells : int64[S, n]
    chances : float64[2 S, n]
        Limbs of the probabilities.
    paired : int64[m]
        Which of ``rows`` have a predicted class.
    predicted : int64[m]
    places : int64[S, m]
        Range of each score, with column and predicted class.
    """

    shape: tuple[int, int, int, int]  # cells, score columns, classes, ranges
    rows: IntArray
    cells: IntArray
    chances: FloatArray
    paired: IntArray
    predicted: IntArray
    places: IntArray

    def counts(self, group: IntArray, groups: int) -> IntArray:
        size, columns, classes, ranges = self.shape
        own = group[self.rows]
        some = own[self.paired]
        pairs = self.predicted * columns + np.arange(columns)[:, None]
        high, low = self.chances[0::2], self.chances[1::2]
        return np.concatenate(
            [
                tallied(self.cells, own, groups, size),
                _summed(self.cells, high, own, groups, size),
                _summed(self.cells, low, own, groups, size),
                tallied(self.predicted[None], some, groups, classes),
                _summed(pairs, high[:, self.paired], some, groups, classes * columns),
                _summed(pairs, low[:, self.paired], some, groups, classes * columns),
                tallied(self.places, some, groups, columns * classes * ranges),
            ],
            axis=1,
        )


def _summed(
    slots: IntArray, values: FloatArray, group: IntArray, groups: int, size: int
) -> IntArray:
    """Sums of whole numbers float64[r, n] by group and slot int64[r, n], int64[groups, size]."""
    flat = (slots + group * size).ravel()
    return np.bincount(flat, values.ravel(), groups * size).astype(np.int64).reshape(groups, size)


class CbpeBlock:
    """Slots, with C cells of all S score columns, K classes and R ranges of a score:

    C rows in a cell; C high and C low limbs of the probabilities in it; K rows a predicted class;
    K S high and K S low limbs of the probabilities of the rows with that prediction; S K R rows by
    column, predicted class and range.
    """

    def __init__(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> None:
        self.problem = problem = problem_of(schema, cells, arrays)
        self.cells = ScoreCells.loaded(arrays)
        ends = np.cumsum(arrays["knot_counts"])[:-1]
        knots = zip(
            np.split(arrays["knots_x"], ends), np.split(arrays["knots_y"], ends), strict=True
        )
        self.calibrators = tuple(Calibrator(x, y) for x, y in knots)
        self.ranges: IntArray = arrays["ranges"]
        self.compat = bool(arrays["compat"][0])
        self.arrays = arrays
        self.panel = Panel(
            problem, ESTIMATED, Worth.of(problem, arrays), estimated=True, compat=self.compat
        )

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.cells.size, len(self.problem.scored), self.problem.size, RANGES

    @property
    def size(self) -> int:
        cells, columns, classes, ranges = self._shape
        return 3 * cells + classes + 2 * classes * columns + columns * classes * ranges

    def addends(self, batch: ColumnBatch) -> _Addends:
        problem = self.problem
        rows = problem.usable(batch)
        scores = problem.scores_of(batch, rows)
        codes = self.cells.codes(scores)
        predicted = np.full(len(rows), -1, dtype=np.int64)
        if problem.prediction is not None:
            predicted = problem.prediction.of(batch)[rows]
        paired = np.flatnonzero(predicted >= 0)
        predicted = predicted[paired]
        column = np.arange(len(scores))[:, None] * problem.size
        places = (column + predicted) * RANGES + self.ranges[codes[:, paired]]
        chances = limbs(normalised(calibrated(self.calibrators, scores), binary=problem.binary))
        return _Addends(self._shape, rows, codes, chances, paired, predicted, places)

    def sums(self, counted: Counted) -> tuple[Sums, FloatArray]:
        """What was counted, and float64[S, K, RANGES] rows by column, prediction and range."""
        cells, columns, classes, ranges = self._shape
        slots = counted.block(NAME)
        ends = np.cumsum([cells, cells, cells, classes, classes * columns, classes * columns])
        totals, high, low, predicted, highs, lows, places = np.split(slots, ends)
        chances = joined(np.stack([high, low], axis=-1))[:, 0]
        sums = joined(np.stack([highs, lows], axis=-1))[:, 0].reshape(classes, columns).T
        if self.problem.binary:
            # a sum of ones may be a hair above their number
            sums = np.stack([np.maximum(predicted - sums[0], 0.0), sums[0]])
        split = self.cells.split
        every = split(totals.astype(np.float64))
        found = Sums(
            sums, int(predicted.sum()), tuple(split(chances)), tuple(every), int(every[0].sum())
        )
        return found, places.reshape(columns, classes, ranges).astype(np.float64)

    def bind(self, reference: Counted) -> _Measure:
        return _Measure(self, reference)


class _Measure:
    def __init__(self, block: CbpeBlock, reference: Counted) -> None:
        self._block = block
        panel, arrays = block.panel, block.arrays
        sums, _ = block.sums(reference)
        part = shares(sums)
        self._rows = panel.rows(sums)
        self._labelled = "factors" in arrays
        nothing = np.full(len(self._rows), np.nan)
        self._expected = self._deviations = self._errors = nothing
        if not self._labelled:
            return
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(panel.scaled, self._rows, 1.0)
            self._expected = panel.values(sums, None) / scale
            self._deviations = panel.estimated_deviations(
                part, arrays["estimate_factors"], arrays["second"]
            )
            if block.compat:
                confusion = arrays["confusion"] / arrays["confusion"].sum()
                self._errors = panel.nannyml_errors(confusion, arrays["ranking"])
            else:
                self._errors = panel.deviations(part, arrays["factors"])

    def measure(self, window: Counted) -> Iterator[Measured]:
        block, panel = self._block, self._block.panel
        sums, places = block.sums(window)
        rows = panel.rows(sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.where(rows > 0, self._errors / np.sqrt(rows), np.nan)
            band = errors
            if self._labelled and not block.compat:
                learned = standard_errors(
                    panel,
                    block.cells,
                    shares(sums),
                    places=block.ranges,
                    pairs=places / (sums.pairs or np.nan),
                    draws=block.arrays["draws"],
                )
                band = np.hypot(errors, learned)
            return panel.measured(
                panel.values(sums, None),
                rows,
                errors=errors,
                band=band,
                expected=self._expected,
                spread=np.where(
                    rows > 0, self._deviations * np.sqrt(1 / rows + 1 / self._rows), np.nan
                ),
            )


class ConfidenceBasedPerformanceEstimation:
    """The same nine metrics as realized performance, estimated from the scores alone.

    CBPE of NannyML 0.13.1. A score, calibrated on the reference by isotonic regression where that
    lowers the calibration error (:mod:`.calibration`), is the probability p that a row is of the
    class. Sums of p and 1 − p over rows with a predicted class estimate the confusion matrix, of
    which the rates are made; sums over rows in cells of the score the ranking metrics. Several
    classes: each score is calibrated against the rest, a row's probabilities are divided by their
    sum, metrics are means over classes. Ranking is by the raw score, and rows of equal score, or in
    one cell, share their mean probability. Which classes and columns,
    :class:`~.problem.Problem`; rows count where all their scores are finite and, but for the
    ranking metrics, the predicted class is known: ``rows`` says how many these are. NaN without
    such a row, and for a ratio of 0 to 0, which is 0 under ``compat``.

    It holds as long as the scores mean what they meant in the reference: it sees covariate shift,
    not concept drift. A score beyond [0, 1] is always calibrated, or does not apply where the
    reference has no labels; without labels scores are taken as they are, nothing is judged, and
    there are no sampling errors.

    The sampling error is that of the realized metric in so many rows (:mod:`.errors`, under
    ``compat`` NannyML's), the band three of them to each side, within the metric's range. Without
    ``compat`` the band also carries the error of the calibration curve (:mod:`.uncertainty`).
    Expected is the estimate on the whole reference, and spread the deviation of the estimate, which
    varies less than the realized metric, times √(1/n + 1/N).
    """

    name = NAME
    definitions = definitions(ESTIMATED)

    def learner(self, study: Study) -> Learner | None:
        """None without scores, or where they are no probabilities and there are no labels."""
        problem = Problem.of(study.schema, study.cells, study.positive)
        if problem is None or not len(problem.scores):
            return None
        if problem.target is None and not _within(study):
            return None
        return Learner(study, problem)

    def load(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> CbpeBlock:
        return CbpeBlock(schema, cells, arrays)


def _within(study: Study) -> bool:
    """Whether every score of the reference is in [0, 1]."""
    summaries = [study.cells[c.name].summary for c in study.schema.columns if c.role is Role.SCORE]
    return all(s is not None and s.minimum >= 0 and s.maximum <= 1 for s in summaries)


register_block(ConfidenceBasedPerformanceEstimation())
