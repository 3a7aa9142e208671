"""Kafka topics through kafka-python, read by a consumer group.

Rebalance listeners run on the client's IO thread, so they only note what happened; :meth:`poll`
tells it on the caller's thread. A partition's records are held back until :meth:`seek` said where
to begin, for positions live in our checkpoint and not in the group's offsets.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RetriableError,
)
from kafka.structs import MemberState

from stream_monitor.config import model
from stream_monitor.errors import StoreError
from stream_monitor.sources.base import Places, Poll, Records, escaped
from stream_monitor.sources.kafka_client import ANSWER, UnreachableError, connected, partitions_of
from stream_monitor.sources.kafka_errors import errors
from stream_monitor.sources.kafka_options import client_options
from stream_monitor.sources.kafka_records import read_anyhow

# A poll is bounded by the bytes of a fetch, not by records: kafka-python 3.0.12 never delivers the
# rest of a fetch again that max_poll_records cut while its partition was paused.
_DEFAULTS = {
    "max_poll_records": 10_000_000,
    "fetch_max_bytes": 8 * 2**20,
    "max_partition_fetch_bytes": 4 * 2**20,  # large runs cost less an event
    "metadata_max_age_ms": 10_000,  # partitions that are added are read soon
    "max_poll_interval_ms": 900_000,  # a large state takes long to restore
    # within a session brokers say nothing of a partition that has not changed, not even to who had
    # it before, lost it, and got it back: its end would not be known until a record comes
    "enable_incremental_fetch_sessions": False,
    # who keeps a partition through a rebalance goes on reading it meanwhile
    "partition_assignment_strategy": [CooperativeStickyAssignor],
}
_PAUSE = 0.05
_UNSETTLED = 100  # milliseconds
TIMESTAMP = "stream_monitor.record_timestamp"  # header of a record that is replayed, milliseconds
_CLOSE = 2_000  # milliseconds to leave the group
_MICROSECONDS = 1_000  # a Kafka timestamp's millisecond

log = structlog.get_logger()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes assignments in the order in which they happen; called on the IO thread."""

    def __init__(self) -> None:
        self.events: deque[tuple[str, tuple[Any, ...]]] = deque()

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self.events.append(("assigned", tuple(assigned)))

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self.events.append(("revoked", tuple(revoked)))

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        self.events.append(("revoked", tuple(lost)))


class KafkaSource:
    """All partitions of some topics that the group gives us.

    ``more_topics`` are those of labels, ``joins`` is the join's own, read from its beginning.
    """

    def __init__(
        self,
        config: model.KafkaSource,
        more_topics: Sequence[str] = (),
        joins: str | None = None,
    ) -> None:
        self._config = config
        self._joins = joins
        read_anyhow()
        own = [] if joins is None else [joins]
        self._topics = list(dict.fromkeys([*config.topics, *more_topics, *own]))
        self._options: dict[str, Any] = _DEFAULTS | client_options(config.client)
        self._listener = _Listener()
        self._consumer: Any = None
        self._held: dict[Any, int | None] = {}
        self._assigned: set[Any] = set()
        # of partitions that are ours: their ends when reading began, and where it began first
        self._ends: dict[Any, int] = {}
        self._starts: dict[Any, int] = {}
        self._lost: dict[str, int] = {}  # since the last poll
        self._subscribed = False
        self._membership: Any = None  # as of what was told last

    def poll(self, timeout_seconds: float) -> Poll:
        poll = Poll()
        consumer = self._connected(timeout_seconds)
        if consumer is None:
            return poll
        started = time.monotonic()
        try:
            batches = self._polled(timeout_seconds)
        except (RetriableError, StoreError) as error:
            log.warning("the brokers do not answer as they should", error=repr(error))
            batches = {}
        self._tell(poll)
        membership = consumer.group_metadata()
        if _stable(membership):
            self._membership = membership
        if not batches and not poll.assigned and time.monotonic() - started < timeout_seconds / 2:
            # the client comes back at once while it has no partition or no broker
            time.sleep(min(timeout_seconds / 2, _PAUSE))
        for partition, records in batches.items():
            if partition in self._held:
                if self._held[partition] is None:
                    self._held[partition] = records[0].offset
            elif partition in self._assigned:
                poll.records.append(_records(partition, records))
        self._progress(consumer, poll)
        poll.lost, self._lost = self._lost, {}
        poll.joined = self._subscribed and membership.generation_id >= 0
        return poll

    def _polled(self, seconds: float) -> Any:
        """What has come.

        The client would begin anew by itself, and say nothing, where its position is not there any
        more; so it is told not to.
        """
        try:
            return polled(self._consumer, seconds)
        except NoOffsetForPartitionError as error:
            self._begin(error)
        except OffsetOutOfRangeError as error:
            for which, position in error.args[0].items():
                self._go_on(which, position)
        except LogTruncationError as error:
            for which, diverging in error.divergent_offsets.items():
                log.error("brokers have lost records that were read", partition=_name(which))
                self._consumer.seek(which, self._first(which) if diverging is None else diverging)
        return {}

    def _begin(self, error: NoOffsetForPartitionError) -> None:
        """Begin partitions that the group has no position of, as the configuration says."""
        first = self._config.auto_offset_reset == "earliest"
        begin = self._consumer.seek_to_beginning if first else self._consumer.seek_to_end
        begin(*error.args[0])

    def _go_on(self, which: Any, position: int) -> None:
        """Read on, though the next record was deleted or the topic made anew."""
        with errors(_name(which)):
            if which not in self._assigned:  # where it begins is said later
                self._consumer.seek(which, self._first(which))
                return
            self._ends[which] = self._end(which)
            self._consumer.seek(which, self._retained(which, position))

    def _connected(self, timeout_seconds: float) -> Any:
        """The consumer, or None while no broker answers.

        Raises
        ------
        SourceError
            The brokers refuse our credentials, which time does not mend.
        """
        if self._consumer is None:
            try:
                consumer = connected(
                    KafkaConsumer,
                    bootstrap_servers=self._config.bootstrap_servers,
                    group_id=self._config.group_id,
                    auto_offset_reset="none",  # see _polled
                    enable_auto_commit=False,
                    isolation_level="read_committed",
                    **self._options,
                )
            except UnreachableError as error:
                log.warning(
                    f"{error.wrong}, trying again",
                    bootstrap_servers=self._config.bootstrap_servers,
                    error=error.reason,
                    remedy=error.remedy,
                )
                time.sleep(timeout_seconds)
                return None
            self._consumer = consumer
        if not self._subscribed:
            # a group whose leader does not know a topic yet is given none of its partitions
            try:
                unknown = [t for t in self._topics if not partitions_of(self._consumer, t)]
            except KafkaError as error:
                log.warning("the brokers do not answer as they should", error=repr(error))
                return None
            if unknown:
                log.warning("no such topic yet, waiting for it", topics=unknown)
                time.sleep(timeout_seconds)
                return None
            self._consumer.subscribe(topics=self._topics, listener=self._listener)
            self._subscribed = True
        return self._consumer

    def _tell(self, poll: Poll) -> None:
        assigned: dict[Any, None] = {}
        revoked: dict[Any, None] = {}
        while self._listener.events:
            what, partitions = self._listener.events.popleft()
            for partition in partitions:
                if what == "assigned":
                    assigned[partition] = None
                else:
                    # revoked and assigned again meanwhile: its state must be restored anew
                    assigned.pop(partition, None)
                    if partition in self._assigned or partition in self._held:
                        revoked[partition] = None
        for partition in revoked:
            self._assigned.discard(partition)
            self._held.pop(partition, None)
            self._ends.pop(partition, None)
            self._starts.pop(partition, None)
        for partition in assigned:
            self._held[partition] = None
        poll.revoked = tuple(map(_name, revoked))
        poll.assigned = tuple(map(_name, assigned))

    def _progress(self, consumer: Any, poll: Poll) -> None:
        """Which partitions are read to their end, and how far the others are from it."""
        lag, ends = {}, {}
        for partition in self._assigned - self._held.keys():
            high = consumer.highwater(partition)
            if high is None:  # nothing fetched yet, so nobody knows
                continue
            # the client may still tell what it saw before reading began
            high = max(high, self._ends.get(partition, 0))
            position = self._position(partition, 0)
            if position is None:  # it is being looked for
                continue
            behind = max(0, high - position)
            lag[_name(partition)] = behind
            if not behind:
                ends[_name(partition)] = high
        poll.lag, poll.ends, poll.at_end = lag, ends, frozenset(ends)

    def seek(self, partition: str, position: str | None) -> str | None:
        which = _partition(partition)
        with errors(partition):
            if position is not None and which in self._assigned:
                begin = int(position)  # it was looked at when reading began
            else:
                self._ends[which] = self._end(which)
                begin = self._start(which, position)
            self._consumer.seek(which, begin)
        # not before: where it fails, it is tried again from the same
        self._held.pop(which, None)
        self._assigned.add(which)
        return str(begin)

    def _start(self, which: Any, position: str | None) -> int:
        if position is not None:
            return self._retained(which, int(position))
        if which.topic == self._joins:
            return self._first(which)
        start = self._starts.get(which, self._held.get(which))
        if start is None:
            start = self._position(which, ANSWER)
        if start is None:
            raise KafkaTimeoutError(f"nobody says where {_name(which)} begins")
        self._starts[which] = start
        return start

    def _position(self, which: Any, milliseconds: int) -> int | None:
        """Where the client is in a partition; None where it does not know in time."""
        try:
            return cast("int | None", self._consumer.position(which, timeout_ms=milliseconds))
        except NoOffsetForPartitionError as error:
            self._begin(error)
            return self._position(which, milliseconds)
        except KafkaTimeoutError:
            return None

    def _first(self, which: Any) -> int:
        return int(self._consumer.beginning_offsets([which], timeout_ms=ANSWER)[which])

    def _end(self, which: Any) -> int:
        return int(self._consumer.end_offsets([which], timeout_ms=ANSWER)[which])

    def _retained(self, which: Any, position: int) -> int:
        """The position, or the first record that is still there where retention has passed it."""
        first, last = self._first(which), self._ends[which]
        if first <= position <= last:
            return position
        if position < first:
            log.error(
                "records were deleted before they were read: raise the topic's retention",
                partition=_name(which),
                lost_records=first - position,
            )
            self._lost[_name(which)] = first - position
        else:
            log.error(
                "the topic is shorter than what was read of it: was it made anew?",
                partition=_name(which),
                position=position,
                end=last,
            )
        return first

    def pause(self, partitions: frozenset[str]) -> None:
        if self._consumer is None:
            return
        # the client is asked, for it keeps some of these through a rebalance and forgets others
        paused = {_name(p): p for p in self._consumer.paused()}
        ours = {_name(p): p for p in self._assigned}
        if stop := [ours[n] for n in partitions - paused.keys() if n in ours]:
            self._consumer.pause(*stop)
        if go := [paused[n] for n in paused.keys() - partitions]:
            self._consumer.resume(*go)

    def settled(self) -> bool:
        """Whether no rebalance is under way."""
        return self._consumer is not None and settled(self._consumer)

    def membership(self) -> Any:
        """Our place in the group, by which the broker knows whether we still have one.

        That which goes with the partitions that were told to be ours. The client may have a newer
        one already: it joins again by itself, and others may have had the partitions meanwhile.
        """
        return self._consumer.group_metadata() if self._membership is None else self._membership

    def committed(self, partitions: Collection[str]) -> dict[str, int]:
        """The group's offsets, once no transaction over them is open.

        Raises
        ------
        StoreError
            The brokers do not tell in time.
        """
        with errors(f"offsets of group {self._config.group_id}"):
            offsets = {
                name: self._consumer.committed(_partition(name), timeout_ms=ANSWER)
                for name in partitions
            }
        return {name: int(offset) for name, offset in offsets.items() if offset is not None}

    def close(self) -> None:
        if self._consumer is not None:
            with suppress(KafkaError):
                self._consumer.close(timeout_ms=_CLOSE)
            self._consumer = None


def settled(consumer: Any) -> bool:
    """Whether the member of a group has joined it, and no rebalance is under way."""
    return _stable(consumer.group_metadata())


def _stable(membership: Any) -> bool:
    return bool(membership.state is MemberState.STABLE)


def polled(consumer: Any, seconds: float) -> Any:
    """What a member of a group has read.

    kafka-python 3.0.12 gets nowhere with a rebalance in very short polls; and where one that began
    because metadata changed outlasts a poll, it forgets to end it, unless it is reminded.
    """
    calm = settled(consumer)
    if not calm and consumer.group_metadata().generation_id >= 0:
        consumer._coordinator.request_rejoin()
    return consumer.poll(timeout_ms=max(1 if calm else _UNSETTLED, int(seconds * 1_000)))


def _name(partition: Any) -> str:
    return f"{partition.topic}:{partition.partition}"


def _partition(name: str) -> Any:
    topic, _, number = name.rpartition(":")
    return TopicPartition(topic, int(number))


def stamped(headers: Iterable[tuple[str, bytes | None]]) -> int | None:
    """The timestamp that a replayed record had when it was first written, milliseconds."""
    for name, value in headers:
        if name == TIMESTAMP and value is not None and value.isdigit() and len(value) < 16:
            return int(value)
    return None


def _timestamp(record: Any) -> int:
    own = stamped(record.headers)
    return int(record.timestamp) if own is None else own


def _records(partition: Any, records: list[Any]) -> Records:
    return Records(
        _name(partition),
        [r.value or b"" for r in records],
        Places(
            f"{escaped(partition.topic)}[{partition.partition}]@{{}}", [r.offset for r in records]
        ),
        str(records[-1].offset + 1),
        np.array([_timestamp(r) for r in records], dtype=np.int64) * _MICROSECONDS,
        np.array([r.offset for r in records], dtype=np.int64),
        [r.key for r in records],
        [[(k, v or b"") for k, v in r.headers] for r in records],
    )
