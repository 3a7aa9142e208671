"""Dead letters as records: as they came, with Kafka Connect's headers about what was wrong.

The names are those of Kafka Connect's ``DeadLetterQueueReporter``; a header that is there already
is not written over. Three of our own tell what those have no place for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stream_monitor import __version__
from stream_monitor.sources.kafka import TIMESTAMP
from stream_monitor.store.base import DeadLetter
from stream_monitor.store.kafka.transactions import Outgoing

_CONNECT = "__connect.errors."
REASON, PLACE = "stream_monitor.reason", "stream_monitor.place"
CUT = "stream_monitor.original_bytes"
_MOST = 24 * 2**20  # bytes of a payload


def letter_record(topic: str, letter: DeadLetter) -> Outgoing:
    """A dead letter for its topic: the key, value, headers and timestamp of its record."""
    source, _, number = letter.partition.rpartition(":")
    if not source:  # no topic: a file
        source, number = letter.partition, "0"
    stamp = None if letter.timestamp is None else letter.timestamp // 1_000
    own = {
        f"{_CONNECT}topic": source,
        f"{_CONNECT}partition": number,
        f"{_CONNECT}offset": letter.place.rpartition("@")[2],
        f"{_CONNECT}connector.name": "stream-monitor",
        f"{_CONNECT}task.id": "0",
        f"{_CONNECT}stage": "VALUE_CONVERTER",
        f"{_CONNECT}class.name": f"stream_monitor {__version__}",
        f"{_CONNECT}exception.class.name": letter.reason,
        f"{_CONNECT}exception.message": letter.detail,
        REASON: letter.reason,
        PLACE: letter.place,
    }
    if stamp is not None:
        own[TIMESTAMP] = str(stamp)
    payload = letter.payload
    if len(payload) > _MOST:
        own[CUT] = str(len(payload))
        payload = payload[:_MOST]
    there = {name for name, _ in letter.headers}
    headers = [*letter.headers, *((n, v.encode()) for n, v in own.items() if n not in there)]
    return Outgoing(topic, 0, letter.key, payload, tuple(headers), stamp)


def told(headers: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """A dead letter's own headers, as text."""
    return {
        name: (value or b"").decode(errors="replace")
        for name, value in headers
        if name.startswith((_CONNECT, "stream_monitor."))
    }
