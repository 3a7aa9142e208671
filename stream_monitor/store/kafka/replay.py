"""Feeding dead letters back to the topics that they came from, once what was wrong is mended."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import msgspec
import structlog
from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    CommitFailedError,
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from stream_monitor.decode.reader import number_of
from stream_monitor.errors import StoreError
from stream_monitor.sources.kafka import polled, settled
from stream_monitor.sources.kafka_client import connected
from stream_monitor.sources.kafka_group import partition_of
from stream_monitor.store.base import DeadLetter
from stream_monitor.store.kafka.letters import letter_of, replayed, replays_of
from stream_monitor.store.kafka.reading import Reader
from stream_monitor.store.kafka.transactions import Outgoing, Transactions
from stream_monitor.store.sqlite import locked

MAX_REPLAYS = 3
# why a letter is passed over
UNCHOSEN = "not chosen"
FOREIGN = "no dead letters of this service"
CUT = "cut: their payload was too large to be kept whole"
OFTEN = "replayed too often already (--max-replays)"
MIXED = "whole records of which other events were counted: those would count twice"
ELSEWHERE = "of no topic and partition that the configuration names and the brokers have"
REFUSED = "refused by the brokers: too large for their topic, or of a time that it does not take"

_REFUSALS = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidTimestampError,
    InvalidRecordError,
)
_ANSWER = 30_000  # milliseconds that a question to the brokers may take
_JOIN = 60.0  # seconds until the group has to have us: longer than it waits for a killed member
_TRIES = 5
_STALL = 60.0  # seconds without a record
_BATCH = 2**20  # bytes of a transaction, about
_READ = 2**24  # as limits.max_record_size, what is counted of a record of Arrow

log = structlog.get_logger()


class Found(NamedTuple):
    """A dead letter where it lies; None where it is none of ours."""

    number: int
    letter: DeadLetter | None
    cut: bool = False


class Letters(Protocol):
    """Where dead letters lie, those that were not replayed yet."""

    total: int

    def __iter__(self) -> Iterator[list[Found]]:
        """All that are there now, the oldest first, in batches."""

    def write(self, chosen: Sequence[tuple[int, Outgoing]], last: int) -> None:
        """Write records, by the numbers of their letters, and remember it.

        ``last`` is the number of the last letter that is done with, one way or the other.
        """

    def close(self) -> None:
        """Release everything."""


class TopicLetters:
    """Those of a Kafka store's topic, from where the group ``…-replay`` has come to.

    With transactions a member of that group, which writes records and its offset together: killed,
    nothing is replayed twice. Without, somebody who only looks.
    """

    def __init__(
        self,
        options: Mapping[str, object],
        topic: str,
        group: str,
        transactions: Transactions | None,
        *,
        anew: bool = False,
    ) -> None:
        self._topic, self._group = topic, group
        self._place = partition_of(f"{topic}:0")
        self._transactions = transactions
        self._reader: Reader | None = None
        with _asked(f"topic {topic}"):
            # keeps the membership and the offset; the records are read by other means
            self._consumer = connected(
                KafkaConsumer,
                **dict(options)
                | {
                    "group_id": group,
                    "enable_auto_commit": False,
                    "auto_offset_reset": "earliest",
                    "isolation_level": "read_committed",
                    "allow_auto_create_topics": False,
                    # so that the group forgets a killed member soon
                    "session_timeout_ms": 6_000,
                    "heartbeat_interval_ms": 1_500,
                    # who replays goes on when another one joins
                    "partition_assignment_strategy": [CooperativeStickyAssignor],
                },
            )
        try:
            with _asked(f"topic {topic}"):
                self._begin, self._end = self._bounds(anew)
                self._reader = Reader(
                    dict(options) | {"max_partition_fetch_bytes": _BATCH}, topic, [0]
                )
                self._reader.seek(0, self._begin)
        except StoreError:
            self.close()
            raise
        self.total = self._end - self._begin

    def _bounds(self, anew: bool) -> tuple[int, int]:
        consumer, place = self._consumer, self._place
        if not consumer.partitions_for_topic(self._topic):
            raise StoreError(
                f"there is no topic {self._topic}: has the service run with this store.prefix?"
            )
        if self._transactions is None:
            consumer.assign([place])
        else:
            self._join()
            # ends what a killed one left open, after which the group's offset is certain
            self._transactions.open()
        first = int(consumer.beginning_offsets([place], timeout_ms=_ANSWER)[place])
        end = int(consumer.end_offsets([place], timeout_ms=_ANSWER)[place])
        done = consumer.committed(place, timeout_ms=_ANSWER)
        if anew or done is None:
            done = first
        elif not first <= done <= end:
            log.warning("dead letters were deleted before they were replayed, or the topic was")
            done = first
        return int(done), end

    def _join(self) -> None:
        self._consumer.subscribe([self._topic])
        deadline = time.monotonic() + _JOIN
        while not self._owned():
            if time.monotonic() > deadline:
                raise StoreError(
                    f"group {self._group} does not give us {self._place.topic}: does another "
                    "replay run? Wait for its end"
                )
            self._keep(0.2)

    def _keep(self, seconds: float = 0.0) -> None:
        """Keep up the membership."""
        if owned := self._consumer.assignment():
            self._consumer.pause(*owned)
        polled(self._consumer, seconds)

    def _owned(self) -> bool:
        return self._place in self._consumer.assignment()

    def __iter__(self) -> Iterator[list[Found]]:
        reader, heard = self._reader, time.monotonic()
        while reader is not None and reader.behind({0: self._end}):
            records = reader.poll(0.2)
            if self._transactions is not None:
                self._settle()
            if records:
                heard = time.monotonic()
            elif time.monotonic() - heard > _STALL:
                raise StoreError(f"topic {self._topic}: no broker sends its records: try again")
            found = [_found(record) for record in records if record.offset < self._end]
            if found:
                yield found

    def write(self, chosen: Sequence[tuple[int, Outgoing]], last: int) -> None:
        if self._transactions is None:
            return
        records, offsets = [record for _, record in chosen], {self._place: last + 1}
        for left in reversed(range(_TRIES)):
            self._settle()
            try:
                self._transactions.run(records, offsets, self._consumer.group_metadata())
                return
            except StoreError as error:
                # the group was just about to rebalance: nothing of it counts
                if not left or not isinstance(error.__cause__, CommitFailedError):
                    raise

    def _settle(self) -> None:
        """Wait until no rebalance is under way, for it would refuse a commit."""
        deadline = time.monotonic() + _JOIN
        with _asked(f"group {self._group}"):
            self._keep()
            while not settled(self._consumer) and time.monotonic() < deadline:
                self._keep(0.1)
        if not self._owned():
            raise StoreError(f"group {self._group} has gone on without us: run it again")

    def close(self) -> None:
        self._consumer.close(timeout_ms=1_000)
        if self._reader is not None:
            self._reader.close()
        if self._transactions is not None:
            self._transactions.close()


class FileLetters:
    """Those of a local store, which another process must not use while they are replayed.

    A replayed letter is deleted after its record was written: killed between the two, it is
    replayed once more. Without transactions they are only looked at, whoever uses the file.
    """

    def __init__(self, path: Path, transactions: Transactions | None) -> None:
        if not path.exists():
            raise StoreError(f"{path}: there is no such state: is store.path right?")
        self._path, self._transactions = path, transactions
        self._lock = None if transactions is None else locked(path)
        mode = "ro" if transactions is None else "rw"
        with self._errors():
            self._db = sqlite3.connect(
                f"file:{quote(str(path))}?mode={mode}", uri=True, isolation_level=None, timeout=10.0
            )
        try:
            with self._errors():
                (self.total,) = self._db.execute("SELECT count(*) FROM dead_letters").fetchone()
        except StoreError:
            self.close()
            raise

    def __iter__(self) -> Iterator[list[Found]]:
        query = "SELECT id, data FROM dead_letters WHERE id > ? ORDER BY id"
        last = -1
        while found := self._some(query, last):
            yield found
            last = found[-1].number

    def _some(self, query: str, last: int) -> list[Found]:
        found, size = [], 0
        with self._errors():
            for number, data in self._db.execute(query, (last,)):
                letter = msgspec.msgpack.decode(data, type=DeadLetter)
                found.append(Found(number, letter, letter.reason == "too_large"))
                size += len(data)
                if size >= _BATCH:
                    break
        return found

    def write(self, chosen: Sequence[tuple[int, Outgoing]], last: int) -> None:  # noqa: ARG002
        if self._transactions is None or not chosen:
            return
        self._transactions.run([record for _, record in chosen], {}, None)
        with self._errors():
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("BEGIN IMMEDIATE")
            numbers = [(number,) for number, _ in chosen]
            self._db.executemany("DELETE FROM dead_letters WHERE id = ?", numbers)
            self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()
        if self._lock is not None:
            self._lock.close()
        if self._transactions is not None:
            self._transactions.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self._path}: {error}; check the disk and the file") from error


def partitions_of(
    options: Mapping[str, object], topics: Sequence[str]
) -> dict[str, Collection[int]]:
    """The partitions of topics; none where there is no such topic."""
    with _asked("the brokers"):
        consumer = connected(
            KafkaConsumer, **dict(options) | {"group_id": None, "allow_auto_create_topics": False}
        )
        try:
            return {topic: consumer.partitions_for_topic(topic) or () for topic in topics}
        finally:
            consumer.close(timeout_ms=1_000)


@contextmanager
def _asked(what: str) -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise StoreError(f"{what}: {type(error).__name__}: {error}; run it again") from error


def _found(record: Any) -> Found:
    read = letter_of(record)
    if read is None:
        return Found(record.offset, None)
    letter, cut = read
    return Found(record.offset, letter, cut or letter.reason == "too_large")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters: all that fit each of these. Times are microseconds, ``until`` excluded."""

    reasons: Collection[str] = ()
    topics: Collection[str] = ()
    since: int | None = None
    until: int | None = None
    max_replays: int = MAX_REPLAYS

    def against(self, found: Found) -> str | None:
        """Why a letter is passed over."""
        letter = found.letter
        if letter is None:
            return FOREIGN
        if not self._fits(letter):
            return UNCHOSEN
        if found.cut:
            return CUT
        if replays_of(letter) > self.max_replays:
            return OFTEN
        if letter.reason == "bad_arrow":  # nobody could say how many there are
            return None
        return MIXED if number_of(letter.payload, _READ) != letter.count else None

    def _fits(self, letter: DeadLetter) -> bool:
        if self.reasons and letter.reason not in self.reasons:
            return False
        if self.topics and topic_of(letter) not in self.topics:
            return False
        if self.since is None and self.until is None:
            return True
        time = letter.timestamp
        if time is None:
            return False
        return (self.since is None or time >= self.since) and (
            self.until is None or time < self.until
        )


def topic_of(letter: DeadLetter) -> str:
    return letter.partition.rpartition(":")[0] or letter.partition


@dataclass(slots=True)
class Tally:
    """What became of letters: by (reason, topic), and why others were passed over."""

    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    examples: dict[tuple[str, str], DeadLetter] = field(default_factory=dict)
    limited: bool = False


class Replay:
    """Writes the chosen letters back to their topics.

    ``partitions`` are those of each topic that they may be written to; None where they go elsewhere
    by ``take``, or nowhere.
    """

    def __init__(
        self,
        letters: Letters,
        choice: Choice,
        *,
        partitions: Mapping[str, Collection[int]] | None = None,
        take: Callable[[DeadLetter], None] = lambda _letter: None,
        limit: int | None = None,
    ) -> None:
        self._letters, self._choice = letters, choice
        self._partitions, self._take = partitions, take
        self._limit = limit
        self.tally = Tally()

    def run(self, show: Callable[[float], None]) -> Tally:
        """All of them; ``show`` is told the share that is done."""
        seen = 0
        for batch in self._letters:
            chosen: list[tuple[int, DeadLetter]] = []
            last: int | None = None
            for found in batch:
                if self._limit is not None and self._count(chosen) >= self._limit:
                    self.tally.limited = True
                    break
                against = self._choice.against(found) or self._homeless(found)
                if against is None and found.letter is not None:
                    chosen.append((found.number, found.letter))
                else:
                    self.tally.passed[str(against)] += 1
                last = found.number
                seen += 1
            if last is not None:
                self._write(chosen, last)
            show(seen / max(self._letters.total, 1))
            if self.tally.limited:
                break
        return self.tally

    def _count(self, chosen: Sequence[object]) -> int:
        return self.tally.done.total() + len(chosen)

    def _homeless(self, found: Found) -> str | None:
        if self._partitions is None or found.letter is None:
            return None
        topic, _, number = found.letter.partition.rpartition(":")
        known = number.isdecimal() and int(number) in self._partitions.get(topic, ())
        return None if known else ELSEWHERE

    def _write(self, chosen: Sequence[tuple[int, DeadLetter]], last: int) -> None:
        if self._partitions is not None:
            records = [(number, replayed(letter)) for number, letter in chosen]
            try:
                self._letters.write(records, last)
            except StoreError as error:
                if not isinstance(error.__cause__, _REFUSALS) or not chosen:
                    raise
                self._apart(chosen, last)
                return
        for _, letter in chosen:
            self._take(letter)
            key = letter.reason, topic_of(letter)
            self.tally.done[key] += 1
            self.tally.examples.setdefault(key, letter)

    def _apart(self, chosen: Sequence[tuple[int, DeadLetter]], last: int) -> None:
        """One of them is refused: write the others without it."""
        if len(chosen) == 1:
            self.tally.passed[REFUSED] += 1
            self._letters.write([], last)
            return
        half = len(chosen) // 2
        self._write(chosen[:half], chosen[half - 1][0])
        self._write(chosen[half:], last)
