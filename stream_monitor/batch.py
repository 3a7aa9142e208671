"""What the decoder hands on: the columns of a run of events of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_monitor.schema import CodeArray, FloatArray, IntArray, Schema

IdArray = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Unseen:
    """Categories that the reference does not have, by name.

    Attributes
    ----------
    column, event : int64[u]
        Row of ``codes`` and event of each value with the code ``C``, in no particular order.
    name : object[u]
        What stands there.
    """

    column: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    event: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    name: NDArray[np.object_] = field(default_factory=lambda: np.empty(0, dtype=np.object_))

    def __len__(self) -> int:
        return len(self.event)

    @classmethod
    def joined(cls, parts: Sequence[Unseen], starts: Sequence[int]) -> Unseen:
        """Those of batches that follow each other; ``starts`` is each one's first event."""
        if not any(map(len, parts)):
            return cls()
        return cls(
            np.concatenate([p.column for p in parts]),
            np.concatenate([p.event + s for p, s in zip(parts, starts, strict=True)]),
            np.concatenate([p.name for p in parts]),
        )


@dataclass(slots=True)
class ColumnBatch:
    """Events of one model in input order, as columns.

    Attributes
    ----------
    event_time : int64[n]
        Microseconds since the epoch, UTC.
    arrival : int64[n]
        Record timestamp in the same unit; equal to ``event_time`` where the input has none.
    numbers : float64[k, n]
        One row a continuous column in schema order. NaN is missing, ±inf is not finite.
    codes : int32[m, n]
        One row a categorical column in schema order: the category's index in the reference, then
        ``C`` for an unseen category, ``C + 1`` for missing, ``C + 2`` for a wrong type, where
        ``C`` is the column's number of reference categories.
    wrong_number : (int64[w], int64[w])
        Row of ``numbers`` and event, for each value of a wrong type (its number is NaN).
    record : int64[n]
        Index of the input record each event came from.
    ids : uint64[n, 2]
        Hash of the event's id, high and low half; (0, 0) without one, shape (0, 2) where ids were
        not asked for.
    unseen
        The names of unseen categories.
    origin : uint64[n]
        What orders the records, see :func:`stream_monitor.labels.rows.origins`; empty where labels
        do not come late.
    memo
        What a method has worked out of these very rows, for others that need the same; see
        :mod:`stream_monitor.methods.half_space_trees`.
    """

    event_time: IntArray
    arrival: IntArray
    numbers: FloatArray
    codes: CodeArray
    wrong_number: tuple[IntArray, IntArray]
    record: IntArray
    ids: IdArray = field(default_factory=lambda: np.empty((0, 2), dtype=np.uint64))
    unseen: Unseen = field(default_factory=Unseen)
    origin: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.event_time)

    def take(self, rows: IntArray) -> ColumnBatch:
        """The batch of the given rows, in the given order; rows that are neighbours are shared."""
        which: slice | IntArray = rows
        if len(rows) and (np.diff(rows) == 1).all():
            which = slice(int(rows[0]), int(rows[-1]) + 1)
        wrong, unseen = self.wrong_number, self.unseen
        if len(wrong[1]) or len(unseen):
            position = np.full(len(self), -1, dtype=np.int64)
            position[rows] = np.arange(len(rows))
            kept = position[wrong[1]] >= 0
            wrong = (wrong[0][kept], position[wrong[1][kept]])
            kept = position[unseen.event] >= 0
            unseen = Unseen(unseen.column[kept], position[unseen.event[kept]], unseen.name[kept])
        return ColumnBatch(
            self.event_time[which],
            self.arrival[which],
            self.numbers[:, which],
            self.codes[:, which],
            wrong,
            self.record[which],
            self.ids[which] if len(self.ids) else self.ids,
            unseen,
            self.origin[which] if len(self.origin) else self.origin,
        )


def empty_wrong() -> tuple[IntArray, IntArray]:
    """``wrong_number`` of a batch without wrong types."""
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Reject:
    """Events that cannot be used: ``reason`` is of a bounded set, ``detail`` for people.

    ``payload`` is the event as it stands in a record that carries several, or an array of them,
    None where it is the whole record. ``count`` is how many events were refused: one, unless this
    stands for many of a record of which each by itself would be too much to keep. ``more`` is how
    many records beside its own it stands for.
    """

    record: int
    reason: str
    detail: str
    payload: bytes | None = None
    count: int = 1
    more: int = 0


@dataclass(slots=True)
class Decoded:
    """What became of a run of records: columns a model, and what was refused beside them.

    ``batches`` maps the model's index in the configuration to its events. Every event is in
    exactly one of the batches or the rejects, whose ``count`` adds up to their number.
    """

    batches: dict[int, ColumnBatch] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)


def concatenate(schema: Schema, parts: list[ColumnBatch]) -> ColumnBatch:
    """One batch of several, in the given order."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(p) for p in parts)])
    columns = [p.wrong_number[0] for p in parts]
    events = [p.wrong_number[1] + s for p, s in zip(parts, starts, strict=False)]
    k, m = len(schema.continuous), len(schema.categorical)
    return ColumnBatch(
        np.concatenate([p.event_time for p in parts]),
        np.concatenate([p.arrival for p in parts]),
        np.concatenate([p.numbers.reshape(k, -1) for p in parts], axis=1),
        np.concatenate([p.codes.reshape(m, -1) for p in parts], axis=1),
        (np.concatenate(columns), np.concatenate(events)),
        np.concatenate([p.record for p in parts]),
        np.concatenate([p.ids for p in parts]),
        Unseen.joined([p.unseen for p in parts], starts[:-1].tolist()),
        np.concatenate([p.origin for p in parts]),
    )
