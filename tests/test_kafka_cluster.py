"""The cluster of the tests keeps what they rely on: a dead broker takes no record with it."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from stream_monitor.store.kafka.topics import Topic, Topics
from tests.kafka_broker import KafkaCluster, create_topic


def sent(cluster: KafkaCluster, topic: str, *payloads: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=cluster.bootstrap_servers, acks="all")
    for payload in payloads:
        producer.send(topic, payload, partition=0).get(timeout=60)
    producer.close()


def received(cluster: KafkaCluster, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        bootstrap_servers=cluster.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=60_000,
    )
    consumer.assign([TopicPartition(topic, 0)])
    payloads = [next(consumer).value for _ in range(count)]
    consumer.close()
    return payloads


def test_records_survive_the_kill_of_their_leader(kafka_cluster: KafkaCluster) -> None:
    topic = f"t-{uuid.uuid4()}"
    create_topic(kafka_cluster, topic, partitions=1)
    sent(kafka_cluster, topic, b"before")
    leader = kafka_cluster.leader_of(topic, 0)
    kafka_cluster.kill(leader)
    try:
        assert leader not in kafka_cluster.running
        sent(kafka_cluster, topic, b"while it is dead")
        assert kafka_cluster.leader_of(topic, 0) != leader
        assert received(kafka_cluster, topic, 2) == [b"before", b"while it is dead"]
    finally:
        kafka_cluster.restart(leader)
    assert kafka_cluster.running == kafka_cluster.node_ids


@pytest.mark.parametrize("step", [1, 2])
def test_a_leader_is_moved(kafka_cluster: KafkaCluster, step: int) -> None:
    topic = f"t-{uuid.uuid4()}"
    create_topic(kafka_cluster, topic, partitions=1)
    sent(kafka_cluster, topic, b"one")
    node = (kafka_cluster.leader_of(topic, 0) - 1 + step) % 3 + 1
    kafka_cluster.move_leader(topic, 0, node)
    assert kafka_cluster.leader_of(topic, 0) == node
    assert received(kafka_cluster, topic, 1) == [b"one"]


def test_a_coordinator_that_is_terminated_hands_its_groups_over(
    kafka_cluster: KafkaCluster,
) -> None:
    node = kafka_cluster.coordinator_of("a group")
    kafka_cluster.terminate(node)
    try:
        assert kafka_cluster.coordinator_of("a group") != node
    finally:
        kafka_cluster.restart(node)


def test_replicas_that_start_together_agree_on_the_topics(kafka_cluster: KafkaCluster) -> None:
    """Whoever is not the first to make them is told of them before all brokers know."""

    def make(topics: Topics) -> int | str:
        try:
            return topics.make({"bootstrap_servers": kafka_cluster.bootstrap_servers})
        except KafkaError:
            return "again"  # as the service does

    for _ in range(4):
        prefix = f"together-{time.time_ns()}"
        kinds = {"state": 4, "control": 1, "results": 1, "dead-letters": 1, "joins": 3}
        topics = Topics(*(Topic(f"{prefix}-{n}", p, {}, "{there}") for n, p in kinds.items()))
        with ThreadPoolExecutor(6) as pool:
            found = [*pool.map(make, [topics] * 6)]
        assert set(found) <= {4, "again"}
        assert make(topics) == 4
