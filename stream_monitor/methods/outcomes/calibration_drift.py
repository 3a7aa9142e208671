"""Has P(y|score) changed? Labels against what the reference's calibration curve makes expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np

from stream_monitor.methods.base import Block, Definition, Measured
from stream_monitor.methods.outcomes.base import Outcome, OutcomeMeasure, register_outcome
from stream_monitor.methods.performance.cbpe import CbpeBlock
from stream_monitor.methods.performance.realized import RealizedBlock
from stream_monitor.methods.performance.uncertainty import RANGES
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray, IntArray, score_column
from stream_monitor.values import CONCEPT_DRIFT

_EDGE = 1e-3
_LEAST = 5.0  # rows of each outcome that a range must make expect, else it joins its neighbour

DRIFT = Definition(
    "calibration_drift",
    CONCEPT_DRIFT,
    0.0,
    inf,
    "Chi-squared of labels against the calibration curve by score range, over its freedom.",
    upper_only=True,
)
TREND = Definition(
    "calibration_trend",
    CONCEPT_DRIFT,
    0.0,
    inf,
    "Chi-squared of a shift and a changed slope of the calibration curve, over its freedom of 2.",
    upper_only=True,
)
ERROR = Definition(
    "expected_calibration_error",
    CONCEPT_DRIFT,
    0.0,
    1.0,
    "Mean distance of labels and calibrated probability over score ranges, weighted by rows.",
)


class CalibrationDrift:
    """The calibration curve of the labelled window against the reference's, a score column each.

    In each of 20 score ranges of equal reference mass there are so many rows of the class, O, and
    by the calibration curve so many are expected: E = Σp, with variance Σp(1 − p), p taken alike
    within a cell. The curve itself was learned; how far, range by range, is known from redrawn
    references (:mod:`~stream_monitor.methods.performance.uncertainty`), whose covariance, times the
    window's rows, is added. Neighbouring ranges in which fewer than five of either outcome are
    expected are taken together.

    - ``calibration_drift``: (O − E)ᵀ V⁻¹ (O − E) / k over all k ranges: any change of shape.
    - ``calibration_trend``: the same for Σ(y − p) and Σ(y − p) logit p over the score's cells: a
      shift and a slope of the curve, the score test of Cox's recalibration (1958, "Two further
      applications of a model for binary regression"); k = 2. Most real changes show here with far
      fewer rows. Probabilities are taken within [0.001, 0.999] for the logit.
    - ``expected_calibration_error``: Σ |O − E| / n, for people, in [0, 1], not judged.

    Without change the first two are chi-squared over their freedom, which is a gamma with mean 1
    and variance 2/k: that is what they are judged by. It holds where labels are missing at random
    given the score, whatever scores the labelled have. NaN without labelled rows.
    """

    name = "calibration_drift"
    definitions = (DRIFT, TREND, ERROR)

    def bind(self, blocks: Mapping[str, Block], reference: Counted) -> OutcomeMeasure | None:  # noqa: ARG002
        """None but for a classifier with scores and a labelled reference."""
        estimating, realizing = blocks.get("cbpe"), blocks.get("realized_performance")
        if not isinstance(estimating, CbpeBlock) or not isinstance(realizing, RealizedBlock):
            return None
        if "draws" not in estimating.arrays or not np.array_equal(
            np.concatenate([np.empty(0), *estimating.cells.edges]),
            np.concatenate([np.empty(0), *realizing.cells.edges]),
        ):
            return None
        return _Measure(estimating, realizing)


@dataclass(frozen=True, slots=True)
class _Measure:
    estimating: CbpeBlock
    realizing: RealizedBlock

    def measure(self, outcome: Outcome) -> Iterator[Measured]:
        expected, _ = self.estimating.sums(outcome.labelled)
        true = self.realizing.sums(outcome.labelled)
        cells = self.estimating.cells
        places = np.split(self.estimating.ranges, cells.starts[1:-1])
        problem = self.estimating.problem
        for column, label in enumerate(problem.scored):
            residuals = Residuals.of(
                true.positives[column],
                expected.positives[column],
                expected.totals[column],
                places[column],
                self.estimating.arrays["draws"][:, column],
            )
            name = score_column(None if problem.binary else problem.classes[label])
            rows = int(expected.totals[column].sum())
            for definition, (value, freedom) in (
                (DRIFT, residuals.omnibus()),
                (TREND, residuals.trend()),
            ):
                spread = sqrt(2 / freedom) if freedom else nan
                yield Measured(definition, definition.metric, name, name, value, rows,
                               expected=1.0, spread=spread)  # fmt: skip
            yield Measured(ERROR, ERROR.metric, name, name, residuals.mean_distance(), rows)


@dataclass(frozen=True, slots=True)
class Residuals:
    """Labels less what is expected of them, in G ranges of a score.

    Attributes
    ----------
    gap, rows : float64[G]
    covariance : float64[G, G]
    trend_gap, trend_covariance : float64[2], float64[2, 2]
        Of the sums Σ(y − p) and Σ(y − p) logit p over cells.
    """

    gap: FloatArray
    rows: FloatArray
    covariance: FloatArray
    trend_gap: FloatArray
    trend_covariance: FloatArray

    @classmethod
    def of(
        cls,
        positives: FloatArray,
        chances: FloatArray,
        totals: FloatArray,
        places: IntArray,
        draws: FloatArray,
    ) -> Residuals:
        """Of cells: rows of the class, sums of probabilities, rows, and the range of each cell.

        ``draws`` is float64[B, RANGES], the curve's errors in redrawn references.
        """
        mean = np.divide(chances, totals, out=np.zeros(len(totals)), where=totals > 0)
        spread = totals * mean * (1 - mean)
        gap, rows, sums, variance = (
            np.bincount(places, values, RANGES).astype(np.float64)
            for values in (positives - chances, totals, chances, spread)
        )
        learned = (draws[:, :, None] * draws[:, None, :]).mean(axis=0)
        groups = _grouped(sums, rows - sums)
        merge = np.zeros((int(groups.max()) + 1, RANGES))
        merge[groups, np.arange(RANGES)] = 1.0
        covariance = np.diag(variance) + rows[:, None] * learned * rows[None, :]
        known = np.clip(mean, _EDGE, 1 - _EDGE)
        contrasts = np.stack([np.ones(len(mean)), np.log(known / (1 - known))])
        weighted = np.stack([np.bincount(places, c * totals, RANGES) for c in contrasts])
        return cls(
            merge @ gap,
            merge @ rows,
            merge @ covariance @ merge.T,
            contrasts @ (positives - chances),
            (contrasts * spread) @ contrasts.T + weighted @ learned @ weighted.T,
        )

    def omnibus(self) -> tuple[float, int]:
        """Chi-squared over its freedom, and the freedom; NaN and 0 without rows."""
        return self._statistic(self.gap, self.covariance)

    def trend(self) -> tuple[float, int]:
        """The same of a shift and a slope."""
        return self._statistic(self.trend_gap, self.trend_covariance)

    def mean_distance(self) -> float:
        total = float(self.rows.sum())
        return float(np.abs(self.gap).sum()) / total if total else nan

    def _statistic(self, values: FloatArray, covariance: FloatArray) -> tuple[float, int]:
        if not self.rows.sum():
            return nan, 0
        scale = np.sqrt(np.maximum(np.diag(covariance), np.finfo(np.float64).tiny))
        inverse = np.linalg.pinv(covariance / np.outer(scale, scale), rcond=1e-8, hermitian=True)
        away, freedom = values / scale, len(values)
        return float(away @ inverse @ away) / freedom, freedom


def _grouped(
    positives: FloatArray, negatives: FloatArray
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which ranges are taken together, int64[RANGES] rising: enough of both outcomes in each."""
    groups = np.zeros(RANGES, dtype=np.int64)
    number, p, n = 0, 0.0, 0.0
    for i in range(RANGES):
        groups[i] = number
        p, n = p + positives[i], n + negatives[i]
        if min(p, n) >= _LEAST:
            number, p, n = number + 1, 0.0, 0.0
    if number and groups[-1] == number:  # what is left joins the last
        groups[groups == number] = number - 1
    return groups


register_outcome(CalibrationDrift())
