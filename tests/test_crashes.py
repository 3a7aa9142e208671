"""Killed with -9 at random record offsets and started again: the same windows as undisturbed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from tests import worlds
from tests.kafka_broker import ExternalBroker, KafkaBroker, create_topic
from tests.service import Service

EVENTS = 6_000
KILLS = 20
LINES = worlds.events(EVENTS, 9, shift=0.1)
WINDOWS = [
    {"name": "hour", "size": "1h"},
    {"name": "sliding", "size": "2h", "every": "30m"},
]

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash")
    worlds.build(folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> Rows:
    """The windows of a run that nothing disturbed."""
    (folder / "whole.jsonl").write_bytes(b"\n".join(LINES) + b"\n")
    source = {"type": "follow", "path": "whole.jsonl"}
    config = worlds.raw_config(windows=WINDOWS, source=source, store={"path": "undisturbed.db"})
    with Service(folder, config) as service:
        service.wait_for("all events", lambda: service.accepted() == EVENTS)
        # 16 whole hours, 29 whole sliding windows, and one of each that is still filling
        service.wait_for("the last commit", lambda: len(names(windows(service))) == 47)
        found = windows(service)
        assert service.stop() == 0
    return found


def names(rows: Rows) -> set[tuple[str, int]]:
    return {(r["window"], r["window_index"]) for r in rows}


def windows(service: Service) -> Rows:
    return list(service.get("/api/v1/windows")["windows"])


def shake(
    folder: Path, config: dict[str, Any], write: Callable[[list[bytes]], None], expected: Rows
) -> None:
    """Feed the events in pieces to a service that is killed after each of them."""
    service = Service(folder, config)
    choose = random.Random(20)  # noqa: S311 - a seeded test, no secret
    written = 0
    for cut in sorted(choose.sample(range(1, EVENTS), KILLS)):
        write(LINES[written:cut])
        written = cut
        with service:
            wanted = choose.randrange(max(0, cut - 300), cut)
            service.wait_for("some events", partial(reached, service, wanted))
            time.sleep(choose.uniform(0, 0.1))
            service.kill()
    write(LINES[written:])
    with service:
        service.wait_for("all events", lambda: service.accepted() == EVENTS)
        service.wait_for("the same windows", lambda: windows(service) == expected)
        assert service.metric("stream_monitor_events_late_total") == 0
        assert service.stop() == 0


def test_a_followed_file_survives_twenty_kills(folder: Path, expected: Rows) -> None:
    log = folder / "growing.jsonl"
    log.touch()
    config = worlds.raw_config(
        windows=WINDOWS,
        source={"type": "follow", "path": log.name},
        store={"path": "follow.db", "commit_interval": "20ms"},
    )
    with log.open("ab", buffering=0) as file:
        shake(folder, config, lambda lines: _append(file, lines), expected)


def reached(service: Service, count: int) -> bool:
    return service.accepted() >= count


def _append(file: Any, lines: list[bytes]) -> None:
    file.write(b"\n".join(lines) + b"\n")


def test_kafka_survives_twenty_kills(
    folder: Path, expected: Rows, kafka_broker: KafkaBroker | ExternalBroker
) -> None:
    topic = f"crashes-{time.time_ns()}"
    create_topic(kafka_broker, topic, partitions=3)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers)
    config = worlds.raw_config(
        windows=WINDOWS,
        mapping={"arrival": "event_time"},
        source={
            "type": "kafka",
            "bootstrap_servers": kafka_broker.bootstrap_servers,
            "topics": [topic],
            # so that the group forgets a killed member soon
            "options": {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500},
        },
        store={"path": "kafka.db", "commit_interval": "20ms"},
    )

    def write(lines: list[bytes]) -> None:
        for i, line in enumerate(lines):
            producer.send(topic, line, partition=i % 3)
        producer.flush()

    shake(folder, config, write, expected)
    producer.close()
