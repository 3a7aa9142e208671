"""Realized performance of a classifier: where true classes came with the events, or later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.methods.base import Arrays, Measured, Study, register_block
from stream_monitor.methods.performance.calibration import pooled
from stream_monitor.methods.performance.errors import NannyML, shares
from stream_monitor.methods.performance.learned import (
    options,
    problem_of,
    ranking_factors,
    ranking_sums,
)
from stream_monitor.methods.performance.metrics import Sums
from stream_monitor.methods.performance.panel import Panel, definitions
from stream_monitor.methods.performance.problem import Label, Problem
from stream_monitor.methods.performance.ranges import Range, ranges
from stream_monitor.methods.performance.scores import ScoreCells
from stream_monitor.methods.performance.worth import Worth
from stream_monitor.panes.exact import tallied
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray, IntArray, Schema
from stream_monitor.values import REALIZED

NAME = "realized_performance"


class _Learner:
    def __init__(self, study: Study, problem: Problem, target: Label) -> None:
        self._study = study
        self._problem = problem
        self._target = target

    def update(self, batch: ColumnBatch) -> None:
        """Everything is learned from the rows that are chosen at the end."""

    def finish(self, sample: ColumnBatch) -> Arrays:
        """The cells of the scores, and what the reference's counts cannot tell.

        factors : float64[2], see :func:`~.learned.ranking_factors`
        ranking : float64[2], NannyML's deviations of the ranking metrics
        rates : float64[cells], the reference's share of a column's class in its cells, rising
        """
        problem = self._problem
        label = self._target.of(sample)
        rows = problem.usable(sample)
        rows = rows[label[rows] >= 0]
        scores = problem.scores_of(sample, rows)
        cells = ScoreCells.learned(scores, compat=self._study.compat)
        codes = cells.codes(scores)
        labels = (label[rows] == np.array(problem.scored)[:, None]).astype(np.float64)
        sums = ranking_sums(labels, codes, cells)
        every = zip(sums.positives, sums.totals, strict=True)
        return {
            **options(self._study),
            "factors": ranking_factors(sums, labels, codes, cells, estimated=False),
            "ranking": NannyML(problem.binary).ranking(sums),
            "rates": np.concatenate([np.empty(0), *(pooled(p, n) for p, n in every)]),
            **cells.arrays(),
        }


@dataclass(frozen=True, slots=True)
class _Addends:
    """Slots of the rows with both classes, int64[1, a], and of those with scores, int64[S, b]."""

    size: int
    pairs: IntArray
    pair_rows: IntArray
    ranked: IntArray
    ranked_rows: IntArray

    def counts(self, group: IntArray, groups: int) -> IntArray:
        found = tallied(self.pairs, group[self.pair_rows], groups, self.size)
        found += tallied(self.ranked, group[self.ranked_rows], groups, self.size)
        return found


class RealizedBlock:
    """Slots: true × predicted class; then of the cells of all scores, those of the column's class
    and those of the others, with rows whose scores are finite and whose label is known.
    """

    def __init__(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> None:
        self.problem = problem_of(schema, cells, arrays)
        self.cells = ScoreCells.loaded(arrays)
        self.rates: FloatArray = arrays["rates"]
        self._pairs = self.problem.size**2
        self.compat = bool(arrays["compat"][0])
        self.panel = Panel(
            self.problem,
            REALIZED,
            Worth.of(self.problem, arrays),
            estimated=False,
            compat=self.compat,
        )
        self.factors: FloatArray = arrays["factors"]
        self.ranking: FloatArray = arrays["ranking"]

    @property
    def size(self) -> int:
        return self._pairs + 2 * self.cells.size

    def addends(self, batch: ColumnBatch) -> _Addends:
        problem = self.problem
        none = np.full(len(batch), -1, dtype=np.int64)
        true = none if problem.target is None else problem.target.of(batch)
        predicted = none if problem.prediction is None else problem.prediction.of(batch)
        pairs = np.flatnonzero((true >= 0) & (predicted >= 0))
        slots = true[pairs] * problem.size + predicted[pairs]
        ranked = problem.usable(batch)
        ranked = ranked[true[ranked] >= 0]
        places = self.cells.codes(problem.scores_of(batch, ranked))
        places[true[ranked] != np.array(problem.scored)[:, None]] += self.cells.size
        return _Addends(self.size, slots[None], pairs, places + self._pairs, ranked)

    def sums(self, counted: Counted) -> Sums:
        """What was counted."""
        slots = counted.block(NAME).astype(np.float64)
        matrix, positives, negatives = np.split(slots, [self._pairs, self._pairs + self.cells.size])
        split = self.cells.split
        totals = split(positives + negatives)
        return Sums(
            matrix.reshape(self.problem.size, -1),
            int(matrix.sum()),
            tuple(split(positives)),
            tuple(totals),
            int(totals[0].sum()) if totals else 0,
        )

    def ranges(self, reference: Counted, window: Counted) -> list[Range]:
        """Where on the scores the labels are not what the reference makes expect.

        For each score column about ten ranges of equal reference mass; see :class:`~.ranges.Range`.
        """
        return ranges(self.problem, self.cells, self.rates, self.sums(reference), self.sums(window))

    def bind(self, reference: Counted) -> _Measure:
        return _Measure(self, reference)


class _Measure:
    def __init__(self, block: RealizedBlock, reference: Counted) -> None:
        self._block = block
        self._tied = tuple(block.cells.tied.tolist())
        panel, sums = block.panel, block.sums(reference)
        part = shares(sums)
        self._rows = panel.rows(sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(panel.scaled, self._rows, 1.0)
            self._expected = panel.values(sums, self._tied) / scale
            self._deviations = panel.deviations(part, block.factors)
        self._errors = self._deviations
        if block.compat:
            self._errors = panel.nannyml_errors(part.matrix, block.ranking)

    def measure(self, window: Counted) -> Iterator[Measured]:
        panel, sums = self._block.panel, self._block.sums(window)
        rows = panel.rows(sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            return panel.measured(
                panel.values(sums, self._tied),
                rows,
                errors=np.where(rows > 0, self._errors / np.sqrt(rows), np.nan),
                band=np.full(len(rows), np.nan),
                expected=self._expected,
                spread=np.where(
                    rows > 0, self._deviations * np.sqrt(1 / rows + 1 / self._rows), np.nan
                ),
            )


class RealizedPerformance:
    """Nine metrics of classes that are known: ROC AUC, average precision, F1, precision, recall,
    specificity, accuracy, the confusion matrix and, where it is configured, the business value.

    Definitions: scikit-learn's and NannyML 0.13.1's, see :mod:`.metrics`; which classes and
    columns, :class:`~.problem.Problem`. A row counts for the metrics whose columns it has: label
    and finite scores for the first two, label and predicted class for the others; ``rows`` says how
    many these are. NaN without such a row, and for a ratio of 0 to 0; with ``compat`` also where
    NannyML gives NaN (fewer than two classes among labels or predictions), and 0 for a ratio of 0
    to 0 of one class among several.

    Ranking metrics are exact where the reference has at most 1,000 distinct scores and the window
    has no others. Else the cells are the reference's quantiles, and average precision is that of
    rows in random order within a cell.

    The sampling error of n rows is the metric's deviation over √n (:mod:`.errors`), under
    ``compat`` NannyML's; expected is the reference's value, and spread the deviation times
    √(1/n + 1/N).
    """

    name = NAME
    definitions = definitions(REALIZED)

    def learner(self, study: Study) -> _Learner | None:
        """None without a target column, or where there is neither a score nor a predicted class."""
        problem = Problem.of(study.schema, study.cells, study.positive)
        if problem is None or problem.target is None:
            return None
        if problem.prediction is None and not len(problem.scores):
            return None
        return _Learner(study, problem, problem.target)

    def load(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> RealizedBlock:
        return RealizedBlock(schema, cells, arrays)


register_block(RealizedPerformance())
