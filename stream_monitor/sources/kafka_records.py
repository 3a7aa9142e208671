"""How kafka-python's consumers of this process read the records of a batch.

kafka-python 3.0.12 calls a batch for each record and a record for each field: that is a third of
what a record costs. Here a batch is read in one go, and a record's fields are there.

The broker does not look at a header's key, which must be UTF-8 by the protocol; kafka-python raises
for one that is not, again at every poll, and never gets to the records behind it. Such a record has
no key and no headers here, and its value are all its bytes: these begin with a zero, so they are no
JSON, and become a dead letter as any other value would that cannot be used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import msgspec
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

_Headers = list[tuple[str, bytes | None]]


class _Record(msgspec.Struct, gc=False):
    """What kafka-python's fetcher asks of a record."""

    size_in_bytes: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: _Headers
    checksum: None = None

    def validate_crc(self) -> bool:
        """The batch has a checksum, its records have none."""
        return True


def _each(batch: Any) -> Iterator[_Record]:
    """The records of a batch (KIP-98's format: numbers are zigzag varints)."""
    batch._maybe_uncompress()
    data = bytes(batch._buffer)
    try:
        at = yield from _read(batch, data, batch._pos)
    except (ValueError, IndexError) as error:
        raise CorruptRecordError(f"a record has another form than it says: {error!r}") from error
    if at != len(data):
        raise CorruptRecordError(f"{len(data) - at} bytes are left behind the last record")


def _read(batch: Any, data: bytes, at: int) -> Generator[_Record, None, int]:
    """Yields records; returns where the last one ends."""
    first, base, kind = batch.first_timestamp, batch.base_offset, batch.timestamp_type
    appended = batch.max_timestamp if kind == batch.LOG_APPEND_TIME else None
    for _ in range(batch.records_count):
        length, begin = decode_varint(data, at)
        end = begin + length
        since, at = decode_varint(data, begin + 1)  # behind a byte of attributes that mean nothing
        number, at = decode_varint(data, at)
        size = data[at]
        if size == 1:  # -1, as of most records
            key, at = None, at + 1
        else:
            key, at = _bytes(data, at)
        value, at = _bytes(data, at)
        headers: _Headers = []
        if data[at]:
            try:
                headers, at = _headers(data, at)
            except UnicodeDecodeError:
                key, value, at = None, data[begin:end], end
        else:
            at += 1
        if at != end:
            raise CorruptRecordError(f"a record of {length} bytes ends after {at - begin}")
        stamp = first + since if appended is None else appended
        yield _Record(length, base + number, stamp, kind, key, value, headers)
    return at


def _bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(data, at)
    if size < 0:
        return None, at
    end = at + size
    return data[at:end], end


def _headers(data: bytes, at: int) -> tuple[_Headers, int]:
    number, at = decode_varint(data, at)
    if number < 0:
        raise CorruptRecordError(f"a record says that it has {number} headers")
    headers: _Headers = []
    for _ in range(number):
        name, at = _bytes(data, at)
        if name is None:
            raise CorruptRecordError("a header has no name")
        value, at = _bytes(data, at)
        headers.append((name.decode(), value))
    return headers, at


def read_anyhow() -> None:
    """Have kafka-python's consumers of this process read so."""
    DefaultRecordBatch.__iter__ = _each
