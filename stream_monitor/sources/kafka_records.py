"""Records that kafka-python cannot read become records that say so, instead of ending the loop.

The broker does not look at a header's key, which must be UTF-8 by the protocol; kafka-python 3.0.12
raises for one that is not, again at every poll, and never gets to the records behind it. Such a
record has no key and no headers here, and its value are all its bytes: these begin with a zero, so
they are no JSON, and become a dead letter as any other value would that cannot be used.
"""

from __future__ import annotations

from typing import Any

from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

_read = DefaultRecordBatch._read_msg


def _read_anyhow(batch: Any) -> Any:
    begin = batch._pos
    try:
        return _read(batch)
    except UnicodeDecodeError:
        length, at = decode_varint(batch._buffer, begin)
        end = at + length
        raw = bytes(batch._buffer[at:end])
        _, at = decode_varint(batch._buffer, at)  # attributes
        delta, at = decode_varint(batch._buffer, at)
        number, _ = decode_varint(batch._buffer, at)
        batch._pos = end
        appended = batch.timestamp_type == batch.LOG_APPEND_TIME
        stamp = batch.max_timestamp if appended else batch.first_timestamp + delta
        offset = batch.base_offset + number
        return DefaultRecord(length, offset, stamp, batch.timestamp_type, None, raw, [])


def read_anyhow() -> None:
    """Have kafka-python's consumers of this process do so."""
    DefaultRecordBatch._read_msg = _read_anyhow
