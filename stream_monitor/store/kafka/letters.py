"""Dead letters as records: as they came, with Kafka Connect's headers about what was wrong.

The names are those of Kafka Connect's ``DeadLetterQueueReporter``; some of our own tell what those
have no place for. All of them come behind the headers of the record, whatever names these have: of
several headers of one name the last counts, as Kafka's ``lastHeader`` has it. The very last header
tells how many are the record's, so that these can be had back exactly.
"""

from __future__ import annotations

from typing import Any

from stream_monitor import __version__
from stream_monitor.sources.kafka_runs import TIMESTAMP, stamped
from stream_monitor.store.base import DeadLetter
from stream_monitor.store.kafka.transactions import Outgoing

_CONNECT = "__connect.errors."
REASON, PLACE = "stream_monitor.reason", "stream_monitor.place"
COUNT = "stream_monitor.events"
CUT = "stream_monitor.original_bytes"
HEADERS = "stream_monitor.record_headers"
REPLAYS = "stream_monitor.replays"  # not of a dead letter: its record was replayed before
_MOST = 24 * 2**20  # bytes of a payload
_MICROSECONDS = 1_000  # a record timestamp's millisecond


def letter_record(topic: str, letter: DeadLetter) -> Outgoing:
    """A dead letter for its topic: the key, value, headers and timestamp of its record."""
    source, _, number = letter.partition.rpartition(":")
    if not source:  # no topic: a file
        source, number = letter.partition, "0"
    stamp = None if letter.timestamp is None else letter.timestamp // _MICROSECONDS
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
        COUNT: str(letter.count),
    }
    if stamp is not None:
        own[TIMESTAMP] = str(stamp)
    payload = letter.payload
    if len(payload) > _MOST:
        own[CUT] = str(len(payload))
        payload = payload[:_MOST]
    own[HEADERS] = str(len(letter.headers))
    headers = [*letter.headers, *((name, text.encode()) for name, text in own.items())]
    return Outgoing(topic, 0, letter.key, payload, tuple(headers), stamp)


def letter_of(record: Any) -> tuple[DeadLetter, bool] | None:
    """A dead letter had back from its record, and whether its payload was cut.

    None where the record is none of ours.
    """
    headers = [(name, value or b"") for name, value in record.headers]
    name, number = headers[-1] if headers else ("", b"")
    if name != HEADERS or not _is_number(number) or int(number) >= len(headers):
        return None
    theirs, ours = headers[: int(number)], headers[int(number) :]
    told = {name: value.decode(errors="replace") for name, value in ours}
    try:
        stamp = int(told[TIMESTAMP]) if TIMESTAMP in told else None
        letter = DeadLetter(
            f"{told[f'{_CONNECT}topic']}:{told[f'{_CONNECT}partition']}",
            told[PLACE],
            told[REASON],
            told[f"{_CONNECT}exception.message"],
            record.value or b"",
            record.key,
            tuple(theirs),
            None if stamp is None else stamp * _MICROSECONDS,
            int(told[COUNT]),
        )
    except (KeyError, ValueError):
        return None
    return letter, CUT in told


def replays_of(letter: DeadLetter) -> int:
    """How often its record was replayed already."""
    found = [value for name, value in letter.headers if _is_replays(name, value)]
    return int(found[-1]) if found else 0


def replayed(letter: DeadLetter) -> Outgoing:
    """The record of a dead letter as it was, with the timestamp by which it is to be judged.

    A valid header of that is there only if the record was judged by it, so it stays as it is.
    """
    topic, _, number = letter.partition.rpartition(":")
    headers = [header for header in letter.headers if not _is_replays(*header)]
    headers.append((REPLAYS, str(replays_of(letter) + 1).encode()))
    stamp = None if letter.timestamp is None else letter.timestamp // _MICROSECONDS
    if stamp is not None and stamp < 0:  # the record had none
        stamp = None
    if stamp is not None and stamped(letter.headers) is None:
        headers.append((TIMESTAMP, str(stamp).encode()))
    return Outgoing(topic, int(number), letter.key, letter.payload, tuple(headers), stamp)


def _is_replays(name: str, value: bytes) -> bool:
    return name == REPLAYS and _is_number(value)


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) < 10
