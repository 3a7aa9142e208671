"""The judge: which values of a window are alerts."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence

from stream_monitor.alerts.calibrated import CalibratedLimits
from stream_monitor.alerts.calibration import sidak
from stream_monitor.alerts.chunks import ChunkLimits
from stream_monitor.alerts.limits import NO_LIMIT, Limit, Limits, NoLimits
from stream_monitor.config.model import AlertsConfig, ThresholdOverride
from stream_monitor.methods.base import Measured
from stream_monitor.methods.evaluate import Evaluator
from stream_monitor.panes.layout import Counted
from stream_monitor.reference.profile import Part
from stream_monitor.values import Value

_PREPARE_SECONDS = 0.03


def limits_of(
    part: Part, evaluator: Evaluator, config: AlertsConfig, *, segments: int, compat: bool
) -> Limits:
    """The configured rule for thresholds; all segments together have the rate of the whole."""
    match config.threshold or ("chunks" if compat else "calibrated"):
        case "calibrated":
            return CalibratedLimits(
                part, evaluator, sidak(config.false_alarms, segments if part.label else 1)
            )
        case "chunks":
            return ChunkLimits(part, evaluator, compat=compat)
        case "constant":
            return NoLimits()


class Judge:
    """Judges the values of one model's windows.

    A value is an alert if it lies strictly above its upper or strictly below its lower threshold.
    It is shown and not judged if it has neither, is NaN, rests on fewer than ``min_rows`` rows, or
    its window is still filling.
    """

    def __init__(
        self,
        model: str,
        part: Part,
        evaluator: Evaluator,
        config: AlertsConfig,
        *,
        segments: int,
        compat: bool,
    ) -> None:
        # NannyML judges every chunk
        self._min_rows = 1 if compat else config.min_rows
        self._overrides = [o for o in config.overrides if o.model in (None, model)]
        self._expected: dict[str, tuple[float, Sequence[Measured]]] = {}
        self.limits = limits_of(part, evaluator, config, segments=segments, compat=compat)

    def values(
        self,
        measured: Sequence[Measured],
        window: Counted,
        *,
        closed: bool,
        history: Sequence[int] = (),
    ) -> tuple[Value, ...]:
        """Values with thresholds and verdicts, in the order of ``measured``.

        ``history`` holds the rows of the windows before this one.

        Thresholds of a window that is still filling would change with every row, so it has none
        but the configured constants.
        """
        if not closed:
            return tuple(self._value(m, NO_LIMIT, judged=False) for m in measured)
        enough = [m for m in measured if m.rows >= self._min_rows]
        limits = iter(self.limits.of(enough, window, history))
        return tuple(
            self._value(m, next(limits), judged=True)
            if m.rows >= self._min_rows
            else self._value(m, NO_LIMIT, judged=False)
            for m in measured
        )

    def expect(self, window: str, measured: Sequence[Measured], filled: float) -> None:
        """Hear of a window that fills, and how much of it has been seen, in [0, 1]."""
        # fewer rows do not tell how many there will be
        self._expected[window] = filled, [m for m in measured if m.rows >= self._min_rows]

    def prepare(self) -> bool:
        """Do a step towards limits that windows that fill will need; False if all are there.

        They are worked out for the rows that a window will have if more come as they did: those
        for the rows that it has by now would be of no use when it closes. The fullest comes first.
        """
        for filled, measured in sorted(self._expected.values(), key=lambda one: -one[0]):
            if filled > 0 and self.limits.prepare(measured, 1 / filled):
                return True
        return False

    def _value(self, m: Measured, limit: Limit, *, judged: bool) -> Value:
        for override in self._overrides:
            if _fits(override, m):
                limit = Limit(_number(override.lower), _number(override.upper), limit.p_value)
                break
        return Value(
            m.feature,
            m.family,
            m.metric,
            m.value,
            limit.p_value,
            m.sampling_error,
            m.lower_confidence,
            m.upper_confidence,
            limit.lower,
            limit.upper,
            limit.alert(m.value) if judged else None,
        )


def prepare(judges: Collection[Judge]) -> bool:
    """For a moment, work out limits that will be needed; False if all were there.

    A first threshold takes a quarter of a second, which nothing else should wait for.
    """
    end, busy = time.monotonic() + _PREPARE_SECONDS, False
    while any(judge.prepare() for judge in judges):
        busy = True
        if time.monotonic() >= end:
            break
    return busy


def _fits(override: ThresholdOverride, m: Measured) -> bool:
    return override.metric in (None, m.metric) and override.feature in (None, m.feature)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
