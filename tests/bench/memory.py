"""Memory over millions of events, and the time from the broker to the metric.

Each million is written, then waited for; the topic is emptied behind the readers.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from tests.bench import world
from tests.bench.lines import Line, Section, Tell
from tests.kafka_broker import KafkaBroker, create_topic
from tests.service import Service

MILLION = 1_000_000
MILLIONS = 10
TEMPLATES = 50_000
PARTITIONS = 2
EVENT_RATE = 5_000  # a second of event time: ten millions are half an hour
LIVE_RATE, LIVE_SECONDS = 1_000, 60
STORES = "sqlite", "kafka"


def measure(tell: Tell) -> Section:
    broker = KafkaBroker()
    broker.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            world.build(Path(folder))
            resident = flat(Path(folder), broker, tell)
            delays = {kind: latency(Path(folder), broker, kind, tell) for kind in STORES}
    finally:
        broker.stop()
    lines = [
        Line(
            what=f"memory after {MILLIONS} million events, {kind} store",
            baseline="after the first million",
            unit="MB",
            ours=[resident[kind][-1] / 1e6],
            theirs=[resident[kind][0] / 1e6],
            most=1.05,
        )
        for kind in STORES
    ]
    facts = [
        f"Resident memory after each million, {kind} store: "
        + ", ".join(f"{size / 1e6:.0f}" for size in resident[kind])
        + " MB."
        for kind in STORES
    ]
    facts += [
        f"From the append to the metric at {LIVE_RATE:,} events a second, {kind} store, "
        f"`role: all`, default commit interval: median {np.percentile(found, 50):.2f} s, "
        f"p99 {np.percentile(found, 99):.2f} s."
        for kind, found in delays.items()
    ]
    return Section(
        title="Memory and delay", command="python -m tests.bench memory", lines=lines, facts=facts
    )


def _service(folder: Path, broker: KafkaBroker, topic: str, kind: str) -> Service:
    own = folder / f"{topic}-{kind}"
    own.mkdir()
    source = {
        "type": "kafka",
        "bootstrap_servers": broker.bootstrap_servers,
        "topics": [topic],
        "group_id": f"{topic}-{kind}",
    }
    return Service(own, world.raw_config(folder, source=source, store={"type": kind}))


def flat(folder: Path, broker: KafkaBroker, tell: Tell) -> dict[str, list[int]]:
    """Resident bytes after each million, by store."""
    topic = "millions"
    create_topic(broker, topic, partitions=PARTITIONS)
    services = {kind: _service(folder, broker, topic, kind) for kind in STORES}
    found: dict[str, list[int]] = {kind: [] for kind in STORES}
    payloads = _payloads()
    try:
        for service in services.values():
            service.start()
        for million in range(1, MILLIONS + 1):
            tell(f"million {million} of {MILLIONS}")
            producer = KafkaProducer(
                bootstrap_servers=broker.bootstrap_servers, linger_ms=50, batch_size=2**18
            )
            for i in range(MILLION):
                producer.send(topic, next(payloads), partition=i % PARTITIONS)
            producer.flush()
            producer.close()
            for kind, service in services.items():
                while service.accepted() < million * MILLION:
                    time.sleep(0.5)
                found[kind].append(_resident(service.pid))
            _emptied(broker, topic, million * MILLION // PARTITIONS)
    finally:
        for service in services.values():
            service.end()
    return found


def _payloads() -> Iterator[bytes]:
    """Events without end, as time goes on."""
    made = [re.split(rb'"ts":[\d.]+', payload) for payload in world.events(TEMPLATES, 4)]
    count = 0
    while True:
        for before, after in made:
            moment = world.START + count / EVENT_RATE
            yield b'%b"ts":%.6f%b' % (before, moment, after)
            count += 1


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) * 1_024 if found else 0


def _emptied(broker: KafkaBroker, topic: str, offset: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    admin.delete_records({TopicPartition(topic, p): offset for p in range(PARTITIONS)})
    admin.close()


def latency(folder: Path, broker: KafkaBroker, kind: str, tell: Tell) -> Any:
    """Seconds from the append of each event to the first scrape that counts it, float64[n]."""
    topic = f"live-{kind}"
    create_topic(broker, topic, partitions=1)
    number = LIVE_RATE * LIVE_SECONDS
    appended = np.zeros(number)
    tell(f"delay with the {kind} store")
    with _service(folder, broker, topic, kind) as service:
        service.wait_for("its partition", lambda: service.metric("stream_monitor_ready") == 1)
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        payloads = world.events(number, 5, start=time.time(), rate=LIVE_RATE)

        def write() -> None:
            began = time.time()
            for i, payload in enumerate(payloads):
                time.sleep(max(0.0, began + i / LIVE_RATE - time.time()))
                appended[i] = time.time()
                producer.send(topic, payload, partition=0)
            producer.flush()
            producer.close()

        writer = threading.Thread(target=write)
        writer.start()
        visible = np.zeros(number)
        seen = 0
        deadline = time.monotonic() + LIVE_SECONDS + 60
        while seen < number:
            if time.monotonic() > deadline:
                raise SystemExit(f"{seen} of {number} events were counted in time")
            total = service.accepted()
            visible[seen:total] = time.time()
            seen = total
            time.sleep(0.05)
        writer.join()
    late = LIVE_RATE * 5  # the first seconds are those of a start
    return (visible - appended)[late:]
