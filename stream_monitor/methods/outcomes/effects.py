"""What a change of performance is made of: the inputs, and what the world makes of them.

performance now − performance then = (what the scores foresee − performance then)
                                   + (performance now − what the scores foresee)

The first part is the *covariate effect*: what the estimate, which takes P(y|score) from the
reference, says about the window's scores. The second is the *concept effect*: what labels add to
it, which is only as large as P(y|score) has changed. Cai, Namkoong and Yadlowsky (2023, "Diagnosing
model performance under distribution shift") split a change in the same way, with the conditional
distribution of one side and the inputs of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, isnan, nan, sqrt
from typing import Any

import numpy as np

from stream_monitor.methods.base import Block, Definition, Measure, Measured
from stream_monitor.methods.outcomes.base import Outcome, register_outcome
from stream_monitor.methods.performance.cbpe import CbpeBlock
from stream_monitor.methods.performance.errors import shares
from stream_monitor.methods.performance.metrics import RANKING, RATES, Sums
from stream_monitor.methods.performance.panel import Panel
from stream_monitor.methods.performance.realized import RealizedBlock
from stream_monitor.methods.performance.uncertainty import standard_errors
from stream_monitor.methods.regression.direct_loss_estimation import DleBlock
from stream_monitor.methods.regression.losses import METRICS
from stream_monitor.methods.regression.realized_losses import LossesBlock
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray
from stream_monitor.values import CONCEPT_EFFECT, COVARIATE_EFFECT

_SHOWN = (*RANKING, *RATES, "business_value")
_BAND = 1.96  # standard errors to each side
_JUDGED = ("accuracy", "mae")  # one is judged: the others would only share its rate of false alarms
_COVARIATE = "Estimated performance of the window less the reference's: what the inputs explain."
_CONCEPT = "Realised less estimated performance of the labelled rows: what a changed world costs."


def _definitions(names: tuple[str, ...]) -> tuple[Definition, ...]:
    return tuple(
        Definition(name, family, -inf, inf, f"{text} In the metric's own unit.")
        for family, text in ((COVARIATE_EFFECT, _COVARIATE), (CONCEPT_EFFECT, _CONCEPT))
        for name in names
    )


def _effect(
    definition: Definition, judged: str, value: float, errors: tuple[float, float], rows: int
) -> Measured:
    """``errors`` are the standard error, and the one where nothing has changed."""
    error, at_rest = errors
    return Measured(
        definition,
        definition.metric,
        "",
        "",
        value,
        rows,
        error,
        value - _BAND * error,
        value + _BAND * error,
        expected=0.0,
        spread=at_rest if definition.metric == judged else nan,
    )


@dataclass(frozen=True, slots=True)
class _Classes:
    """The effects of a classifier's metrics."""

    estimating: CbpeBlock
    realizing: RealizedBlock
    estimate: Measure
    definitions: tuple[Definition, ...]

    def measure(self, outcome: Outcome) -> Iterator[Measured]:
        panel = self.estimating.panel
        names = [name for name in panel.names if name in _SHOWN]
        chosen = np.array([panel.names.index(name) for name in names], dtype=np.int64)
        judged = "accuracy" if "accuracy" in names else "roc_auc"
        covariate = self._covariate(outcome.predicted, panel)
        concept = self._concept(outcome, panel)
        for family, parts in ((COVARIATE_EFFECT, covariate), (CONCEPT_EFFECT, concept)):
            of_family = {d.metric: d for d in self.definitions if d.family == family}
            values, errors, at_rest, rows = (part[chosen].tolist() for part in parts)
            for name, value, *both, n in zip(names, values, errors, at_rest, rows, strict=True):
                yield _effect(of_family[name], judged, value, (both[0], both[1]), int(n))

    def _covariate(self, predicted: Counted, panel: Panel) -> tuple[FloatArray, ...]:
        found = [(m.value - m.expected, m.spread, m.rows)
                 for m in self.estimate.measure(predicted)]  # fmt: skip
        value, spread, rows = np.array(found, dtype=np.float64).reshape(-1, 3).T
        sums, places = self.estimating.sums(predicted)
        scale = np.where(panel.scaled, panel.rows(sums), 1.0)
        learned = self._learned(sums, places) * scale
        return value, np.hypot(spread, learned), spread, rows

    def _concept(self, outcome: Outcome, panel: Panel) -> tuple[FloatArray, ...]:
        estimated, places = self.estimating.sums(outcome.labelled)
        everything, _ = self.estimating.sums(outcome.predicted)
        true = self.realizing.sums(outcome.labelled)
        weights = _Weights.of(everything, estimated)
        scale = np.where(panel.scaled, panel.rows(everything), 1.0)
        realized = self.realizing.panel.values(weights.applied(true), None)
        foreseen = panel.values(weights.applied(estimated), None)
        with np.errstate(divide="ignore", invalid="ignore"):
            part = shares(estimated)
            rows = panel.rows(true)
            arrays = self.estimating.arrays
            whole = panel.deviations(part, arrays["factors"])
            known = panel.estimated_deviations(part, arrays["estimate_factors"], arrays["second"])
            # what is left of the variance once the score is known (law of total variance)
            left = np.sqrt(np.maximum(whole**2 - known**2, 0.0) / rows) * weights.cost
            spread = np.hypot(left, self._learned(estimated, places)) * scale
        value = np.where(rows > 0, realized - foreseen, np.nan)
        return value, spread, spread, rows

    def _learned(self, sums: Sums, places: FloatArray) -> FloatArray:
        """The error because the curve was learned from so many rows, float64[M]."""
        block = self.estimating
        with np.errstate(divide="ignore", invalid="ignore"):
            return standard_errors(
                block.panel,
                block.cells,
                shares(sums),
                places=block.ranges,
                pairs=places / (sums.pairs or np.nan),
                draws=block.arrays["draws"],
            )


@dataclass(frozen=True, slots=True)
class _Weights:
    """What carries labelled rows over to all: post-stratification (Holt and Smith 1979).

    Rows of a predicted class, and rows in a cell of the score for the ranking metrics, weigh as
    much as all predictions there. Right where labels are missing at random given these.

    Attributes
    ----------
    classes : float64[K]
    cells : float64[cells] a score column
    cost
        By how much the weights raise the standard error: √(n Σw² / (Σw)²).
    """

    classes: FloatArray
    cells: tuple[FloatArray, ...]
    cost: float

    @classmethod
    def of(cls, everything: Sums, labelled: Sums) -> _Weights:
        every, some = everything.matrix.sum(axis=0), labelled.matrix.sum(axis=0)
        classes = np.divide(every, some, out=np.zeros(len(some)), where=some > 0.5)
        cells = tuple(
            np.divide(n, m, out=np.zeros(len(m)), where=m > 0)
            for n, m in zip(everything.totals, labelled.totals, strict=True)
        )
        total = float((classes * some).sum())
        cost = 1.0
        if total > 0:
            cost = sqrt(max(float(some.sum() * (classes**2 * some).sum()) / total**2, 1.0))
        return cls(classes, cells, cost)

    def applied(self, sums: Sums) -> Sums:
        matrix = sums.matrix * self.classes if len(sums.matrix) else sums.matrix
        return Sums(
            matrix,
            sums.pairs,
            tuple(p * w for p, w in zip(sums.positives, self.cells, strict=True)),
            tuple(n * w for n, w in zip(sums.totals, self.cells, strict=True)),
            sums.ranked,
        )


class Effects:
    """Covariate and concept effect on ROC AUC, average precision, F1, precision, recall,
    specificity, accuracy and the business value, or on MAE, MAPE, MSE, RMSE, MSLE and RMSLE.

    Covariate effect: the estimate (CBPE, DLE) on all predictions of the window less the same on the
    whole reference. Concept effect: the realised metric of the labelled rows less the estimate on
    the very same rows, both post-stratified to all predictions (:class:`_Weights`). Where all
    labels are in, they add up to realised − reference. In the metric's unit; positive is more. NaN
    without labels, and where a metric is. Average precision is that of sums in cells throughout, so
    that both sides of a difference are of one kind.

    Standard errors. Covariate effect: the deviation of the estimate times √(1/n + 1/N), and the
    calibration curve's own error in the window. Concept effect: of the realised metric's variance
    the part that the score does not explain, over the labelled rows, and the curve's error again
    (:mod:`~stream_monitor.methods.performance.uncertainty`); for a regression that of the losses'
    residuals. The band is 1.96 of them to each side. Only the accuracy's effects are judged (ROC
    AUC's without predicted classes, MAE's of a regression), each family's with the whole of the
    stated rate.

    It is as good as the estimate. A shift onto rows where the model was always miscalibrated, which
    the reference's average hides, is taken for concept drift: the scores there never meant what
    they mean elsewhere.
    """

    name = "effects"
    definitions = _definitions((*_SHOWN, *(metric.name for metric in METRICS)))

    def bind(self, blocks: Mapping[str, Block], reference: Counted) -> Any:
        """None without an estimate that knows labels."""
        estimating, realizing = blocks.get("cbpe"), blocks.get("realized_performance")
        if isinstance(estimating, CbpeBlock) and isinstance(realizing, RealizedBlock):
            if "draws" in estimating.arrays:
                estimate = estimating.bind(reference)
                return _Classes(estimating, realizing, estimate, self.definitions)
            return None
        losses, realized = blocks.get("dle"), blocks.get("realized_losses")
        if isinstance(losses, DleBlock) and isinstance(realized, LossesBlock):
            return _Losses(losses.bind(reference), realized.bind(reference), self.definitions)
        return None


@dataclass(frozen=True, slots=True)
class _Losses:
    """The effects on a regression's metrics."""

    estimate: Measure
    realized: Measure
    definitions: tuple[Definition, ...]

    def measure(self, outcome: Outcome) -> Iterator[Measured]:
        known = {m.metric: m for m in self.estimate.measure(outcome.predicted)}
        same = {m.metric: m for m in self.estimate.measure(outcome.labelled)}
        true = {m.metric: m for m in self.realized.measure(outcome.labelled)}
        definitions = {(d.family, d.metric): d for d in self.definitions}
        for name, m in known.items():
            definition, errors = definitions[COVARIATE_EFFECT, name], (m.spread, m.spread)
            yield _effect(definition, "mae", m.value - m.expected, errors, m.rows)
        for name, foreseen in same.items():
            seen = true[name]
            left = seen.spread**2 - foreseen.spread**2
            error = nan if isnan(left) else sqrt(max(left, 0.0))
            value = (seen.value - foreseen.value) - (seen.expected - foreseen.expected)
            definition = definitions[CONCEPT_EFFECT, name]
            yield _effect(definition, "mae", value, (error, error), seen.rows)


register_outcome(Effects())
