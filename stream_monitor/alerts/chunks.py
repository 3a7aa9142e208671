"""NannyML's thresholds: mean ± 3 standard deviations of the reference chunks' values.

Source: NannyML 0.13.1, ``StandardDeviationThreshold`` with its defaults. The standard deviation is
the population's (divisor n) over the chunks, NaN left out; chunks are compared with the whole
reference, which contains them; drift and outliers have an upper bound only, and a bound never
leaves the range of its metric. Chi-squared alerts where ``scipy.stats.chi2_contingency`` gives
p < 0.05 and has no threshold. The bounds hold for windows of the chunks' size; on smaller ones they
alert far too often (see ``docs/methods.md``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from stream_monitor.alerts.limits import NO_LIMIT, Limit, Stateless
from stream_monitor.methods.evaluate import Evaluator, Measured
from stream_monitor.reference.profile import Profile
from stream_monitor.schema import IntArray
from stream_monitor.values import QUALITY, STATISTICS

_MULTIPLIER = 3.0
_CHI2_LEVEL = 0.05
_UNBOUNDED = {"wasserstein", "psi", "rows_count"}


class ChunkLimits(Stateless):
    """Bounds from the reference's chunks."""

    def __init__(self, profile: Profile, evaluator: Evaluator) -> None:
        self._profile = profile
        values: dict[tuple[str, str], list[float]] = {}
        for chunk in profile.chunks:
            for m in evaluator.measure(chunk):
                values.setdefault((m.column, m.metric), []).append(m.value)
        self._limits = {key: _limit(key[1], found) for key, found in values.items()}

    def of(self, measured: Sequence[Measured], vector: IntArray) -> list[Limit]:
        return [
            self._chi2(m, vector)
            if m.metric == "chi2"
            else _one_sided(m, self._limits.get((m.column, m.metric), NO_LIMIT))
            for m in measured
        ]

    def _chi2(self, m: Measured, vector: IntArray) -> Limit:
        """No threshold of its own; the critical value at 0.05 plays it."""
        cells = self._profile.cells[m.column]
        window = self._profile.layout.counts(vector, m.column)[: cells.size]
        freedom = int(np.count_nonzero(cells.values + window)) - 1
        if freedom < 1:
            return NO_LIMIT
        return Limit(
            math.nan,
            float(stats.chi2.isf(_CHI2_LEVEL, freedom)),
            float(stats.chi2.sf(m.value, freedom)),
        )


def _limit(metric: str, values: list[float]) -> Limit:
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return NO_LIMIT
    mean, spread = float(np.mean(known)), _MULTIPLIER * float(np.std(known))
    lower, upper = mean - spread, mean + spread
    if metric not in _UNBOUNDED:
        upper = min(upper, 1.0)
    return Limit(max(lower, 0.0), upper)


def _one_sided(m: Measured, limit: Limit) -> Limit:
    two_sided = m.family == STATISTICS or (m.family == QUALITY and m.metric == "missing_values")
    return limit if two_sided else Limit(math.nan, limit.upper)
