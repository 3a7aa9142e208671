"""Runs: rows sorted by key that never change, in a file or in memory.

A run's file is a header of 64 bytes, the rows, the words of a Bloom filter and every 32nd row's
``high`` (the *fences*). Filter and fences are held in memory, 1.75 bytes a row; the rows are mapped
only while something is looked up, so the process does not grow by what it has looked at.

The filter is a blocked one (Putze, Sanders & Singler 2009, "Cache-, hash- and space-efficient Bloom
filters"): all bits of a key are in one 64-bit word, so a probe is one access. With 12 bits a key
and 5 set it lets 1.0 % of foreign keys pass: E[(1 − (63/64)^5X)^5], X ~ Poisson(64/12).
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stream_monitor.errors import StoreError
from stream_monitor.hashing import splitmix64
from stream_monitor.labels.rows import Rows
from stream_monitor.schema import IntArray

Words = NDArray[np.uint64]

FORMAT_VERSION = 1
_MAGIC = b"SMLEDGER"
_HEADER = struct.Struct("<8sIIQQqqI12x")  # see _header
_STEP = 32  # rows a fence
_BITS_A_KEY, _BITS_SET = 12, 5
_SLICE = 65_536  # rows merged at a time, so that merging takes little memory
_HALF = np.uint64(32)
_REMEDY = "restore the store and its ledgers from one backup, or remove both to begin anew"


@dataclass(frozen=True, slots=True)
class Sought:
    """Keys that are looked up.

    ``at`` is their place among those that were asked for, ``mask`` the bits that each has in its
    word of a filter.
    """

    at: IntArray
    high: Words
    low: Words
    mask: Words

    @classmethod
    def of(cls, high: Words, low: Words) -> Sought:
        return cls(np.arange(len(high)), high, low, _masks(high, low))

    def without(self, found: IntArray) -> Sought:
        """All but these indices."""
        rest = np.ones(len(self.at), dtype=np.bool_)
        rest[found] = False
        return Sought(self.at[rest], self.high[rest], self.low[rest], self.mask[rest])


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of distinct keys, sorted by key.

    Attributes
    ----------
    source
        The rows themselves, or the file that has them.
    rows
        How many; at least 1.
    newest
        The greatest time of a row.
    shadows
        The greatest time of a row in an older run of whose key this one has another row. Until the
        floor has passed it, this run's rows hide that one, whatever their own times are.
    words, fences
        See above.
    bytes, check
        Of the file: its size, and the checksum of all but the rows; 0 without one.
    """

    source: Rows | Path
    dtype: np.dtype[Any]
    rows: int
    newest: int
    shadows: int
    words: Words
    fences: Words
    bytes: int = 0
    check: int = 0

    @property
    def until(self) -> int:
        """The run is of no use once the floor is greater."""
        return max(self.newest, self.shadows)

    @property
    def memory(self) -> int:
        """Bytes held in memory."""
        held = 0 if isinstance(self.source, Path) else self.source.nbytes
        return held + self.words.nbytes + self.fences.nbytes

    def find(self, sought: Sought) -> tuple[IntArray, Rows]:
        """The rows of those keys that are here.

        Returns
        -------
        int64[m], indices in ``sought``, and the row of each.
        """
        words = self.words.take(_places(sought.high, len(self.words)))
        maybe = np.flatnonzero((words & sought.mask) == sought.mask)
        if not len(maybe):
            return maybe, np.empty(0, dtype=self.dtype)
        rows = self.read()
        high, low = sought.high[maybe], sought.low[maybe]
        block = np.searchsorted(self.fences, high, side="right") - 1
        within = np.arange(_STEP)
        found, chosen = [], []
        while len(maybe):
            # a key before the first row gets the first block, where it is not found either
            start = np.maximum(block, 0) * _STEP
            near = rows["high"][np.minimum(start[:, None] + within, self.rows - 1)]
            which, place = np.nonzero(near == high[:, None])
            place += start[which]
            candidates = rows.take(np.minimum(place, self.rows - 1))
            hit = (candidates["low"] == low[which]) & (place < self.rows)
            found.append(maybe[which[hit]])
            chosen.append(candidates.compress(hit))
            # rows of this very `high` may begin in the block before
            more = (self.fences[block] == high) & (block > 0)
            more[which[hit]] = False
            maybe, high, low, block = maybe[more], high[more], low[more], block[more] - 1
        return np.concatenate(found), joined(chosen)

    def cuts(self, edges: Words) -> IntArray:
        """int64[e + 2]: 0, the first row whose ``high`` is not less than each edge, the end."""
        rows = self.read()
        starts = np.maximum(np.searchsorted(self.fences, edges, side="left") - 1, 0) * _STEP
        cuts = [
            start + int(np.searchsorted(rows["high"][start : start + _STEP + 1], edge))
            for start, edge in zip(starts.tolist(), edges, strict=True)
        ]
        return np.array([0, *cuts, self.rows])

    def read(self) -> Rows:
        """The rows; those of a file are mapped for as long as somebody has them.

        Raises
        ------
        StoreError
            Where the file is gone or short.
        """
        if not isinstance(self.source, Path):
            return self.source
        try:
            with self.source.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), self.bytes, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:  # ValueError: shorter than it was
            raise StoreError(f"{self.source}: {error}; {_REMEDY}") from error
        return np.frombuffer(mapped, self.dtype, self.rows, _HEADER.size)


def merged(runs: Sequence[Run], floor: int) -> Iterator[Rows]:
    """The rows of these runs as one, in sorted pieces: of each key the newest run's row.

    ``runs`` are neighbours, the oldest first. Rows below the floor are left out, unless there may
    be one in an older run that they must hide.
    """
    total = sum(run.rows for run in runs)
    parts = -(-total // _SLICE)
    edges = np.array([i * 2**64 // parts for i in range(1, parts)], dtype=np.uint64)
    newest_first = [(run.read(), run.cuts(edges)) for run in reversed(runs)]
    hiding = any(run.shadows >= floor for run in runs)
    for part in range(parts):
        rows = joined([rows[cuts[part] : cuts[part + 1]] for rows, cuts in newest_first])
        rows = _first_of_key(rows)
        yield rows if hiding else rows.compress(rows["time"] >= floor)


def joined(pieces: Sequence[Rows]) -> Rows:
    """Rows one after the other; NumPy alone would copy records field by field."""
    dtype = pieces[0].dtype
    whole = np.concatenate([piece.view(f"V{dtype.itemsize}") for piece in pieces])
    return whole.view(dtype)


def build(
    pieces: Iterable[Rows], most: int, dtype: np.dtype[Any], shadows: int, path: Path | None
) -> Run | None:
    """A run of these rows, which come sorted, each key once; None where there are no rows.

    Parameters
    ----------
    most
        At least as many rows as there will be.
    path
        The file to make, which lies safely on the disk afterwards; None for a run in memory.

    Raises
    ------
    StoreError
        Where the file cannot be written; what was written of it is removed.
    """
    words = np.zeros(most * _BITS_A_KEY // 64 + 1, dtype=np.uint64)
    held: list[Rows] = []
    fences = [np.empty(0, dtype=np.uint64)]
    count, newest = 0, -(2**63)

    def passing() -> Iterator[Rows]:
        nonlocal count, newest
        for piece in pieces:
            if len(piece):
                high = np.ascontiguousarray(piece["high"])
                np.bitwise_or.at(words, _places(high, len(words)), _masks(high, piece["low"]))
                fences.append(high[-count % _STEP :: _STEP])
                newest = max(newest, int(piece["time"].max()))
                count += len(piece)
                yield piece

    if path is None:
        held.extend(passing())
        if not held:
            return None
        return Run(joined(held), dtype, count, newest, shadows, words, np.concatenate(fences))
    try:
        with path.open("wb") as file:
            file.write(bytes(_HEADER.size))
            for piece in passing():
                file.write(piece.data)
            run = Run(path, dtype, count, newest, shadows, words, np.concatenate(fences))
            if count:
                run = _finish(file, run)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(
            f"{path}: {error}; free the disk or make the folder writable; nothing of this commit "
            f"took effect, it is tried again"
        ) from error
    if not count:
        path.unlink()
        return None
    return run


def opened(path: Path, dtype: np.dtype[Any], size: int, check: int) -> Run:
    """The run of a file; its size and checksum as they were when it was made.

    Raises
    ------
    StoreError
        Where the file is missing, of another format, or not as it was.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise StoreError(f"{path}: {found} bytes, it had {size}; {_REMEDY}")
            magic, version, width, rows, words, newest, shadows, checked = _HEADER.unpack(
                file.read(_HEADER.size)
            )
            if magic != _MAGIC or version != FORMAT_VERSION:
                raise StoreError(
                    f"{path}: no ledger file of format {FORMAT_VERSION}: it begins {magic!r}, "
                    f"{version}; run the version that wrote it, or {_REMEDY}"
                )
            fences = -(-rows // _STEP)
            if (
                width == dtype.itemsize
                and _HEADER.size + rows * width + 8 * (words + fences) == size
            ):
                file.seek(rows * width, os.SEEK_CUR)
                index = np.fromfile(file, dtype=np.uint64)
                run = Run(
                    path, dtype, rows, newest, shadows, index[:words], index[words:], size, check
                )
                if checked == check == _check(run):
                    return run
    except OSError as error:
        raise StoreError(f"{path}: {error}; {_REMEDY}") from error
    raise StoreError(f"{path}: damaged, its checksum is another; {_REMEDY}")


def described(dtype: np.dtype[Any]) -> str:
    """A row's fields as JSON."""
    return json.dumps(dtype.descr)


def _finish(file: BinaryIO, run: Run) -> Run:
    file.write(run.words.data)
    file.write(run.fences.data)
    size = file.tell()
    check = _check(run)
    file.seek(0)
    file.write(_header(run, check))
    file.flush()
    os.fsync(file.fileno())
    return Run(
        run.source, run.dtype, run.rows, run.newest, run.shadows, run.words, run.fences, size, check
    )


def _header(run: Run, check: int) -> bytes:
    return _HEADER.pack(
        _MAGIC, FORMAT_VERSION, run.dtype.itemsize, run.rows, len(run.words), run.newest,
        run.shadows, check,
    )  # fmt: skip


def _check(run: Run) -> int:
    found = zlib.crc32(_header(run, 0), zlib.crc32(described(run.dtype).encode()))
    return zlib.crc32(run.fences.data, zlib.crc32(run.words.data, found))


def _places(high: Words, words: int) -> IntArray:
    """The word of each key: keys are hashes, and sorted ones ask for rising words."""
    places: IntArray = (((high >> _HALF) * np.uint64(words)) >> _HALF).view(np.int64)
    return places


def _masks(high: Words, low: Words) -> Words:
    mixed = splitmix64(high ^ low)
    mask = np.zeros(len(high), dtype=np.uint64)
    for shift in range(0, 6 * _BITS_SET, 6):
        mask |= np.uint64(1) << ((mixed >> np.uint64(shift)) & np.uint64(63))
    return mask


def _first_of_key(rows: Rows) -> Rows:
    """Sorted by key; of rows with the same one the first."""
    order = np.argsort(rows["high"])
    high = rows["high"].take(order)
    equal = np.flatnonzero(high[1:] == high[:-1])
    if not len(equal):
        return rows.take(order)
    # few keys are there twice: only these are sorted by what comes after `high`, too
    tied = np.union1d(equal, equal + 1)
    among = order[tied]
    order[tied] = among[np.lexsort((among, rows["low"][among], rows["high"][among]))]
    chosen = rows.take(order)
    again = (chosen["high"][1:] == chosen["high"][:-1]) & (chosen["low"][1:] == chosen["low"][:-1])
    return chosen.compress(np.append(True, ~again))
