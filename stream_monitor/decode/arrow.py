"""Records that are Arrow IPC, a stream or a file: each row is an event.

What a producer sends is not trusted: how much memory it claims is looked at before any is taken,
and offsets and indices are checked before they are followed.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from stream_monitor.decode.rejects import RejectedError
from stream_monitor.decode.several import ARROW_FILE, ARROW_STREAM, SHIFT
from stream_monitor.schema import IntArray
from stream_monitor.tables import Chunk, flattened

_FILE_MARK = 8  # bytes before the stream that a file holds
_EXPANDS = 16  # times limits.max_record_size, what a record may hold when it is decompressed
_LEAST = 8  # bytes of max_record_size for an event, for a column of nulls has none
_TOGETHER = 65_536  # rows that are enough to be decoded at once
# numbers of fields in Arrow's Message.fbs: of a Message, a DictionaryBatch, a RecordBatch
_HEADER, _DATA = 2, 1
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3
_AS_IT_IS = -1  # the length that a buffer gives which is not compressed


# what pyarrow raises where data is not as it should be
UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError, struct.error)


class Rows:
    """Rows of records that have the same columns.

    ``place`` int64[n] is that of each row: its record's, and on from there its number within it.
    """

    def __init__(self, tables: dict[int, Any], max_record_size: int) -> None:
        self._tables, self._limit = tables, max_record_size
        lengths = [len(table) for table in tables.values()]
        first = np.array([*tables]) - np.cumsum([0, *lengths[:-1]])
        self.place: IntArray = np.repeat(first, lengths) + np.arange(sum(lengths))

    def chunk(self) -> Chunk:
        """All of them as named columns, those of nested ones with dotted names.

        Raises
        ------
        RejectedError
            A column holds more than it may.
        """
        columns = flattened(pa.concat_tables(self._tables.values()))
        most = self._limit * _EXPANDS
        plain = {name: _plain(column, most) for name, column in columns.items()}
        return Chunk(len(self.place), plain, text=False, done=0.0)

    def of(self, records: IntArray) -> IntArray:
        """What is known of each record, for each row: int64[n]."""
        found: IntArray = records[self.place >> SHIFT]
        return found

    def each(self) -> list[Rows]:
        """The same, each record by itself."""
        return [Rows({place: table}, self._limit) for place, table in self._tables.items()]

    def split(self, rows: IntArray) -> Iterator[tuple[int, bytes | None, int]]:
        """Some of the rows by record: its place, their own bytes, how many they are.

        The bytes are a stream; None where they are the whole record.
        """
        places = self.place[rows]
        for first, table in self._tables.items():
            own = places[(places >= first) & (places < first + len(table))] - first
            if len(own):
                yield first, None if len(own) == len(table) else _stream(table, own), len(own)


def _stream(table: Any, rows: IntArray) -> bytes:
    try:
        some = table.take(pa.array(rows))
    except pa.ArrowNotImplementedError:  # of views of text
        some = pa.concat_tables(table.slice(row, 1) for row in rows.tolist())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(some)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def together(
    payloads: Iterable[tuple[int, bytes]],
    max_record_size: int,
    refuse: Callable[[int, RejectedError], None],
) -> Iterator[Rows]:
    """The rows of records, each given with its place; those with the same columns together."""
    waiting: dict[bytes, dict[int, Any]] = {}
    lengths: Counter[bytes] = Counter()
    for place, payload in payloads:
        try:
            table = table_of(payload, max_record_size)
        except RejectedError as error:
            refuse(place, error)
            continue
        if not len(table):
            continue
        schema = _schema(payload)
        waiting.setdefault(schema, {})[place] = table
        lengths[schema] += len(table)
        if lengths[schema] >= _TOGETHER:
            del lengths[schema]
            yield Rows(waiting.pop(schema), max_record_size)
    for tables in waiting.values():
        yield Rows(tables, max_record_size)


def _start(payload: bytes) -> int:
    # a file is a stream between marks, and an index that leads to its parts
    return _FILE_MARK if payload[:6] == ARROW_FILE else 0


def _schema(payload: bytes) -> bytes:
    """The message that a record begins with, once it has been read."""
    start = _start(payload)
    (length,) = struct.unpack_from("<I", payload, start + len(ARROW_STREAM))
    return payload[start : start + len(ARROW_STREAM) + 4 + length]


def table_of(payload: bytes, max_record_size: int) -> Any:
    """A record's rows as a table; RejectedError where it cannot be read."""
    whole = pa.py_buffer(payload)[_start(payload) :]
    try:
        rows = _measured(whole, max_record_size)
        table = pa.ipc.open_stream(whole).read_all()
        table.validate(full=True)
    except UNREADABLE as error:
        raise RejectedError("bad_arrow", str(error)) from None
    if rows and not table.num_columns:
        raise RejectedError("bad_arrow", f"{rows:,} rows without a column")
    return table


def _plain(column: Any, most: int) -> Any:
    """A column whose text lies in one piece: of views many could be of the same long text."""
    if not pa.types.is_string_view(column.type):
        return column
    start, stop = 4 * column.offset, 4 * (column.offset + len(column))
    length = int(np.frombuffer(column.buffers()[1], "<i4")[start:stop:4].sum(dtype=np.int64))
    if length > most:
        raise RejectedError("bad_arrow", f"{length:,} bytes of text, more than {most:,}")
    return column.cast(pa.large_string())


def _measured(whole: Any, max_record_size: int) -> int:
    """The number of rows; RejectedError for a record that claims more memory than it may have."""
    rows = entries = size = 0
    for message in pa.ipc.MessageReader.open_stream(whole):
        if message.type in ("record batch", "dictionary"):
            length, expanded = _claimed(message)
            entries += length
            rows += length if message.type == "record batch" else 0
            size += expanded
    most, largest = max_record_size // _LEAST, max_record_size * _EXPANDS
    if entries > most or size > largest:
        raise RejectedError(
            "bad_arrow",
            f"{entries:,} rows and categories, {size:,} bytes; limits.max_record_size allows a "
            f"record of {most:,} and {largest:,}",
        )
    return rows


def _claimed(message: Any) -> tuple[int, int]:
    """The rows of a batch, and the bytes that its buffers have when they are decompressed."""
    meta, body = message.metadata.to_pybytes(), memoryview(message.body)
    batch = _Table(meta, struct.unpack_from("<I", meta)[0]).table(_HEADER)
    if message.type == "dictionary":
        batch = batch.table(_DATA)
    rows = batch.number(_LENGTH)
    if not batch.field(_COMPRESSION):
        return rows, len(body)
    size = 0
    for offset, length in batch.pairs(_BUFFERS):
        if length:
            (claimed,) = struct.unpack_from("<q", body, offset)
            size += length if claimed == _AS_IT_IS else claimed
            if claimed < _AS_IT_IS:
                raise RejectedError("bad_arrow", "the length of a buffer is negative")
    return rows, size


class _Table:
    """A table of a flatbuffer, as pyarrow has verified it: fields by their numbers."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - self._unpack("<i", at)

    def _unpack(self, form: str, at: int) -> int:
        return int(struct.unpack_from(form, self._data, at)[0])

    def field(self, number: int) -> int:
        """Where it is, 0 if it is not there."""
        slot = 4 + 2 * number
        if slot >= self._unpack("<H", self._fields):
            return 0
        offset = self._unpack("<H", self._fields + slot)
        return offset and self._at + offset

    def number(self, number: int) -> int:
        at = self.field(number)
        return self._unpack("<q", at) if at else 0

    def table(self, number: int) -> _Table:
        at = self.field(number)
        return _Table(self._data, at + self._unpack("<I", at))

    def pairs(self, number: int) -> Iterator[tuple[int, int]]:
        """The elements of a vector of two numbers each."""
        at = self.field(number)
        if at:
            at += self._unpack("<I", at)
            end = at + 4 + 16 * self._unpack("<I", at)
            yield from struct.iter_unpack("<qq", self._data[at + 4 : end])
