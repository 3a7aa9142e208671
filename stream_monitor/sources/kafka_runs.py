"""Runs of a Kafka partition's records, whichever client has read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from stream_monitor.sources.base import Places, Records, escaped
from stream_monitor.sources.kafka_group import name_of

TIMESTAMP = "stream_monitor.record_timestamp"  # header of a record that is replayed, milliseconds
_MICROSECONDS = 1_000  # a Kafka timestamp's millisecond
Headers = Sequence[tuple[str, bytes | None]]


def records_of(
    which: Any,
    *,
    offsets: list[int],
    values: Sequence[bytes | None],
    stamps: list[int],
    keys: list[bytes | None],
    headers: Sequence[Headers],
) -> Records:
    """Records of a partition as its client gives their parts; there is at least one.

    Timestamps are milliseconds, of a replayed record those that it had when it was first written.
    """
    if any(headers):
        own = map(stamped, headers)
        stamps = [stamp if o is None else o for stamp, o in zip(stamps, own, strict=True)]
        headers = [[(k, v or b"") for k, v in some] for some in headers]
    return Records(
        name_of(which),
        [value or b"" for value in values],
        Places(f"{escaped(which.topic)}[{which.partition}]@{{}}", offsets),
        str(offsets[-1] + 1),
        np.array(stamps, dtype=np.int64) * _MICROSECONDS,
        np.array(offsets, dtype=np.int64),
        keys,
        cast("Sequence[Sequence[tuple[str, bytes]]]", headers),
    )


def stamped(headers: Headers) -> int | None:
    """The timestamp that a replayed record had when it was first written, milliseconds."""
    for name, value in headers:
        if name == TIMESTAMP and value is not None and value.isdigit() and len(value) < 16:
            return int(value)
    return None
