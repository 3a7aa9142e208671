"""Can the estimate still be trusted? A sequential test of CBPE and DLE as labels come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import inf, isfinite, isnan, nan, sqrt
from typing import Any, Protocol

import numpy as np

from stream_monitor.methods.base import Block, Definition, Measure
from stream_monitor.methods.performance.cbpe import CbpeBlock
from stream_monitor.methods.performance.errors import shares
from stream_monitor.methods.performance.realized import RealizedBlock
from stream_monitor.methods.performance.uncertainty import standard_errors
from stream_monitor.methods.regression.direct_loss_estimation import DleBlock
from stream_monitor.methods.regression.realized_losses import LossesBlock
from stream_monitor.methods.sequential.evidence import Evidence, half_width
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray
from stream_monitor.values import ESTIMATOR, Value

_RECENT = 30  # panes that the gaps are shown of
_LEVEL = 0.05  # of their confidence sequences
_KNOWN = 3.0  # standard errors that the curve may be off because it was learned
_LEAST = 0.002  # and at least so much
_CLIP = 8.0  # standard deviations beyond which a loss counts as that far off

GAPS = {
    "calibration_gap": "Mean of label less calibrated probability over the last 30 panes.",
    "accuracy_gap": "Realised less estimated accuracy of the labelled rows of the last 30 panes.",
    "loss_gap": "Realised less estimated mean absolute error over the last 30 panes.",
}
EVIDENCE = "evidence"
DEFINITIONS = (
    *(Definition(name, ESTIMATOR, -inf, inf, text) for name, text in GAPS.items()),
    Definition(
        EVIDENCE,
        ESTIMATOR,
        -inf,
        inf,
        "Evidence that the estimate is off, log10 of an e-detector; an alert above its threshold.",
        upper_only=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Residual:
    """Of some labelled rows: Σ(what came − what was expected), its variance, and the slack.

    ``unit`` is what a residual of 1 stands for in the metric's own unit.
    """

    metric: str
    total: float
    variance: float
    slack: float
    rows: int
    unit: float = 1.0


class Residuals(Protocol):
    """What is tested of one kind of model."""

    metrics: tuple[str, ...]

    def of(self, labelled: Counted) -> list[Residual]:
        """A residual each of ``metrics``."""


class EstimateTest:
    """One model's test: is the gap between what came true and what was expected more than chance?

    *Null hypothesis*: given its score, a labelled row's label is 1 with the calibrated probability,
    to within what the reference could know: the mean of the residuals of each pane is at most τ off
    0, with τ three standard errors of the learned calibration curve on that pane's scores
    (:func:`~stream_monitor.methods.performance.uncertainty.standard_errors`), at least 0.002. A
    regression: the mean loss is the estimated one to within three standard errors of the
    reference's.

    *Tested* are the calibration gap y − p and the accuracy gap 1[ŷ = y] − P(ŷ = y) of a classifier
    (of several classes the latter), the absolute loss of a regression, by :class:`Evidence`, each
    with its share of the rate. *Guarantee*: with the rate α, a false alarm within T panes has a
    probability of at most αT, whatever the number of labels, whenever one looks, and whichever
    labels are missing at random given the score. Labels that come earlier for one class than for
    the other would break it, so panes come at the greatest maturity only. For a regression it holds
    by the central limit within panes; a loss of more than eight standard deviations counts as
    eight.

    After an alarm the evidence falls again as soon as panes are as expected; how large the gaps are
    say their means over the last 30 panes, with 95 % confidence sequences.
    """

    def __init__(self, residuals: Residuals, rate: float, identity: str) -> None:
        self._residuals = residuals
        self._identity = identity
        number = len(residuals.metrics)
        self._evidence = [Evidence(rate / number) for _ in range(number)]
        self._recent: list[list[list[float]]] = [[] for _ in range(number)]
        self.pane: int | None = None

    @classmethod
    def of(
        cls, blocks: Mapping[str, Block], reference: Counted, *, rate: float
    ) -> EstimateTest | None:
        """None where nothing can be tested.

        Parameters
        ----------
        blocks
            By name; ``cbpe`` and ``realized_performance``, or ``dle`` and ``realized_losses``.
        reference
            Counts of the whole labelled reference.
        rate
            Of false alarms, a pane.
        """
        estimating, realizing = blocks.get("cbpe"), blocks.get("realized_performance")
        losses, realized = blocks.get("dle"), blocks.get("realized_losses")
        found: Residuals | None = None
        if isinstance(estimating, CbpeBlock) and isinstance(realizing, RealizedBlock):
            if "draws" in estimating.arrays:
                found = _Classes(estimating, realizing)
        elif isinstance(losses, DleBlock) and isinstance(realized, LossesBlock):
            found = _Losses(losses.bind(reference), realized.bind(reference), reference)
        if found is None or not found.metrics:
            return None
        digest = blake2b(reference.vector.tobytes(), digest_size=8)
        digest.update(repr((found.metrics, rate)).encode())
        return cls(found, rate, digest.hexdigest())

    def feed(self, pane: int, labelled: Counted) -> None:
        """Take the labelled rows of a pane; panes in order, each once.

        Raises
        ------
        ValueError
            The pane does not come after the last one.
        """
        if self.pane is not None and pane <= self.pane:
            raise ValueError(f"pane {pane} after pane {self.pane}: feed each pane once, in order")
        self.pane = pane
        every = self._residuals.of(labelled)
        for r, evidence, recent in zip(every, self._evidence, self._recent, strict=True):
            if r.rows and isfinite(r.total) and isfinite(r.variance) and isfinite(r.slack):
                evidence.feed(r.total, r.variance, r.slack)
                recent.append([r.total * r.unit, r.variance * r.unit**2, float(r.rows)])
                del recent[:-_RECENT]

    def values(self) -> tuple[Value, ...]:
        """The gaps with their confidence sequences, and the evidence with its verdict."""
        found = []
        for metric, recent in zip(self._residuals.metrics, self._recent, strict=True):
            total, variance, rows = np.array(recent or [[0.0, 0.0, 0.0]]).sum(axis=0).tolist()
            gap = total / rows if rows else nan
            unit = 1.0 if metric != "loss_gap" or not variance else sqrt(variance / rows)
            reach = half_width(variance / unit**2, int(rows), _LEVEL) * unit
            found.append(
                Value("", ESTIMATOR, metric, gap, lower_confidence=gap - reach,
                      upper_confidence=gap + reach)
            )  # fmt: skip
        value = max(evidence.value - evidence.threshold for evidence in self._evidence)
        threshold = self._evidence[0].threshold
        said = any(self._recent)
        found.append(
            Value(
                "",
                ESTIMATOR,
                EVIDENCE,
                value + threshold if said else nan,
                upper_threshold=threshold,
                alert=value > 0 if said else None,
            )
        )
        return tuple(found)

    def state(self) -> dict[str, Any]:
        """For the checkpoint, as JSON."""
        return {
            "identity": self._identity,
            "pane": self.pane,
            "evidence": [evidence.state() for evidence in self._evidence],
            "recent": self._recent,
        }

    def restore(self, state: Mapping[str, Any]) -> str | None:
        """Go on from a state; why it begins anew instead, None where it goes on."""
        if state["identity"] != self._identity:
            return "its reference or alerts.false_alarms is another"
        self.pane = state["pane"]
        self._recent = [[list(pane) for pane in recent] for recent in state["recent"]]
        for evidence, own in zip(self._evidence, state["evidence"], strict=True):
            evidence.restore(own)
        return None


class _Classes:
    """The calibration gap and the accuracy gap."""

    def __init__(self, estimating: CbpeBlock, realizing: RealizedBlock) -> None:
        self._estimating = estimating
        self._realizing = realizing
        panel = estimating.panel
        self._accuracy = panel.names.index("accuracy") if "accuracy" in panel.names else None
        self._binary = estimating.problem.binary
        wanted = {"calibration_gap": self._binary, "accuracy_gap": self._accuracy is not None}
        self.metrics = tuple(name for name, there in wanted.items() if there)

    def of(self, labelled: Counted) -> list[Residual]:
        expected, places = self._estimating.sums(labelled)
        true = self._realizing.sums(labelled)
        found = []
        if self._binary:
            found.append(self._calibration(expected.positives[0], expected.totals[0],
                                           true.positives[0]))  # fmt: skip
        if self._accuracy is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                learned = standard_errors(
                    self._estimating.panel,
                    self._estimating.cells,
                    shares(expected),
                    places=self._estimating.ranges,
                    pairs=places / (expected.pairs or np.nan),
                    draws=self._estimating.arrays["draws"],
                )
            rows = true.pairs
            total = float(np.trace(true.matrix) - np.trace(expected.matrix))
            chance = float(np.trace(expected.matrix)) / rows if rows else nan
            # rows differ in their chance, which only makes the variance less than that of the mean
            variance = rows * chance * (1 - chance)
            slack = max(_KNOWN * float(learned[self._accuracy]), _LEAST) * rows
            found.append(Residual("accuracy_gap", total, variance, slack, rows))
        return found

    def _calibration(
        self, chances: FloatArray, totals: FloatArray, positives: FloatArray
    ) -> Residual:
        rows = int(totals.sum())
        if not rows:
            return Residual("calibration_gap", nan, nan, nan, 0)
        mean = np.divide(chances, totals, out=np.zeros(len(totals)), where=totals > 0)
        block = self._estimating
        weights = np.bincount(block.ranges, totals, block.arrays["draws"].shape[2])
        off = block.arrays["draws"][:, 0] @ weights
        slack = max(_KNOWN * float(np.sqrt((off**2).mean())), _LEAST * rows)
        return Residual(
            "calibration_gap",
            float(positives.sum() - chances.sum()),
            float(totals @ (mean * (1 - mean))),
            slack,
            rows,
        )


class _Losses:
    """The gap of the mean absolute error, in standard deviations that labels cannot explain."""

    metrics: tuple[str, ...] = ("loss_gap",)

    def __init__(self, estimate: Measure, realized: Measure, reference: Counted) -> None:
        self._estimate = estimate
        self._realized = realized
        # of two samples of the reference's size; one of them is what was learned from
        (own,) = [m for m in realized.measure(reference) if m.metric == "mae"]
        self._learned = _KNOWN * own.spread / sqrt(2)

    def of(self, labelled: Counted) -> list[Residual]:
        (seen,) = [m for m in self._realized.measure(labelled) if m.metric == "mae"]
        (foreseen,) = [m for m in self._estimate.measure(labelled) if m.metric == "mae"]
        rows = seen.rows
        left = seen.spread**2 - foreseen.spread**2
        if not rows or isnan(left) or left <= 0:
            return [Residual("loss_gap", nan, nan, nan, 0)]
        # the spread is that of a mean of so many rows and of the reference's own
        deviation = sqrt(left * rows)
        gap = (seen.value - foreseen.value) - (seen.expected - foreseen.expected)
        # residuals within ±1, of which eight are a standard deviation's worth
        unit = _CLIP * deviation
        total = float(np.clip(gap / unit, -1.0, 1.0)) * rows
        slack = max(self._learned / unit, _LEAST / _CLIP) * rows
        return [Residual("loss_gap", total, rows / _CLIP**2, slack, rows, unit)]
