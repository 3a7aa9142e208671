"""Kafka topics through kafka-python, read by a consumer group.

Rebalance listeners run on the client's IO thread, so they only note what happened; the source tells
it on the caller's thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer
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
from stream_monitor.sources.base import Records
from stream_monitor.sources.kafka_client import ANSWER, UnreachableError, connected, partitions_of
from stream_monitor.sources.kafka_errors import errors
from stream_monitor.sources.kafka_group import GroupSource, Place, name_of, partition_of
from stream_monitor.sources.kafka_options import client_options
from stream_monitor.sources.kafka_records import read_anyhow
from stream_monitor.sources.kafka_runs import records_of

# A poll is bounded by the bytes of a fetch, not by records: kafka-python 3.0.12 never delivers the
# rest of a fetch again that max_poll_records cut while its partition was paused.
_DEFAULTS = {
    "max_poll_records": 10_000_000,
    "fetch_max_bytes": 4 * 2**20,
    "max_partition_fetch_bytes": 2 * 2**20,  # large runs cost less an event, and more memory
    "metadata_max_age_ms": 10_000,  # partitions that are added are read soon
    "max_poll_interval_ms": 900_000,  # a large state takes long to restore
    # within a session brokers say nothing of a partition that has not changed, not even to who had
    # it before, lost it, and got it back: its end would not be known until a record comes
    "enable_incremental_fetch_sessions": False,
    # who keeps a partition through a rebalance goes on reading it meanwhile
    "partition_assignment_strategy": [CooperativeStickyAssignor],
}
_UNSETTLED = 100  # milliseconds
_CLOSE = 2_000  # milliseconds to leave the group

log = structlog.get_logger()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes assignments in the order in which they happen; called on the IO thread."""

    def __init__(self, heard: deque[tuple[str, tuple[Any, ...]]]) -> None:
        self._heard = heard

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self._heard.append(("assigned", tuple(assigned)))

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self._heard.append(("revoked", tuple(revoked)))

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        self._heard.append(("revoked", tuple(lost)))


class KafkaSource(GroupSource):
    """A member by kafka-python."""

    def __init__(
        self,
        config: model.KafkaSource,
        more_topics: Sequence[str] = (),
        joins: str | None = None,
    ) -> None:
        super().__init__(config, more_topics, joins)
        read_anyhow()
        self._options: dict[str, Any] = _DEFAULTS | client_options(config.options)
        self._listener = _Listener(self._heard)
        self._consumer: Any = None
        self._subscribed = False

    def _fetched(self, timeout_seconds: float) -> Mapping[Any, Records]:
        try:
            batches = self._polled(timeout_seconds)
        except (RetriableError, StoreError) as error:
            log.warning("the brokers do not answer as they should", error=repr(error))
            return {}
        return {partition: _records(partition, found) for partition, found in batches.items()}

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
                log.error("brokers have lost records that were read", partition=name_of(which))
                self._consumer.seek(which, self._first(which) if diverging is None else diverging)
        return {}

    def _begin(self, error: NoOffsetForPartitionError) -> None:
        """Begin partitions that the group has no position of, as the configuration says."""
        first = self._config.auto_offset_reset == "earliest"
        begin = self._consumer.seek_to_beginning if first else self._consumer.seek_to_end
        begin(*error.args[0])

    def _connected(self, timeout_seconds: float) -> bool:
        """Whether there is a consumer that has subscribed.

        Raises
        ------
        SourceError
            The brokers refuse our credentials, which time does not mend.
        """
        if self._consumer is None:
            try:
                self._consumer = connected(
                    KafkaConsumer,
                    bootstrap_servers=self._config.bootstrap_servers,
                    group_id=self._config.group_id,
                    auto_offset_reset="none",  # see _polled
                    enable_auto_commit=False,
                    isolation_level="read_committed",
                    **self._options,
                )
            except UnreachableError as error:
                unreachable(error, self._config.bootstrap_servers)
                time.sleep(timeout_seconds)
                return False
        if not self._subscribed:
            if not there(self._consumer, self._topics, timeout_seconds):
                return False
            self._consumer.subscribe(topics=self._topics, listener=self._listener)
            self._subscribed = True
        return True

    def _place(self) -> Place:
        found = self._consumer.group_metadata()
        joined = self._subscribed and found.generation_id >= 0
        return Place(found, _stable(found), joined)

    def _asked(self) -> Any:
        return self._consumer

    def _go_to(self, which: Any, offset: int) -> None:
        self._consumer.seek(which, offset)

    def _begins(self, which: Any) -> int:
        start = self._where(which, ANSWER)
        if start is None:
            raise KafkaTimeoutError(f"nobody says where {name_of(which)} begins")
        return start

    def _position(self, which: Any) -> int | None:
        return self._where(which, 0)

    def _where(self, which: Any, milliseconds: int) -> int | None:
        """Where the client is in a partition; None where it does not know in time."""
        try:
            return cast("int | None", self._consumer.position(which, timeout_ms=milliseconds))
        except NoOffsetForPartitionError as error:
            self._begin(error)
            return self._where(which, milliseconds)
        except KafkaTimeoutError:
            return None

    def _highwater(self, which: Any) -> int | None:
        return cast("int | None", self._consumer.highwater(which))

    def _paused(self) -> Iterable[Any]:
        found: Iterable[Any] = () if self._consumer is None else self._consumer.paused()
        return found

    def _hold(self, partitions: Sequence[Any]) -> None:
        self._consumer.pause(*partitions)

    def _release(self, partitions: Sequence[Any]) -> None:
        self._consumer.resume(*partitions)

    def committed(self, partitions: Collection[str]) -> dict[str, int]:
        with errors(f"offsets of group {self._config.group_id}"):
            offsets = {
                name: self._consumer.committed(partition_of(name), timeout_ms=ANSWER)
                for name in partitions
            }
        return {name: int(offset) for name, offset in offsets.items() if offset is not None}

    def close(self) -> None:
        if self._consumer is not None:
            with suppress(KafkaError):
                self._consumer.close(timeout_ms=_CLOSE)
            self._consumer = None


def unreachable(error: UnreachableError, servers: str) -> None:
    """Say that no broker was reached, and that it is tried again."""
    log.warning(
        f"{error.wrong}, trying again",
        bootstrap_servers=servers,
        error=error.reason,
        remedy=error.remedy,
    )


def there(consumer: Any, topics: Sequence[str], timeout_seconds: float) -> bool:
    """Whether all topics are; else it has waited.

    A group whose leader does not know a topic yet is given none of its partitions.
    """
    try:
        unknown = [topic for topic in topics if not partitions_of(consumer, topic)]
    except KafkaError as error:
        log.warning("the brokers do not answer as they should", error=repr(error))
        return False
    if unknown:
        log.warning("no such topic yet, waiting for it", topics=unknown)
        time.sleep(timeout_seconds)
    return not unknown


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


def _records(partition: Any, records: list[Any]) -> Records:
    return records_of(
        partition,
        offsets=[r.offset for r in records],
        values=[r.value for r in records],
        stamps=[r.timestamp for r in records],
        keys=[r.key for r in records],
        headers=[r.headers for r in records],
    )
