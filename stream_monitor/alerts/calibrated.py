"""Thresholds calibrated for the window's number of rows: the default rule.

The stated rate of false alarms holds for each family of a window (drift, quality, outliers) as a
whole; :mod:`.calibration` and :mod:`.rates` say how it is shared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from stream_monitor.alerts.calibration import Calibration, Null, sidak
from stream_monitor.alerts.limits import NO_LIMIT, Limit
from stream_monitor.alerts.rates import mean_limit, share_limit
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.evaluate import Evaluator, Measured
from stream_monitor.reference.profile import Profile
from stream_monitor.schema import IntArray
from stream_monitor.values import DRIFT, STATISTICS


class CalibratedLimits:
    """Limits from the reference, for each number of rows."""

    def __init__(self, profile: Profile, evaluator: Evaluator, false_alarms: float) -> None:
        self._cells = profile.cells
        self._shares = evaluator.shares
        self._calibration = Calibration(
            profile.cells,
            evaluator.drift,
            {name: method.tail_power for name, method in REGISTRY.drift.items()},
            false_alarms=false_alarms,
        )
        sizes: dict[str, int] = {}
        for family in evaluator.families():
            sizes[family] = sizes.get(family, 0) + 1
        self._levels = {family: sidak(false_alarms, n) for family, n in sizes.items()}

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

    def of(self, measured: Sequence[Measured], vector: IntArray) -> list[Limit]:  # noqa: ARG002
        known: dict[str, tuple[float, dict[str, Null]]] = {}
        limits = []
        for m in measured:
            if m.family == STATISTICS:
                limits.append(NO_LIMIT)
            elif m.family == DRIFT:
                if m.column not in known:
                    known[m.column] = self._calibration.nulls(m.column, m.rows)
                level, nulls = known[m.column]
                null = nulls[m.metric]
                limits.append(Limit(math.nan, null.upper(level), null.p_value(m.value)))
            elif (m.column, m.metric) in self._shares:
                share, _ = self._shares[m.column, m.metric]
                limits.append(share_limit(share, self._cells[m.column], m, self._levels[m.family]))
            else:
                limits.append(mean_limit(self._cells[m.column], m, self._levels[m.family]))
        return limits
