"""How many different values a window has, columns that no longer vary, ids that come again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, isnan, nan, sqrt
from typing import Self

import numpy as np
from scipy import special

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.hashing import HashArray
from stream_monitor.methods.base import Arrays, Definition, Measured, Study, register_sketch
from stream_monitor.panes.bottom import NONE, Bottom
from stream_monitor.panes.layout import Counted, Sketch
from stream_monitor.schema import Role, Schema
from stream_monitor.values import QUALITY

NAME = "cardinality"

# Distinct values are known to 6 %. Ids get more, for a share of duplicates of 1 % among 4,096 ids
# is known to ± 0.16 %.
VALUES, IDS = 256, 4_096
# Where a greater share of the reference's ids came before, an id does not stand for one event.
_UNIQUE = 0.01

_INPUTS = (Role.FEATURE, Role.PREDICTION, Role.SCORE)

_DISTINCT = Definition(
    "distinct_values", QUALITY, 0.0, inf, "Number of different values; unseen categories are one."
)
_CONSTANT = Definition(
    "constant",
    QUALITY,
    0.0,
    1.0,
    "1 where a column that varied in the reference has a single value, else 0.",
    upper_only=True,
)
_DUPLICATES = Definition(
    "duplicate_ids",
    QUALITY,
    0.0,
    1.0,
    "Share of the rows with an id whose id occurs in the window before.",
    upper_only=True,
)


@dataclass(frozen=True, slots=True, eq=False)
class Cardinality:
    """What is kept of a window's rows: hashes of the continuous columns' values, and of ids."""

    values: Bottom
    ids: Bottom

    def merged(self, other: Self) -> Self:
        return type(self)(self.values.merged(other.values), self.ids.merged(other.ids))

    def to_bytes(self) -> bytes:
        """The length of the first part, then both."""
        values = self.values.to_bytes()
        return len(values).to_bytes(8, "little") + values + self.ids.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of :meth:`to_bytes`; StoreError where the bytes are damaged."""
        end = 8 + int.from_bytes(data[:8], "little")
        return cls(Bottom.from_bytes(data[8:end]), Bottom.from_bytes(data[end:]))


def log_chance(cells: Cells, rows: int) -> float:
    """Logarithm of the chance that ``rows`` values like the reference's fall into a single cell.

    A cell that holds k of the reference's N values has a share of new ones that is
    Beta(k + 1/2, N − k + 1/2), so all n lie in it with the chance
    B(k + n + 1/2, N − k + 1/2) / B(k + 1/2, N − k + 1/2), summed over the cells that have any.
    No less than the chance of a single value; equal where each cell is one value.
    """
    counts = cells.values[cells.values > 0]
    a, b = counts + 0.5, counts.sum() - counts + 0.5
    chance = special.logsumexp(special.betaln(a + rows, b) - special.betaln(a, b))
    return min(float(chance), 0.0)


def varies(cells: Cells) -> bool:
    """Whether the reference has at least two different values in the column."""
    if cells.summary is not None:
        return cells.summary.minimum < cells.summary.maximum
    return int(np.count_nonzero(cells.values)) > 1


def _id_sketch(batch: ColumnBatch, beside: Bottom | None = None) -> Bottom:
    # half a hash is enough to tell repetitions; an event without an id has none
    ids: HashArray = np.where((batch.ids[:, 0] | batch.ids[:, 1]) == 0, NONE, batch.ids[:, 0])
    return Bottom.of(ids[np.newaxis], IDS, beside)


class _Learner:
    """Counts the ids of the reference that come again."""

    def __init__(self) -> None:
        self._ids = Bottom.of(np.empty((1, 0), dtype=np.uint64), IDS)

    def update(self, batch: ColumnBatch) -> None:
        self._ids = self._ids.merged(_id_sketch(batch))

    def finish(self, sample: ColumnBatch) -> Arrays:  # noqa: ARG002 - a sample has few duplicates
        """ids : float64[2], the share of rows whose id comes again, and how many rows tell it."""
        return {"ids": np.array([self._ids.repeated()[0], self._ids.counts.sum()])}


class _Sketcher:
    def __init__(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> None:
        self._numbers = [i for i, c in enumerate(schema.continuous) if c.role in _INPUTS]
        self._cells = [cells[c.name] for c in schema.columns if c.role in _INPUTS]
        self._ids = arrays["ids"]

    def sketch(self, batch: ColumnBatch, beside: Sketch | None = None) -> Cardinality:
        known = beside if isinstance(beside, Cardinality) else None
        values, ids = (None, None) if known is None else (known.values, known.ids)
        numbers = batch.numbers[self._numbers]
        return Cardinality(Bottom.of_numbers(numbers, VALUES, values), _id_sketch(batch, ids))

    def from_bytes(self, data: bytes) -> Cardinality:
        return Cardinality.from_bytes(data)

    @property
    def most_bytes(self) -> int:
        return 8 + Bottom.most_bytes(VALUES, len(self._numbers)) + Bottom.most_bytes(IDS, 1)

    def bind(self, reference: Counted) -> _Measure:  # noqa: ARG002 - the cells have the counts
        return _Measure(self._cells, *self._ids.tolist())


class _Measure:
    def __init__(self, cells: list[Cells], repeated: float, rows: float) -> None:
        self._cells = cells
        self._varying = {c.column.name for c in cells if varies(c)}
        self._again = (repeated * rows + 0.5) / (rows + 1)  # Jeffreys' prior
        self._rows = rows if repeated <= _UNIQUE else 0.0  # it is NaN without ids

    def measure(self, window: Counted) -> Iterator[Measured]:
        sketch = window.sketches.get(NAME)
        known = sketch if isinstance(sketch, Cardinality) else None
        numbers = iter(known.values.distinct().tolist() if known else ())
        for cells in self._cells:
            name = cells.column.name
            counts = window.column(name)[: cells.size]
            rows, value = int(counts.sum()), nan
            if known:
                discrete = not cells.column.continuous
                value = float(np.count_nonzero(counts)) if discrete else next(numbers)
            yield Measured(_DISTINCT, _DISTINCT.metric, name, name, value, rows)
            if name in self._varying:
                unseen = 0 if cells.column.continuous else int(counts[cells.unseen])
                yield _constant(cells, value, rows, unseen=unseen)
        yield self._duplicates(known, window.rows)

    def _duplicates(self, known: Cardinality | None, rows: int) -> Measured:
        value, told = nan, rows
        if known:
            value, rows = float(known.ids.repeated()[0]), int(known.ids.rows[0])
            told = int(known.ids.counts.sum())
        expected = spread = nan
        if told and self._rows:
            expected = self._again
            spread = sqrt(expected * (1 - expected) * (1 / told + 1 / self._rows))
        return Measured(
            _DUPLICATES,
            _DUPLICATES.metric,
            "",
            "",
            value,
            rows,
            expected=expected,
            spread=spread,
        )


def _constant(cells: Cells, distinct: float, rows: int, *, unseen: int) -> Measured:
    name, value, spread = cells.column.name, nan, nan
    if rows and not isnan(distinct):
        value = float(distinct == 1 and not unseen)
        # so that 1 is as far out in a normal distribution as a constant window is improbable
        spread = -1.0 / float(special.ndtri_exp(log_chance(cells, rows)))
    return Measured(
        _CONSTANT, _CONSTANT.metric, name, name, value, rows, expected=0.0, spread=spread
    )


class CardinalityMethod:
    """Different values a column, columns that became constant, repeated ids; from hashes.

    - ``distinct_values``: how many different values the window has; missing, wrong types and ±inf
      are none. Continuous columns: exact below 256, else estimated with a relative standard error
      of 6 % (see :mod:`stream_monitor.panes.bottom`). Categorical: exact, all unseen categories
      counting as one. Not judged: it grows with the rows.
    - ``constant``: 1 where a column with at least two values in the reference has a single one in
      the window, which for a category is one that the reference has (others are ``unseen_values``),
      else 0. It is an alert if the chance of that (:func:`log_chance`) is below the level; the
      p-value is that chance. Rows that hang together, such as an hour of one customer's, make
      constant windows more frequent. Columns that are constant in the reference do not have it:
      other values than theirs are out of range or unseen.
    - ``duplicate_ids``: of the rows with an id, the share whose id occurs in the window before;
      exact below 4,096 different ids, else estimated from so many drawn by hash. Expected
      is the reference's share (Jeffreys' prior), with the binomial spread of both samples. Not
      judged where the reference has no ids, or where more than 1 % of its rows repeat one: these
      ids stand for customers rather than events, and how often they recur depends on the window's
      length.

    NaN for a window without values or ids, and for what has no sketch: windows that are not
    closed, segments, chunks of the reference.
    """

    name = NAME
    definitions = (_DISTINCT, _CONSTANT, _DUPLICATES)

    def learner(self, study: Study) -> _Learner | None:  # noqa: ARG002 - it applies to any columns
        return _Learner()

    def load(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> _Sketcher:
        return _Sketcher(schema, cells, arrays)


register_sketch(CardinalityMethod())
