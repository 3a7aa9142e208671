"""The service's own topics: their names, what each is for, and making them.

``…-state``
    A partition's panes, counters and position: compacted, so it holds the newest of each. An input
    partition's state lies in one partition of it, chosen by its name.
``…-joins``
    Rows of predictions and labels on their way to the partition of their key; they stay as long as
    labels may come, for a new owner reads them again.
``…-control``
    What the aggregator knows: published windows, detectors, thresholds; and how far it is, for the
    workers. One partition, compacted; its owner is the active aggregator.
``…-results``
    The results log: every closed window in every revision. One partition.
``…-dead-letters``
    Records that could not be used, as they came. One partition, bounded by size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import structlog
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError

from stream_monitor.config.model import Config, KafkaLabels, KafkaSource, KafkaStore
from stream_monitor.config.units import SECOND
from stream_monitor.errors import UnusableError
from stream_monitor.sources.kafka_client import connected

_FOREVER = str(2**63 - 1)
_LARGE = 32 * 2**20  # a dead letter is as large as its record was, and its headers
_STAMPED = {"message.timestamp.type": "LogAppendTime"}
_COMPACTED = {
    **_STAMPED,
    "cleanup.policy": "compact",
    # only closed segments are compacted, and a restore reads what is not
    "segment.bytes": str(32 * 2**20),
    "segment.ms": str(3_600 * SECOND // 1_000),
    "min.cleanable.dirty.ratio": "0.3",
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that the service makes; ``fixed`` where its number of partitions must be this."""

    name: str
    partitions: int
    settings: Mapping[str, str]
    fixed: str = ""


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics of one group of replicas. ``joins`` is None where labels do not come late."""

    state: Topic
    control: Topic
    results: Topic
    dead_letters: Topic
    joins: Topic | None

    @classmethod
    def of(cls, config: Config, store: KafkaStore) -> Topics:
        prefix = prefix_of(config, store)
        labels = config.labels
        joins = None
        if labels is not None:
            joins = Topic(
                labels.join_topic or f"{prefix}-joins",
                labels.join_partitions,
                {
                    **_STAMPED,
                    "cleanup.policy": "delete",
                    # rows are of use until no label can come for them
                    "retention.ms": str((labels.horizon + 2 * labels.allowed_lateness) // 1_000),
                },
                "labels.join_partitions: keys would lie elsewhere: write {there}, or name another "
                "topic in labels.join_topic, with which outcomes begin anew",
            )
        return cls(
            Topic(f"{prefix}-state", store.partitions, _COMPACTED),
            Topic(
                f"{prefix}-control",
                1,
                _COMPACTED,
                "one partition chooses the one active aggregator: delete the topic, or choose "
                "another store.prefix",
            ),
            Topic(
                f"{prefix}-results",
                1,
                {
                    **_STAMPED,
                    "cleanup.policy": "delete",
                    "retention.ms": str(store.results_retention // 1_000),
                },
                "a log has one order: delete the topic, or choose another store.prefix",
            ),
            Topic(
                f"{prefix}-dead-letters",
                1,
                {
                    # they keep the timestamps of their records, however old or wrong these are
                    "cleanup.policy": "delete",
                    "retention.ms": "-1",
                    "retention.bytes": str(store.dead_letter_bytes),
                    "segment.bytes": str(max(2**20, min(2**28, store.dead_letter_bytes // 4))),
                    "message.timestamp.type": "CreateTime",
                    "message.timestamp.after.max.ms": _FOREVER,
                    "max.message.bytes": str(_LARGE),
                },
            ),
            joins,
        )

    def __iter__(self) -> Any:
        every = (self.state, self.control, self.results, self.dead_letters, self.joins)
        return (topic for topic in every if topic is not None)

    def make(self, options: Mapping[str, object]) -> int:
        """Make those that are missing; how many partitions the state's topic has.

        Raises
        ------
        UnusableError
            One is there with another number of partitions than it must have.
        KafkaError
            No broker answers, or it refuses.
        """
        admin = connected(KafkaAdminClient, **options)
        try:
            there = set(admin.list_topics())
            for topic in self:
                if topic.name not in there:
                    _make(admin, topic)
            known = {
                t["name"]: len(t["partitions"])
                for t in admin.describe_topics([topic.name for topic in self])
            }
        finally:
            admin.close()
        for topic in self:
            found = known[topic.name]
            if not found:  # another replica has just made it, and a broker has not heard of it
                raise UnknownTopicOrPartitionError(f"{topic.name} has no partitions yet")
            if topic.fixed and found != topic.partitions:
                remedy = topic.fixed.format(there=found)
                raise UnusableError(
                    f"the topic {topic.name} has {found} partitions, not {topic.partitions}; "
                    f"{remedy}"
                )
        return known[self.state.name]


def _make(admin: Any, topic: Topic) -> None:
    new = NewTopic(topic.name, topic.partitions, -1, topic_configs=dict(topic.settings))
    try:
        admin.create_topics([new])
        log.info("topic made", topic=topic.name, partitions=topic.partitions)
    except TopicAlreadyExistsError:
        pass  # another replica was faster
    admin.wait_for_topics([topic.name])


def prefix_of(config: Config, store: KafkaStore) -> str:
    """What the names of the topics begin with."""
    if store.prefix is not None:
        return store.prefix
    return config.source.group_id if isinstance(config.source, KafkaSource) else "stream-monitor"


def connection_of(config: Config) -> tuple[str, dict[str, Any]]:
    """The brokers that have the service's topics, and the client's options as they are written.

    Those of the store or, where it names none, of a Kafka source.
    """
    source = config.source if isinstance(config.source, KafkaSource) else None
    servers, client = (source.bootstrap_servers, source.options) if source else ("", {})
    if isinstance(config.store, KafkaStore):
        servers = config.store.bootstrap_servers or servers
        client = config.store.options if config.store.options is not None else client
    return servers, client


def inputs_of(config: Config) -> tuple[list[str], list[str]]:
    """The topics of events and of labels."""
    labels = None if config.labels is None else config.labels.source
    events = config.source.topics if isinstance(config.source, KafkaSource) else []
    return list(events), list(labels.topics) if isinstance(labels, KafkaLabels) else []


def place_of(partition: str, count: int) -> int:
    """Which of so many partitions of the state's topic holds an input partition's state."""
    return int.from_bytes(blake2b(partition.encode(), digest_size=8).digest(), "big") % count
