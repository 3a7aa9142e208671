"""Replicas over a Kafka store: one or several, together or in roles, the windows are the same."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import KafkaProducer

from tests import worlds
from tests.chaos import Plan, run
from tests.distributed import Distributed, Table
from tests.kafka_broker import ExternalBroker, KafkaBroker
from tests.service import Service

Broker = KafkaBroker | ExternalBroker
ROWS = 6_000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, kafka_broker: Broker) -> Distributed:
    """Events and labels, written once: each test reads them with a group of its own."""
    found = Distributed(
        tmp_path_factory.mktemp("world"), kafka_broker, f"world-{time.time_ns()}", rows=ROWS,
        a_record=100,
    )  # fmt: skip
    found.produce()
    return found


@pytest.fixture(scope="module")
def expected(world: Distributed) -> Table:
    return world.expect()


def active(services: list[Service]) -> Service | None:
    """The replica that evaluates."""
    for service in services:
        try:
            if service.metric("stream_monitor_aggregator_active") == 1:
                return service
        except OSError:
            continue
    return None


def conclude(world: Distributed, services: list[Service], expected: Table) -> Service:
    """Wait until the active replica serves what is expected."""

    def done() -> Service | None:
        found = active(services)
        return found if found is not None and world.live(found) == expected else None

    return services[0].wait_for("the expected windows", done)


@pytest.mark.parametrize(
    ("roles", "client"),
    [
        (["all"], "kafka-python"),
        (["all", "all", "all"], "kafka-python"),
        (["worker", "worker", "aggregator", "aggregator"], "kafka-python"),
        (["worker", "worker", "aggregator"], "confluent"),
    ],
)
def test_however_many_replicas_the_windows_are_those_of_a_backtest(
    world: Distributed,
    expected: Table,
    roles: list[str],
    client: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(world, "client", client)
    group = f"group-{time.time_ns()}"
    services = [world.replica(group=group, role=role) for role in roles]
    for service in services:
        service.launch()
    try:
        for service in services:
            service.wait_for("an answer", service.ask)
        found = conclude(world, services, expected)
        # windows are served as soon as they are committed, metrics a moment later
        found.wait_for("the counts", lambda: found.accepted() == len(world.found.events))
        # what came in is told by the active replica alone
        others = [s for s in services if s is not found]
        assert all("stream_monitor_events_total{" not in s.text("/metrics") for s in others)
        services[0].wait_for(
            "every partition to have an owner",
            lambda: sum(s.metric("stream_monitor_assigned_partitions") for s in services) == 11,
        )
        assert all(s.text("/-/ready") for s in services)
        assert [s.stop() for s in services] == [0] * len(roles)
    finally:
        for service in services:
            service.end()


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_a_replica_that_joins_and_one_that_is_killed_change_nothing(
    world: Distributed, expected: Table, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "client", client)
    group = f"group-{time.time_ns()}"
    first, second = (world.replica(group=group) for _ in range(2))
    try:
        first.start()
        first.wait_for("some events", lambda: first.accepted() > 0)
        second.start()
        second.wait_for("its share", lambda: second.metric("stream_monitor_assigned_partitions"))
        first.kill()
        conclude(world, [second], expected)
        # it was restored from what the first one had written
        second.wait_for(
            "the others' share", lambda: second.metric("stream_monitor_assigned_partitions") == 11
        )
        second.wait_for("the counts", lambda: second.accepted() == len(world.found.events))
    finally:
        first.end()
        second.end()


def test_a_new_start_goes_on_where_the_last_one_ended(world: Distributed, expected: Table) -> None:
    group = f"group-{time.time_ns()}"
    service = world.replica(group=group)
    with service:
        conclude(world, [service], expected)
        assert service.stop() == 0
    with service:
        service.wait_for("the aggregator", lambda: active([service]))
        # nothing is read and nothing published again
        assert world.live(service) == expected
        service.wait_for("the counts", lambda: service.accepted() == len(world.found.events))
        revisions = {r["revision"] for r in service.get("/api/v1/windows")["windows"]}
        time.sleep(2)
        assert {r["revision"] for r in service.get("/api/v1/windows")["windows"]} == revisions


def test_windows_wait_for_a_partition_that_nobody_reads(
    tmp_path: Path, kafka_broker: Broker
) -> None:
    """What its reader last said is that there is no more of it; but the brokers know better."""
    name, records = f"unread-{time.time_ns()}", 100
    world = Distributed(tmp_path, kafka_broker, name, rows=4_000, partitions=2, a_record=records)
    events = [e for e in world.found.events if e["ts"] < worlds.START + 4_000 * 5.0]
    events.sort(key=lambda event: float(event["ts"]))
    half = len(events) // (4 * records) * 2 * records  # as many records for each partition

    def write(some: list[dict[str, Any]]) -> None:
        producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers)
        for i, start in enumerate(range(0, len(some), records)):
            payload = orjson.dumps(some[start : start + records])
            producer.send(name, payload, partition=i % 2)
        producer.flush()
        producer.close()

    def last_closed() -> int:
        windows = aggregator.get("/api/v1/windows?state=closed")["windows"]
        return max((row["window_index"] for row in windows), default=-1)

    source = world.config()["source"]
    source["options"] |= {"session_timeout_ms": 60_000}  # who sleeps keeps its partition
    roles = "worker", "worker", "aggregator"
    services = [
        world.replica(role=role, labels=None, source=source, time={"max_ahead": "10d"})
        for role in roles
    ]
    first, second, aggregator = services
    try:
        for service in services:
            service.start()
        for service in first, second:
            service.wait_for(
                "its share",
                lambda s=service: s.metric("stream_monitor_assigned_partitions") == 1,  # type: ignore[misc]
            )
        write(events[:half])
        aggregator.wait_for("the first half", lambda: aggregator.accepted() == half)
        time.sleep(2)  # for them to say that this was all
        os.kill(second.pid, signal.SIGSTOP)
        write(events[half : 2 * half])
        aggregator.wait_for("what is read", lambda: aggregator.accepted() == half + half // 2)
        time.sleep(3)
        known = int(events[half - 1]["ts"] - worlds.START) // 3_600
        assert last_closed() < known
        os.kill(second.pid, signal.SIGCONT)
        aggregator.wait_for("all of it", lambda: aggregator.accepted() == 2 * half)
        end = int(events[2 * half - 1]["ts"] - worlds.START) // 3_600
        aggregator.wait_for("the windows", lambda: last_closed() == end - 1)
        rows = aggregator.get("/api/v1/windows?state=closed")["windows"]
        assert {row["revision"] for row in rows} == {0}
    finally:
        for service in services:
            service.end()


def test_killed_replicas_and_brokers_conclude_what_one_in_peace_does(tmp_path: Path) -> None:
    """The short form of ``python -m tests.chaos``."""
    told = run(Plan(rounds=8, events=30_000, seed=3), tmp_path)
    print(told)
    assert "equal those of one undisturbed replica" in told


def test_without_an_aggregator_workers_stop_before_they_hold_too_much(
    world: Distributed, expected: Table
) -> None:
    group = f"group-{time.time_ns()}"
    source = world.config()["source"]
    # fetches are not cut, so small ones
    source["options"] |= {"max_partition_fetch_bytes": 50_000}
    sections = {"source": source, "time": {"max_ahead": "1h"}}
    worker = world.replica(group=group, role="worker", **sections)
    aggregator = world.replica(group=group, role="aggregator", **sections)
    with worker:
        # nobody ends the life of panes, so none may be opened that are far ahead
        worker.wait_for("it to hold back", lambda: worker.metric("stream_monitor_lag_records") > 0)
        before = -1.0
        while (left := worker.metric("stream_monitor_lag_records")) != before:
            before = left
            time.sleep(2)
        assert left > 0
        with aggregator:
            conclude(world, [aggregator], expected)
            assert worker.metric("stream_monitor_lag_records") == 0


def test_a_worker_alone_says_that_it_does_not_evaluate(world: Distributed) -> None:
    service: Any = world.replica(group=f"group-{time.time_ns()}", role="worker")
    with service:
        service.wait_for("readiness", lambda: service.metric("stream_monitor_ready") == 1)
        assert service.metric("stream_monitor_aggregator_active") == 0
        status, told = service.refused("/api/v1/windows")
        assert status == 503
        assert "aggregator_active is 1" in told
