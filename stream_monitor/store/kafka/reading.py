"""Reading the service's own topics: whole partitions to their end, and what comes after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from stream_monitor.sources.kafka_client import ANSWER, connected, partitions_of
from stream_monitor.sources.kafka_errors import errors

_OPTIONS = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "max_poll_records": 10_000_000,
    "metadata_max_age_ms": 10_000,  # partitions that are added are awaited soon
    "fetch_max_bytes": 16 * 2**20,
    "max_partition_fetch_bytes": 4 * 2**20,
}


class Reader:
    """Partitions of one topic, read from their beginning; what was aborted is left out."""

    def __init__(
        self, options: Mapping[str, object], topic: str, partitions: Sequence[int]
    ) -> None:
        self._topic = topic
        assigned = [TopicPartition(topic, p) for p in partitions]
        with errors(f"topic {topic}"):
            given = _OPTIONS | dict(options) | {"isolation_level": "read_committed"}
            self._consumer = connected(KafkaConsumer, **given)
            self._consumer.assign(assigned)
            self._consumer.seek_to_beginning(*assigned)

    def poll(self, seconds: float) -> list[Any]:
        """Records that have come, those of a partition in their order."""
        with errors(f"topic {self._topic}"):
            found = self._consumer.poll(timeout_ms=int(seconds * 1_000))
        return [record for records in found.values() for record in records]

    def behind(self, ends: Mapping[int, int]) -> bool:
        """Whether a partition was not read up to such an offset yet."""
        with errors(f"topic {self._topic}"):
            return any(
                (self._consumer.position(TopicPartition(self._topic, p), ANSWER) or 0) < end
                for p, end in ends.items()
            )

    def seek(self, partition: int, offset: int) -> None:
        """Go on elsewhere."""
        self._consumer.seek(TopicPartition(self._topic, partition), offset)

    def close(self) -> None:
        with suppress(KafkaError):
            self._consumer.close(timeout_ms=1_000)


class Ends:
    """Where partitions end now, open transactions included."""

    def __init__(self, options: Mapping[str, object]) -> None:
        with errors("the brokers"):
            self._consumer = connected(KafkaConsumer, **_OPTIONS | dict(options))

    def of(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """The offset of the next record, by partition."""
        with errors(f"topic {topic}"):
            found = self._consumer.end_offsets(
                [TopicPartition(topic, p) for p in partitions], timeout_ms=ANSWER
            )
        return {p.partition: int(end) for p, end in found.items()}

    def partitions(self, topic: str) -> frozenset[int]:
        """Those of a topic; empty where there is none."""
        with errors(f"topic {topic}"):
            return partitions_of(self._consumer, topic)

    def close(self) -> None:
        with suppress(KafkaError):
            self._consumer.close(timeout_ms=1_000)
