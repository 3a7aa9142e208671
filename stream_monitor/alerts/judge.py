"""The judge: which values of a window are alerts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stream_monitor.alerts.calibrated import CalibratedLimits
from stream_monitor.alerts.chunks import ChunkLimits
from stream_monitor.alerts.limits import NO_LIMIT, Limit, Limits, NoLimits
from stream_monitor.config.model import AlertsConfig, ThresholdOverride
from stream_monitor.methods.evaluate import Evaluator, Measured
from stream_monitor.reference.profile import Profile
from stream_monitor.schema import IntArray
from stream_monitor.values import Value


def limits_of(profile: Profile, evaluator: Evaluator, config: AlertsConfig) -> Limits:
    """The configured rule for thresholds."""
    match config.threshold:
        case "calibrated":
            return CalibratedLimits(profile, evaluator, config.false_alarms)
        case "chunks":
            return ChunkLimits(profile, evaluator)
        case "constant":
            return NoLimits()


class Judge:
    """Judges the values of one model's windows.

    A value is an alert if it lies strictly above its upper or strictly below its lower threshold.
    It is shown and not judged if it has neither, is NaN, rests on fewer than ``min_rows`` rows, or
    its window is still filling.
    """

    def __init__(
        self, model: str, profile: Profile, evaluator: Evaluator, config: AlertsConfig
    ) -> None:
        self._min_rows = config.min_rows
        self._overrides = [o for o in config.overrides if o.model in (None, model)]
        self.limits = limits_of(profile, evaluator, config)

    def values(
        self, measured: Sequence[Measured], vector: IntArray, *, closed: bool
    ) -> tuple[Value, ...]:
        """Values with thresholds and verdicts, in the order of ``measured``.

        Thresholds of a window that is still filling would change with every row, so it has none
        but the configured constants.
        """
        enough = [m for m in measured if closed and m.rows >= self._min_rows]
        limits = dict(zip(map(id, enough), self.limits.of(enough, vector), strict=True))
        return tuple(
            self._value(m, limits.get(id(m), NO_LIMIT), judged=closed and m.rows >= self._min_rows)
            for m in measured
        )

    def _value(self, m: Measured, limit: Limit, *, judged: bool) -> Value:
        for override in self._overrides:
            if _fits(override, m):
                limit = Limit(_number(override.lower), _number(override.upper), limit.p_value)
                break
        limited = not (math.isnan(limit.lower) and math.isnan(limit.upper))
        alert = None
        if judged and limited and not math.isnan(m.value):
            # comparisons with NaN are False, so a missing bound never alerts
            alert = m.value > limit.upper or m.value < limit.lower
        return Value(
            m.feature,
            m.family,
            m.metric,
            m.value,
            p_value=limit.p_value,
            lower_threshold=limit.lower,
            upper_threshold=limit.upper,
            alert=alert,
        )


def _fits(override: ThresholdOverride, m: Measured) -> bool:
    return override.metric in (None, m.metric) and override.feature in (None, m.feature)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
