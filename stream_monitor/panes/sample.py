"""A bounded sample of a window's rows that merges like counts do.

Kept are the rows whose content has the smallest hashes (a bottom-k sample): every row of a stream
has the same chance, and which ones they are depends neither on the order nor on how the stream is
cut into batches, panes and partitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from stream_monitor.errors import StoreError
from stream_monitor.hashing import HashArray, splitmix64
from stream_monitor.schema import FloatArray, IntArray

_HEADER = 3  # numbers: limit, contents, columns


@dataclass(frozen=True, slots=True, eq=False)
class RowSample:
    """The ``limit`` contents with the smallest hashes, with how many rows there are of each.

    Attributes
    ----------
    limit
        The most contents that are kept.
    keys : uint64[m], rising
        Hash of event time and values.
    counts, times : int64[m]
        How many rows, at least 1, and their event time.
    rows : float64[m, F]
        The values; NaN is one value like any other.
    """

    limit: int
    keys: HashArray
    counts: IntArray
    times: IntArray
    rows: FloatArray

    @classmethod
    def of(cls, event_time: IntArray, rows: FloatArray, limit: int) -> Self:
        """The sample of some rows: int64[n] and float64[n, F]."""
        if limit < 1:
            raise ValueError(f"a sample of {limit} rows holds nothing; the limit is at least 1")
        keys, counts = _hashes(event_time, rows), np.ones(len(rows), dtype=np.int64)
        return cls._least(limit, keys, counts, event_time, rows)

    def merged(self, other: Self) -> Self:
        """The sample of both samples' rows.

        Associative and commutative; the samples of any parts of some rows merge to the sample of
        them all.
        """
        if (self.limit, self.rows.shape[1]) != (other.limit, other.rows.shape[1]):
            raise ValueError(
                f"samples of {self.limit} rows of {self.rows.shape[1]} columns and of "
                f"{other.limit} of {other.rows.shape[1]} do not merge; take both with the same "
                "limit from the same columns"
            )
        return self._least(
            self.limit,
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.times, other.times]),
            np.concatenate([self.rows, other.rows]),
        )

    def drawn(self) -> FloatArray:
        """At most ``limit`` rows, float64[r, F], in time order.

        Each content as often as it was counted; where that is more than the limit, rows at equal
        distances among them, so that shares stay as they are.
        """
        order = np.argsort(self.times, kind="stable")
        ends = np.cumsum(self.counts[order])
        total = int(ends[-1]) if len(ends) else 0
        number = min(total, self.limit)
        position = (2 * np.arange(number) + 1) * total // (2 * max(number, 1))
        found: FloatArray = self.rows[order[np.searchsorted(ends, position, side="right")]]
        return found

    def to_bytes(self) -> bytes:
        """All of it, little-endian; equal samples give equal bytes."""
        header = np.array([self.limit, *self.rows.shape], dtype="<i8")
        parts = (
            header,
            self.keys.astype("<u8"),
            self.counts.astype("<i8"),
            self.times.astype("<i8"),
            self.rows.astype("<f8"),
        )
        return b"".join(part.tobytes() for part in parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of :meth:`to_bytes`.

        Raises
        ------
        StoreError
            Where the bytes are of another length than their beginning says.
        """
        head = 8 * _HEADER
        limit, m, columns = np.frombuffer(data[:head].ljust(head, b"\0"), dtype="<i8").tolist()
        if len(data) != cls.most_bytes(m, columns):
            raise StoreError(
                f"a stored sample of rows has {len(data)} bytes and not the "
                f"{cls.most_bytes(m, columns)} that it announces; the state is damaged, "
                "restore a backup or start with an empty store"
            )
        keys = np.frombuffer(data, "<u8", m, head).astype(np.uint64)
        counts = np.frombuffer(data, "<i8", m, head + 8 * m).astype(np.int64)
        times = np.frombuffer(data, "<i8", m, head + 16 * m).astype(np.int64)
        rows = np.frombuffer(data, "<f8", m * columns, head + 24 * m).astype(np.float64)
        return cls(limit, keys, counts, times, rows.reshape(m, columns))

    @staticmethod
    def most_bytes(limit: int, columns: int) -> int:
        """Length of the bytes of a full sample."""
        return 8 * (_HEADER + limit * (3 + columns))

    @classmethod
    def _least(
        cls, limit: int, keys: HashArray, counts: IntArray, times: IntArray, rows: FloatArray
    ) -> Self:
        """The smallest keys, each once, in rising order, with the sums of their counts."""
        found, first, member = np.unique(keys, return_index=True, return_inverse=True)
        sums = np.zeros(len(found), dtype=np.int64)
        np.add.at(sums, member, counts)
        kept = first[:limit]
        return cls(limit, found[:limit], sums[:limit], times[kept], rows[kept])


def _hashes(event_time: IntArray, rows: FloatArray) -> HashArray:
    """uint64[n] of each row's time and values; −0 is 0 and all NaN are one."""
    found = splitmix64(event_time.astype(np.uint64))
    for column in rows.T:
        values = np.where(np.isnan(column), np.nan, column + 0.0)
        found = splitmix64(found ^ values.view(np.uint64))
    return found
