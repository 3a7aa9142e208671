"""NannyML's thresholds: mean ± 3 standard deviations of the reference chunks' values.

Source: NannyML 0.13.1, ``StandardDeviationThreshold`` with its defaults. The standard deviation is
the population's (divisor n) over the chunks, NaN left out; chunks are compared with the whole
reference, which contains them; estimated performance is judged by the bounds of the realised one.
:class:`~stream_monitor.methods.base.Chunks` names the rules. The bounds hold for windows of the
chunks' size; on smaller ones they alert far too often (see ``docs/methods.md``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from stream_monitor.alerts.limits import NO_LIMIT, Limit, Stateless
from stream_monitor.methods.base import Chunks, Definition, Measured
from stream_monitor.methods.evaluate import Evaluator, singly, unseen
from stream_monitor.panes.layout import Counted
from stream_monitor.reference.profile import Part

_MULTIPLIER = 3.0
_CHI2_LEVEL = 0.05

_CONSTANT = {
    Chunks.NONE: NO_LIMIT,
    Chunks.ZERO: Limit(math.nan, 0.0),
    Chunks.SEPARABLE: Limit(0.45, 0.65),
}

_Key = tuple[str, str, str]  # family, column, metric


class ChunkLimits(Stateless):
    """Bounds from the reference's chunks.

    Only with ``compat`` a value on a bound of :attr:`Chunks.BETWEEN` alerts, and one that is NaN:
    a quirk that makes the row count of every full chunk an alert.
    """

    def __init__(self, part: Part, evaluator: Evaluator, *, compat: bool) -> None:
        self._cells = part.cells
        self._compat = compat
        self._values: dict[_Key, list[float]] = {}
        for chunk in part.chunks:
            for m in evaluator.measure(Counted(part.layout, chunk)):
                self._values.setdefault((m.family, m.column, m.metric), []).append(m.value)
        self._known: dict[_Key, Limit] = {}

    def of(
        self,
        measured: Sequence[Measured],
        window: Counted,
        history: Sequence[int],  # noqa: ARG002
    ) -> list[Limit]:
        return [
            self._chi2(m, window) if m.definition.chunks is Chunks.CHI2 else self._limit(m)
            for m in measured
        ]

    def _limit(self, m: Measured) -> Limit:
        key = m.family, m.column, m.metric
        if key not in self._known:
            source = m.definition.chunk_family or m.family, m.column, m.metric
            self._known[key] = self._bounds(m.definition, self._values.get(source, []))
        return self._known[key]

    def _bounds(self, definition: Definition, values: list[float]) -> Limit:
        rule = definition.chunks
        if rule in _CONSTANT:
            return _CONSTANT[rule]
        known = [v for v in values if not math.isnan(v)]
        if not known:
            return NO_LIMIT
        mean, spread = float(np.mean(known)), _MULTIPLIER * float(np.std(known))
        lower, upper = mean - spread, mean + spread
        low, high = definition.low, definition.high
        if rule is Chunks.BETWEEN:
            return Limit(
                lower if lower > low else math.nan,
                upper if upper < high else math.nan,
                between=self._compat,
            )
        upper = upper if rule is Chunks.UPPER else min(upper, high)
        return Limit(max(lower, low) if rule is Chunks.BOTH else math.nan, upper)

    def _chi2(self, m: Measured, window: Counted) -> Limit:
        """No threshold of its own; the critical value at 0.05 plays it."""
        cells = self._cells[m.column]
        reference, counts = cells.values, window.column(m.column)[: cells.size]
        if self._compat and unseen(cells, window):
            reference, counts = singly(cells, window)
        freedom = int(np.count_nonzero(reference + counts)) - 1
        if freedom < 1:
            return NO_LIMIT
        return Limit(
            math.nan,
            float(special.chdtri(freedom, _CHI2_LEVEL)),
            float(special.chdtrc(freedom, m.value)),
        )
