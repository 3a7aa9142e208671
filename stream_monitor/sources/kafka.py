"""Kafka topics through kafka-python, read by a consumer group.

Rebalance listeners run on the client's IO thread, so they only note what happened; :meth:`poll`
tells it on the caller's thread. A partition's records are held back until :meth:`seek` said where
to begin, for positions live in our checkpoint and not in the group's offsets.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from stream_monitor.config import model
from stream_monitor.sources.base import Places, Poll, Records, escaped
from stream_monitor.sources.kafka_options import client_options
from stream_monitor.sources.kafka_rows import RowTopic

# A poll is bounded by the bytes of a fetch, not by records: kafka-python 3.0.12 never delivers the
# rest of a fetch again that max_poll_records cut while its partition was paused.
_DEFAULTS = {
    "max_poll_records": 10_000_000,
    "fetch_max_bytes": 8 * 2**20,
    "metadata_max_age_ms": 10_000,  # partitions that are added are read soon
}
_PAUSE = 0.05
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

    ``more_topics`` are those of labels, ``rows`` is the join's own, which is made before it is read
    and read from its beginning.
    """

    def __init__(
        self,
        config: model.KafkaSource,
        more_topics: Sequence[str] = (),
        rows: RowTopic | None = None,
    ) -> None:
        self._config = config
        self._rows = rows
        self._made = rows is None
        own = [] if rows is None else [rows.name]
        self._topics = [*config.topics, *more_topics, *own]
        self._options: dict[str, Any] = _DEFAULTS | client_options(config.client)
        self._listener = _Listener()
        self._consumer: Any = None
        self._held: dict[Any, int | None] = {}
        self._assigned: set[Any] = set()
        self._subscribed = False

    def poll(self, timeout_seconds: float) -> Poll:
        poll = Poll()
        consumer = self._connected(timeout_seconds)
        if consumer is None:
            return poll
        started = time.monotonic()
        batches = consumer.poll(timeout_ms=max(1, int(timeout_seconds * 1_000)))
        self._tell(poll)
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
        return poll

    def _connected(self, timeout_seconds: float) -> Any:
        """The consumer, or None while no broker answers."""
        if self._consumer is None:
            try:
                consumer = KafkaConsumer(
                    bootstrap_servers=self._config.bootstrap_servers,
                    group_id=self._config.group_id,
                    auto_offset_reset=self._config.auto_offset_reset,
                    enable_auto_commit=False,
                    isolation_level="read_committed",
                    **self._options,
                )
            except KafkaError as error:
                log.warning(
                    "no broker answers, trying again",
                    bootstrap_servers=self._config.bootstrap_servers,
                    error=f"{type(error).__name__}: {error}",
                )
                time.sleep(timeout_seconds)
                return None
            self._consumer = consumer
        if not self._made and not self._make(timeout_seconds):
            return None
        if not self._subscribed:
            # a group whose leader does not know a topic yet is given none of its partitions
            unknown = [t for t in self._topics if not self._partitions_of(t)]
            if unknown:
                log.warning("no such topic yet, waiting for it", topics=unknown)
                time.sleep(timeout_seconds)
                return None
            self._consumer.subscribe(topics=self._topics, listener=self._listener)
            self._subscribed = True
        return self._consumer

    def _make(self, timeout_seconds: float) -> bool:
        """Make the join's topic; False while that does not work."""
        try:
            if self._rows is not None:
                self._rows.make()
        except KafkaError as error:
            log.warning(
                "the join's topic cannot be made, trying again",
                error=f"{type(error).__name__}: {error}",
            )
            time.sleep(timeout_seconds)
            return False
        self._made = True
        return True

    def _partitions_of(self, topic: str) -> set[int]:
        try:
            return self._consumer.partitions_for_topic(topic) or set()
        except KafkaError:
            return set()

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
                    if partition in self._assigned:
                        revoked[partition] = None
        for partition in revoked:
            self._assigned.discard(partition)
            self._held.pop(partition, None)
        for partition in assigned:
            self._held[partition] = None
        poll.revoked = tuple(map(_name, revoked))
        poll.assigned = tuple(map(_name, assigned))

    def _progress(self, consumer: Any, poll: Poll) -> None:
        """Which partitions are read to their end, and how far the others are from it."""
        lag, at_end = {}, []
        for partition in self._assigned - self._held.keys():
            high = consumer.highwater(partition)
            if high is None:  # nothing fetched yet, so nobody knows
                continue
            behind = max(0, high - consumer.position(partition))
            lag[_name(partition)] = behind
            if not behind:
                at_end.append(_name(partition))
        poll.lag, poll.at_end = lag, frozenset(at_end)

    def seek(self, partition: str, position: str | None) -> None:
        which = _partition(partition)
        held = self._held.pop(which, None)
        self._assigned.add(which)
        if position is None:
            if self._rows is not None and which.topic == self._rows.name:
                self._consumer.seek_to_beginning(which)
                return
            if held is not None:
                self._consumer.seek(which, held)
            return
        self._consumer.seek(which, self._retained(which, int(position)))

    def _retained(self, which: Any, position: int) -> int:
        """The position, or the first record that is still there where retention has passed it."""
        first = int(self._consumer.beginning_offsets([which])[which])
        last = int(self._consumer.end_offsets([which])[which])
        if first <= position <= last:
            return position
        if position < first:
            log.error(
                "records were deleted before they were read: raise the topic's retention",
                partition=_name(which),
                lost_records=first - position,
            )
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

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _name(partition: Any) -> str:
    return f"{partition.topic}:{partition.partition}"


def _partition(name: str) -> Any:
    topic, _, number = name.rpartition(":")
    return TopicPartition(topic, int(number))


def _records(partition: Any, records: list[Any]) -> Records:
    return Records(
        _name(partition),
        [r.value or b"" for r in records],
        Places(
            f"{escaped(partition.topic)}[{partition.partition}]@{{}}", [r.offset for r in records]
        ),
        str(records[-1].offset + 1),
        np.array([r.timestamp for r in records], dtype=np.int64) * _MICROSECONDS,
        np.array([r.offset for r in records], dtype=np.int64),
        [r.key for r in records],
        [[(k, v or b"") for k, v in r.headers] for r in records],
    )
