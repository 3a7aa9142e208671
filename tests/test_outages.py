"""What breaks around a replica, and what it makes of it: nothing is lost, nothing counts twice."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions

from tests import worlds
from tests.distributed import Distributed, Table
from tests.kafka_broker import KafkaBroker, KafkaCluster, create_topic
from tests.service import Service

QUICK: dict[str, Any] = {"group.min.session.timeout.ms": "1000"}
EVENTS = 2_000


@pytest.fixture(scope="module")
def own_broker() -> Iterator[KafkaBroker]:
    """One that may be killed."""
    broker = KafkaBroker(**QUICK)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    worlds.build(tmp_path)
    return tmp_path


def config(broker: Any, topic: str, store: str = "kafka", **sections: Any) -> dict[str, Any]:
    """A replica without labels."""
    kept: dict[str, Any] = {"type": store, "commit_interval": "200ms"}
    if store == "kafka":
        kept |= {"transaction_timeout": "4s", "partitions": 2}
    return (
        worlds.raw_config(
            source={
                "type": "kafka",
                "bootstrap_servers": broker.bootstrap_servers,
                "topics": [topic],
                "group_id": topic,
                "client": {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500},
            },
            store=kept,
            mapping={"arrival": "event_time"},
        )
        | sections
    )


class Feed:
    """Writes the events of a world to a topic, some at a time."""

    def __init__(self, broker: Any, topic: str, partitions: int = 2) -> None:
        self._servers, self._topic, self.partitions = broker.bootstrap_servers, topic, partitions
        self._lines = iter(worlds.events(20_000, 6, seconds=5.0))
        self.sent = 0

    def write(self, number: int = EVENTS) -> None:
        producer = KafkaProducer(bootstrap_servers=self._servers, linger_ms=20)
        for _ in range(number):
            producer.send(self._topic, next(self._lines), partition=self.sent % self.partitions)
            self.sent += 1
        producer.flush()
        producer.close()


def probe(service: Service, path: str) -> int:
    try:
        service.text(path)
    except OSError:
        return service.refused(path)[0]
    return 200


def all_counted(service: Service, feed: Feed) -> None:
    service.wait_for("all events", lambda: service.accepted() == feed.sent)
    time.sleep(1)
    assert service.accepted() == feed.sent


@pytest.mark.parametrize("store", ["sqlite", "kafka"])
def test_a_broker_that_is_not_there_at_the_start_is_waited_for(folder: Path, store: str) -> None:
    broker = KafkaBroker(**QUICK)
    service = Service(folder, config(broker, "late", store))
    with service:
        service.wait_for("it to say so", lambda: "no broker answers" in service.log())
        assert (probe(service, "/-/healthy"), probe(service, "/-/ready")) == (200, 503)
        broker.start()
        try:
            create_topic(broker, "late", partitions=2)
            feed = Feed(broker, "late")
            feed.write()
            all_counted(service, feed)
            assert probe(service, "/-/ready") == 200
            assert service.stop() == 0
        finally:
            broker.stop()


@pytest.mark.parametrize("store", ["sqlite", "kafka"])
def test_a_broker_that_is_killed_and_comes_back_costs_nothing(
    folder: Path, own_broker: KafkaBroker, store: str
) -> None:
    topic = f"killed-{store}-{time.time_ns()}"
    create_topic(own_broker, topic, partitions=2)
    feed = Feed(own_broker, topic)
    with Service(folder, config(own_broker, topic, store)) as service:
        feed.write()
        service.wait_for("some events", lambda: service.accepted() > 0)
        own_broker.kill()
        until = time.monotonic() + 8
        while time.monotonic() < until:
            assert probe(service, "/-/healthy") == 200
            time.sleep(0.5)
        own_broker.start()
        feed.write()
        all_counted(service, feed)
        assert service.stop() == 0


def test_leaders_and_coordinators_that_move_cost_nothing(
    folder: Path, kafka_cluster: KafkaCluster
) -> None:
    topic = f"moved-{time.time_ns()}"
    create_topic(kafka_cluster, topic, partitions=2)
    feed = Feed(kafka_cluster, topic)
    with Service(folder, config(kafka_cluster, topic)) as service:
        feed.write()
        service.wait_for("some events", lambda: service.accepted() > 0)
        for name in (topic, f"{topic}-state", f"{topic}-control"):
            leader = kafka_cluster.leader_of(name, 0)
            other = next(n for n in kafka_cluster.node_ids if n != leader)
            kafka_cluster.move_leader(name, 0, other)
            feed.write(500)
        # the coordinator of the group; its node may have that of the transactions, too
        node = kafka_cluster.coordinator_of(topic)
        kafka_cluster.terminate(node)
        feed.write(500)
        all_counted(service, feed)
        kafka_cluster.restart(node)
        feed.write(500)
        all_counted(service, feed)
        assert service.stop() == 0


def test_a_topic_that_is_made_later_is_waited_for(folder: Path, own_broker: KafkaBroker) -> None:
    topic = f"missing-{time.time_ns()}"
    with Service(folder, config(own_broker, topic)) as service:
        service.wait_for("it to say so", lambda: "no such topic yet" in service.log())
        assert probe(service, "/-/ready") == 503
        create_topic(own_broker, topic, partitions=2)
        feed = Feed(own_broker, topic)
        feed.write()
        all_counted(service, feed)


def test_partitions_that_are_added_are_read(folder: Path, own_broker: KafkaBroker) -> None:
    topic = f"grown-{time.time_ns()}"
    create_topic(own_broker, topic, partitions=2)
    feed = Feed(own_broker, topic)
    # what is written before anybody knows of them comes late by so much
    late = {"allowed_lateness": "3h"}
    with Service(folder, config(own_broker, topic, time=late)) as service:
        feed.write()
        all_counted(service, feed)
        admin = KafkaAdminClient(bootstrap_servers=own_broker.bootstrap_servers)
        admin.create_partitions({topic: NewPartitions(4)})
        admin.close()
        feed.partitions = 4
        time.sleep(1)
        feed.write()
        all_counted(service, feed)
        assert service.metric("stream_monitor_assigned_partitions") == 4


@pytest.mark.parametrize("store", ["sqlite", "kafka"])
def test_records_that_were_deleted_unread_are_told(
    folder: Path, own_broker: KafkaBroker, store: str
) -> None:
    topic = f"deleted-{store}-{time.time_ns()}"
    create_topic(own_broker, topic, partitions=1)
    feed = Feed(own_broker, topic, partitions=1)
    service = Service(folder, config(own_broker, topic, store))
    with service:
        feed.write(500)
        all_counted(service, feed)
        assert service.stop() == 0
    feed.write(500)
    admin = KafkaAdminClient(bootstrap_servers=own_broker.bootstrap_servers)
    admin.delete_records({TopicPartition(topic, 0): 800})
    admin.close()
    with service:
        service.wait_for("the others", lambda: service.accepted() == 700)
        assert '"lost_records": 300' in service.log()
        assert "raise the topic's retention" in service.log()
        assert service.metric("stream_monitor_records_lost_total") == 300


def test_a_state_that_is_gone_is_not_taken_for_an_empty_one(
    folder: Path, own_broker: KafkaBroker
) -> None:
    topic = f"gone-{time.time_ns()}"
    create_topic(own_broker, topic, partitions=1)
    feed = Feed(own_broker, topic, partitions=1)
    service = Service(folder, config(own_broker, topic))
    with service:
        feed.write(500)
        all_counted(service, feed)
        assert service.stop() == 0
    admin = KafkaAdminClient(bootstrap_servers=own_broker.bootstrap_servers)
    admin.delete_topics([f"{topic}-state"])
    admin.close()
    service.launch()
    service.wait_for("its end", lambda: not service.running)
    assert service.status == 1
    assert "was that topic deleted" in service.log()
    assert "choose another source.group_id to begin anew" in service.log()


def test_a_full_disk_stops_commits_and_loses_nothing(
    tmp_path: Path, own_broker: KafkaBroker
) -> None:
    """Ledgers lie on the local disk; a limit on the size of files stands for a full one."""
    world = Distributed(tmp_path, own_broker, f"full-{time.time_ns()}", rows=3_000, a_record=100)
    world.produce()
    service = world.replica()
    with service:
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (4_096, resource.RLIM_INFINITY))
        service.wait_for(
            "failed commits", lambda: service.metric("stream_monitor_commit_failures_total") > 0
        )
        assert probe(service, "/-/healthy") == 200
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, unlimited)
        service.wait_for("all events", lambda: service.accepted() == len(world.found.events))
        assert service.stop() == 0


@pytest.mark.parametrize("store", ["sqlite", "kafka"])
def test_sigterm_ends_it_soon_though_no_broker_answers(folder: Path, store: str) -> None:
    broker = KafkaBroker(**QUICK)
    broker.start()
    try:
        create_topic(broker, "ending", partitions=2)
        feed = Feed(broker, "ending")
        with Service(folder, config(broker, "ending", store)) as service:
            feed.write()
            service.wait_for("some events", lambda: service.accepted() > 0)
            broker.kill()
            time.sleep(1)
            began = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - began < 25
    finally:
        broker.stop()


def test_a_second_sigterm_ends_it_at_once(folder: Path, own_broker: KafkaBroker) -> None:
    topic = f"twice-{time.time_ns()}"
    create_topic(own_broker, topic, partitions=1)
    with Service(folder, config(own_broker, topic)) as service:
        service.wait_for("readiness", lambda: service.metric("stream_monitor_ready") == 1)
        os.kill(service.pid, signal.SIGTERM)
        time.sleep(0.05)
        began = time.monotonic()
        status = service.stop()
        # it may have been as fast with the first
        assert status in (0, 128 + signal.SIGTERM)
        assert time.monotonic() - began < 5


def test_who_slept_through_its_session_writes_nothing_more(
    tmp_path: Path, own_broker: KafkaBroker
) -> None:
    world = Distributed(tmp_path, own_broker, f"zombie-{time.time_ns()}", rows=3_000, a_record=50)
    expected: Table = world.expect()
    world.produce()
    first, second = world.replica(), world.replica()
    try:
        first.start()
        first.wait_for("a start", lambda: first.metric("stream_monitor_ready") == 1)
        os.kill(first.pid, signal.SIGSTOP)
        second.start()
        second.wait_for("the aggregator", lambda: second.metric("stream_monitor_aggregator_active"))
        second.wait_for("all events", lambda: second.accepted() == len(world.found.events))
        os.kill(first.pid, signal.SIGCONT)
        second.wait_for("the expected windows", lambda: world.live(second) == expected)
        first.wait_for("its return", lambda: first.metric("stream_monitor_ready") == 1)
        time.sleep(3)
        found = [s for s in (first, second) if s.metric("stream_monitor_aggregator_active")]
        assert len(found) == 1
        assert world.live(found[0]) == expected
        assert found[0].accepted() == len(world.found.events)
    finally:
        first.end()
        second.end()
