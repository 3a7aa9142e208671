"""Everything that is measured about one window: a pure function of the reference and its counts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stream_monitor.cells import Cells, moments
from stream_monitor.methods import unseen_names
from stream_monitor.methods.base import (
    Block,
    Chunks,
    Definition,
    Measured,
    Registry,
    RowMethod,
    ShareMethod,
    Sketcher,
)
from stream_monitor.methods.binning import Pooled
from stream_monitor.methods.stacked import Running, Stacked, Sums
from stream_monitor.panes.exact import joined
from stream_monitor.panes.layout import Counted, Layout
from stream_monitor.schema import BoolArray, IntArray, Role
from stream_monitor.values import QUALITY, STATISTICS

ROWS_COUNT = Definition(
    "rows_count", STATISTICS, 0.0, math.inf, "Rows of the window.", Chunks.BETWEEN
)


class _Look(NamedTuple):
    """The distances of a layout's columns, their numbers of values, and what the shares count."""

    stacked: Stacked
    valid: Sums
    counted: Sums


class Evaluator:
    """The chosen methods, made ready for one reference.

    ``hidden`` columns are left out, whatever method speaks of them. ``drift`` and ``shares`` hold
    the methods of single columns, by (column, metric), ``blocks``
    those of the model as a whole, by name.
    """

    def __init__(
        self,
        cells: Mapping[str, Cells],
        reference: Counted,
        registry: Registry,
        blocks: Mapping[str, Block],
        sketchers: Mapping[str, Sketcher],
        *,
        continuous: Sequence[str],
        categorical: Sequence[str],
        quality: Collection[str],
        compat: bool,
        hidden: Collection[str] = (),
    ) -> None:
        self._cells = {name: column for name, column in cells.items() if name not in hidden}
        self._hidden = hidden
        self._compat = compat
        self._registry = registry
        self.blocks = blocks
        self.drift: dict[tuple[str, str], Pooled] = {}
        self.shares: dict[tuple[str, str], tuple[ShareMethod, BoolArray]] = {}
        self._derived: dict[str, RowMethod] = {}
        self._rows = reference.rows
        bound: list[Block | Sketcher] = [*blocks.values(), *sketchers.values()]
        self._measures = [method.bind(reference) for method in bound]
        optional = {m for m, s in registry.share.items() if s.definition.family == QUALITY}
        shares = [m for m in registry.share if m not in optional or m in quality]
        for name, column in self._cells.items():
            if column.column.role is Role.DERIVED:
                self._derived[name] = registry.row[name]
            else:
                for metric in continuous if column.column.continuous else categorical:
                    method = registry.drift[metric]
                    if column.column.kind in method.kinds:
                        self.drift[name, metric] = method.bind(column)
            for metric in shares:
                share = registry.share[metric]
                if compat:
                    share = registry.nannyml.get(metric, share)
                mask = share.mask(column)
                if mask is not None:
                    self.shares[name, metric] = (share, mask)
        self._looks: dict[tuple[int, ...], _Look] = {}
        self._moments = {name: moments(cells[name]) for name in self._derived}
        self._expected: dict[tuple[str, str], float] = {}
        for (name, metric), (share, _) in self.shares.items():
            a, b = share.expected(cells[name])
            self._expected[name, metric] = a / (a + b)

    def measure(self, window: Counted) -> list[Measured]:
        """Every value of a window."""
        rows = window.rows
        found = [Measured(ROWS_COUNT, ROWS_COUNT.metric, "", "", float(rows), rows)]
        slots, look = Running(window.vector), self._look(window.layout)
        found += self._univariate(window, slots, look)
        found += self._shares(rows, look.counted(slots).tolist())
        found += self._means(window)
        for measure in self._measures:
            found += (m for m in measure.measure(window) if m.column not in self._hidden)
        return found

    def _look(self, layout: Layout) -> _Look:
        """Where a layout has the columns: that of outcomes is not the reference's."""
        starts = {name: layout.columns[name].start for name in self._cells}
        key = tuple(starts.values())
        if key not in self._looks:
            self._looks[key] = _Look(
                Stacked(self.drift, self._cells, starts),
                Sums([starts[n] + np.arange(c.size) for n, c in self._cells.items()]),
                Sums([starts[n] + np.flatnonzero(m) for (n, _), (_, m) in self.shares.items()]),
            )
        return self._looks[key]

    def _univariate(self, window: Counted, slots: Running, look: _Look) -> Iterator[Measured]:
        valid = dict(zip(self._cells, look.valid(slots).tolist(), strict=True))
        distances = look.stacked.distances(slots).tolist()
        for place, ((name, metric), bound) in enumerate(self.drift.items()):
            method, distance = self._registry.drift[metric], distances[place]
            if self._compat and method.singly and unseen(self._cells[name], window):
                distance = float(bound.distance(*singly(self._cells[name], window)))
            yield Measured(method.definition, metric, name, name, distance, valid[name])

    def _means(self, window: Counted) -> Iterator[Measured]:
        rows = window.rows
        for name, method in self._derived.items():
            mean = float(joined(window.block(name))[0]) / rows if rows else math.nan
            expected, variance, _ = self._moments[name]
            yield Measured(
                method.definition,
                name,
                "",
                name,
                mean,
                rows,
                expected=expected,
                spread=self._spread(variance, rows),
            )

    def _spread(self, variance: float, rows: int) -> float:
        """Of a mean in so many rows, the reference's noise included."""
        return math.sqrt(variance * (1 / rows + 1 / self._rows)) if rows else math.nan

    def _shares(self, rows: int, counts: Sequence[int]) -> Iterator[Measured]:
        for ((name, metric), (share, _)), count in zip(self.shares.items(), counts, strict=True):
            feature = "" if name in self._derived else name
            ratio = count / rows if rows else math.nan
            expected = self._expected[name, metric]
            yield Measured(
                share.definition,
                metric,
                feature,
                name,
                ratio,
                rows,
                expected=expected,
                spread=self._spread(expected * (1 - expected), rows),
            )


def unseen(cells: Cells, window: Counted) -> bool:
    """Whether a window has categories of a column that the reference does not have."""
    return bool(window.column(cells.column.name)[cells.unseen])


def singly(cells: Cells, window: Counted) -> tuple[IntArray, IntArray]:
    """Counts of a categorical column with each unseen category by itself: reference and window.

    Those beyond what is kept by name are one more category.
    """
    counts = window.column(cells.column.name)[: cells.size]
    names = window.sketches.get(unseen_names.NAME)
    each = np.empty(0, dtype=np.int64)
    if isinstance(names, unseen_names.Names):
        each = names.counts(cells.column.name)
    rest = counts[cells.unseen] - each.sum()
    reference = np.append(cells.values, np.zeros(len(each), dtype=np.int64))
    return reference, np.concatenate([counts[: cells.unseen], [rest], each])
