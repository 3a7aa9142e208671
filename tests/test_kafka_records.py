"""Our reading of a batch is kafka-python's own, record by record, and refuses what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from tests.kafka_reading import reading

_GZIP = 1

_BYTES = st.none() | st.binary(max_size=20) | st.sampled_from([200, 20_000]).map(bytes)
_HEADERS = st.lists(
    st.tuples(st.text(max_size=70), st.none() | st.binary(max_size=200)), max_size=3
)
_RECORDS = st.lists(
    st.tuples(st.integers(0, 2**42), _BYTES, _BYTES, _HEADERS), min_size=1, max_size=6
)


def _batch(records: Any, compression: int = 0) -> bytes:
    builder = MemoryRecordsBuilder(2, compression, 2**26)
    for stamp, key, value, headers in records:
        builder.append(timestamp=stamp, key=key, value=value, headers=headers)
    builder.close()
    return bytes(builder.buffer())


def _read(raw: bytes, *, ours: bool, check: bool = True) -> list[Any]:
    with reading(ours=ours):
        place = TopicPartition("t", 0)
        found: list[Any] = Fetcher.PartitionRecords(
            0, place, MemoryRecords(raw), check_crcs=check
        ).take()
        return found


@given(records=_RECORDS, compression=st.sampled_from([0, _GZIP]))
def test_records_are_those_that_kafka_python_reads(records: Any, compression: int) -> None:
    raw = _batch(records, compression)
    found = _read(raw, ours=True)
    assert found == _read(raw, ours=False)
    assert [(r.timestamp, r.key, r.value, r.headers) for r in found] == records


@given(records=_RECORDS, data=st.data())
def test_broken_bytes_hide_no_record_that_kafka_python_reads(records: Any, data: Any) -> None:
    raw = bytearray(_batch(records))
    header = DefaultRecordBatch.HEADER_STRUCT.size
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(header, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 127))
    results = []
    for ours in (False, True):
        try:
            results.append(_read(bytes(raw), ours=ours, check=False))
        except CorruptRecordError:
            results.append([])
    own, found = results
    assert found[: len(own)] == own  # ours may have one with a header that is no text, too


def test_log_append_time_counts_where_the_topic_has_it() -> None:
    raw = bytearray(_batch([(5, None, b"a", []), (9, None, b"b", [])]))
    raw[DefaultRecordBatch.ATTRIBUTES_OFFSET + 1] |= DefaultRecordBatch.TIMESTAMP_TYPE_MASK
    found = _read(bytes(raw), ours=True, check=False)
    assert [r.timestamp for r in found] == [9, 9]
    assert found == _read(bytes(raw), ours=False, check=False)


def test_a_header_whose_name_is_no_text_makes_a_record_that_says_so() -> None:
    raw = bytearray(_batch([(5, b"k", b"a", [("name", b"x")]), (6, b"l", b"b", [])]))
    at = raw.index(b"name")
    raw[at] = 0xFF
    with pytest.raises(CorruptRecordError):
        _read(bytes(raw), ours=False, check=False)
    broken, whole = _read(bytes(raw), ours=True, check=False)
    assert (broken.key, broken.headers) == (None, [])
    assert broken.value[0] == 0
    assert b"\xffame" in broken.value
    assert (whole.key, whole.value, whole.offset) == (b"l", b"b", 1)


def test_a_batch_whose_bytes_were_changed_is_refused() -> None:
    raw = bytearray(_batch([(5, None, b"value", [])]))
    raw[-2] ^= 1
    with pytest.raises(CorruptRecordError, match="crc"):
        _read(bytes(raw), ours=True)
