"""Kafka topics through confluent-kafka, which is librdkafka, read by a consumer group.

It takes less of the processor for a record than kafka-python. Rebalances are told in callbacks
within :meth:`ConfluentSource._fetched`; librdkafka gives nothing away before they have returned.
Questions about topics are asked by kafka-python, which says what is wrong where nobody answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from kafka import KafkaConsumer

from stream_monitor.config import model
from stream_monitor.errors import SourceError, StoreError
from stream_monitor.sources.base import Records
from stream_monitor.sources.kafka import there, unreachable
from stream_monitor.sources.kafka_client import ANSWER, UnreachableError, connected
from stream_monitor.sources.kafka_group import GroupSource, Place, name_of, partition_of
from stream_monitor.sources.kafka_options import connection_options, librdkafka_options
from stream_monitor.sources.kafka_runs import Headers, records_of

_DEFAULTS = {
    "fetch.max.bytes": 4 * 2**20,
    "max.partition.fetch.bytes": 2 * 2**20,
    "queued.max.messages.kbytes": 16 * 2**10,  # what is fetched ahead, of all partitions
    "fetch.queue.backoff.ms": 10,  # where that is full it would fetch nothing for a second
    "topic.metadata.refresh.interval.ms": 10_000,  # partitions that are added are read soon
    "max.poll.interval.ms": 900_000,  # a large state takes long to restore
    # who keeps a partition through a rebalance goes on reading it meanwhile
    "partition.assignment.strategy": "cooperative-sticky",
}
_OWN = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,  # tells positions behind the marks of transactions
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",  # where records were deleted we say so, and go on ourselves
}
_MOST = 20_000  # records at once
_GATHER = 0.03  # seconds
_CLOSE = 3.0  # seconds to leave the group

log = structlog.get_logger()


def library() -> Any:
    """The package.

    Raises
    ------
    SourceError
        It is not installed.
    """
    try:
        import confluent_kafka  # noqa: PLC0415 - an extra
    except ImportError:
        raise SourceError(
            "source.client: confluent: the package is not installed: "
            "pip install 'stream-monitor[confluent]', or leave the line out for kafka-python"
        ) from None
    return confluent_kafka


class ConfluentSource(GroupSource):
    """A member by confluent-kafka."""

    def __init__(
        self,
        config: model.KafkaSource,
        more_topics: Sequence[str] = (),
        joins: str | None = None,
    ) -> None:
        super().__init__(config, more_topics, joins)
        self._library = library()
        self._questions: Any = None
        self._consumer: Any = None
        self._joined = False
        # of partitions that are read: the next offset; and which of them are held back
        self._offsets: dict[Any, int] = {}
        self._still: set[Any] = set()

    def _connected(self, timeout_seconds: float) -> bool:
        """Whether there is a consumer that has subscribed.

        Raises
        ------
        SourceError
            The brokers refuse our credentials, or librdkafka the options.
        """
        if self._consumer is not None:
            return True
        servers = self._config.bootstrap_servers
        try:
            if self._questions is None:
                self._questions = connected(
                    KafkaConsumer,
                    bootstrap_servers=servers,
                    group_id=None,
                    **connection_options(self._config.options),
                )
        except UnreachableError as error:
            unreachable(error, servers)
            time.sleep(timeout_seconds)
            return False
        if not there(self._questions, self._topics, timeout_seconds):
            return False
        own = {"bootstrap.servers": servers, "group.id": self._config.group_id, **_OWN}
        options = _DEFAULTS | librdkafka_options(self._config.options) | own
        try:
            self._consumer = self._library.Consumer(
                options | {"error_cb": _warn}, logger=logging.getLogger("librdkafka")
            )
        except self._library.KafkaException as error:
            raise SourceError(f"source.options: {error.args[0].str()}; correct it") from None
        self._consumer.subscribe(
            self._topics,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )
        return True

    def _on_assign(self, consumer: Any, partitions: Sequence[Any]) -> None:
        self._joined = True
        # nothing is read before seek says from where
        consumer.incremental_assign([self._at(p, self._library.OFFSET_END) for p in partitions])
        if partitions:
            consumer.pause(partitions)
            self._heard.append(("assigned", tuple(map(_which, partitions))))

    def _on_revoke(self, consumer: Any, partitions: Sequence[Any]) -> None:
        for partition in map(_which, partitions):
            self._offsets.pop(partition, None)
            self._still.discard(partition)
        self._heard.append(("revoked", tuple(map(_which, partitions))))
        consumer.incremental_unassign(partitions)

    def _at(self, which: Any, offset: int) -> Any:
        return self._library.TopicPartition(which.topic, which.partition, offset)

    def _fetched(self, timeout_seconds: float) -> Mapping[Any, Records]:
        found: list[Any] = []
        try:
            # it waits until there are as many as it is asked for, so only for the first; once that
            # is there, more of them cost less each
            found += self._consumer.consume(1, timeout_seconds)
            if found:
                found += self._consumer.consume(_MOST, _GATHER)
        except self._library.KafkaException as error:
            self._failed(error.args[0])
        runs: dict[Any, list[Any]] = {}
        told = []
        for message in found:
            if message.error() is None:
                runs.setdefault((message.topic(), message.partition()), []).append(message)
            else:
                told.append(message)
        records = {}
        for name, messages in runs.items():
            which = partition_of(f"{name[0]}:{name[1]}")
            begin = self._offsets.get(which)
            if begin is None:  # nobody has said yet where it begins
                continue
            if messages[0].offset() < begin:  # of before it was sought
                messages = [m for m in messages if m.offset() >= begin]  # noqa: PLW2901
            if messages:
                self._offsets[which] = messages[-1].offset() + 1
                records[which] = _records(which, messages)
        for message in told:
            self._told(message)
        return records

    def _told(self, message: Any) -> None:
        """What comes among the messages and is none."""
        error, codes = message.error(), self._library.KafkaError
        if message.topic() is None:
            self._failed(error)
            return
        which = partition_of(f"{message.topic()}:{message.partition()}")
        position = self._offsets.get(which)
        if position is None:
            return
        if error.code() == codes._PARTITION_EOF:
            self._offsets[which] = max(position, message.offset())
        elif error.code() in (
            codes._AUTO_OFFSET_RESET, codes.OFFSET_OUT_OF_RANGE, codes._LOG_TRUNCATION,
        ):  # fmt: skip
            with suppress(StoreError):  # it is told again
                self._go_on(which, position)
        else:
            self._failed(error)

    def _failed(self, error: Any) -> None:
        _warn(error)
        if error.fatal():  # somebody else has our group_instance_id, for one
            self._drop()

    def _place(self) -> Place:
        if self._consumer is None:
            return Place(None, stable=False, joined=False)
        metadata = self._consumer.consumer_group_metadata()
        return Place(metadata, self._joined, self._joined)

    def _asked(self) -> Any:
        return self._questions

    def _go_to(self, which: Any, offset: int) -> None:
        # seek is refused of a partition that has not begun to be fetched
        with _errors(self._library, name_of(which)):
            self._consumer.incremental_unassign([self._at(which, offset)])
            self._consumer.incremental_assign([self._at(which, offset)])
            self._consumer.resume([self._at(which, offset)])
        self._offsets[which] = offset
        self._still.discard(which)

    def _begins(self, which: Any) -> int:
        name = name_of(which)
        found = self.committed([name]).get(name)
        if found is not None:
            return found
        first = self._config.auto_offset_reset == "earliest"
        return self._first(which) if first else self._ends[which]

    def _position(self, which: Any) -> int | None:
        return self._offsets.get(which)

    def _highwater(self, which: Any) -> int | None:
        _, high = self._consumer.get_watermark_offsets(self._at(which, 0), cached=True)
        return None if high < 0 else int(high)

    def _paused(self) -> Iterable[Any]:
        return self._still

    def _hold(self, partitions: Sequence[Any]) -> None:
        self._consumer.pause([self._at(which, 0) for which in partitions])
        self._still.update(partitions)

    def _release(self, partitions: Sequence[Any]) -> None:
        self._consumer.resume([self._at(which, 0) for which in partitions])
        self._still.difference_update(partitions)

    def committed(self, partitions: Collection[str]) -> dict[str, int]:
        if not partitions:
            return {}
        wanted = [self._at(partition_of(name), 0) for name in partitions]
        with _errors(self._library, f"offsets of group {self._config.group_id}"):
            found = self._consumer.committed(wanted, timeout=ANSWER / 1_000)
        for each in found:
            if each.error is not None:
                raise StoreError(f"offsets of group {self._config.group_id}: {each.error.str()}")
        return {name_of(_which(p)): int(p.offset) for p in found if p.offset >= 0}

    def _drop(self) -> None:
        """Be no member any more; what was ours is not."""
        consumer, self._consumer, self._joined = self._consumer, None, False
        self._heard.append(("revoked", (*self._assigned, *self._held)))
        self._offsets.clear()
        self._still.clear()
        if consumer is not None:
            # it waits for brokers that may not be there
            thread = threading.Thread(target=consumer.close, daemon=True)
            thread.start()
            thread.join(_CLOSE)

    def close(self) -> None:
        self._drop()
        if self._questions is not None:
            self._questions.close(timeout_ms=1_000)
            self._questions = None


@contextmanager
def _errors(library: Any, what: str) -> Iterator[None]:
    try:
        yield
    except library.KafkaException as error:
        raise StoreError(f"{what}: {error.args[0].str()}; it is tried again") from None


def _warn(error: Any) -> None:
    log.warning("the brokers do not answer as they should", error=f"{error.name()}: {error.str()}")


def _which(partition: Any) -> Any:
    return partition_of(f"{partition.topic}:{partition.partition}")


def _records(which: Any, messages: list[Any]) -> Records:
    return records_of(
        which,
        offsets=[m.offset() for m in messages],
        values=[m.value() for m in messages],
        stamps=[m.timestamp()[1] for m in messages],
        keys=[m.key() for m in messages],
        headers=[*map(_headers, messages)],
    )


def _headers(message: Any) -> Headers:
    try:
        return message.headers() or []
    except UnicodeDecodeError:  # of a header's key, which brokers do not look at
        return []
