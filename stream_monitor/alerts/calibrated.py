"""Thresholds calibrated for the window's number of rows: the default rule.

The stated rate of false alarms holds for each family of a window (drift, quality, outliers, …) as a
whole; :mod:`.calibration` and :mod:`.rates` say how it is shared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from stream_monitor.alerts.calibration import Calibration, Null, sidak
from stream_monitor.alerts.limits import NO_LIMIT, Limit
from stream_monitor.alerts.rates import mean_limit, share_limit, spread_limit
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.base import Measured
from stream_monitor.methods.evaluate import ROWS_COUNT, Evaluator
from stream_monitor.methods.volume import Volume
from stream_monitor.panes.layout import Counted
from stream_monitor.reference.profile import Part
from stream_monitor.values import DRIFT, OUTLIERS, STATISTICS


class CalibratedLimits:
    """Limits from the reference, for each number of rows."""

    def __init__(self, part: Part, evaluator: Evaluator, false_alarms: float) -> None:
        self._cells = part.cells
        self._rate = false_alarms
        self._shares = evaluator.shares
        self._calibration = Calibration(
            part.cells,
            evaluator.drift,
            {name: method.tail_power for name, method in REGISTRY.drift.items()},
            false_alarms=false_alarms,
        )
        sizes = Counter(m.family for m in evaluator.measure(part.reference) if _judged(m))
        self._levels = {family: sidak(false_alarms, n) for family, n in sizes.items()}

    def prepare(self, measured: Sequence[Measured], growth: float) -> bool:
        rows = {m.column: round(m.rows * growth) for m in measured if m.family == DRIFT and m.rows}
        return any(self._calibration.prepare(column, n) for column, n in rows.items())

    def dump(self) -> bytes:
        """Everything computed so far, so that a restart need not compute it again."""
        arrays = self._calibration.arrays()
        return msgspec.msgpack.encode({k: (a.shape, a.tobytes()) for k, a in arrays.items()})

    def load(self, data: bytes) -> None:
        """The inverse of :meth:`dump`, for the same reference and methods."""
        stored = msgspec.msgpack.decode(data, type=dict[str, tuple[tuple[int, int], bytes]])
        self._calibration.recall(
            {k: np.frombuffer(raw).reshape(shape) for k, (shape, raw) in stored.items()}
        )

    @property
    def size(self) -> int:
        """How much :meth:`dump` would give, in grid points."""
        return len(self._calibration.arrays())

    def of(
        self,
        measured: Sequence[Measured],
        window: Counted,  # noqa: ARG002
        history: Sequence[int],
    ) -> list[Limit]:
        known: dict[str, tuple[float, dict[str, Null]]] = {}
        limits = []
        for m in measured:
            if m.family == DRIFT:
                if m.column not in known:
                    known[m.column] = self._calibration.nulls(m.column, m.rows)
                level, nulls = known[m.column]
                null = nulls[m.metric]
                limits.append(Limit(math.nan, null.upper(level), null.p_value(m.value)))
            elif m.definition is ROWS_COUNT:
                limits.append(self._volume(m, history))
            else:
                limits.append(self._limit(m) if _judged(m) else NO_LIMIT)
        return limits

    def _volume(self, m: Measured, history: Sequence[int]) -> Limit:
        """The number of rows has no reference but the windows before."""
        volume = Volume.of(history)
        if math.isnan(volume.spread):
            return NO_LIMIT
        return Limit(*volume.limit(self._rate), volume.p_value(m.rows))

    def _limit(self, m: Measured) -> Limit:
        level = self._levels.get(m.family, self._rate)
        if (m.column, m.metric) in self._shares:
            return share_limit(self._shares[m.column, m.metric][0], self._cells[m.column], m, level)
        if m.family == OUTLIERS:
            return mean_limit(self._cells[m.column], m, level)
        return spread_limit(m, level)


def _judged(m: Measured) -> bool:
    """Whether a value has a limit of its family's rate.

    Summary statistics have none: what they could tell, the drift of the same column tells with a
    distribution that is known.
    """
    if m.family == STATISTICS:
        return False
    if m.metric != m.definition.metric:
        return False  # one of many cells of a confusion matrix, whose rates are judged
    return m.spread > 0
