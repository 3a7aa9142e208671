"""Which categories a window has that the reference does not, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np
from xxhash import xxh3_64_intdigest

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.methods.base import Arrays, Definition, Measured, Study, register_sketch
from stream_monitor.panes.layout import Counted, Sketch
from stream_monitor.schema import IntArray, Role, Schema
from stream_monitor.values import QUALITY

NAME = "unseen_names"

MOST = 256  # names that are kept of a column
_LENGTH = 64  # characters of a name that are kept

_DISTINCT = Definition(
    "unseen_categories",
    QUALITY,
    0.0,
    float("inf"),
    "Number of different categories that the reference does not have.",
)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One name: the hash of all of it, its beginning, and how many rows have it."""

    hash: int
    name: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """Counts of unseen categories by column and name.

    Of each column the 256 names with the smallest hashes are kept (a bottom-k sample of names):
    the same ones, with exact counts, in whatever parts the rows come. ``more`` are the columns in
    which names were left out.
    """

    columns: Mapping[str, tuple[Entry, ...]]
    more: frozenset[str] = frozenset()

    @classmethod
    def of(cls, found: Iterable[tuple[str, Entry]], more: Iterable[str] = ()) -> Names:
        """From entries of columns, in any order and number."""
        tables: dict[str, dict[int, Entry]] = {}
        for column, entry in found:
            table = tables.setdefault(column, {})
            before = table.get(entry.hash)
            count = entry.count + (before.count if before else 0)
            table[entry.hash] = Entry(entry.hash, entry.name, count)
        columns = {c: tuple(t[h] for h in sorted(t)[:MOST]) for c, t in sorted(tables.items())}
        return cls(columns, frozenset(more) | {c for c, t in tables.items() if len(t) > MOST})

    def merged(self, other: Self) -> Names:
        """Those of both; associative and commutative."""
        pairs = ((c, e) for one in (self, other) for c, es in one.columns.items() for e in es)
        return self.of(pairs, self.more | other.more)

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode((self.columns, sorted(self.more)))

    def counts(self, column: str) -> IntArray:
        """int64[names]: the rows of each unseen category that is kept."""
        return np.array([e.count for e in self.columns.get(column, ())], dtype=np.int64)


class _Learner:
    """There is nothing to learn."""

    def update(self, batch: ColumnBatch) -> None:
        """Not needed."""

    def finish(self, sample: ColumnBatch) -> Arrays:  # noqa: ARG002
        return {"most": np.array([MOST])}


class _Sketcher:
    def __init__(self, schema: Schema) -> None:
        self._columns = [c.name for c in schema.categorical]
        self._shown = [c.name for c in schema.categorical if c.role is not Role.TARGET]

    def sketch(self, batch: ColumnBatch, beside: Sketch | None = None) -> Names:  # noqa: ARG002
        unseen = batch.unseen
        pairs = zip(unseen.column.tolist(), unseen.name.tolist(), strict=True)
        return Names.of((self._columns[c], _entry(name)) for c, name in pairs)

    def from_bytes(self, data: bytes) -> Names:
        columns, more = msgspec.msgpack.decode(
            data, type=tuple[dict[str, tuple[Entry, ...]], list[str]]
        )
        return Names(columns, frozenset(more))

    @property
    def most_bytes(self) -> int:
        return len(self._columns) * MOST * (_LENGTH * 4 + 24)

    def bind(self, reference: Counted) -> _Measure:  # noqa: ARG002 - it has no unseen categories
        return _Measure(self._shown)


@dataclass(frozen=True, slots=True)
class _Measure:
    columns: list[str]

    def measure(self, window: Counted) -> Iterator[Measured]:
        names = window.sketches.get(NAME)
        for column in self.columns:
            value = float("nan")
            if isinstance(names, Names) and column not in names.more:
                value = float(len(names.counts(column)))
            yield Measured(_DISTINCT, _DISTINCT.metric, column, column, value, window.rows)


class UnseenNames:
    """How many different unseen categories there are, and which.

    Exact up to 256 of a column; beyond that the number is NaN. Segments and windows that are not
    closed have none.
    """

    name = NAME
    definitions = (_DISTINCT,)

    def learner(self, study: Study) -> _Learner | None:
        """None without categorical columns."""
        return _Learner() if study.schema.categorical else None

    def load(
        self,
        schema: Schema,
        cells: Mapping[str, Cells],  # noqa: ARG002
        arrays: Arrays,  # noqa: ARG002
    ) -> _Sketcher:
        return _Sketcher(schema)


def _entry(name: str) -> Entry:
    digest = xxh3_64_intdigest(name.encode(errors="surrogatepass"))
    return Entry(digest, name[:_LENGTH].encode(errors="replace").decode(), 1)


register_sketch(UnseenNames())
