"""One input partition's state: its panes, its progress, its counters.

All of it is integers and a pure function of the partition's records in order, so a restart that
resumes at the committed position arrives at the same state.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from stream_monitor.panes.layout import Sketch
from stream_monitor.schema import BoolArray, IntArray
from stream_monitor.store.base import ChunkKey, PaneKey, PartitionState

CHUNK_SLOTS = 4_096
_SKETCHES = -1  # the number of the chunk that holds a pane's sketches
_PLACE = np.dtype("<u2")  # a slot's place in a chunk, and the slots of one
_WIDTHS = tuple(np.dtype(w) for w in ("<u1", "<u2", "<u4", "<i8"))


class Pane:
    """Counts and sketches of one grain of a clock. ``first`` and ``last`` are event times."""

    __slots__ = ("counts", "first", "last", "sketches")

    def __init__(self, counts: IntArray, first: int, last: int) -> None:
        self.counts = counts
        self.first = first
        self.last = last
        self.sketches: dict[str, Sketch] = {}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the panes of one model hold: a vector's length, and how each sketch is read back."""

    size: int
    sketches: Mapping[str, Callable[[bytes], Sketch]]


class _Meta(msgspec.Struct):
    """What the store keeps of a partition beside its panes."""

    progress: int | None
    counters: dict[str, dict[str, int]]
    rows: dict[str, int]
    origins: dict[str, int]
    panes: list[tuple[str, str, int, int, int]]
    ended: bool = False
    end: int | None = None
    owner: msgspec.Raw = msgspec.Raw(b"{}")


class Partition:
    """State of one partition.

    Attributes
    ----------
    position
        Where the next unread record begins.
    progress
        The greatest record timestamp read, microseconds; None before the first record.
    counters
        Event counts by what became of them, then by model key or reason.
    rows
        Events counted so far by model key: the ``rows`` clock.
    origins
        The first event time by model key.
    ended, end
        Whether it was read to its end when it was last committed, and which offset that was, where
        others can look whether it still is.
    owner
        What its owner keeps beside, a JSON object.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.position: str | None = None
        self.progress: int | None = None
        self.counters: dict[str, Counter[str]] = {}
        self.rows: Counter[str] = Counter()
        self.origins: dict[str, int] = {}
        self.ended = False
        self.end: int | None = None
        self.owner = b"{}"
        self.panes: dict[PaneKey, Pane] = {}
        self._changed: dict[PaneKey, BoolArray] = {}
        self._sketched: set[PaneKey] = set()
        self._dropped: list[PaneKey] = []

    @property
    def number(self) -> int:
        """Of a Kafka partition its own; of an instance's files one made of their name; else 0."""
        number = self.name.rpartition(":")[2]
        if number.isdecimal():
            return int(number)
        return zlib.crc32(self.name.encode()) if "!" in self.name else 0

    def tally(self, what: str, key: str, count: int = 1) -> None:
        """Add to a counter."""
        self.counters.setdefault(what, Counter())[key] += count

    def advance(self, timestamp: int) -> None:
        """Note a record timestamp."""
        if self.progress is None or timestamp > self.progress:
            self.progress = timestamp

    def add(self, key: PaneKey, counts: IntArray, first: int, last: int) -> None:
        """Add counts to a pane; ``first`` and ``last`` are the event times among them."""
        pane = self.panes.get(key)
        if pane is None:
            self.panes[key] = Pane(counts.copy(), first, last)
        else:
            pane.counts += counts
            pane.first, pane.last = min(pane.first, first), max(pane.last, last)
        # what is taken back is negative, so a chunk that changed may sum to 0
        touched = np.logical_or.reduceat(counts != 0, np.arange(0, len(counts), CHUNK_SLOTS))
        before = self._changed.get(key)
        self._changed[key] = touched if before is None else before | touched

    def sketch(self, key: PaneKey, sketches: Mapping[str, Sketch]) -> None:
        """Merge sketches into those of a pane that has been counted."""
        pane = self.panes[key]
        for name, sketch in sketches.items():
            before = pane.sketches.get(name)
            pane.sketches[name] = sketch if before is None else before.merged(sketch)
        self._sketched.add(key)

    def drop(self, keys: Iterable[PaneKey]) -> None:
        """End the life of panes."""
        for key in keys:
            del self.panes[key]
            self._changed.pop(key, None)
            self._sketched.discard(key)
            self._dropped.append(key)

    def checkpoint(self) -> PartitionState:
        """What changed since the last call, for the store."""
        chunks = {}
        for key, touched in self._changed.items():
            counts = self.panes[key].counts
            for chunk in np.flatnonzero(touched).tolist():
                part = counts[chunk * CHUNK_SLOTS : (chunk + 1) * CHUNK_SLOTS]
                chunks[ChunkKey(key, chunk)] = _packed(part)
        for key in self._sketched:
            sketches = self.panes[key].sketches
            chunks[ChunkKey(key, _SKETCHES)] = msgspec.msgpack.encode(
                {name: sketch.to_bytes() for name, sketch in sketches.items()}
            )
        meta = _Meta(
            self.progress,
            {what: dict(counter) for what, counter in self.counters.items()},
            dict(self.rows),
            self.origins,
            [(*key, pane.first, pane.last) for key, pane in self.panes.items()],
            self.ended,
            self.end,
            msgspec.Raw(self.owner),
        )
        state = PartitionState(self.position, msgspec.json.encode(meta), chunks, self._dropped)
        self._changed, self._sketched, self._dropped = {}, set(), []
        return state

    def unchecked(self, state: PartitionState) -> None:
        """Take back a checkpoint that could not be written: its changes are still to be saved."""
        for chunk in state.chunks:
            if (pane := self.panes.get(chunk.pane)) is None:
                continue
            if chunk.chunk == _SKETCHES:
                self._sketched.add(chunk.pane)
            else:
                parts = -(-len(pane.counts) // CHUNK_SLOTS)
                touched = self._changed.setdefault(chunk.pane, np.zeros(parts, dtype=np.bool_))
                touched[chunk.chunk] = True
        self._dropped = state.dropped + self._dropped

    @classmethod
    def restored(cls, name: str, state: PartitionState, shapes: Mapping[str, Shape]) -> Partition:
        """The partition as it was committed.

        ``shapes`` are those of the panes by model key; panes of other models, whose reference is no
        longer in use, are left behind and dropped with the next checkpoint.
        """
        partition = cls(name)
        partition._dropped = partition.follow(state, shapes)
        return partition

    def follow(self, state: PartitionState, shapes: Mapping[str, Shape]) -> list[PaneKey]:
        """Become what was committed next: only the chunks that changed since are needed.

        Returns
        -------
        Panes of models that have no shape; they were left out.
        """
        meta = msgspec.json.decode(state.meta, type=_Meta)
        self.position, self.progress = state.position, meta.progress
        self.counters = {what: Counter(c) for what, c in meta.counters.items()}
        self.rows = Counter(meta.rows)
        self.origins = meta.origins
        self.ended, self.end, self.owner = meta.ended, meta.end, bytes(meta.owner)
        foreign = []
        before, self.panes = self.panes, {}
        for model, clock, index, first, last in meta.panes:
            key = PaneKey(model, clock, index)
            if model not in shapes:
                foreign.append(key)
            elif (pane := before.get(key)) is not None:
                pane.first, pane.last = first, last
                self.panes[key] = pane
            else:
                counts = np.zeros(shapes[model].size, dtype=np.int64)
                self.panes[key] = Pane(counts, first, last)
        for chunk, data in state.chunks.items():
            if (pane := self.panes.get(chunk.pane)) is None:
                continue
            if chunk.chunk == _SKETCHES:
                readers = shapes[chunk.pane.model].sketches
                stored = msgspec.msgpack.decode(data, type=dict[str, bytes])
                pane.sketches = {n: readers[n](raw) for n, raw in stored.items() if n in readers}
            else:
                part = _unpacked(data)
                start = chunk.chunk * CHUNK_SLOTS
                pane.counts[start : start + len(part)] = part
        return foreign


def _packed(counts: IntArray) -> bytes:
    """Counts in the narrowest integers that hold them, the width in the first byte.

    Where few are not 0 only these, after their places and the number of all: a label touches a
    handful of slots of a pane.
    """
    low, high = int(counts.min()), int(counts.max())
    code = next(c for c, w in enumerate(_WIDTHS) if _holds(w, low, high))
    width = _WIDTHS[code]
    places = np.flatnonzero(counts)
    if len(places) * (_PLACE.itemsize + width.itemsize) + 2 * _PLACE.itemsize >= (
        len(counts) * width.itemsize
    ):
        return bytes([code]) + counts.astype(width).tobytes()
    sizes = np.array([len(counts), len(places)], dtype=_PLACE)
    values = counts[places].astype(width)
    head = bytes([code + len(_WIDTHS)]) + sizes.tobytes()
    return head + places.astype(_PLACE).tobytes() + values.tobytes()


def _unpacked(data: bytes) -> IntArray:
    code = data[0]
    if code < len(_WIDTHS):
        return np.frombuffer(data, dtype=_WIDTHS[code], offset=1).astype(np.int64)
    size, number = np.frombuffer(data, dtype=_PLACE, count=2, offset=1).tolist()
    start = 1 + 2 * _PLACE.itemsize
    places = np.frombuffer(data, dtype=_PLACE, count=number, offset=start)
    width = _WIDTHS[code - len(_WIDTHS)]
    found = np.zeros(size, dtype=np.int64)
    found[places] = np.frombuffer(data, dtype=width, offset=start + number * _PLACE.itemsize)
    return found


def _holds(width: np.dtype[np.integer[Any]], low: int, high: int) -> bool:
    limits = np.iinfo(width)
    return bool(limits.min <= low and high <= limits.max)
