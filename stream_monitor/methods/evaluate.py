"""Everything that is measured about one window: a pure function of the reference and its counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stream_monitor.cells import Cells
from stream_monitor.methods.base import BoundDrift, Registry, ShareMethod
from stream_monitor.panes.layout import Layout
from stream_monitor.schema import BoolArray, IntArray, Kind, Role
from stream_monitor.values import DRIFT, OUTLIERS, QUALITY, STATISTICS


@dataclass(frozen=True, slots=True)
class Measured:
    """A value before it is judged. ``rows`` is the number of rows that it rests on."""

    feature: str
    column: str
    family: str
    metric: str
    value: float
    rows: int


class Evaluator:
    """The chosen methods, made ready for one reference."""

    def __init__(
        self,
        cells: dict[str, Cells],
        layout: Layout,
        registry: Registry,
        *,
        continuous: Sequence[str],
        categorical: Sequence[str],
        quality: Sequence[str],
    ) -> None:
        self._layout = layout
        self.drift: dict[tuple[str, str], BoundDrift] = {}
        self.shares: dict[tuple[str, str], tuple[ShareMethod, BoolArray]] = {}
        self._derived = [n for n, c in cells.items() if c.column.role is Role.DERIVED]
        self._cells = cells
        for name, column in cells.items():
            if column.column.role is not Role.DERIVED:
                chosen = continuous if column.column.kind is Kind.CONTINUOUS else categorical
                for metric in chosen:
                    method = registry.drift[metric]
                    if column.column.kind in method.kinds:
                        self.drift[name, metric] = method.bind(column)
            for metric, share in registry.share.items():
                if share.family != QUALITY or metric in quality:
                    mask = share.mask(column)
                    if mask is not None:
                        self.shares[name, metric] = (share, mask)

    def families(self) -> list[str]:
        """The family of each share and mean, once for each value that a window has of it."""
        return [share.family for share, _ in self.shares.values()] + [OUTLIERS] * len(self._derived)

    def measure(self, vector: IntArray) -> list[Measured]:
        """Every value of a window with these counts, int64[layout.size]."""
        rows = self._layout.rows(vector)
        found = [Measured("", "", STATISTICS, "rows_count", float(rows), rows)]
        for (name, metric), bound in self.drift.items():
            cells = self._cells[name]
            values = self._layout.counts(vector, name)[: cells.size]
            valid = int(values.sum())
            distance = float(bound.distance(cells.values, values)) if valid else math.nan
            found.append(Measured(name, name, DRIFT, metric, distance, valid))
        for (name, metric), (share, mask) in self.shares.items():
            count = int(self._layout.counts(vector, name)[mask].sum())
            feature = "" if name in self._derived else name
            ratio = count / rows if rows else math.nan
            found.append(Measured(feature, name, share.family, metric, ratio, rows))
        for name in self._derived:
            mean = self._layout.mean(vector, name)
            found.append(Measured("", name, OUTLIERS, name, mean, rows))
        return found
