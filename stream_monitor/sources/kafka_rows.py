"""The join's own topic: rows of predictions and labels on their way to the partition of their key.

At least once: records wait here until a commit sends them, before the positions that they came
from are committed. What is sent twice is known by its rows and counts once.
"""

from __future__ import annotations

from typing import Any

import structlog
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from stream_monitor.config import model
from stream_monitor.errors import SourceError, StoreError
from stream_monitor.sources.kafka_options import connection_options

_SECONDS = 10.0  # that a commit waits for the broker

log = structlog.get_logger()


class RowTopic:
    """Writes records to the join's topic, which it makes where it is missing."""

    def __init__(
        self, config: model.KafkaSource, name: str, *, partitions: int, retention: int
    ) -> None:
        self.name = name
        self._partitions = partitions
        self._retention = retention
        self._options = {
            "bootstrap_servers": config.bootstrap_servers,
            **connection_options(config.client),
        }
        self._waiting: list[tuple[int, bytes]] = []
        self._producer: Any = None

    def make(self) -> None:
        """Make the topic, once for all replicas.

        Raises
        ------
        SourceError
            It is there with another number of partitions: keys would lie elsewhere.
        KafkaError
            No broker answers, or it refuses.
        """
        admin = KafkaAdminClient(**self._options)
        try:
            # rows are deleted once no label can come for them; the newest segment stays longer
            settings = {
                "cleanup.policy": "delete",
                "retention.ms": str(self._retention // 1_000),
                "message.timestamp.type": "LogAppendTime",
            }
            topic = NewTopic(self.name, self._partitions, -1, topic_configs=settings)
            try:
                admin.create_topics([topic])
                log.info("topic made", topic=self.name, partitions=self._partitions)
            except TopicAlreadyExistsError:
                (known,) = admin.describe_topics([self.name])
                there = len(known["partitions"])
                if there != self._partitions:
                    raise SourceError(
                        f"labels.join_partitions: the topic {self.name} has {there} partitions, "
                        f"the configuration says {self._partitions}: write {there}, or name "
                        "another topic in labels.join_topic, with which outcomes begin anew"
                    ) from None
        finally:
            admin.close()

    def send(self, partition: int, payload: bytes) -> None:
        """Keep a record for the next :meth:`flush`."""
        self._waiting.append((partition, payload))

    def flush(self) -> None:
        """Send everything that waits; returns once the brokers have it.

        Raises
        ------
        StoreError
            Some of it could not be sent. It all waits on, and is sent with the next call.
        """
        if not self._waiting:
            return
        try:
            if self._producer is None:
                self._producer = KafkaProducer(acks="all", linger_ms=5, **self._options)
            sent = [
                self._producer.send(self.name, payload, partition=partition)
                for partition, payload in self._waiting
            ]
            self._producer.flush(timeout=_SECONDS)
            for future in sent:
                future.get(timeout=_SECONDS)
        except KafkaError as error:
            raise StoreError(
                f"topic {self.name}: {type(error).__name__}: {error}; it is tried again"
            ) from error
        self._waiting = []

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=_SECONDS)
            self._producer = None
