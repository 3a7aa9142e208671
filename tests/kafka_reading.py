"""kafka-python as it reads by itself, where ours has been put in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka.record.default_records import DefaultRecordBatch

from stream_monitor.sources.kafka_records import read_anyhow

_OWN = DefaultRecordBatch.__iter__  # no source has been made yet


@contextmanager
def reading(*, ours: bool) -> Iterator[None]:
    """Batches are read by us, or by kafka-python itself."""
    before = DefaultRecordBatch.__iter__
    DefaultRecordBatch.__iter__ = _OWN
    if ours:
        read_anyhow()
    try:
        yield
    finally:
        DefaultRecordBatch.__iter__ = before
