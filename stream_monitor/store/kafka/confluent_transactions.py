"""One Kafka transaction a commit by confluent-kafka; see :mod:`.transactions`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stream_monitor.errors import StoreError
from stream_monitor.sources.confluent import library
from stream_monitor.sources.kafka_options import librdkafka_options
from stream_monitor.store.kafka.transactions import LAST, MOST, Outgoing

_READY = 10.0  # seconds until the brokers know the producer


class ConfluentTransactions:
    """A producer of transactions with a name of its own."""

    def __init__(self, options: Mapping[str, object], name: str, timeout: int) -> None:
        self.name = name
        self._library = library()
        self._seconds = min(timeout / 1e6, MOST)
        self._options = librdkafka_options(options) | {
            "transactional.id": name,
            "transaction.timeout.ms": timeout // 1_000,
            "linger.ms": 5,
            "batch.size": 2**18,
            "message.max.bytes": 2**26,
            "message.timeout.ms": timeout // 1_000,
            "queue.buffering.max.messages": 2**20,
        }
        self._producer: Any = None

    def open(self) -> None:
        """See :meth:`.transactions.Transactions.open`."""
        if self._producer is not None:
            return
        producer = None
        try:
            producer = self._library.Producer(self._options)
            producer.init_transactions(_READY)
        except self._library.KafkaException as error:
            _end(producer)
            raise StoreError(
                f"transactions as {self.name}: {error.args[0].str()}; it is tried again"
            ) from error
        self._producer = producer

    def run(self, records: Iterable[Outgoing], offsets: Mapping[Any, int], membership: Any) -> None:
        """See :meth:`.transactions.Transactions.run`."""
        self.open()
        producer, deadline = self._producer, time.monotonic() + self._seconds
        failed: list[Any] = []

        def delivered(error: Any, _message: Any) -> None:
            if error is not None:
                failed.append(error)

        try:
            producer.begin_transaction()
            for record in records:
                self._produce(record, delivered, deadline)
            if offsets:
                positions = [
                    self._library.TopicPartition(p.topic, p.partition, offset)
                    for p, offset in offsets.items()
                ]
                left = max(0.001, deadline - time.monotonic())
                producer.send_offsets_to_transaction(positions, membership, left)
            producer.flush(max(0.0, deadline - time.monotonic()))
            if failed:
                raise StoreError(failed[0].str())
            producer.commit_transaction(max(0.001, deadline - time.monotonic()))
        except (self._library.KafkaException, StoreError, BufferError) as error:
            self.drop()
            raise StoreError(
                f"transaction of {self.name}: {error}; what it held is read again"
            ) from error

    def _produce(
        self, record: Outgoing, delivered: Callable[[Any, Any], None], deadline: float
    ) -> None:
        more = {} if record.timestamp is None else {"timestamp": record.timestamp}
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                    on_delivery=delivered,
                    **more,
                )
                return
            except BufferError:  # full: until brokers have taken some
                if time.monotonic() > deadline:
                    raise
                self._producer.poll(0.01)

    def hurry(self) -> None:
        """Nothing may take long any more."""
        self._seconds = min(self._seconds, LAST)

    def drop(self) -> None:
        """Leave whatever is open; the next :meth:`open` ends it."""
        producer, self._producer = self._producer, None
        _end(producer)

    def close(self) -> None:
        self.drop()


def _end(producer: Any) -> None:
    """Let go of a producer without sending what it still holds."""
    if producer is not None:
        producer.purge()
        producer.poll(0)
