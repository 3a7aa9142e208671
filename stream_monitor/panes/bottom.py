"""Which values occur, and how often: the k smallest hashes of each column, with exact counts.

A hash is like a uniform draw that every occurrence of a value shares. So the k smallest of all that
were ever seen are k values drawn without regard to how often they occur; a value that is among them
has been among them from its first occurrence on, which makes its count exact. What is kept depends
neither on the order of the rows nor on how they are cut into batches, panes and partitions.

Sources: Beyer, Haas, Reinwald, Sismanis & Gemulla (2007), "On synopses for distinct-value
estimation under multiset operations"; Bar-Yossef, Jayram, Kumar, Sivakumar & Trevisan (2002),
"Counting distinct elements in a data stream".
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Self

import numpy as np

from stream_monitor.errors import StoreError
from stream_monitor.hashing import HashArray, splitmix64
from stream_monitor.schema import BoolArray, FloatArray, IntArray

# What stands for "no value", and fills rows up: greater than every hash that is kept.
NONE = np.uint64(2**64 - 1)

_HEADER = 3  # numbers: limit, columns, bytes a count
_FAR = 4.0
_AT_ONCE = 2**14  # values that are hashed at once, so that all steps stay in the processor's cache


def value_hashes(numbers: FloatArray) -> HashArray:
    """float64[...] → uint64[...]: equal numbers have equal hashes; NONE where not finite.

    −0 is 0. Distinct numbers have distinct hashes, but for the two that hash to the greatest two
    integers.
    """
    with np.errstate(invalid="ignore"):  # signalling NaN, which Arrow can bring
        found = splitmix64((numbers + 0.0).view(np.uint64))
    np.minimum(found, NONE - np.uint64(1), out=found)
    found[~np.isfinite(numbers)] = NONE
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Bottom:
    """The ``limit`` smallest hashes of each of F columns.

    Attributes
    ----------
    limit
        The most hashes that are kept of a column, at least 2.
    hashes : uint64[F, w], w <= limit
        Rising in each row, then NONE. Some row is filled unless w is 0.
    counts : int64[F, w]
        How often each of them occurred; 0 beside NONE.
    rows : int64[F]
        How many values there were.
    """

    limit: int
    hashes: HashArray
    counts: IntArray
    rows: IntArray

    @classmethod
    def of(cls, hashes: HashArray, limit: int, beside: Self | None = None) -> Self:
        """Of the values of some rows: uint64[F, n], NONE where there is no value.

        ``beside`` is what it will be merged with: hashes that cannot matter then are left out,
        which are nearly all of them once that is full.
        """
        if limit < 2:
            raise ValueError(f"{limit} hashes tell nothing of what is not kept; keep 2 or more")
        rows = np.count_nonzero(hashes != NONE, axis=1)
        if beside is not None and beside.hashes.shape[1] == limit:
            hashes = _up_to(hashes, beside.hashes[:, -1:])
        return cls(limit, *_least(np.sort(hashes, axis=1), None, limit), rows)

    @classmethod
    def of_numbers(cls, numbers: FloatArray, limit: int, beside: Self | None = None) -> Self:
        """Of the finite values of some rows: float64[F, n]; ``beside`` as for :meth:`of`."""
        columns, n = numbers.shape
        step = max(_AT_ONCE // max(n, 1), 1)
        hashes = np.empty((columns, n), dtype=np.uint64)
        for first in range(0, columns, step):
            hashes[first : first + step] = value_hashes(numbers[first : first + step])
        return cls.of(hashes, limit, beside)

    def merged(self, other: Self) -> Self:
        """Of both sides' values. Associative and commutative."""
        columns = len(self.hashes)
        if (self.limit, columns) != (other.limit, len(other.hashes)):
            raise ValueError(
                f"the {self.limit} smallest hashes of {columns} columns and the {other.limit} of "
                f"{len(other.hashes)} do not merge; take both with one limit from the same columns"
            )
        mine, theirs = self._below(other._bar()), other._below(self._bar())
        hashes = np.concatenate([self.hashes[:, :mine], other.hashes[:, :theirs]], axis=1)
        counts = np.concatenate([self.counts[:, :mine], other.counts[:, :theirs]], axis=1)
        order = np.argsort(hashes, axis=1)
        order += np.arange(columns)[:, np.newaxis] * hashes.shape[1]
        least = _least(hashes.take(order), counts.take(order), self.limit)
        return type(self)(self.limit, *least, self.rows + other.rows)

    def filled(self) -> IntArray:
        """int64[F]: how many hashes are kept of each column."""
        filled: IntArray = np.count_nonzero(self.counts, axis=1)
        return filled

    def distinct(self) -> FloatArray:
        """How many different values each column has, float64[F], from 0 to the number of rows.

        Exact below ``limit``. Else (k − 1) / U, with U the k-th smallest hash as a part of all
        hashes: unbiased, with a relative standard error of about 1 / sqrt(k − 2) (Beyer et al.
        2007): 6 % for k = 256.
        """
        filled = self.filled()
        found = filled.astype(np.float64)
        full = filled == self.limit
        if full.any():
            found[full] = (self.limit - 1) / ((self.hashes[full, -1] + 1.0) / 2.0**64)
        return np.minimum(found, self.rows)

    def repeated(self) -> FloatArray:
        """The share of the rows with a value whose value occurs in a row before, float64[F].

        1 − values / rows, both of the values that are kept: exact with fewer than ``limit``
        different values, else an estimate from so many of them. It misses a value that makes up
        many rows and is none of the kept ones; where :meth:`distinct` and all rows give a share
        more than four of their standard errors away from it, theirs is taken. In [0, 1); NaN for
        a column without values.
        """
        kept = self.counts.sum(axis=1)
        known = kept > 0
        fresh = self.filled() / np.where(known, kept, np.nan)
        overall = self.distinct() / np.where(known, self.rows, np.nan)
        error = overall / sqrt(max(self.limit - 2, 1))
        return 1.0 - np.where(np.abs(fresh - overall) > _FAR * error, overall, fresh)

    def to_bytes(self) -> bytes:
        """All of it, little-endian, as small as the counts allow; equal content, equal bytes."""
        kept = self.counts > 0
        counts = self.counts[kept]
        width = np.min_scalar_type(int(counts.max(initial=0))).itemsize
        header = np.array([self.limit, len(self.hashes), width], dtype="<i8")
        parts = (
            header,
            self.filled().astype("<i8"),
            self.rows.astype("<i8"),
            self.hashes[kept].astype("<u8"),
            counts.astype(f"<u{width}"),
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
        limit, columns, width = np.frombuffer(data[:head].ljust(head, b"\0"), "<i8").tolist()
        body = head + 16 * columns
        sound = width in (1, 2, 4, 8) and columns >= 0 and body <= len(data)
        numbers = np.frombuffer(data, "<i8", 2 * columns, head) if sound else np.zeros(0, np.int64)
        filled, rows = np.split(numbers.astype(np.int64), 2)
        total = int(filled.sum())
        sound &= all(0 <= n <= limit for n in filled.tolist())
        if not sound or len(data) != body + total * (8 + width):
            raise StoreError(
                f"{len(data)} bytes that should be hashes of columns' values are not what their "
                "beginning announces; the state is damaged, restore a backup or start with an "
                "empty store"
            )
        kept = np.arange(filled.max(initial=0)) < filled[:, np.newaxis]
        hashes = np.full(kept.shape, NONE)
        counts = np.zeros(kept.shape, dtype=np.int64)
        hashes[kept] = np.frombuffer(data, "<u8", total, body)
        counts[kept] = np.frombuffer(data, f"<u{width}", total, body + 8 * total)
        return cls(limit, hashes, counts, rows)

    @staticmethod
    def most_bytes(limit: int, columns: int) -> int:
        """The greatest size, in memory or as bytes."""
        return 8 * (_HEADER + 2 * columns + 2 * limit * columns)

    def _bar(self) -> HashArray:
        """uint64[F, 1]: no hash above it can be among the smallest of any union."""
        if self.hashes.shape[1] < self.limit:
            return np.full((len(self.hashes), 1), NONE)
        return self.hashes[:, -1:]

    def _below(self, bar: HashArray) -> int:
        """How many of the first hashes can be among the smallest, in the row with the most."""
        possible: BoolArray = (self.hashes <= bar) & (self.counts > 0)
        return int(np.count_nonzero(possible, axis=1).max(initial=0))


def _up_to(hashes: HashArray, bar: HashArray) -> HashArray:
    """The hashes of each row that are not above uint64[F, 1], in their order, then NONE."""
    low = hashes <= bar
    number = np.count_nonzero(low, axis=1)
    found = np.full((len(hashes), int(number.max(initial=0))), NONE)
    found[np.arange(found.shape[1]) < number[:, np.newaxis]] = hashes[low]
    return found


def _least(hashes: HashArray, counts: IntArray | None, limit: int) -> tuple[HashArray, IntArray]:
    """The smallest hashes of each row, each once, with the sums of their counts.

    Parameters
    ----------
    hashes : uint64[F, w], not falling in any row
    counts : int64[F, w], 0 beside NONE; None where each hash counts once
    """
    columns, n = hashes.shape
    first = hashes != NONE
    valid = np.count_nonzero(first, axis=1)
    first[:, 1:] &= hashes[:, 1:] != hashes[:, :-1]
    number = np.count_nonzero(first, axis=1)
    width = min(int(number.max(initial=0)), limit)
    least, sums = np.full((columns, width), NONE), np.zeros((columns, width), dtype=np.int64)
    if not width:
        return least, sums
    place = np.flatnonzero(first)
    end = np.cumsum(number)
    into = np.arange(width) < number[:, np.newaxis]
    taken = ((end - number)[:, np.newaxis] + np.arange(width))[into]
    least[into] = hashes.take(place[taken])
    if counts is None:
        following = np.append(place[1:], 0)
        some = number > 0
        following[end[some] - 1] = (np.arange(columns) * n + valid)[some]
        sums[into] = (following - place)[taken]
    else:
        # what follows a row's last hash is NONE, counted 0
        sums[into] = np.add.reduceat(counts.ravel(), place)[taken]
    return least, sums
